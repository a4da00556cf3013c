"""Archives come back as they were packed; hostile ones leave nothing behind, inside or outside."""

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.sdk import archive
from marketplace.sdk.archive import ArchiveError, Member, pack, unpack
from tests.tars import END, block, changed, extension, held, member, packed, pax, tar, zipped

MIB = 1024 * 1024
ROOT = Path(__file__).resolve().parents[3]
LONG_NAME = tarfile.GNUTYPE_LONGNAME
FILE = block(member("a", size=1), b"1")
NAMES = st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3}){0,3}", fullmatch=True)


def given_back(data: bytes, into: Path, limit: int = MIB) -> list[str]:
    return unpack(io.BytesIO(data), into, limit)


def refusal(data: bytes, into: Path, limit: int = MIB) -> ArchiveError:
    """The refusal of an archive that left nothing behind."""
    into.mkdir(exist_ok=True)
    before = sorted(into.parent.rglob("*"))
    with pytest.raises(ArchiveError) as caught:
        given_back(data, into, limit)
    assert sorted(into.parent.rglob("*")) == before
    return caught.value


# What comes back


def test_files_and_folders_are_unpacked_with_plain_modes(tmp_path: Path) -> None:
    data = zipped(
        (member("a/", tarfile.DIRTYPE, mode=0o2777), b""),
        (member("./a/run.sh", mode=0o6755), b"#!/bin/sh\n"),
        (member("b/c/d.txt", mode=0o777 & ~0o100), b"text"),
        (member(".", tarfile.DIRTYPE), b""),
    )
    assert given_back(data, tmp_path / "out") == ["a/run.sh", "b/c/d.txt"]
    assert (tmp_path / "out/b/c/d.txt").read_bytes() == b"text"
    modes = {p.name: p.stat().st_mode & 0o7777 for p in (tmp_path / "out").rglob("*")}
    assert modes == {"a": 0o755, "run.sh": 0o755, "b": 0o755, "c": 0o755, "d.txt": 0o644}


@pytest.mark.parametrize(
    ("below", "name", "sound"),
    [
        ("", "x", True), ("a/b", "a/b", True), ("a/b", "a/b/c", True), ("a/b", "a/bc", False),
        ("a/b", "a/x", False), ("a/b", ".git/hooks/x", False),
    ],
)  # fmt: skip
def test_only_what_was_asked_for_is_unpacked(
    tmp_path: Path, below: str, name: str, sound: bool
) -> None:
    data = zipped((member("a", tarfile.DIRTYPE), b""), (member(name), b"1"))
    if sound:
        assert unpack(io.BytesIO(data), tmp_path, below=[below]) == [name]
    else:
        with pytest.raises(ArchiveError, match="not among the job's outputs"):
            unpack(io.BytesIO(data), tmp_path, below=[below])
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_sizes_of_every_form_of_tar_are_read(tmp_path: Path, form: int) -> None:
    files = {"short": b"", "/".join(["d" * 60] * 3): b"1", "e" * 99: b"2" * 511}
    if form != tarfile.USTAR_FORMAT:
        files["über/" + "f" * 200] = b"3" * 512
        files[os.fsdecode(b"raw\xff")] = b"4" * 513
        files["/".join(["g" * 250] * 4)] = b"5" * 300_000
    data = gzip.compress(tar(*((member(n), c) for n, c in files.items()), form=form))
    assert given_back(data, tmp_path / "out") == list(files)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files


@settings(max_examples=30)  # files take their time
@given(st.dictionaries(NAMES, st.binary(), max_size=8))
def test_packed_files_come_back(files: dict[str, bytes]) -> None:
    names = {name for name in files if not any(o.startswith(name + "/") for o in files)}
    kept = {name: files[name] for name in sorted(names)}
    with tempfile.TemporaryDirectory() as folder:
        assert given_back(packed(kept), Path(folder)) == list(kept)
        assert {n: (Path(folder) / n).read_bytes() for n in kept} == kept


def test_what_is_packed_never_changes() -> None:
    """A change of these bytes is a change of every buyer's digests."""
    data = packed({"a": b"1", "b": None, "b/ü": b"2" * 600})
    digest = "f834ab4ba75d97ce431ab9074c7431b20b8576b49515bdf350e8bdfff8728b92"
    assert hashlib.sha256(gzip.decompress(data)).hexdigest() == digest
    assert data[:10] == bytes.fromhex("1f8b08000000000000ff")


@pytest.mark.parametrize("size", [0, 1, 512, *(512 * blocks for blocks in range(14, 21))])
def test_packed_bytes_are_those_of_tarfile(size: int) -> None:
    expected = tar((member("d", tarfile.DIRTYPE, mode=0o755), b""), (member("d/f"), b"x" * size))
    assert gzip.decompress(packed({"d": None, "d/f": b"x" * size})) == expected


def test_folder_that_is_there_takes_in_more_files(tmp_path: Path) -> None:
    into = tmp_path / "out"
    (into / "b/c").mkdir(parents=True)
    (into / "b/kept").write_text("kept")
    data = zipped((member("b/c/d"), b"1"), (member("b/e/f"), b"2"), (member("g"), b"3"))
    given_back(data, into)
    found = {p.relative_to(into).as_posix() for p in into.rglob("*") if p.is_file()}
    assert found == {"b/kept", "b/c/d", "b/e/f", "g"}


# What is refused for what it names


@pytest.mark.parametrize(
    "hostile",
    [
        member("../escape"),
        member("a/../../escape"),
        member("a/.."),
        member("..", tarfile.DIRTYPE),
        member("/etc/escape"),
        member("//etc/escape"),
        member("/", tarfile.DIRTYPE),
        member("a", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("a", tarfile.SYMTYPE, linkname="b"),
        member("a", tarfile.SYMTYPE, linkname="../../escape"),
        member("a", tarfile.LNKTYPE, linkname="b"),
        member("a", tarfile.LNKTYPE, linkname="/etc/passwd"),
        member("a", tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("a", tarfile.BLKTYPE),
        member("a", tarfile.FIFOTYPE),
        member("a", tarfile.CONTTYPE),
        member("a", tarfile.GNUTYPE_SPARSE),
        member("a", b"V"),
        member("/".join("d" * 65)),
        member("x" * 2000),
        member("x" * 256),
        member("/".join(["n" * 250] * 5)),
        member("."),
        member("./"),
        member(""),
    ],
    ids=lambda info: f"{info.name[:20]}-{info.type.decode()}",
)
def test_hostile_member_is_refused(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    data = zipped((member("fine"), b"1"), (hostile, b""))
    assert refusal(data, tmp_path / "out").reason == "unsafe"


def test_member_is_not_written_through_a_link_of_the_same_archive(tmp_path: Path) -> None:
    link = member("link", tarfile.SYMTYPE, linkname=str(tmp_path))
    assert refusal(zipped((link, b""), (member("link/evil"), b"x")), tmp_path / "out")
    # CVE-2025-4517: a chain of links too long for realpath to resolve
    steps, members = "", []
    for name in "abcdefghijklmnop":
        folder = steps + "d" * 247
        members.append((member(folder, tarfile.DIRTYPE), b""))
        members.append((member(steps + name, tarfile.SYMTYPE, linkname="d" * 247), b""))
        steps += f"{name}/"
    assert refusal(zipped(*members, (member("escape/evil"), b"x")), tmp_path / "out")


@pytest.mark.parametrize(
    "headers",
    [
        pax(b"path", b"../escape") + FILE,
        pax(b"path", b"/etc/escape") + FILE,
        pax(b"path", b"a\0b") + FILE,
        pax(b"path", b"") + FILE,
        extension(LONG_NAME, b"../escape\0") + FILE,
        extension(LONG_NAME, b"a\0/../../escape\0") + FILE,
        changed(FILE, 345, b"a/../.."),
        changed(FILE, 345, b"/etc"),
    ],
    ids=["pax", "absolute", "NUL", "empty", "GNU", "GNU NUL", "prefix", "absolute prefix"],
)
def test_hostile_name_is_refused_whatever_header_it_is_in(tmp_path: Path, headers: bytes) -> None:
    assert refusal(gzip.compress(headers + END), tmp_path / "out").reason == "unsafe"


@pytest.mark.parametrize(
    ("first", "second"), [("a", "a"), ("a", "./a"), ("b/a", "b//a"), ("a", "a/b"), ("a/b", "a")]
)
def test_name_that_comes_twice_is_refused(tmp_path: Path, first: str, second: str) -> None:
    error = refusal(zipped((member(first), b"1"), (member(second), b"2")), tmp_path / "out")
    assert error.reason == "unsafe"
    assert "twice" in str(error)


def test_names_that_differ_in_case_stay_two_files_or_are_refused(tmp_path: Path) -> None:
    """Where the file system takes them for one, nothing is written over."""
    data = zipped((member("a"), b"1"), (member("A"), b"2"))
    (tmp_path / "probe").touch()
    if (tmp_path / "PROBE").exists():
        assert refusal(data, tmp_path / "out").reason == "unsafe"
    else:
        given_back(data, tmp_path / "out")
        assert (tmp_path / "out/a").read_bytes() + (tmp_path / "out/A").read_bytes() == b"12"


# What is refused for what is there already


@pytest.mark.parametrize("name", ["out", "out/f", "sub/out", "sub/out/f"])
@pytest.mark.parametrize("target", ["{}/outside", "../outside", "gone"])
def test_link_in_the_target_is_not_followed(tmp_path: Path, name: str, target: str) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    for folder in (inside, inside / "sub"):
        (folder / "out").symlink_to(target.format(tmp_path))
    error = refusal(zipped((member("fine"), b"1"), (member(name), b"1")), inside)
    assert error.reason == "unwritable"
    assert "there already" in str(error)
    assert error.fix
    assert list(outside.iterdir()) == []


def test_file_in_the_target_is_not_replaced(tmp_path: Path) -> None:
    into = tmp_path / "out"
    into.mkdir()
    (into / "a").write_text("mine")
    error = refusal(zipped((member("b"), b"1"), (member("a"), b"theirs")), into)
    assert error.reason == "unwritable"
    assert (into / "a").read_text() == "mine"


def test_target_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ArchiveError) as caught:
        given_back(zipped((member("a"), b"1")), tmp_path / "out")
    assert caught.value.reason == "unwritable"


# What is no archive

WHOLE = zipped((member("a"), b"x" * 100))
NOT_ARCHIVES: dict[str, bytes] = {
    "empty": b"",
    "not gzip": b"not gzip",
    "not tar": gzip.compress(b"not tar" * 200),
    "nothing inside": gzip.compress(b""),
    "cut off": zipped((member("a"), os.urandom(5000)))[:2000],
    "cut before the checksum": WHOLE[:-4],
    "no end": gzip.compress(FILE),
    "cut in a member": gzip.compress(FILE[:700]),
    "wrong checksum of gzip": WHOLE[:-8] + bytes(8),
    "second gzip": WHOLE * 2,
    "bytes after gzip": WHOLE + b"x",
    "bytes after the end": gzip.compress(FILE + END + FILE + END),
    "wrong checksum of a header": gzip.compress(b"b" + FILE[1:] + END),
    "no magic": gzip.compress(changed(FILE, 257, bytes(8)) + END),
    "negative size": gzip.compress(changed(FILE, 124, b"\xff" * 12) + END),
    "letters for a size": gzip.compress(changed(FILE, 124, b"twelve bytes") + END),
    "chain of headers": gzip.compress(extension(LONG_NAME, b"x\0") * 2000),
    "header and no member": gzip.compress(FILE + extension(LONG_NAME, b"x\0") + END),
    "no number": gzip.compress(pax(b"GNU.sparse.map", b"no,number") + FILE + END),
    "sparse": gzip.compress(pax(b"GNU.sparse.name", b"../evil") + FILE + END),
    "pax without a size": gzip.compress(pax(b"size", b"-1") + FILE + END),
    "pax with a long size": gzip.compress(pax(b"size", b"9" * 5000) + FILE + END),
    "pax of letters": gzip.compress(extension(tarfile.XHDTYPE, b"x path=a\n") + FILE + END),
    "pax too short": gzip.compress(extension(tarfile.XHDTYPE, b"5 path=a\n") + FILE + END),
    "pax too long": gzip.compress(extension(tarfile.XHDTYPE, b"99 path=a\n") + FILE + END),
    "pax of no length": gzip.compress(extension(tarfile.XHDTYPE, b"0 path=a\n") + FILE + END),
}


@pytest.mark.parametrize("name", NOT_ARCHIVES)
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(NOT_ARCHIVES[name], tmp_path / "out").reason == "malformed"


@given(st.binary(max_size=300), st.integers(0, 2_500), st.integers(0, 255))
def test_damaged_archive_is_unpacked_or_refused_and_nothing_else(
    noise: bytes, at: int, byte: int
) -> None:
    whole = bytearray(tar((member("a"), b"1"), (member("b/c"), noise)))
    whole[at] = byte
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "into"
        try:
            given_back(gzip.compress(bytes(whole)), into)
        except ArchiveError:
            assert list(into.iterdir()) == []
        assert list(Path(folder).iterdir()) == [into]


# What is refused for its size


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
@pytest.mark.parametrize("size", [archive.HEADER_BYTES_MAX + 1, 8 * MIB, 1 << 32])
def test_long_header_is_refused_before_it_is_read(tmp_path: Path, kind: bytes, size: int) -> None:
    data = gzip.compress(extension(kind, b"", size) + bytes(min(size, 32 * MIB)) + FILE + END)
    tracemalloc.start()
    try:
        assert refusal(data, tmp_path / "out").reason == "malformed"
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_many_headers_take_no_memory(tmp_path: Path) -> None:
    """A reader that keeps the headers it has read would hold 32 MiB here, of 0.2 MB."""
    comment = pax(b"comment", bytes(archive.HEADER_BYTES_MAX - 100))
    data = gzip.compress(b"".join(comment + block(member(f"f{n}")) for n in range(2_000)) + END, 1)
    assert len(data) < MIB
    code = (
        "import pathlib, resource, sys\nfrom marketplace.sdk.archive import unpack\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(len(unpack(sys.stdin.buffer, pathlib.Path(sys.argv[1]))))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    words = [sys.executable, "-c", code, tmp_path / "out"]
    ran = subprocess.run(words, input=data, capture_output=True, cwd=ROOT, check=True)
    count, grown_mib = map(int, ran.stdout.split())
    assert count == 2_000
    assert grown_mib < 16


def test_content_above_the_limit_is_refused(tmp_path: Path) -> None:
    data = zipped((member("zeros"), bytes(8 * MIB)))
    assert len(data) < 64 * 1024
    assert refusal(data, tmp_path / "one").reason == "too_large"
    parts = zipped(*((member(str(n)), bytes(MIB // 2)) for n in range(3)))
    assert refusal(parts, tmp_path / "three").reason == "too_large"
    given_back(zipped((member("fits"), bytes(MIB))), tmp_path / "out")


def test_padding_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "ENTRIES_MAX", 3)
    data = gzip.compress(FILE + bytes(8 * MIB))
    assert refusal(data, tmp_path / "out", limit=1000).reason == "too_large"


@pytest.mark.parametrize("names", [list("12345"), ["a/b/c/d/e"], ["a/1", "b/2", "c"]])
def test_more_entries_than_allowed_are_refused_alike_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    data, members = zipped(*((member(name), b"") for name in names)), [held(n) for n in names]
    monkeypatch.setattr(archive, "ENTRIES_MAX", 5)
    given_back(data, tmp_path / "fits")
    pack(members, io.BytesIO())
    monkeypatch.setattr(archive, "ENTRIES_MAX", 4)
    error = refusal(data, tmp_path / "out")
    assert error.reason == "too_large"
    assert "more than 4 entries" in str(error)
    with pytest.raises(ArchiveError, match="more than 4 entries"):
        pack(members, io.BytesIO())


def test_names_that_are_too_long_together_are_refused_alike_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{n}/" + "x" * 200 for n in range(50)]
    monkeypatch.setattr(archive, "NAMES_BYTES_MAX", 9_000)
    data = zipped(*((member(name), b"") for name in names))
    assert "the names are longer" in str(refusal(data, tmp_path / "out"))
    with pytest.raises(ArchiveError, match="the names are longer"):
        packed(dict.fromkeys(names, b""))


def test_packing_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "PACKED_BYTES_MAX", 100_000)
    with pytest.raises(ArchiveError, match="packed archive exceeds") as caught:
        packed({"noise": os.urandom(200_000)})
    assert caught.value.reason == "too_large"


def test_sparse_giant_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ArchiveError, match="exceed 4 GiB"):
        pack([Member("hole", partial((tmp_path / "hole").open, "rb"))], io.BytesIO())


@pytest.mark.parametrize("name", ["../a", "/a", "a/..", "", "x" * 256, "/".join("d" * 65)])
def test_name_that_could_not_be_unpacked_is_not_packed(name: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        packed({name: b""})
    assert caught.value.reason == "unsafe"


def test_file_that_shrinks_while_it_is_packed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1" * MIB)

    class Shrinking(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            os.truncate(path, MIB // 2)
            return super().read(size)

    with pytest.raises(ArchiveError, match="became shorter"):
        pack([Member("a", lambda: Shrinking(io.FileIO(path)))], io.BytesIO())
