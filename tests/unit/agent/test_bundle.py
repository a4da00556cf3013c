from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from marketplace.agent import bundle
from marketplace.agent.bundle import pack, unpack
from marketplace.agent.errors import BundleError

MIB = 1024 * 1024


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **changes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def chain_of_headers() -> bytes:
    """An archive of nothing but headers that each extend the next one's name."""
    header = member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=2)
    return gzip.compress((header.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")) * 2000)


def no_number() -> bytes:
    """An archive whose header has letters where a number belongs."""
    record = b"28 GNU.sparse.map=no,number\n"
    header = member("pax", tarfile.XHDTYPE, size=len(record))
    return gzip.compress(header.tobuf() + record.ljust(512, b"\0") + member("a").tobuf())


CUT_OFF = archive((member("a"), os.urandom(5000)))[:2000]


def open_up(data: bytes, folder: Path, limit: int = MIB) -> None:
    unpack(data, hashlib.sha256(data).hexdigest(), folder, limit)


def test_files_and_folders_are_unpacked_with_plain_modes(tmp_path: Path) -> None:
    data = archive(
        (member("a/", tarfile.DIRTYPE), b""),
        (member("./a/run.sh", mode=0o4755), b"#!/bin/sh\n"),
        (member("b/c/d.txt", mode=0o777 & ~0o100), b"text"),
    )
    open_up(data, tmp_path)
    assert (tmp_path / "b/c/d.txt").read_bytes() == b"text"
    assert (tmp_path / "a/run.sh").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "b/c/d.txt").stat().st_mode & 0o7777 == 0o644


def test_a_name_that_is_no_text_is_kept(tmp_path: Path) -> None:
    open_up(archive((member(os.fsdecode(b"a\xff")), b"1")), tmp_path)
    assert os.listdir(os.fsencode(tmp_path)) == [b"a\xff"]


def test_another_digest_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = archive((member("a"), b"1"))
    with pytest.raises(BundleError, match="expected") as caught:
        unpack(data, "00" * 32, tmp_path, MIB)
    assert caught.value.reason == "inputs_mismatch"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "hostile",
    [
        member("../escape"),
        member("a/../../escape"),
        member("/etc/escape"),
        member("a", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("a", tarfile.LNKTYPE, linkname="b"),
        member("a", tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("a", tarfile.BLKTYPE),
        member("a", tarfile.FIFOTYPE),
        member("/".join("d" * 80)),
        member("x" * 2000),
        member("."),
    ],
    ids=lambda info: f"{info.name[:20]}-{info.type.decode()}",
)
def test_hostile_members_are_refused(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(BundleError) as caught:
        open_up(archive((hostile, b"")), inside)
    assert caught.value.reason == "inputs_unsafe"
    assert not (tmp_path / "escape").exists()


def test_a_link_cannot_be_followed_by_a_later_member(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "out").symlink_to(outside)  # as if a link had got in all the same
    with pytest.raises(BundleError):
        open_up(archive((member("out"), b"1")), inside)
    assert list(outside.iterdir()) == []


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="twice"):
        open_up(archive((member("a"), b"1"), (member("a"), b"2")), tmp_path)


def test_content_above_the_limit_is_refused(tmp_path: Path) -> None:
    data = archive((member("zeros"), bytes(8 * MIB)))
    assert len(data) < 64 * 1024
    with pytest.raises(BundleError) as caught:
        open_up(data, tmp_path, limit=MIB)
    assert caught.value.reason == "inputs_too_large"


def test_a_giant_header_is_refused_without_being_read(tmp_path: Path) -> None:
    info = member("pax", tarfile.XHDTYPE)
    info.size = 1 << 33
    raw = gzip.compress(info.tobuf() + bytes(4 * MIB))
    with pytest.raises(BundleError) as caught:
        open_up(raw, tmp_path)
    assert caught.value.reason == "inputs_malformed"


@pytest.mark.parametrize(
    "data",
    [b"", b"not gzip", gzip.compress(b"not tar" * 200), CUT_OFF, chain_of_headers(), no_number()],
    ids=["empty", "not gzip", "not tar", "cut off", "chain of headers", "no number"],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        open_up(data, tmp_path)
    assert caught.value.reason == "inputs_malformed"


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "ENTRIES_MAX", 3)
    with pytest.raises(BundleError, match="more than 3 entries"):
        open_up(archive(*((member(str(n)), b"") for n in range(4))), tmp_path)


def test_packing_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    digests = []
    for number, order in enumerate((("a", "b/c"), ("b/c", "a"))):
        root = tmp_path / str(number)
        (root / "b").mkdir(parents=True)
        for name in order:
            (root / name).write_text(name)
            os.utime(root / name, (number * 1000, number * 1000))
        digests.append(pack(root, ("",), tmp_path / f"{number}.tar.gz"))
    assert digests[0] == digests[1]
    packed = (tmp_path / "0.tar.gz").read_bytes()
    assert digests[0] == hashlib.sha256(packed).hexdigest()


def test_packed_outputs_unpack_to_the_same_files(tmp_path: Path) -> None:
    root, again = tmp_path / "out", tmp_path / "again"
    root.mkdir()
    again.mkdir()
    (root / "über").write_bytes(b"\0\1")
    (root / "run").write_text("x")
    (root / "run").chmod(0o700)
    target = tmp_path / "out.tar.gz"
    digest = pack(root, ("",), target)
    assert digest is not None
    unpack(target.read_bytes(), digest, again, MIB)
    assert (again / "über").read_bytes() == b"\0\1"
    assert (again / "run").stat().st_mode & 0o777 == 0o755


def test_only_the_wanted_paths_are_packed(tmp_path: Path) -> None:
    root = tmp_path / "out"
    for name in ("model/w", "models/w", "log"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    pack(root, ("model", "log"), tmp_path / "t")
    with tarfile.open(tmp_path / "t") as tar:
        assert tar.getnames() == ["log", "model/w"]


def test_links_and_special_files_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "out"
    (root / "folder").mkdir(parents=True)
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "etc").symlink_to("/etc")
    os.mkfifo(root / "fifo")
    assert pack(root, ("",), tmp_path / "t") is None


def test_outputs_above_the_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out"
    root.mkdir()
    (root / "noise").write_bytes(os.urandom(200_000))
    monkeypatch.setattr(bundle, "ARCHIVE_BYTES_MAX", 100_000)
    with pytest.raises(BundleError) as caught:
        pack(root, ("",), tmp_path / "t")
    assert caught.value.reason == "outputs_too_large"


def test_a_sparse_giant_is_refused_unread(tmp_path: Path) -> None:
    root = tmp_path / "out"
    root.mkdir()
    with (root / "hole").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError) as caught:
        pack(root, ("",), tmp_path / "t")
    assert caught.value.reason == "outputs_too_large"
