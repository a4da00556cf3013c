"""The job file: what a buyer wants run, where and for how much; how it is read and written.

The SHA-256 of its normalised form is the `jobHash` that a bid signs.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, NamedTuple, get_type_hints

from marketplace import limits
from marketplace.domain.pricing import DECIMALS, from_nano, from_scaled, to_nano, to_scaled
from marketplace.domain.reader import (
    Reader,
    bool_of,
    choice_of,
    duration_of,
    duration_text,
    is_unicode,
    list_of,
    lower_bound_of,
    mib_of,
    milli_text,
    object_of,
    parser,
    seconds_of,
    size_text,
    text_of,
    thousandths_of,
    whole_of,
)
from marketplace.domain.tier import CPU_TIER, GpuWish, TierRegistry, parse_gpu
from marketplace.errors import InvalidInput, InvalidJob, Problem
from settlement.units import (
    MAX_NOTICE_SECONDS,
    UINT32_MAX,
    UINT64_MAX,
    cost_up,
    counted_lock,
)

EVENTS = ("no-capacity", "interruption", "error")
_RETRY_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Inputs:
    """A job's packed working folder: SHA-256 (64 hex digits) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class UnitsWish:
    """Counted units a job may emit: their name, the cap, the most paid per unit (1e-9 token)."""

    name: str
    maximum: int
    max_price_nano: int

    def to_json(self) -> dict[str, Any]:
        price = from_nano(self.max_price_nano)
        return {"name": self.name, "max": self.maximum, "max_price": price}


@dataclass(frozen=True, slots=True)
class EgressWish:
    """Egress a job may use: the cap in MiB, the most paid per GiB (1e-9 token)."""

    max_mib: int
    max_price_nano: int

    def to_json(self) -> dict[str, Any]:
        return {"max": size_text(self.max_mib), "max_price": from_nano(self.max_price_nano)}


# How values are read


def _mib(value: object) -> int:
    if (mib := mib_of(value)) > UINT32_MAX:
        raise ValueError("must be below 4096TB")
    return mib


def _duration(value: object) -> int:
    seconds = seconds_of(value)
    if not 1 <= seconds <= limits.JOB_SECONDS_MAX:
        raise ValueError("must be from 1s to 90d")
    return seconds


def _total(value: object) -> int:
    if not (atoms := to_scaled(value, DECIMALS)):
        raise ValueError("must be above zero")
    return atoms


def _command(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return ("/bin/sh", "-c", value)
    words = list_of(text_of(limits.JOB_WORD_CHARS_MAX), limits.JOB_WORDS_MAX)(value)
    if not words:
        raise ValueError("must have at least one word")
    return words


def _output(value: object) -> str:
    path = text_of(limits.JOB_OUTPUT_CHARS_MAX, r"/out(/[A-Za-z0-9._-]+)*")(value)
    if ".." in path:
        raise ValueError("must not contain ..")
    return path


def _outputs_json(paths: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"path": path} for path in paths]


@parser
def _pairs_of(
    value: object, name: str, maximum: int, reserved: str | None = None
) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or len(value) > limits.JOB_PAIRS_MAX:
        raise ValueError(f"must be an object of at most {limits.JOB_PAIRS_MAX} texts")
    problems: list[Problem] = []
    reader = Reader(value, (key for key in value if isinstance(key, str)), problems)
    for word, text in reader.data.items():
        if not re.fullmatch(name, word):
            reader.problem(word, "is not an allowed name")
        elif reserved and word.startswith(reserved):
            reader.problem(word, f"names beginning with {reserved} are set by the agent")
        if not isinstance(text, str):
            reader.problem(word, f"must be text: write it in quotes, not {text!r}")
        elif len(text) > maximum or "\0" in text or not is_unicode(text):
            reader.problem(word, f"must be Unicode text of at most {maximum} characters, no NUL")
    if problems:
        raise InvalidInput(problems)
    return tuple(sorted(reader.data.items()))


_WORD = r"[a-z0-9][a-z0-9-]*"
_NAME = text_of(limits.JOB_NAME_CHARS_MAX, r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CPU = lower_bound_of(thousandths_of(0, limits.JOB_CPU_MILLI_MAX))
_total_text = partial(from_scaled, decimals=DECIMALS)
_SHARE = thousandths_of(0, 1000)
_NOTICE = duration_of(MAX_NOTICE_SECONDS)
_SIZE = lower_bound_of(_mib)
_REGIONS = list_of(text_of(limits.REGION_CHARS_MAX, _WORD), limits.JOB_REGIONS_MAX)
_ON_EXCEED = choice_of("stop", "checkpoint_then_stop")
_DIGEST = text_of(64, r"[0-9a-f]{64}")
_INPUTS = object_of(Inputs, sha256=_DIGEST, size=whole_of(0, limits.BLOB_BYTES_MAX))
_WORKDIR = text_of(limits.JOB_PATH_CHARS_MAX)
_IMAGE = text_of(limits.JOB_IMAGE_CHARS_MAX, r"[a-z0-9][A-Za-z0-9._/:@-]*")
_ENV = _pairs_of(r"[A-Za-z_][A-Za-z0-9_]{0,127}", limits.JOB_ENV_CHARS_MAX, "COULOMB_")
_EVENTS = list_of(choice_of(*EVENTS), len(EVENTS))
_TAGS = _pairs_of(r"[\x21-\x7e]{1,64}", limits.JOB_TAG_CHARS_MAX)
_OUTPUTS = list_of(object_of(str, path=_output), limits.JOB_OUTPUTS_MAX)
_UNIT = text_of(limits.UNIT_CHARS_MAX, _WORD)
_UNITS = object_of(UnitsWish, name=_UNIT, max=whole_of(1, UINT32_MAX), max_price=to_nano)
_EGRESS = object_of(EgressWish, max=_mib, max_price=to_nano)


# The members of the file


class Key(NamedTuple):
    """One member: its path in the file, how it is read and written.

    `default` stands for it if it is absent, and keeps the reading going if it is `needed` or wrong.
    An `optional` member without a value is left out of the normalised form.
    """

    path: str
    read: Callable[[object], Any]
    write: Callable[[Any], Any]
    default: Any
    needed: bool = False
    optional: bool = False


_needed, _optional = partial(Key, needed=True), partial(Key, optional=True)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job as its file describes it: each field with the member that it is read from.

    Sizes in thousandths or MiB, times in seconds, prices in 1e-9 token, `max_total_atoms` in atoms,
    reliability in thousandths. Exactly one of `workdir` (before packing) and `inputs` may be set.
    A job with GPUs has `max_gpu_hour_nano`, one without has `max_hour_nano`.
    """

    name: Annotated[str, Key("name", _NAME, str, "job")]
    command: Annotated[tuple[str, ...], _needed("command", _command, list, ())]
    gpu: Annotated[GpuWish, Key("resources/gpu", parse_gpu, GpuWish.to_text, GpuWish())]
    cpu_milli: Annotated[int, Key("resources/cpu", _CPU, milli_text, 0)]
    memory_mib: Annotated[int, Key("resources/memory", _SIZE, size_text, 0)]
    storage_mib: Annotated[int, Key("resources/disk", _SIZE, size_text, 0)]
    regions: Annotated[tuple[str, ...], Key("placement/regions", _REGIONS, list, ())]
    min_reliability_milli: Annotated[int, Key("placement/min_reliability", _SHARE, milli_text, 0)]
    verified_only: Annotated[bool, Key("placement/verified_only", bool_of, bool, False)]
    interruptible: Annotated[bool, _optional("placement/interruptible", bool_of, bool, False)]
    min_notice_seconds: Annotated[int, _optional("placement/min_notice", _NOTICE, duration_text, 0)]
    max_gpu_hour_nano: Annotated[
        int | None, _optional("pricing/max_gpu_hour", to_nano, from_nano, None)
    ]
    max_hour_nano: Annotated[int | None, _optional("pricing/max_hour", to_nano, from_nano, None)]
    max_total_atoms: Annotated[int, Key("budget/max_total", _total, _total_text, 0)]
    on_exceed: Annotated[str, Key("budget/on_exceed", _ON_EXCEED, str, "stop")]
    max_seconds: Annotated[int, _needed("max_duration", _duration, duration_text, 1)]
    start_deadline_seconds: Annotated[int, Key("start_deadline", _duration, duration_text, 600)]
    ready: Annotated[str, Key("ready", choice_of("start", "socket"), str, "start")]
    workdir: Annotated[str | None, _optional("workdir", _WORKDIR, str, None)]
    inputs: Annotated[Inputs | None, _optional("inputs", _INPUTS, asdict, None)]
    image: Annotated[str | None, _optional("image", _IMAGE, str, None)]
    env: Annotated[tuple[tuple[str, str], ...], _optional("env", _ENV, dict, ())]
    retry_on: Annotated[tuple[str, ...], _optional("retry/on_events", _EVENTS, list, ())]
    retry_seconds: Annotated[int, _optional("retry/duration", _duration, duration_text, 0)]
    outputs: Annotated[tuple[str, ...], _optional("outputs", _OUTPUTS, _outputs_json, ())]
    tags: Annotated[tuple[tuple[str, str], ...], _optional("tags", _TAGS, dict, ())]
    units: Annotated[UnitsWish | None, _optional("units", _UNITS, UnitsWish.to_json, None)]
    egress: Annotated[EgressWish | None, _optional("egress", _EGRESS, EgressWish.to_json, None)]

    @property
    def runtime(self) -> str:
        """`docker` if an image is named, else `process`."""
        return "docker" if self.image else "process"

    @property
    def limit_rate(self) -> int:
        """The most paid for time, all in, in 1e-12 token per hour."""
        if self.gpu.gpu_milli:
            return (self.max_gpu_hour_nano or 0) * self.gpu.gpu_milli
        return (self.max_hour_nano or 0) * 1000

    @property
    def rests(self) -> bool:
        """Whether the job waits in the book if nothing matches at once."""
        return "no-capacity" in self.retry_on

    def packed(self, sha256: str, size: int) -> "JobSpec":
        """The spec with its working folder replaced by the blob it was packed into."""
        return replace(self, workdir=None, inputs=Inputs(sha256, size))

    def hash(self) -> bytes:
        """SHA-256 of the canonical JSON: what `Bid.jobHash` binds."""
        return hashlib.sha256(canonical_json(self.to_json())).digest()

    def to_json(self) -> dict[str, Any]:
        """The normalised form; `parse_job` reads it back to an equal spec."""
        out: dict[str, Any] = {}
        for name, member in MEMBERS.items():
            value = getattr(self, name)
            if value != member.default or not member.optional:
                group, _, key = member.path.rpartition("/")
                (out.setdefault(group, {}) if group else out)[key] = member.write(value)
        return out


def canonical_json(data: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: one text per value."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


MEMBERS: dict[str, Key] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(JobSpec, include_extras=True).items()
}
_GROUPS: dict[str, list[str]] = {}  # members of each object in the file, and of the file ("")
for _path in (member.path for member in MEMBERS.values()):
    _GROUPS.setdefault(_path.rpartition("/")[0], []).append(_path.rpartition("/")[2])
KEYS = tuple(dict.fromkeys(member.path.partition("/")[0] for member in MEMBERS.values()))


def parse_job(data: object, *, packed: bool = False, tiers: TierRegistry | None = None) -> JobSpec:
    """Read a job file's object; `packed` demands the form after packing (no `workdir`).

    With `tiers`, GPU names and bounds must select at least one. Raises InvalidJob, listing every
    mistake.
    """
    problems: list[Problem] = []
    top = Reader(data, KEYS, problems)
    readers = {group: top.child(group, keys) if group else top for group, keys in _GROUPS.items()}
    values: dict[str, Any] = {}
    for name, member in MEMBERS.items():
        group, _, key = member.path.rpartition("/")
        read = readers[group].need if member.needed else readers[group].read
        values[name] = read(key, member.read, member.default)
    events = values["retry_on"]
    values["regions"] = tuple(sorted(set(values["regions"])))
    values["retry_on"] = tuple(event for event in EVENTS if event in events)
    values["retry_seconds"] = (values["retry_seconds"] or _RETRY_SECONDS) if events else 0
    spec = JobSpec(**values)
    spec = replace(spec, max_total_atoms=spec.max_total_atoms or full_budget(spec))
    _check_whole(spec, readers, packed)
    _check_price(spec, readers)
    _check_sizes(spec, readers["resources"], problems)
    if tiers is not None and not any(p.pointer == "/resources/gpu" for p in problems):
        _check_tiers(spec, readers["resources"], tiers)
    if problems:
        raise InvalidJob(problems)
    return spec


def _check_whole(spec: JobSpec, readers: dict[str, Reader], packed: bool) -> None:
    top = readers[""]
    if spec.workdir is not None and top.has("inputs"):
        top.problem("inputs", "cannot stand beside workdir: a packed folder replaces it")
    if packed and spec.workdir is not None:
        top.problem("workdir", "is a local folder: pack it and name the blob in inputs")
    if spec.max_total_atoms >= 1 << 128:
        readers["budget"].problem("max_total", "is above the largest amount, 2^128-1 atoms")
    if spec.min_notice_seconds and not spec.interruptible:
        detail = "says nothing without interruptible: true"
        readers["placement"].problem("min_notice", detail)


def _check_price(spec: JobSpec, readers: dict[str, Reader]) -> None:
    """The one price that goes with the job is there, and no other."""
    pricing, has_gpu = readers["pricing"], spec.gpu.gpu_milli > 0
    needed, other = ("max_gpu_hour", "max_hour") if has_gpu else ("max_hour", "max_gpu_hour")
    if pricing.has(other):
        kind = "has GPUs: say max_gpu_hour" if has_gpu else "has no GPU: say max_hour"
        pricing.problem(other, f"the job {kind} instead")
    elif not pricing.has(needed):
        pricing.problem(needed, "missing")
    if spec.limit_rate > UINT64_MAX:
        size = f"times {spec.gpu.gpu_milli / 1000:g} GPUs " if has_gpu else ""
        pricing.problem(needed, f"{size}is above the largest rate")


def _check_sizes(spec: JobSpec, resources: Reader, problems: list[Problem]) -> None:
    """Without a GPU there is no share of a node to go by: the job says what it takes."""
    if spec.gpu.gpu_milli:
        return
    known = {problem.pointer for problem in problems}
    sizes = {"cpu": spec.cpu_milli, "memory": spec.memory_mib, "disk": spec.storage_mib}
    for name, size in sizes.items():
        if not size and f"/resources/{name}" not in known:
            resources.problem(name, "a job without a GPU says how much it takes: above 0")


def _check_tiers(spec: JobSpec, resources: Reader, tiers: TierRegistry) -> None:
    unknown = [name for name in spec.gpu.names if not tiers.named(name)]
    for name in unknown:
        close = tiers.suggest(name)
        hint = f"; did you mean {close}?" if close else ""
        if name.upper() == CPU_TIER:
            hint = "; for a job without a GPU write 0"
        resources.problem("gpu", f"unknown GPU {name!r}{hint}")
    if not unknown and not tiers.select(spec.gpu):
        resources.problem("gpu", f"no tier has what {spec.gpu.to_text()!r} asks for")


def full_budget(spec: JobSpec) -> int:
    """Atoms that pay for the whole maximum duration at the limits the spec names, rounded up."""
    time = cost_up(spec.limit_rate, spec.max_seconds * 1000)
    return time + counted_lock(
        spec.egress.max_price_nano if spec.egress else 0,
        spec.units.max_price_nano if spec.units else 0,
        spec.egress.max_mib if spec.egress else 0,
        spec.units.maximum if spec.units else 0,
    )
