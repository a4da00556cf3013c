import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketplace.agent.channel import LogFile
from marketplace.limits import SOCKET_CONNECTIONS_MAX, UNITS_PER_LINE_MAX
from tests.fakes_agent import JobEnd


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    log = LogFile(tmp_path / "log")
    yield log
    log.close()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobEnd]:
    job = JobEnd(tmp_path)
    yield job
    job.end()
    job.logs.close()


def test_lines_become_signs(job: JobEnd) -> None:
    job.say({"heartbeat": 1}, {"ready": True}, {"units": 3}, {"units": 2, "progress": "half way"})
    signs = job.until(lambda s: s.heartbeats == 4)
    assert (signs.ready, signs.units, signs.ignored_lines) == (True, 5, 0)
    assert signs.last_at is not None
    assert abs(signs.last_at - time.time()) < 60
    job.end()
    assert job.logs.agent.chunk(0) == "progress: half way\n"


def test_units_are_capped(job: JobEnd) -> None:
    job.say({"units": 60}, {"units": 60})
    assert job.until(lambda s: s.heartbeats == 2).units == 100


@pytest.mark.parametrize("units", [-1, True, 1.5, "3", None, UNITS_PER_LINE_MAX + 1], ids=str)
def test_units_that_are_no_count_are_nothing(job: JobEnd, units: object) -> None:
    job.say({"units": units})
    assert job.until(lambda s: s.heartbeats == 1).units == 0


def test_what_is_no_message_is_ignored(job: JobEnd) -> None:
    job.connect().sendall(b'\n[]\n"x"\n{broken\n\xff\xfe\n' + b"[" * 4000 + b'\n{"heartbeat":1}\n')
    signs = job.until(lambda s: s.heartbeats == 1)
    assert signs.ignored_lines == 6
    assert not signs.ready


def test_a_line_without_end_costs_the_connection(job: JobEnd) -> None:
    connection = job.connect()
    connection.settimeout(5)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(b"x" * 8_000_000)
    job.say({"heartbeat": 1})
    job.until(lambda s: s.heartbeats == 1)


def test_a_flood_is_slowed_down_but_nothing_is_lost(
    job: JobEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.channel._units_max = 10_000
    connection = job.connect()
    connection.settimeout(5)
    began = time.monotonic()
    connection.sendall(b'{"units":1}\n' * 400)
    time.sleep(0.1)
    assert job.channel.signs.units < 300
    signs = job.until(lambda s: s.units == 400)
    assert time.monotonic() - began > 0.5
    assert signs.ignored_lines == 0


def test_what_was_sent_just_before_the_end_counts(job: JobEnd) -> None:
    for _ in range(5):
        job.say(*({"units": 1} for _ in range(20)))
    assert job.end().units == 100


def test_connections_are_bounded(job: JobEnd) -> None:
    held = [job.connect() for _ in range(SOCKET_CONNECTIONS_MAX + 4)]
    time.sleep(0.3)
    readable, _, _ = select.select(held, [], [], 0)
    assert [connection.recv(1) for connection in readable] == [b""] * 4


def test_nothing_stays_open(job: JobEnd) -> None:
    before = set(os.listdir("/proc/self/fd"))
    job.say({"ready": True})
    job.until(lambda s: s.ready)
    job.end()
    assert len(set(os.listdir("/proc/self/fd")) - before) == 0


def test_a_log_is_valid_utf8_whatever_was_written(log: LogFile) -> None:
    raw = "ä€😀".encode()
    for byte in raw:
        log.append(bytes([byte]))
    log.append(b"\xff\0end")
    log.append(b"\xe2\x82", final=True)
    text = log.chunk(0)
    assert text == "ä€😀\ufffd\ufffdend\ufffd"
    assert log.chunk(len(text.encode())) == ""


def test_a_log_is_sent_in_chunks_that_join_to_the_whole(log: LogFile) -> None:
    text = "é" * 50_001
    log.append(text.encode())
    found, offset = "", 0
    while chunk := log.chunk(offset):
        found += chunk
        offset += len(chunk.encode())
    assert found == text


def test_a_log_above_its_limit_says_so_once_and_stops(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", bytes_max=10)
    for _ in range(3):
        log.append("ééé".encode())
    text = log.chunk(0)
    assert text.startswith("ééééé\n[output above")
    assert text.count("[output above") == 1
    log.close()


def test_a_log_goes_on_where_it_was(log: LogFile, tmp_path: Path) -> None:
    log.append(b"one ")
    again = LogFile(tmp_path / "log")
    again.append(b"two")
    again.close()
    assert log.chunk(0) == "one two"
