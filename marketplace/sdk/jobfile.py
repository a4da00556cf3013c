"""Job files: YAML in, a checked spec out, every mistake with its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from marketplace.data import load_tiers
from marketplace.domain.job import JobSpec
from marketplace.domain.jobfile import parse_job
from marketplace.sdk.errors import InputError
from marketplace.sdk.reading import input_errors

JobSource = str | Path | Mapping[str, Any] | JobSpec


class _Loader(yaml.SafeLoader):
    """YAML where a decimal number or a date stays the text it was written as: money is exact."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_job(source: JobSource) -> tuple[JobSpec, Path]:
    """A job spec and the folder its `workdir` is relative to.

    `source` is a job file, the object of one, or a spec. Raises InputError listing every mistake.
    """
    if isinstance(source, JobSpec):
        return source, Path.cwd()
    if isinstance(source, Mapping):
        return _parse(dict(source), "the job"), Path.cwd()
    path = Path(source)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    return _parse(document, str(path)), path.resolve().parent


def _parse(document: Any, what: str) -> JobSpec:
    with input_errors(f"{what} is not a valid job"):
        return parse_job(document, tiers=load_tiers())
