"""What a node has: GPUs by NVML or simulated on request, or none; processors, memory, disk.

A simulated GPU is one that does not exist. Its UUID begins with SIM-, its model says so, and it is
made only if the configuration asks for it.
"""

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import psutil

from marketplace.agent.config import NodeConfig
from marketplace.agent.errors import InventoryError
from marketplace.data import load_tiers
from marketplace.domain.placing import WHOLE_MILLI, NodeUse, is_gpu_size
from marketplace.domain.tier import CPU_TIER
from marketplace.limits import MIB, NODE_GPUS_MAX
from settlement.units import Sizes

_SIMULATED = re.compile(r"([1-9][0-9]?)\s*[x×*]\s*([A-Za-z][A-Za-z0-9 _-]{0,31})\Z")  # noqa: RUF001
LISTED = ("number", "name", "region", "tier", "shared")  # what the configuration says of a node
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
    gpus: tuple[InstalledGpu, ...]
    cpu_milli: int
    memory_mib: int
    storage_mib: int

    @property
    def simulated(self) -> bool:
        return any(gpu.simulated for gpu in self.gpus)


class Nvml:
    """The few NVML calls we make, over the `pynvml` module (or a stand-in with its functions)."""

    def __init__(self, module: ModuleType | Any) -> None:
        self._nvml = module

    @classmethod
    def open(cls, module: ModuleType | Any = None) -> "Nvml | None":
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
        found = []
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid, model = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
                memory_mib = int(nvml.nvmlDeviceGetMemoryInfo(handle).total) // MIB
                minor = int(nvml.nvmlDeviceGetMinorNumber(handle))
                found.append(InstalledGpu(uuid, model, memory_mib, minor=minor))
        except nvml.NVMLError as error:
            raise InventoryError(f"NVML: {error}") from error
        return tuple(found)

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
    kind = (f"{tiers[0].gpu} (simulated)", tiers[0].memory_gib * 1024, True)
    digests = (hashlib.sha256(f"{owner}/{n}".encode()).hexdigest() for n in range(int(match[1])))
    return tuple(InstalledGpu(f"SIM-{UUID(digest[:32])}", *kind) for digest in digests)


def take_inventory(config: NodeConfig, state_dir: Path, owner: str, nvml: Nvml | None) -> Inventory:
    """What this machine offers under its configuration. Raises InventoryError."""
    gpus: tuple[InstalledGpu, ...] = ()
    if config.simulated is not None:
        gpus = simulated_gpus(config.simulated, f"{owner}/{config.number}")
    elif config.sells_gpus:
        gpus = _real_gpus(config.gpus, nvml)
    cpu_milli = len(os.sched_getaffinity(0)) * 1000
    memory = max(1, psutil.virtual_memory().total // MIB - _MEMORY_KEPT_MIB)
    storage = max(1, shutil.disk_usage(state_dir).free // MIB - _STORAGE_KEPT_MIB)
    sizes = (config.cpu_milli or cpu_milli, config.memory_mib or memory)
    return Inventory(gpus, *sizes, config.storage_mib or storage)


def _real_gpus(wanted: tuple[str, ...], nvml: Nvml | None) -> tuple[InstalledGpu, ...]:
    found = nvml.gpus() if nvml is not None else ()
    if not found:
        simulate = 'To try things out, write simulated: "1xH100"'
        without = f"to sell processor, memory and disk only, write tier: {CPU_TIER}"
        raise InventoryError(f"no GPU here: NVML finds none. {simulate}; {without}")
    missing = [uuid for uuid in wanted if uuid not in {gpu.uuid for gpu in found}]
    if missing:
        raise InventoryError(f"GPUs that are not in this machine: {', '.join(missing)}")
    return tuple(gpu for gpu in found if not wanted or gpu.uuid in wanted)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one job runs on: its GPUs, a share in thousandths of each, and a slot of its own."""

    gpus: tuple[InstalledGpu, ...]
    gpu_milli_each: int
    slot: int


class Capacity:
    """What leases hold of this node, by the rule that the matcher placed them with."""

    def __init__(self, inventory: Inventory, shared: bool) -> None:
        self.use = NodeUse()
        self._gpus = inventory.gpus
        whole = len(inventory.gpus) * WHOLE_MILLI
        sizes = (inventory.cpu_milli, inventory.memory_mib, inventory.storage_mib)
        self._offered = Sizes(whole, *sizes)
        self._shared = shared
        self._grants: dict[str, Grant] = {}

    def take(self, lease_id: str, sizes: Sizes, reserved: tuple[int, ...] = ()) -> Grant | None:
        """Reserve for a lease, or None if it does not fit; a lease's grant never changes.

        It gets `reserved`, the places of the GPUs that the market chose, if they are free.
        """
        if lease_id in self._grants:
            return self._grants[lease_id]
        milli = sizes.gpu_milli
        if not is_gpu_size(milli) or (0 < milli < WHOLE_MILLI and not self._shared):
            return None
        places = self.use.place(self._offered, sizes, reserved)
        if places is None:
            return None
        self.use.hold(lease_id, sizes, places)
        slots = {grant.slot for grant in self._grants.values()}
        slot = next(slot for slot in range(len(slots) + 1) if slot not in slots)
        gpus = tuple(self._gpus[place] for place in places)
        grant = self._grants[lease_id] = Grant(gpus, min(milli, WHOLE_MILLI), slot)
        return grant

    def release(self, lease_id: str) -> None:
        self.use.free(lease_id)
        self._grants.pop(lease_id, None)
