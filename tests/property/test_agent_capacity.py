"""No GPU is ever promised beyond itself, whatever leases come and go (invariant 25)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marketplace.agent.capacity import WHOLE, Capacity, Grant
from marketplace.agent.inventory import Gpu, Inventory

GPUS = tuple(Gpu(f"SIM-{n}", "H100 (simulated)", 81920, True) for n in range(3))
NODE = Inventory(GPUS, 8000, 1000, 1000)
sizes = st.one_of(st.integers(-1, 1000), st.sampled_from([1000, 1500, 2000, 3000, 4000]))
takes = st.tuples(
    st.integers(0, 9), sizes, st.integers(0, 600), st.lists(st.integers(0, 4), max_size=3)
)
steps = st.lists(st.one_of(takes, st.integers(0, 9)), max_size=40)


@given(steps=steps, shared=st.booleans())
def test_no_gpu_is_promised_beyond_itself(
    steps: list[tuple[int, int, int, list[int]] | int], shared: bool
) -> None:
    capacity = Capacity(NODE, shared)
    held: dict[str, Grant] = {}
    for step in steps:
        if isinstance(step, int):
            capacity.release(f"lease_{step}")
            held.pop(f"lease_{step}", None)
            continue
        number, gpu_milli, memory_mib, wanted = step
        lease = f"lease_{number}"
        grant = capacity.take(lease, gpu_milli, memory_mib, 0, tuple(wanted))
        if lease in held:
            assert grant == held[lease]
        elif grant is not None:
            assert len(grant.gpus) * grant.gpu_milli_each == gpu_milli
            held[lease] = grant
        check(capacity, held, shared)


def check(capacity: Capacity, held: dict[str, Grant], shared: bool) -> None:
    for gpu in GPUS:
        owners = [grant for grant in held.values() if gpu in grant.gpus]
        used = sum(grant.gpu_milli_each for grant in owners)
        assert used == capacity.used_milli(gpu.uuid) <= WHOLE
        assert shared or len(owners) <= 1
        assert len(owners) <= 1 or all(grant.gpu_milli_each < WHOLE for grant in owners)
    assert sum(grant.memory_mib for grant in held.values()) <= NODE.memory_mib
    slots = [grant.slot for grant in held.values()]
    assert len(slots) == len(set(slots))


def test_shares_fill_up_one_gpu_before_the_next() -> None:
    capacity = Capacity(NODE, shared=True)
    first = [capacity.take(f"l{n}", 250, 0, 0) for n in range(4)]
    assert {grant.gpus for grant in first if grant} == {(GPUS[0],)}
    whole = capacity.take("whole", 2000, 0, 0)
    assert whole is not None
    assert whole.gpus == (GPUS[1], GPUS[2])
    assert capacity.take("more", 1, 0, 0) is None


def test_the_gpu_that_the_market_reserved_is_taken_if_it_is_free() -> None:
    capacity = Capacity(NODE, shared=True)
    grant = capacity.take("a", 1000, 0, 0, (2,))
    assert grant is not None
    assert grant.gpus == (GPUS[2],)
    other = capacity.take("b", 1000, 0, 0, (2,))
    assert other is not None
    assert other.gpus == (GPUS[0],)


def test_memory_that_is_not_there_is_not_promised() -> None:
    capacity = Capacity(NODE, shared=False)
    assert capacity.take("a", 1000, 700, 0) is not None
    assert capacity.take("b", 1000, 301, 0) is None
    assert capacity.take("c", 1000, 300, 1001) is None
    assert capacity.take("d", 1000, 300, 1000) is not None
