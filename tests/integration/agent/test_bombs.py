"""Jobs that try to take the node with them: each dies alone, and the agent goes on."""

import textwrap
from uuid import uuid4

import pytest

from marketplace.limits import LOG_BYTES_MAX
from tests.sandboxes import Bench, names_in, processes_with, until


def lease(bench: Bench, code: str, **changes: object) -> str:
    command = ["python", "-c", textwrap.dedent(code)]
    return bench.market.open_lease(command, **changes)


def survives(bench: Bench) -> None:
    """The node still takes up and ends a job as it should, and nothing of the others is left."""
    after = bench.market.open_lease(["true"])
    assert bench.ended(after) == ("succeeded", "completed")
    until(lambda: list((bench.root / "jobs").iterdir()) == [], what="folders left")


def test_a_memory_bomb_dies(bench: Bench) -> None:
    bomb = lease(bench, "x = []\nwhile True: x.append(bytearray(b'x') * (8 << 20))")
    assert bench.ended(bomb) == ("failed", "memory_limit")
    survives(bench)


def test_a_memory_bomb_of_many_processes_dies(bench: Bench) -> None:
    bomb = lease(
        bench,
        """
        import os, time
        for _ in range(12):
            if os.fork() == 0:
                x = bytearray(b"x") * (60 << 20)
                time.sleep(100)
        time.sleep(100)
        """,
    )
    assert bench.ended(bomb) == ("failed", "memory_limit")
    survives(bench)


def test_address_space_alone_is_refused_to_the_job(bench: Bench) -> None:
    greedy = lease(bench, "x = bytearray(4 << 30)")
    assert bench.ended(greedy) == ("failed", "exit_code")
    assert "MemoryError" in bench.market.text(greedy, "stderr")


def test_a_fork_bomb_is_held_and_dies_at_its_end(bench: Bench) -> None:
    marker = f"forked-{uuid4()}"
    bomb = lease(
        bench,
        f"""
        import os  # {marker}
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        terms={"max_seconds": 1},
    )
    most = 0

    def over() -> bool:
        nonlocal most
        most = max(most, len(processes_with(marker)))
        return bomb in bench.market.finished

    until(over, what="fork bomb")
    assert bench.ended(bomb) == ("failed", "max_duration")
    assert 2 < most <= bench.node.pids_max + 4
    until(lambda: processes_with(marker) == [])
    survives(bench)


@pytest.mark.parametrize(
    "way",
    [
        "for n in itertools.count(): open(f'/work/{n}', 'wb').write(b'x' * (4 << 20))",
        "for n in itertools.count(): open(f'/out/{n}', 'wb').close()",
        """
        held = []
        for n in itertools.count():
            file = open("/work/gone", "wb")
            os.unlink("/work/gone")
            file.write(b"x" * (4 << 20))
            file.flush()
            held.append(file)
        """,
        """
        while True:
            os.mkdir("deeper")
            os.chdir("deeper")
            time.sleep(0.001)
        """,
    ],
    ids=["files", "names", "deleted files", "folders in folders"],
)
def test_a_disk_bomb_dies(bench: Bench, way: str) -> None:
    bomb = lease(
        bench,
        "import itertools, os, time\n" + textwrap.dedent(way) + "\ntime.sleep(100)",
        sizes={"storage_mib": 32 if "4 << 20" in way else 2},
    )
    assert bench.ended(bomb) == ("failed", "storage_limit")
    survives(bench)


def test_a_single_file_ends_at_the_disks_size(bench: Bench) -> None:
    bomb = lease(bench, "f = open('/work/x', 'wb')\nwhile True: f.write(b'x' * (1 << 20))")
    outcome, reason = bench.ended(bomb)
    assert outcome == "failed"
    assert reason in ("exit_code", "storage_limit")


def test_temporary_folders_are_bounded(bench: Bench) -> None:
    full = lease(
        bench,
        """
        for path in ("/tmp/x", "/dev/shm/x"):
            try:
                with open(path, "wb") as file:
                    for _ in range(1024): file.write(b"x" * (1 << 20))
            except OSError as error:
                print(path, error.errno)
            __import__("os").unlink(path)
        """,
        sizes={"memory_mib": 64, "storage_mib": 2048},
    )
    assert bench.ended(full) == ("succeeded", "completed")
    assert bench.market.text(full, "stdout").split() == ["/tmp/x", "28", "/dev/shm/x", "28"]  # noqa: S108


def test_a_flood_of_output_is_bounded(bench: Bench) -> None:
    flood = bench.market.open_lease(["sh", "-c", "yes | head -c 20000000"])
    assert bench.ended(flood) == ("succeeded", "completed")
    text = bench.market.text(flood, "stdout")
    assert len(text) < LOG_BYTES_MAX + 100
    assert text.endswith("[output above 16 MiB is not kept]\n")


def test_outputs_that_lead_outside_bring_nothing_along(bench: Bench) -> None:
    thief = lease(
        bench,
        """
        import os
        os.symlink("/etc/shadow", "/out/shadow")
        os.symlink("/", "/out/root")
        os.mkfifo("/out/fifo")
        open("/out/honest", "w").write("mine")
        """,
        job={"outputs": [{"path": "/out"}]},
    )
    report = bench.finished(thief)
    assert report["outcome"] == "succeeded"

    assert names_in(bench.market.blobs[str(report["outputs"])]) == ["honest"]
