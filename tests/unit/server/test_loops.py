"""Loops: woken, paced, slowed down by faults of the chain, ended by any other."""

import threading

import pytest

from marketplace.server.loops import Loop
from settlement.errors import ChainUnavailable


def test_loop_goes_on_while_the_chain_is_away() -> None:
    ticks = 0
    enough = threading.Event()

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks < 4:
            raise ChainUnavailable("away")
        enough.set()

    loop = Loop("relayer", tick, 0.001)
    loop.start()
    assert enough.wait(20)
    loop.stop()
    assert (loop.broken, loop.is_alive()) == (False, False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_loop_ends_at_a_fault_nobody_foresaw_and_tells_the_process() -> None:
    told = threading.Event()

    def tick() -> None:
        raise RuntimeError("a bug")

    loop = Loop("matcher", tick, 0.001)
    loop.on_fault = told.set
    loop.start()
    assert told.wait(20)
    loop.stop()
    assert loop.broken


def test_loop_ticks_at_once_when_woken() -> None:
    ticked = threading.Semaphore(0)
    loop = Loop("matcher", lambda: ticked.release(), 3600)
    loop.start()
    assert ticked.acquire(timeout=20)
    loop.wake()
    assert ticked.acquire(timeout=20)
    loop.stop()


def test_loop_ticks_again_at_once_while_there_is_more_to_do() -> None:
    ticked = threading.Semaphore(0)
    more = iter([True, True])

    def tick() -> bool:
        ticked.release()
        return next(more, False)

    loop = Loop("indexer", tick, 3600)
    loop.start()
    assert all(ticked.acquire(timeout=20) for _ in range(3))
    assert not ticked.acquire(timeout=0.2)
    loop.stop()


def test_loop_ticks_when_time_alone_is_due() -> None:
    ticked = threading.Semaphore(0)
    dues = iter([0.01])
    loop = Loop("matcher", lambda: ticked.release(), 3600, due=lambda: next(dues, None))
    loop.start()
    assert ticked.acquire(timeout=20)
    assert ticked.acquire(timeout=20)
    loop.stop()
