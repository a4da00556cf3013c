"""The agent's configuration: a YAML file that `coulomb provider init` writes and people edit.

Keys are never in it: it names the files that hold the API key and the meter key's password.
"""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from marketplace import limits
from marketplace.agent.errors import AgentConfigError
from marketplace.domain.reader import Reader, bool_of, list_of, text_of, whole_of
from marketplace.errors import Problem
from settlement.units import UINT32_MAX


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The machine as its provider lists it.

    `simulated` such as "4xH100" stands in for GPUs that the machine lacks; it excludes `gpus`, the
    UUIDs to list (empty: all found). Sizes left at None are taken from the machine.
    """

    number: int
    name: str
    region: str
    tier: str
    simulated: str | None = None
    gpus: tuple[str, ...] = ()
    cpu_milli: int | None = None
    memory_mib: int | None = None
    storage_mib: int | None = None
    shared: bool = False


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything `run_agent` needs. None for `interval_ms` means the market's default.

    `python_prefix` is the Python environment jobs find as /opt/python (default: the agent's own).
    """

    api_url: str
    api_key_file: Path
    node: NodeConfig
    meter_keystore: Path
    meter_password_file: Path
    state_dir: Path
    interval_ms: int | None = None
    poll_ms: int = 1_000
    stop_grace_ms: int = 10_000
    pids_max: int = 512
    allow_unsandboxed: bool = False
    python_prefix: Path | None = None

    @property
    def private_folders(self) -> tuple[Path, ...]:
        """Folders that no job may see: the agent's state, and where its keys are."""
        files = (self.api_key_file, self.meter_keystore, self.meter_password_file)
        return (self.state_dir, *(file.parent for file in files))


def load_config(path: Path) -> AgentConfig:
    """Read a configuration file; relative paths in it start at its folder.

    Raises AgentConfigError naming every wrong member.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise AgentConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AgentConfigError(f"{path} is not YAML: {error}") from error
    problems: list[Problem] = []
    config = _read(Reader(data, _names(AgentConfig), problems), path.resolve().parent)
    if problems:
        lines = "\n".join(f"  {p.pointer or '/'}: {p.detail}" for p in problems)
        raise AgentConfigError(f"{path} has mistakes:\n{lines}")
    return config


def save_config(config: AgentConfig, path: Path) -> None:
    """Write a configuration file that only its owner reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def read_secret(path: Path) -> str:
    """The one line of a secret file. Raises AgentConfigError if others may read it, too."""
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise AgentConfigError(f"{path} cannot be read: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise AgentConfigError(f"{path} is readable by others; run: chmod 600 {path}")
    secret = text.strip("\r\n")
    if not secret or "\n" in secret:
        raise AgentConfigError(f"{path} must hold exactly one line")
    return secret


def _read(reader: Reader, base: Path) -> AgentConfig:
    def path_of(value: object) -> Path:
        return base / Path(text_of(limits.PATH_CHARS_MAX)(value)).expanduser()

    interval = whole_of(limits.INTERVAL_MS_MIN, limits.INTERVAL_MS_MAX)
    poll = whole_of(limits.POLL_MS_MIN, limits.POLL_MS_MAX)
    pids = whole_of(limits.JOB_PIDS_MIN, limits.JOB_PIDS_MAX)
    return AgentConfig(
        api_url=reader.need("api_url", text_of(2048, r"https?://.+"), ""),
        api_key_file=reader.need("api_key_file", path_of, base),
        node=_read_node(reader.child("node", _names(NodeConfig))),
        meter_keystore=reader.need("meter_keystore", path_of, base),
        meter_password_file=reader.need("meter_password_file", path_of, base),
        state_dir=reader.need("state_dir", path_of, base),
        interval_ms=reader.read("interval_ms", interval, None),
        poll_ms=reader.read("poll_ms", poll, 1_000),
        stop_grace_ms=reader.read("stop_grace_ms", whole_of(0, limits.STOP_GRACE_MS_MAX), 10_000),
        pids_max=reader.read("pids_max", pids, 512),
        allow_unsandboxed=reader.read("allow_unsandboxed", bool_of, False),
        python_prefix=reader.read("python_prefix", path_of, None),
    )


def _read_node(reader: Reader) -> NodeConfig:
    size = whole_of(1, UINT32_MAX)
    if reader.has("simulated") and reader.has("gpus"):
        reader.problem("gpus", "names real GPUs, but the node is simulated; leave one out")
    uuids = list_of(text_of(limits.GPU_UUID_CHARS_MAX), limits.NODE_GPUS_MAX)
    return NodeConfig(
        number=reader.need("number", whole_of(0, limits.NODE_NUMBER_MAX), 0),
        name=reader.need("name", text_of(limits.NODE_NAME_CHARS_MAX), ""),
        region=reader.need("region", text_of(limits.REGION_CHARS_MAX), ""),
        tier=reader.need("tier", text_of(limits.TIER_CHARS_MAX), ""),
        simulated=reader.read("simulated", text_of(64), None),
        gpus=reader.read("gpus", uuids, ()),
        cpu_milli=reader.read("cpu_milli", size, None),
        memory_mib=reader.read("memory_mib", size, None),
        storage_mib=reader.read("storage_mib", size, None),
        shared=reader.read("shared", bool_of, False),
    )


def _names(config: type[AgentConfig] | type[NodeConfig]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(config))


def _plain(members: dict[str, Any]) -> dict[str, Any]:
    """Members that say something, in the form YAML takes."""
    found: dict[str, Any] = {}
    for name, value in members.items():
        if isinstance(value, dict):
            found[name] = _plain(value)
        elif isinstance(value, Path):
            found[name] = str(value)
        elif value is not None and value is not False and value != ():
            found[name] = list(value) if isinstance(value, tuple) else value
    return found
