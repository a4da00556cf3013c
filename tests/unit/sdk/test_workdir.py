"""A folder packs to the same bytes anywhere, and what agents would refuse is refused at once."""

import io
import os
from pathlib import Path

import pytest

from marketplace.sdk import archive
from marketplace.sdk.archive import unpack
from marketplace.sdk.errors import InputError
from marketplace.sdk.jobfile import pack_folder


def make_tree(root: Path) -> Path:
    (root / "src").mkdir(parents=True)
    (root / "src" / "b.py").write_text("b")
    (root / "a.sh").write_text("#!/bin/sh\n")
    (root / "a.sh").chmod(0o700)
    (root / "empty").mkdir()
    (root / "link").symlink_to("src/b.py")
    return root


def names_in(folder: Path, into: Path) -> list[str]:
    return unpack(io.BytesIO(pack_folder(folder)), into)


def test_same_content_packs_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_tree(tmp_path / "one"), make_tree(tmp_path / "two")
    os.utime(second / "a.sh", (1, 1))
    (second / "src").chmod(0o700)
    assert pack_folder(first) == pack_folder(second)


def test_packed_folder_unpacks_to_itself(tmp_path: Path) -> None:
    assert names_in(make_tree(tmp_path / "in"), tmp_path / "out") == ["a.sh", "link", "src/b.py"]
    assert not (tmp_path / "out/link").is_symlink()
    assert (tmp_path / "out/link").read_bytes() == (tmp_path / "in/src/b.py").read_bytes()
    assert (tmp_path / "out/empty").is_dir()
    assert (tmp_path / "out/a.sh").stat().st_mode & 0o777 == 0o755


def test_clutter_and_ignored_files_stay_out(tmp_path: Path) -> None:
    folder = make_tree(tmp_path / "in")
    for name in (".git", "__pycache__", ".venv", "data"):
        (folder / name).mkdir()
        (folder / name / "f").write_text("x")
    (folder / "src" / "big.bin").write_text("x")
    (folder / ".coulombignore").write_bytes(b"# large \xff\n*.bin\ndata/\n\n")
    found = names_in(folder, tmp_path / "out")
    assert found == [".coulombignore", "a.sh", "link", "src/b.py"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside"])
def test_link_out_of_the_folder_is_refused(tmp_path: Path, target: str) -> None:
    folder = make_tree(tmp_path / "in")
    (folder / "bad").symlink_to(target)
    with pytest.raises(InputError, match="outside") as refusal:
        pack_folder(folder)
    assert refusal.value.pointer == "/workdir"
    assert str(folder / "bad") in str(refusal.value)


@pytest.mark.parametrize(
    ("target", "why"), [("src", "no file"), ("gone", "no file"), ("bad", "circle")]
)
def test_link_to_anything_but_a_file_is_refused(tmp_path: Path, target: str, why: str) -> None:
    folder = make_tree(tmp_path / "in")
    (folder / "bad").symlink_to(target)
    with pytest.raises(InputError, match=why):
        pack_folder(folder)


def test_link_within_the_folder_is_packed_as_a_copy(tmp_path: Path) -> None:
    folder = make_tree(tmp_path / "in")
    (folder / "src" / "up").symlink_to("../link")
    assert "src/up" in names_in(folder, tmp_path / "out")
    assert (tmp_path / "out/src/up").read_text() == (folder / "src/b.py").read_text()


@pytest.mark.parametrize(
    "name", ["/".join(["d"] * 65), "n" * 200 + "/" + "/".join(["m" * 250] * 4)]
)
def test_names_that_agents_refuse_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match="too deep") as refusal:
        pack_folder(tmp_path)
    assert (refusal.value.pointer, bool(refusal.value.fix)) == ("/workdir", True)


def test_more_entries_than_agents_unpack_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ENTRIES_MAX", 4)
    with pytest.raises(InputError, match="more than 4 entries"):
        pack_folder(make_tree(tmp_path / "in"))


def test_device_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither"):
        pack_folder(tmp_path)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        pack_folder(tmp_path / "none")


def test_too_large_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "PACKED_BYTES_MAX", 1024 * 1024)
    (tmp_path / "noise").write_bytes(os.urandom(2 * 1024 * 1024))
    with pytest.raises(InputError, match="exceeds 1 MiB") as refusal:
        pack_folder(tmp_path)
    assert ".coulombignore" in refusal.value.fix
