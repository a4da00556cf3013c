"""Folders pack to the same bytes anywhere, and archives unpack only inside their folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from marketplace.agent import bundle
from marketplace.sdk import pack as module
from marketplace.sdk.errors import InputError
from marketplace.sdk.pack import pack, unpack


def make_tree(root: Path) -> Path:
    (root / "src").mkdir(parents=True)
    (root / "src" / "b.py").write_text("b")
    (root / "a.sh").write_text("#!/bin/sh\n")
    (root / "a.sh").chmod(0o700)
    (root / "empty").mkdir()
    (root / "link").symlink_to("src/b.py")
    return root


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(raw.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_same_content_packs_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_tree(tmp_path / "one"), make_tree(tmp_path / "two")
    os.utime(second / "a.sh", (1, 1))
    (second / "src").chmod(0o700)
    assert pack(first) == pack(second)


def test_changed_content_packs_to_other_bytes(tmp_path: Path) -> None:
    folder = make_tree(tmp_path / "one")
    before = pack(folder)
    (folder / "src" / "b.py").write_text("c")
    assert pack(folder) != before


def test_packed_folder_unpacks_to_itself(tmp_path: Path) -> None:
    content = pack(make_tree(tmp_path / "in"))
    names = unpack(content, tmp_path / "out")
    assert names == ["a.sh", "link", "src/b.py"]
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
    (folder / ".coulombignore").write_text("# large\n*.bin\ndata/\n\n")
    assert unpack(pack(folder), tmp_path / "out") == [".coulombignore", "a.sh", "link", "src/b.py"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside"])
def test_link_out_of_the_folder_is_refused(tmp_path: Path, target: str) -> None:
    folder = make_tree(tmp_path / "in")
    (folder / "bad").symlink_to(target)
    with pytest.raises(InputError, match="outside") as refusal:
        pack(folder)
    assert refusal.value.pointer == "/workdir"
    assert str(folder / "bad") in str(refusal.value)


@pytest.mark.parametrize(
    ("target", "why"), [("src", "no file"), ("gone", "no file"), ("bad", "circle")]
)
def test_link_to_anything_but_a_file_is_refused(tmp_path: Path, target: str, why: str) -> None:
    folder = make_tree(tmp_path / "in")
    (folder / "bad").symlink_to(target)
    with pytest.raises(InputError, match=why):
        pack(folder)


def test_agents_unpack_what_is_packed(tmp_path: Path) -> None:
    folder = make_tree(tmp_path / "in")
    (folder / "src" / "up").symlink_to("../link")
    content = pack(folder)
    (tmp_path / "work").mkdir()
    bundle.unpack(content, hashlib.sha256(content).hexdigest(), tmp_path / "work", 10_000)
    assert (tmp_path / "work/src/up").read_text() == (folder / "src/b.py").read_text()
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == ["a.sh", "empty", "link", "src"]


@pytest.mark.parametrize(
    "name", ["/".join(["d"] * 65), "n" * 200 + "/" + "/".join(["m" * 250] * 4)]
)
def test_names_that_agents_refuse_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match="too deep"):
        pack(tmp_path)


def test_bounds_are_those_of_agents() -> None:
    assert module.FILES_MAX == bundle.ENTRIES_MAX
    assert module.PACKED_BYTES_MAX == bundle.ARCHIVE_BYTES_MAX
    assert (module.NAME_BYTES_MAX, module.DEPTH_MAX) == (bundle.NAME_BYTES_MAX, bundle.DEPTH_MAX)


def test_more_entries_than_agents_unpack_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_MAX", 4)
    with pytest.raises(InputError, match="more than 4 entries"):
        pack(make_tree(tmp_path / "in"))


def test_device_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither"):
        pack(tmp_path)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        pack(tmp_path / "none")


def test_too_large_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKED_BYTES_MAX", 10_000)
    (tmp_path / "noise").write_bytes(os.urandom(20_000))
    with pytest.raises(InputError, match="64 MiB"):
        pack(tmp_path)


LONG_NAME = tarfile.TarInfo("././@LongLink")
LONG_NAME.type, LONG_NAME.size = tarfile.GNUTYPE_LONGNAME, 2
HEADERS_ALONE = (LONG_NAME.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")) * 2000


@pytest.mark.parametrize(
    "content",
    [
        archive((member("../evil"), b"x")),
        archive((member("/etc/evil"), b"x"), (member("../../e"), b"")),
        archive((member("l", tarfile.SYMTYPE, "/etc"), b""), (member("l/evil"), b"x")),
        archive((member("dev", tarfile.CHRTYPE), b"")),
        b"not gzip",
        gzip.compress(b"not tar" * 100),
        archive((member("a"), b"x" * 100))[:-40],
        gzip.compress(HEADERS_ALONE),
    ],
    ids=["parent", "absolute", "link", "device", "not-gzip", "not-tar", "cut-short", "headers"],
)
def test_hostile_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError):
        unpack(content, tmp_path / "out")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path.parent / "e").exists()


def test_archive_that_unpacks_too_large_is_refused(tmp_path: Path) -> None:
    bomb = archive((member("zeros"), bytes(1_000_000)))
    assert len(bomb) < 5_000
    with pytest.raises(InputError, match="more than"):
        unpack(bomb, tmp_path / "out", bytes_max=500_000)
    assert not (tmp_path / "out" / "zeros").exists()
