"""What a node has: GPUs by NVML or simulated on request, processors, memory, disk.

A simulated GPU is one that does not exist. Its UUID begins with SIM-, its model says so, and it is
made only if the configuration asks for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from marketplace.agent.config import NodeConfig
from marketplace.agent.errors import InventoryError
from marketplace.data import load_tiers
from marketplace.limits import MIB, NODE_GPUS_MAX

SIMULATED_PREFIX = "SIM-"
_SIMULATED = re.compile(r"([1-9][0-9]?)\s*[x×*]\s*([A-Za-z][A-Za-z0-9 _-]{0,31})\Z")  # noqa: RUF001
# What stays with the system and the agent when sizes are taken from the machine.
_MEMORY_KEPT_MIB = 512
_STORAGE_KEPT_MIB = 1024


@dataclass(frozen=True, slots=True)
class InstalledGpu:
    """One GPU. `minor` numbers its device file; simulated GPUs have none."""

    uuid: str
    model: str
    memory_mib: int
    simulated: bool = False
    minor: int | None = None

    def to_json(self) -> dict[str, Any]:
        """What the market and the job are told of it."""
        names = ("uuid", "model", "memory_mib", "simulated")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One raw sample of a GPU: busy time in percent and memory in use."""

    uuid: str
    busy_percent: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the node offers in all."""

    gpus: tuple[InstalledGpu, ...]
    cpu_milli: int
    memory_mib: int
    storage_mib: int

    @property
    def simulated(self) -> bool:
        """Whether any GPU does not exist."""
        return any(gpu.simulated for gpu in self.gpus)


class Nvml:
    """The few NVML calls we make, over the `pynvml` module (or a stand-in with its functions)."""

    def __init__(self, module: ModuleType | Any) -> None:
        self._nvml = module

    @classmethod
    def open(cls, module: ModuleType | Any = None) -> Nvml | None:
        """NVML of this machine, or None if no driver answers."""
        nvml = module or import_module("pynvml")
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        return cls(nvml)

    def gpus(self) -> tuple[InstalledGpu, ...]:
        """Every GPU the driver shows. Raises InventoryError if one does not answer."""
        nvml = self._nvml
        try:
            handles = [
                nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
            ]
            return tuple(
                InstalledGpu(
                    uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                    model=_text(nvml.nvmlDeviceGetName(handle)),
                    memory_mib=int(nvml.nvmlDeviceGetMemoryInfo(handle).total) // MIB,
                    minor=int(nvml.nvmlDeviceGetMinorNumber(handle)),
                )
                for handle in handles
            )
        except nvml.NVMLError as error:
            raise InventoryError(f"NVML: {error}") from error

    def sample(self, uuids: tuple[str, ...]) -> tuple[GpuReading, ...]:
        """Busy time and memory of the named GPUs; one that does not answer is left out."""
        readings = []
        for uuid in uuids:
            try:
                handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
                busy = int(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
                memory = int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used) // MIB
            except self._nvml.NVMLError:
                continue
            readings.append(GpuReading(uuid, busy, memory))
        return tuple(readings)


def simulated_gpus(text: str, owner: str) -> tuple[InstalledGpu, ...]:
    """Stand-ins such as "4xH100"; `owner` (unique to a node) makes their UUIDs unique and lasting.

    Memory is what the tier table says of the model. Raises InventoryError on other texts.
    """
    match = _SIMULATED.match(text.strip())
    if match is None or int(match[1]) > NODE_GPUS_MAX:
        raise InventoryError(f'simulated GPUs are written as "4xH100", not {text!r}')
    model = match[2].strip()
    tiers = load_tiers().named(model)
    if not tiers:
        close = load_tiers().suggest(model)
        hint = f"; did you mean {close}?" if close else ""
        raise InventoryError(f"no tier has the GPU {model!r}{hint}")
    memory_mib = tiers[0].memory_gib * 1024
    return tuple(
        InstalledGpu(_simulated_uuid(owner, index), f"{tiers[0].gpu} (simulated)", memory_mib, True)
        for index in range(int(match[1]))
    )


def _simulated_uuid(owner: str, index: int) -> str:
    digest = hashlib.sha256(f"{owner}/{index}".encode()).hexdigest()
    parts = (digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32])
    return SIMULATED_PREFIX + "-".join(parts)


def take_inventory(config: NodeConfig, state_dir: Path, owner: str, nvml: Nvml | None) -> Inventory:
    """What this machine offers under its configuration.

    Raises InventoryError if there is no GPU and none is simulated, or if a listed UUID is missing.
    """
    if config.simulated is not None:
        gpus = simulated_gpus(config.simulated, f"{owner}/{config.number}")
    else:
        gpus = _real_gpus(config.gpus, nvml)
    memory = psutil.virtual_memory().total // MIB - _MEMORY_KEPT_MIB
    storage = shutil.disk_usage(state_dir).free // MIB - _STORAGE_KEPT_MIB
    return Inventory(
        gpus=gpus,
        cpu_milli=config.cpu_milli or len(os.sched_getaffinity(0)) * 1000,
        memory_mib=config.memory_mib or max(1, memory),
        storage_mib=config.storage_mib or max(1, storage),
    )


def _real_gpus(wanted: tuple[str, ...], nvml: Nvml | None) -> tuple[InstalledGpu, ...]:
    found = nvml.gpus() if nvml is not None else ()
    if not found:
        raise InventoryError(
            'no GPU here: NVML finds none. To try things out, write simulated: "1xH100"'
        )
    missing = [uuid for uuid in wanted if uuid not in {gpu.uuid for gpu in found}]
    if missing:
        raise InventoryError(f"GPUs that are not in this machine: {', '.join(missing)}")
    return tuple(gpu for gpu in found if not wanted or gpu.uuid in wanted)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
