"""Job files (YAML in, a checked spec out, every mistake with its place) and their folders."""

import fnmatch
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from marketplace.data import load_tiers
from marketplace.domain.job import JobSpec, parse_job
from marketplace.sdk.archive import ArchiveError, Member, pack
from marketplace.sdk.errors import InputError, ProtocolError, input_errors
from marketplace.wire.jobs import Job
from marketplace.wire.orders import Plan
from settlement.orders import Bid
from settlement.signing import Signer
from settlement.strict_json import BYTES_MAX, DEPTH_MAX

IGNORE_FILE = ".coulombignore"
OUTPUTS = "/out"
ALWAYS_LEFT_OUT = (".git", ".venv", "__pycache__")
JobSource = str | Path | Mapping[str, Any] | JobSpec


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job ready to be bought: its packed spec, its bid, and what it would cost.

    `signer` None: the session's. `is_of_purse`: whether the bid's buyer is a purse.
    """

    spec: JobSpec
    bid: Bid
    plan: Plan
    signer: Signer | None
    hosted_witness: bool
    is_of_purse: bool = False


class _Loader(yaml.SafeLoader):
    """YAML in which a decimal number or a date stays the text as written, so that money is exact.

    Aliases are refused: a few lines of them stand for a document that fills the memory.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node."""
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases are not supported: write the value out")
        if self._depth > DEPTH_MAX:
            self._refuse(f"nested deeper than {DEPTH_MAX} levels")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, why: str) -> None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        raise yaml.composer.ComposerError(None, None, why, mark)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_job(source: JobSource) -> tuple[JobSpec, Path]:
    """A job spec and the folder its `workdir` is relative to. It brings back all of /out unless
    it names other `outputs`.

    `source` is a job file, the object of one, or a spec. Raises InputError listing every mistake.
    """
    if isinstance(source, JobSpec):
        return source, Path.cwd()
    if isinstance(source, Mapping):
        return _parse(dict(source), "the job"), Path.cwd()
    path = Path(source)
    return _parse(_read(path), str(path)), path.resolve().parent


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > BYTES_MAX:
        raise InputError(f"{path} has more than {BYTES_MAX} bytes: is it a job file?")
    try:
        return yaml.load(raw.decode(), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of too many digits
        raise InputError(f"{path} cannot be parsed: {error}") from error


def _parse(document: Any, what: str) -> JobSpec:
    if isinstance(document, dict):
        # Only here: what travels says its outputs itself, and its hash does not depend on this.
        document = {"outputs": [{"path": OUTPUTS}], **document}
    with input_errors(f"{what} is not a valid job", "docs/job-file.md lists every member"):
        return parse_job(document, tiers=load_tiers())


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
        raise _refused(
            folder, f"cannot be read: {error.strerror}", "let its files be read"
        ) from error
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
    """What is left of the folder, in order: a link to a folder is not entered."""
    file = folder / IGNORE_FILE
    lines = file.read_text(errors="surrogateescape").splitlines() if file.is_file() else []
    named = [line.strip().rstrip("/") for line in lines if not line.strip().startswith("#")]
    patterns = [*ALWAYS_LEFT_OUT, *filter(None, named)]

    def walk(inside: Path) -> Iterator[Path]:
        for path in sorted(inside.iterdir(), key=lambda p: p.name):
            name = path.relative_to(folder).as_posix()
            if any(fnmatch.fnmatchcase(t, p) for p in patterns for t in (name, path.name)):
                continue
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from walk(path)

    return walk(folder)


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


def empty_folder(folder: Path) -> Path:
    """A folder to unpack into. Raises InputError if something is there: what comes is not ours."""
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"{folder} cannot be used: {error.strerror}") from error
    if taken:
        raise InputError(f"{folder} is not an empty folder", fix="name a new or an empty folder")
    return folder


def outputs_of(job: Job) -> list[str]:
    """The paths that a job's file brings back."""
    try:
        return [str(output["path"]) for output in job.spec.get("outputs") or ()]
    except (AttributeError, KeyError, TypeError):
        raise ProtocolError(f"{job.id}: its `outputs` are not those of a job") from None


def why_no_outputs(job: Job) -> str:
    """Why a job has no outputs, for people."""
    if not job.is_final:
        return "it has not ended yet"
    if not (paths := outputs_of(job)):
        return "its job file names no `outputs`"
    if job.reason and job.reason.startswith("outputs_"):
        return f"they could not be kept ({job.reason}); `coulomb job logs {job.id}` says more"
    return f"it left no files in {', '.join(paths)}"
