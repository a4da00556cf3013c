import gc
import io
import os
from pathlib import Path

import pytest

from marketplace.agent.folders import (
    TOO_MUCH_MIB,
    DiskWatch,
    JobFolders,
    TooDeep,
    files_below,
    give_to,
    make_folders,
    remove_tree,
    walk,
)
from marketplace.limits import FOLDER_DEPTH_MAX, MIB
from marketplace.sdk.archive import ArchiveError, pack, unpack

LONG_NAME = "d" * 40


def nest(top: Path, depth: int) -> None:
    """Folders in folders: above 100 of them no path reaches the file."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(LONG_NAME, dir_fd=here)
        deeper = os.open(LONG_NAME, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@pytest.fixture
def folders(tmp_path: Path) -> JobFolders:
    folders = JobFolders(tmp_path / "jobs" / "lease_1")
    make_folders(folders)
    return folders


def test_a_jobs_folder_is_closed_to_others_and_made_anew(folders: JobFolders) -> None:
    assert folders.root.stat().st_mode & 0o777 == 0o700
    (folders.work / "old").write_text("x")
    make_folders(folders)
    assert list(folders.work.iterdir()) == []


def test_walking_names_everything_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("x")
    (tmp_path / "a/link").symlink_to("/etc")
    assert {entry.path for entry in walk(tmp_path)} == {"a", "a/b", "a/b/c", "a/link"}


def test_files_to_pack_are_the_wanted_ones_in_order(tmp_path: Path) -> None:
    for name in ("model/w", "models/w", "log", "a-b", "a/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [m.name for m in files_below(tmp_path, ("model", "/log/"))] == ["log", "model/w"]
    everything = ["a-b", "a/b", "log", "model/w", "models/w"]
    assert [m.name for m in files_below(tmp_path, ("",))] == everything


def test_links_and_special_files_are_not_packed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    (tmp_path / "etc").symlink_to("/etc")
    os.mkfifo(tmp_path / "fifo")
    assert files_below(tmp_path, ("",)) == []


def test_file_that_became_a_link_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    members = files_below(tmp_path, ("",))
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        pack(members, io.BytesIO())


def test_packed_outputs_depend_on_names_and_contents_only(tmp_path: Path) -> None:
    packed = []
    for number, order in enumerate((("a", "b/c"), ("b/c", "a"))):
        top = tmp_path / str(number)
        (top / "b").mkdir(parents=True)
        for name in order:
            (top / name).write_text(name)
            os.utime(top / name, (number * 1000, number * 1000))
        (top / "a").chmod(0o700)
        into = io.BytesIO()
        pack(files_below(top, ("",)), into)
        packed.append(into.getvalue())
    assert packed[0] == packed[1]
    assert unpack(io.BytesIO(packed[0]), tmp_path / "again") == ["a", "b/c"]
    assert (tmp_path / "again/a").stat().st_mode & 0o777 == 0o755


def test_folders_too_deep_to_walk_are_refused_and_count_as_too_much(tmp_path: Path) -> None:
    nest(tmp_path, FOLDER_DEPTH_MAX + 1)
    gc.collect()  # what earlier tests left to be closed some time is closed now
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TooDeep):
        list(walk(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ArchiveError, match="folders deep") as caught:
        files_below(tmp_path, ("",))
    assert caught.value.reason == "too_large"
    assert DiskWatch((tmp_path,), lambda: 0).mib == TOO_MUCH_MIB


def test_too_many_files_to_pack_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.agent.folders.ARCHIVE_ENTRIES_MAX", 2)
    for name in "abc":
        (tmp_path / name).touch()
    with pytest.raises(ArchiveError, match="more than 2 files"):
        files_below(tmp_path, ("",))


def test_any_tree_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "closed/inner").mkdir(parents=True)
    (top / "closed/inner/file").write_text("x")
    (top / "closed/inner").chmod(0)
    (top / "closed").chmod(0)
    (top / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    os.mkfifo(top / "fifo")
    nest(top, 150)
    remove_tree(top)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "link")  # nor does it follow a link at the top
    assert (tmp_path / "kept/file").exists()
    remove_tree(top)


def test_disk_use_counts_blocks_once_and_empty_files_a_little(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 3 * MIB)
    (tmp_path / "same").hardlink_to(tmp_path / "big")
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)
    for number in range(1024):
        (tmp_path / f"empty{number}").touch()
    watch = DiskWatch((tmp_path,), lambda: 2 * MIB)
    assert watch.mib in (6, 7)  # 3 of data, 1 of names, 2 hidden; the last partial MiB counts whole


def test_disk_use_is_measured_again_only_after_a_pause(tmp_path: Path) -> None:
    now = [100.0]
    watch = DiskWatch((tmp_path,), lambda: 0, lambda: now[0])
    assert watch.mib == 0
    (tmp_path / "big").write_bytes(b"x" * 3 * MIB)
    assert watch.mib == 0
    now[0] += 0.3
    assert watch.mib in (3, 4)


def test_giving_follows_no_link(folders: JobFolders, tmp_path: Path) -> None:
    mine = (os.getuid(), os.getgid())
    (tmp_path / "kept").write_text("x")
    (folders.work / "link").symlink_to(tmp_path / "kept")
    give_to(folders, mine)
    give_to(folders, None)
    assert (folders.work / "link").lstat().st_uid == mine[0]
