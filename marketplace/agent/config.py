"""The agent's configuration: a YAML file that `coulomb provider init` writes and people edit.

Keys are never in it: it names the files that hold the API key and the meter key's password.
"""

import os
import stat
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml

from marketplace import limits
from marketplace.agent.errors import AgentConfigError
from marketplace.domain.reader import Reader, bool_of, list_of, text_of, whole_of
from marketplace.domain.tier import CPU_TIER
from marketplace.errors import Problem
from settlement.units import UINT32_MAX


def path_of(value: object) -> Path:
    """A parser of a path; ~ is the user's home folder."""
    return Path(text_of(limits.PATH_CHARS_MAX)(value)).expanduser()


_size = whole_of(1, UINT32_MAX)
_uuids = list_of(text_of(limits.GPU_UUID_CHARS_MAX), limits.NODE_GPUS_MAX)
_interval = whole_of(limits.INTERVAL_MS_MIN, limits.INTERVAL_MS_MAX)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The machine as its provider lists it. Each annotation holds a type and its parser."""

    number: Annotated[int, whole_of(0, limits.NODE_NUMBER_MAX)]
    name: Annotated[str, text_of(limits.NODE_NAME_CHARS_MAX)]
    region: Annotated[str, text_of(limits.REGION_CHARS_MAX)]
    tier: Annotated[str, text_of(limits.TIER_CHARS_MAX)]  # CPU: no GPU is sold
    simulated: Annotated[str | None, text_of(64)] = None  # such as "4xH100", instead of `gpus`
    gpus: Annotated[tuple[str, ...], _uuids] = ()  # to list; none: all that are found
    cpu_milli: Annotated[int | None, _size] = None  # None: what the machine has
    memory_mib: Annotated[int | None, _size] = None
    storage_mib: Annotated[int | None, _size] = None
    shared: Annotated[bool, bool_of] = False

    @property
    def sells_gpus(self) -> bool:
        return self.tier != CPU_TIER

    @property
    def misfits(self) -> tuple[str, ...]:
        """Members that are about GPUs, if the node sells none."""
        names = () if self.sells_gpus else ("simulated", "gpus", "shared")
        return tuple(name for name in names if getattr(self, name))


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything `run_agent` needs."""

    api_url: Annotated[str, text_of(2048, r"https?://.+")]
    api_key_file: Annotated[Path, path_of]
    node: NodeConfig
    meter_keystore: Annotated[Path, path_of]
    meter_password_file: Annotated[Path, path_of]
    state_dir: Annotated[Path, path_of]
    rpc_url: Annotated[str | None, text_of(2048, r"https?://.+")] = None  # None: trust the market
    escrow: Annotated[str | None, text_of(42, r"0x[0-9a-fA-F]{40}")] = None  # None: the market's
    interval_ms: Annotated[int | None, _interval] = None  # None: the market's
    poll_ms: Annotated[int, whole_of(limits.POLL_MS_MIN, limits.POLL_MS_MAX)] = 1_000
    stop_grace_ms: Annotated[int, whole_of(0, limits.STOP_GRACE_MS_MAX)] = 10_000
    pids_max: Annotated[int, whole_of(limits.JOB_PIDS_MIN, limits.JOB_PIDS_MAX)] = 512
    allow_unsandboxed: Annotated[bool, bool_of] = False
    python_prefix: Annotated[Path | None, path_of] = None  # jobs' /opt/python; None: the agent's

    @property
    def private_folders(self) -> tuple[Path, ...]:
        """Folders that no job may see: the agent's state, and where its keys are."""
        files = (self.api_key_file, self.meter_keystore, self.meter_password_file)
        return (self.state_dir, *(file.parent for file in files))


Config = TypeVar("Config", AgentConfig, NodeConfig)


def load_config(path: Path) -> AgentConfig:
    """Read a file; relative paths start at its folder. Raises AgentConfigError for all mistakes."""
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise AgentConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AgentConfigError(f"{path} is not YAML: {error}") from error
    problems: list[Problem] = []
    reader = Reader(data, AgentConfig.__dataclass_fields__, problems)
    config = _read(AgentConfig, reader, path.resolve().parent)
    if problems:
        lines = "\n".join(f"  {p.pointer or '/'}: {p.detail}" for p in problems)
        raise AgentConfigError(f"{path} has mistakes:\n{lines}")
    return config


def save_config(config: AgentConfig, path: Path) -> None:
    """Write a configuration file that only its owner reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = asdict(config, dict_factory=_plain)
    text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def read_secret(path: Path) -> str:
    """The one line of a secret file. Raises AgentConfigError if others may read it, too."""
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise AgentConfigError(f"{path} cannot be read: {why}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise AgentConfigError(f"{path} is readable by others; run: chmod 600 {path}")
    secret = text.strip("\r\n")
    if not secret or "\n" in secret:
        raise AgentConfigError(f"{path} must hold exactly one line")
    return secret


def _read(kind: type[Config], reader: Reader, base: Path) -> Config:
    """What the reader holds, as a class; members without a default must be there."""
    if reader.has("simulated") and reader.has("gpus"):
        reader.problem("gpus", "names real GPUs, but the node is simulated; leave one out")
    members: dict[str, Any] = {}
    for field in fields(kind):
        if field.type is NodeConfig:
            child = reader.child(field.name, NodeConfig.__dataclass_fields__)
            node = members[field.name] = _read(NodeConfig, child, base)
            for name in node.misfits:
                child.problem(name, f"the tier {CPU_TIER} sells no GPUs; leave it out")
            continue
        (parse,) = field.type.__metadata__  # type: ignore[union-attr]
        if field.default is MISSING:
            value = reader.need(field.name, parse, None)
        else:
            value = reader.read(field.name, parse, field.default)
        members[field.name] = base / value if isinstance(value, Path) else value
    return kind(**members)


def _plain(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Members that say something, in the form YAML takes."""
    found: dict[str, Any] = {}
    for name, value in members:
        if value is not None and value is not False and value != ():
            value = str(value) if isinstance(value, Path) else value
            found[name] = list(value) if isinstance(value, tuple) else value
    return found
