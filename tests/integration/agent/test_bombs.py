"""Jobs that try to take the node with them: each dies alone, and the agent goes on."""

from uuid import uuid4

import pytest

from marketplace.limits import LOG_BYTES_MAX
from tests.sandboxes import Bench, names_in, processes_with, until

MANY = """
import os, time
for _ in range(12):
    if os.fork() == 0:
        x = bytearray(b"x") * (60 << 20)
        time.sleep(100)
time.sleep(100)
"""
DELETED = """
held = []
for n in itertools.count():
    file = open("/work/gone", "wb")
    os.unlink("/work/gone")
    file.write(b"x" * (4 << 20))
    file.flush()
    held.append(file)
"""
DEEPER = """
while True:
    os.mkdir("deeper")
    os.chdir("deeper")
    time.sleep(0.001)
"""


@pytest.mark.parametrize(
    "code",
    ["x = []\nwhile True: x.append(bytearray(b'x') * (8 << 20))", MANY],
    ids=["one process", "many processes"],
)
def test_a_memory_bomb_dies(bench: Bench, code: str) -> None:
    assert bench.ended(bench.lease(code)) == ("failed", "memory_limit")
    bench.survives()


def test_address_space_alone_is_refused_to_the_job(bench: Bench) -> None:
    greedy = bench.lease("x = bytearray(4 << 30)")
    assert bench.ended(greedy) == ("failed", "exit_code")
    assert "MemoryError" in bench.market.text(greedy, "stderr")


def test_a_fork_bomb_is_held_and_dies_at_its_end(bench: Bench) -> None:
    marker = f"forked-{uuid4()}"
    code = f"""
    import contextlib, coulomb_job, os  # {marker}
    coulomb_job.ready()
    while True:
        with contextlib.suppress(OSError):
            os.fork()
    """
    room = {"memory_mib": 2_048}  # for as many processes as it may have
    bomb = bench.lease(code, job={"ready": "socket"}, sizes=room, paid_seconds=1)
    most = 0

    def over() -> bool:
        nonlocal most
        most = max(most, len(processes_with(marker)))
        return bomb in bench.market.finished

    until(over, what="fork bomb")
    assert bench.ended(bomb) == ("failed", "max_duration")
    assert 2 < most <= bench.node.pids_max + 4
    until(lambda: processes_with(marker) == [])
    bench.survives()


@pytest.mark.parametrize(
    ("way", "storage_mib"),
    [
        ("for n in itertools.count(): open(f'/work/{n}', 'wb').write(b'x' * (4 << 20))", 32),
        ("for n in itertools.count(): open(f'/out/{n}', 'wb').close()", 2),
        (DELETED, 32),
        (DEEPER, 2),
    ],
    ids=["files", "names", "deleted files", "folders in folders"],
)
def test_a_disk_bomb_dies(bench: Bench, way: str, storage_mib: int) -> None:
    code = f"import itertools, os, time\n{way}\ntime.sleep(100)"
    bomb = bench.lease(code, sizes={"storage_mib": storage_mib})
    assert bench.ended(bomb) == ("failed", "storage_limit")
    bench.survives()


def test_a_single_file_ends_at_the_disks_size(bench: Bench) -> None:
    bomb = bench.lease("f = open('/work/x', 'wb')\nwhile True: f.write(b'x' * (1 << 20))")
    outcome, reason = bench.ended(bomb)
    assert outcome == "failed"
    assert reason in ("exit_code", "storage_limit")


def test_temporary_folders_are_bounded(bench: Bench) -> None:
    code = """
    for path in ("/tmp/x", "/dev/shm/x"):
        try:
            with open(path, "wb") as file:
                for _ in range(1024): file.write(b"x" * (1 << 20))
        except OSError as error:
            print(path, error.errno)
        __import__("os").unlink(path)
    """
    full = bench.lease(code, sizes={"memory_mib": 64, "storage_mib": 2048})
    assert bench.ended(full) == ("succeeded", "completed")
    assert bench.market.text(full, "stdout").split() == ["/tmp/x", "28", "/dev/shm/x", "28"]  # noqa: S108


def test_a_flood_of_output_is_bounded(bench: Bench) -> None:
    flood = bench.market.open_lease(["sh", "-c", "yes | head -c 20000000"])
    assert bench.ended(flood) == ("succeeded", "completed")
    text = bench.market.text(flood, "stdout")
    assert len(text) < LOG_BYTES_MAX + 100
    assert text.endswith("[output above 16 MiB is not kept]\n")


def test_outputs_that_lead_outside_bring_nothing_along(bench: Bench) -> None:
    code = """
    import os
    os.symlink("/etc/shadow", "/out/shadow")
    os.symlink("/", "/out/root")
    os.mkfifo("/out/fifo")
    open("/out/honest", "w").write("mine")
    """
    report = bench.finished(bench.lease(code, job={"outputs": [{"path": "/out"}]}))
    assert report["outcome"] == "succeeded"
    assert names_in(bench.market.blobs[str(report["outputs"])]) == ["honest"]
