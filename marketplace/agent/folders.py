"""A job's folders: made for it, measured while it runs, and taken away without a trace.

What a job leaves behind is hostile: links, devices it could not make but tried to, folders without
permissions, folders nested deeper than any path is long. Nothing here follows a link, or recurses
deeper than FOLDER_DEPTH_MAX.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from marketplace.limits import ARCHIVE_ENTRIES_MAX, FOLDER_DEPTH_MAX, MIB
from marketplace.sdk.archive import ArchiveError, Member

TOO_MUCH_MIB = 2**32 - 1
NOTICE = "notice"  # in the folder of the job's socket
_ENTRY_BYTES_MIN = 1024  # an empty file fills no block, but takes an inode and a name
_PAUSE_FACTOR = 20  # measuring takes at most a twentieth of the time
_PAUSE_MIN_S = 0.25
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class JobFolders:
    """A job's folders on the node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"  # seen by the job as /work
        self.out = root / "out"  # seen by the job as /out
        self.logs = root / "logs"  # its output until the server has it; the job does not see it
        self.run = root / "run"  # holds the socket and the small system files made for the job

    def tell_notice(self, at_s: int) -> None:
        """Tell the job at which Unix second its node is taken back, by a file that it can read."""
        draft = self.run / f"{NOTICE}.part"
        draft.write_text(f"{at_s}\n")
        draft.chmod(0o644)
        draft.replace(self.run / NOTICE)


class TooDeep(OSError):
    """Folders are nested deeper than FOLDER_DEPTH_MAX."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something below a folder: its path from there, and the open folder it is in."""

    path: str
    name: str
    folder_fd: int
    status: os.stat_result


def walk(top: Path) -> Iterator[Entry]:
    """Everything below a folder, which may change meanwhile. Raises TooDeep."""
    return _walk(os.open(top, _OPEN_FOLDER), "", 1)


def _walk(folder_fd: int, prefix: str, depth: int) -> Iterator[Entry]:
    try:
        with os.scandir(folder_fd) as items:
            for item in items:
                with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # meanwhile
                    status = item.stat(follow_symlinks=False)
                    yield Entry(prefix + item.name, item.name, folder_fd, status)
                    if stat.S_ISDIR(status.st_mode):
                        if depth >= FOLDER_DEPTH_MAX:
                            raise TooDeep(f"more than {FOLDER_DEPTH_MAX} folders deep")
                        below = os.open(item.name, _OPEN_FOLDER, dir_fd=folder_fd)
                        yield from _walk(below, f"{prefix}{item.name}/", depth + 1)
    finally:
        os.close(folder_fd)


def make_folders(folders: JobFolders) -> None:
    """Make a job's folders, empty; only the agent's user can enter them from outside."""
    remove_tree(folders.root)
    folders.root.mkdir(mode=0o700, parents=True)
    for folder in (folders.work, folders.out, folders.run, folders.logs):
        folder.mkdir(mode=0o755)


def give_to(folders: JobFolders, owner: tuple[int, int] | None) -> None:
    if owner is None:
        return
    for top in (folders.work, folders.out):
        os.chown(top, *owner)
        for entry in walk(top):
            os.chown(entry.name, *owner, dir_fd=entry.folder_fd, follow_symlinks=False)


def files_below(top: Path, paths: tuple[str, ...]) -> list[Member]:
    """The plain files at or below some paths ("" for all), sorted, to be packed.

    A link could take a file of the node along. Raises ArchiveError for too deep or too many.
    """
    wanted = [path.strip("/") for path in paths]
    names = []
    try:
        for entry in walk(top):
            name = entry.path
            inside = any(not w or name == w or name.startswith(w + "/") for w in wanted)
            if inside and stat.S_ISREG(entry.status.st_mode):
                names.append(name)
            if len(names) > ARCHIVE_ENTRIES_MAX:
                raise ArchiveError("too_large", f"there are more than {ARCHIVE_ENTRIES_MAX} files")
    except TooDeep as error:
        raise ArchiveError("too_large", str(error)) from error
    names.sort(key=os.fsencode)
    return [Member(name, partial(_open_below, top, name)) for name in names]


def _open_below(top: Path, name: str) -> BinaryIO:
    # The job is dead, so no folder on the way turns into a link any more.
    folder_fd = os.open(top, _OPEN_FOLDER)
    try:
        return os.fdopen(os.open(name, _OPEN_FILE, dir_fd=folder_fd), "rb")
    finally:
        os.close(folder_fd)


def remove_tree(root: Path) -> None:
    """Remove a folder, if it exists, with all that is in it; nothing else may work in it.

    It goes down and up again by one open folder: depth costs neither stack nor descriptors.
    """
    if not root.is_dir() or root.is_symlink():
        return
    here = os.open(root, _OPEN_FOLDER)
    depth = 0
    try:
        while True:
            below = _clear(here)
            if below is None and depth == 0:
                break
            there = os.open(below or "..", _OPEN_FOLDER, dir_fd=here)
            os.close(here)
            here = there
            depth += 1 if below else -1
    finally:
        os.close(here)
    root.rmdir()


def _clear(folder_fd: int) -> str | None:
    """Remove what is in a folder, up to one folder that has to be cleared first: its name."""
    while True:
        with os.scandir(folder_fd) as items:
            names = [item.name for item in islice(items, 10_000)]
        if not names:
            return None
        for name in names:
            mode = os.lstat(name, dir_fd=folder_fd).st_mode
            if not stat.S_ISDIR(mode):
                os.unlink(name, dir_fd=folder_fd)
                continue
            if stat.S_IMODE(mode) & 0o700 != 0o700:
                os.chmod(name, 0o700, dir_fd=folder_fd)
            try:
                os.rmdir(name, dir_fd=folder_fd)
            except OSError:  # not empty
                return name


class DiskWatch:
    """How much disk a job uses, measured now and then by the blocks that its files fill.

    `hidden_bytes` adds files that are deleted but still open. Folders too deep count as too much.
    """

    def __init__(
        self, tops: tuple[Path, ...], hidden_bytes: Callable[[], int],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._tops = tops
        self._hidden_bytes = hidden_bytes
        self._clock_s = clock_s
        self._next_s = 0.0
        self._mib = 0

    @property
    def mib(self) -> int:
        """The last measurement, rounded up, renewed when it is old enough."""
        began = self._clock_s()
        if began >= self._next_s:
            self._mib = self._measure()
            ended = self._clock_s()
            self._next_s = ended + max(_PAUSE_MIN_S, (ended - began) * _PAUSE_FACTOR)
        return self._mib

    def _measure(self) -> int:
        used = self._hidden_bytes()
        seen: set[int] = set()  # files with several names count once
        try:
            for top in self._tops:
                for entry in walk(top):
                    status = entry.status
                    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    used += max(_ENTRY_BYTES_MIN, status.st_blocks * 512)
        except TooDeep:
            return TOO_MUCH_MIB
        return -(-used // MIB)
