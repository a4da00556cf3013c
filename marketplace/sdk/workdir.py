"""What of a buyer's folder goes into a job: its members, in an order that is always the same."""

import fnmatch
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from marketplace.sdk.archive import ArchiveError, Member, pack
from marketplace.sdk.errors import InputError

IGNORE_FILE = ".coulombignore"
ALWAYS_LEFT_OUT = (".git", ".venv", "__pycache__")


def pack_folder(folder: Path) -> bytes:
    """A tar.gz of a folder whose bytes depend on nothing but names, contents and who may execute.

    Left out: .git, .venv, __pycache__ and what a .coulombignore file matches (one shell pattern a
    line). A link to a file inside becomes a copy of it, as archives hold no links. Raises
    InputError: no folder, above the bounds of an archive, or a link that leads elsewhere.
    """
    if not folder.is_dir():
        raise _refused(folder, "is not a folder", "correct `workdir` in the job file")
    packed = io.BytesIO()
    try:
        pack(_members(folder), packed)
    except ArchiveError as error:
        fix = f"leave files out with a {IGNORE_FILE} file, or fetch large data from the job"
        raise InputError(f"{folder} cannot be packed: {error}", fix, "/workdir") from error
    except OSError as error:
        raise _refused(folder, f"cannot be read: {error}", "let its files be read") from error
    return packed.getvalue()


def _members(folder: Path) -> Iterator[Member]:
    for path in _paths(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            _check_link(folder, path)
        if path.is_dir():
            yield Member(name, None)
        elif path.is_file():
            yield Member(name, partial(_open, path))
        else:
            raise _refused(path, "is neither a file, a folder nor a link", "leave it out")


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _paths(folder: Path) -> Iterator[Path]:
    patterns = [*ALWAYS_LEFT_OUT, *_patterns(folder)]

    def walk(inside: Path) -> Iterator[Path]:
        for path in sorted(inside.iterdir(), key=lambda p: p.name):
            name = path.relative_to(folder).as_posix()
            if any(fnmatch.fnmatchcase(t, p) for p in patterns for t in (name, path.name)):
                continue
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from walk(path)

    return walk(folder)


def _patterns(folder: Path) -> list[str]:
    file = folder / IGNORE_FILE
    if not file.is_file():
        return []
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line.rstrip("/") for line in lines if line and not line.startswith("#")]


def _check_link(folder: Path, path: Path) -> None:
    """Refuse a link to anything but a file of the folder. It need not be one that is packed."""
    target = path.readlink()
    try:
        leads_to = (path.parent / target).resolve()
    except (OSError, RuntimeError):
        raise _refused(path, f"links to {target} in a circle", "leave it out") from None
    if target.is_absolute() or not leads_to.is_relative_to(folder.resolve()):
        raise _refused(path, f"links to {target}, outside the folder", "copy the file instead")
    if not leads_to.is_file():
        raise _refused(path, f"links to {target}, which is no file", "links to files are packed")


def _refused(path: Path, what: str, fix: str) -> InputError:
    return InputError(f"{path} {what}", fix=fix, pointer="/workdir")
