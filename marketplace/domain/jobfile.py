"""Reading a job file: from the YAML file's (or the API's) object to a JobSpec."""

import re
from dataclasses import replace
from typing import Any

from marketplace import limits
from marketplace.domain.gpu import GpuWish, parse_gpu
from marketplace.domain.job import EgressWish, Inputs, JobSpec, UnitsWish, full_budget
from marketplace.domain.pricing import to_atoms, to_nano
from marketplace.domain.reader import (
    Reader,
    bool_of,
    choice_of,
    escape,
    is_unicode,
    list_of,
    lower_bound_of,
    mib_of,
    seconds_of,
    text_of,
    thousandths_of,
    whole_of,
)
from marketplace.domain.tier import TierRegistry
from marketplace.errors import InvalidJob, Problem
from settlement.units import UINT32_MAX, UINT64_MAX

KEYS = (
    "name", "workdir", "inputs", "image", "command", "env", "resources", "placement", "pricing",
    "budget", "max_duration", "start_deadline", "retry", "outputs", "tags", "units", "egress",
    "ready",
)  # fmt: skip
EVENTS = ("no-capacity", "interruption", "error")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_WORD = r"[a-z0-9][a-z0-9-]*"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_IMAGE = r"[a-z0-9][A-Za-z0-9._/:@-]*"
_OUTPUT = r"/out(/[A-Za-z0-9._-]+)*"
_NO_GPU = GpuWish()
_NONE: tuple[str, ...] = ()


def parse_job(data: object, *, packed: bool = False, tiers: TierRegistry | None = None) -> JobSpec:
    """Read a job file's object; `packed` demands the form after packing (no `workdir`).

    With `tiers`, GPU names and bounds must select at least one. Raises InvalidJob, listing every
    mistake.
    """
    problems: list[Problem] = []
    top = Reader(data, KEYS, problems)
    spec = _read(top)
    spec = _with_budget(top.child("budget", ("max_total", "on_exceed")), spec)
    _check_whole(top, spec, packed)
    if tiers is not None and not any(p.pointer == "/resources/gpu" for p in problems):
        _check_tiers(top, spec, tiers)
    if problems:
        raise InvalidJob(problems)
    return spec


def _read(top: Reader) -> JobSpec:
    resources = top.child("resources", ("gpu", "cpu", "memory", "disk"))
    placement = top.child("placement", ("regions", "min_reliability", "verified_only"))
    pricing = top.child("pricing", ("max_gpu_hour",))
    retry = top.child("retry", ("on_events", "duration"))
    size = lower_bound_of(_mib)
    events = retry.read("on_events", list_of(choice_of(*EVENTS), 3), _NONE)
    regions = placement.read(
        "regions", list_of(text_of(limits.REGION_CHARS_MAX, _WORD), limits.JOB_REGIONS_MAX), _NONE
    )
    return JobSpec(
        name=top.read("name", text_of(limits.JOB_NAME_CHARS_MAX, _NAME), "job"),
        command=top.need("command", _command, ()),
        gpu=resources.read("gpu", parse_gpu, _NO_GPU),
        cpu_milli=resources.read("cpu", lower_bound_of(thousandths_of(0, 1_024_000)), 0),
        memory_mib=resources.read("memory", size, 0),
        storage_mib=resources.read("disk", size, 0),
        max_gpu_hour_nano=pricing.need("max_gpu_hour", to_nano, 0),
        max_seconds=top.need("max_duration", _duration, 1),
        max_total_atoms=0,
        workdir=top.read("workdir", text_of(limits.JOB_PATH_CHARS_MAX), None),
        inputs=_inputs(top) if top.has("inputs") else None,
        image=top.read("image", text_of(limits.JOB_IMAGE_CHARS_MAX, _IMAGE), None),
        env=_pairs(top, "env", _ENV_NAME, 32_768),
        regions=tuple(sorted(set(regions))),
        min_reliability_milli=placement.read("min_reliability", thousandths_of(0, 1000), 0),
        verified_only=placement.read("verified_only", bool_of, False),
        start_deadline_seconds=top.read("start_deadline", _duration, 600),
        retry_on=tuple(e for e in EVENTS if e in events),
        retry_seconds=retry.read("duration", _duration, 3600) if events else 0,
        outputs=_outputs(top),
        tags=_pairs(top, "tags", re.compile(r"[\x21-\x7e]{1,64}\Z"), 256),
        units=_units(top) if top.has("units") else None,
        egress=_egress(top) if top.has("egress") else None,
        ready=top.read("ready", choice_of("start", "socket"), "start"),
    )


def _with_budget(budget: Reader, spec: JobSpec) -> JobSpec:
    """The budget given, else what the whole duration costs at the limits."""
    total = budget.read("max_total", lambda value: to_atoms(value), full_budget(spec))
    if budget.has("max_total") and total == 0:
        budget.problem("max_total", "must be above zero")
    if total >= 1 << 128:
        budget.problem("max_total", "is above the largest amount, 2^128-1 atoms")
    choice = budget.read("on_exceed", choice_of("stop", "checkpoint_then_stop"), "stop")
    return replace(spec, max_total_atoms=total, on_exceed=choice)


def _check_whole(top: Reader, spec: JobSpec, packed: bool) -> None:
    if spec.workdir is not None and spec.inputs is not None:
        top.problem("inputs", "cannot stand beside workdir: a packed folder replaces it")
    if packed and spec.workdir is not None:
        top.problem("workdir", "is a local folder: pack it and name the blob in inputs")
    if spec.limit_rate > UINT64_MAX:
        detail = f"times {spec.gpu.gpu_milli / 1000:g} GPUs is above the largest rate"
        top.child("pricing", ("max_gpu_hour",)).problem("max_gpu_hour", detail)


def _check_tiers(top: Reader, spec: JobSpec, tiers: TierRegistry) -> None:
    unknown = [name for name in spec.gpu.names if not tiers.named(name)]
    for name in unknown:
        close = tiers.suggest(name)
        hint = f"; did you mean {close}?" if close else ""
        top.problems.append(Problem("/resources/gpu", f"unknown GPU {name!r}{hint}"))
    if not unknown and not tiers_of(spec, tiers):
        wish = spec.gpu.to_text()
        top.problems.append(Problem("/resources/gpu", f"no tier has what {wish!r} asks for"))


def tiers_of(spec: JobSpec, tiers: TierRegistry) -> tuple[str, ...]:
    """Names of the tiers that the job accepts, sorted."""
    low, high = spec.gpu.memory_mib_min, spec.gpu.memory_mib_max
    found = tiers.select(
        spec.gpu.names,
        None if low is None else -(-low // 1024),
        None if high is None else high // 1024,
    )
    return tuple(tier.name for tier in found)


def _mib(value: object) -> int:
    mib = mib_of(value)
    if mib > UINT32_MAX:
        raise ValueError("must be below 4096TB")
    return mib


def _duration(value: object) -> int:
    seconds = seconds_of(value)
    if not 1 <= seconds <= limits.JOB_SECONDS_MAX:
        raise ValueError("must be from 1s to 90d")
    return seconds


def _command(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return ("/bin/sh", "-c", value)
    words = list_of(text_of(limits.JOB_WORD_CHARS_MAX), limits.JOB_WORDS_MAX)(value)
    if not words:
        raise ValueError("must have at least one word")
    return words


def _pairs(
    top: Reader, key: str, name: re.Pattern[str], maximum: int
) -> tuple[tuple[str, str], ...]:
    data: Any = top.data[key] if top.has(key) else {}
    if not isinstance(data, dict) or len(data) > 128:
        top.problem(key, "must be an object of at most 128 texts")
        return ()
    reader = Reader(
        data, (k for k in data if isinstance(k, str)), top.problems, f"{top.pointer}/{escape(key)}"
    )
    for word, value in reader.data.items():
        if not name.match(word):
            reader.problem(word, "is not an allowed name")
        elif key == "env" and word.startswith("COULOMB_"):
            reader.problem(word, "names beginning with COULOMB_ are set by the agent")
        if not isinstance(value, str):
            reader.problem(word, f"must be text: write it in quotes, not {value!r}")
        elif len(value) > maximum or "\0" in value or not is_unicode(value):
            reader.problem(word, f"must be Unicode text of at most {maximum} characters, no NUL")
    return tuple(sorted((k, v) for k, v in reader.data.items() if isinstance(v, str)))


def _inputs(top: Reader) -> Inputs:
    reader = top.child("inputs", ("sha256", "size"))
    digest = reader.need("sha256", text_of(64, r"[0-9a-f]{64}"), "")
    return Inputs(digest, reader.need("size", whole_of(0, limits.BLOB_BYTES_MAX), 0))


def _outputs(top: Reader) -> tuple[str, ...]:
    items: Any = top.data["outputs"] if top.has("outputs") else []
    if not isinstance(items, list) or len(items) > 16:
        top.problem("outputs", "must be a list of at most 16 objects with a path")
        return ()
    paths = []
    for index, item in enumerate(items):
        reader = Reader(item, ("path",), top.problems, f"{top.pointer}/outputs/{index}")
        paths.append(reader.need("path", text_of(limits.JOB_OUTPUT_CHARS_MAX, _OUTPUT), ""))
        if ".." in paths[-1]:
            reader.problem("path", "must not contain ..")
    return tuple(paths)


def _units(top: Reader) -> UnitsWish:
    reader = top.child("units", ("name", "max", "max_price"))
    return UnitsWish(
        reader.need("name", text_of(limits.UNIT_CHARS_MAX, _WORD), "unit"),
        reader.need("max", whole_of(1, UINT32_MAX), 1),
        reader.need("max_price", to_nano, 0),
    )


def _egress(top: Reader) -> EgressWish:
    reader = top.child("egress", ("max", "max_price"))
    return EgressWish(reader.need("max", _mib, 1), reader.need("max_price", to_nano, 0))
