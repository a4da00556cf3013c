"""Lowering the sessions of a job: each once, and none that is not its own."""

import os
from pathlib import Path

from marketplace.agent.runtime.processes import NICE, LowPriority, ProcessStat


def process(pid: int, session: int, zombie: bool = False) -> ProcessStat:
    return ProcessStat(pid, 1, session, 0, 0, 0, zombie)


def with_files(root: Path, *pids: int) -> None:
    for pid in pids:
        (root / str(pid)).mkdir()
        (root / str(pid) / "autogroup").write_text("")


def lowered(root: Path) -> set[int]:
    files = root.glob("*/autogroup")
    return {int(file.parent.name) for file in files if file.read_text() == str(NICE)}


def test_every_session_is_lowered_once(tmp_path: Path) -> None:
    with_files(tmp_path, 10, 20, 21)
    low = LowPriority(tmp_path)
    tree = [process(10, 10), process(20, 20)]
    low.apply(tree)
    assert lowered(tmp_path) == {10, 20}
    (tmp_path / "10" / "autogroup").write_text("")
    low.apply([*tree, process(21, 21)])
    assert lowered(tmp_path) == {20, 21}


def test_a_session_number_used_again_is_lowered_again(tmp_path: Path) -> None:
    with_files(tmp_path, 10, 20)
    low = LowPriority(tmp_path)
    low.apply([process(10, 10), process(20, 20)])
    low.apply([process(10, 10)])
    (tmp_path / "20" / "autogroup").write_text("")
    low.apply([process(10, 10), process(20, 20)])
    assert lowered(tmp_path) == {10, 20}


def test_our_own_session_the_dead_and_kernels_without_autogroups_are_left_alone(
    tmp_path: Path,
) -> None:
    with_files(tmp_path, 10, 20)
    tree = [process(10, os.getsid(0)), process(20, 20, zombie=True), process(30, 30)]
    LowPriority(tmp_path).apply(tree)
    assert lowered(tmp_path) == set()
