"""Job files: YAML in, a checked spec out, every mistake with its place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from marketplace.data import load_tiers
from marketplace.domain.job import JobSpec, parse_job
from marketplace.sdk.errors import InputError, input_errors
from settlement.strict_json import BYTES_MAX, DEPTH_MAX

JobSource = str | Path | Mapping[str, Any] | JobSpec


class _Loader(yaml.SafeLoader):
    """YAML where a decimal number or a date stays the text it was written as: money is exact.

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
    """A job spec and the folder its `workdir` is relative to.

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
        raise InputError(f"{path} cannot be read: {error}") from error
    if len(raw) > BYTES_MAX:
        raise InputError(f"{path} has more than {BYTES_MAX} bytes: is it a job file?")
    try:
        return yaml.load(raw.decode(), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of too many digits
        raise InputError(f"{path} cannot be parsed: {error}") from error


def _parse(document: Any, what: str) -> JobSpec:
    with input_errors(f"{what} is not a valid job"):
        return parse_job(document, tiers=load_tiers())
