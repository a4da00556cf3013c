"""Which GPUs of this node each lease holds, by the rule that the matcher placed them with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from marketplace.agent.inventory import InstalledGpu, Inventory
from marketplace.domain.placing import WHOLE_MILLI, NodeUse, is_gpu_size
from settlement.units import Sizes


@dataclass(frozen=True, slots=True)
class Grant:
    """What one job runs on: GPUs with a share in thousandths of each, and a slot of its own."""

    gpus: tuple[InstalledGpu, ...]
    gpu_milli_each: int
    slot: int


class Capacity:
    """What leases hold of this node."""

    def __init__(self, inventory: Inventory, shared: bool) -> None:
        self.use = NodeUse()
        self._gpus = inventory.gpus
        self._offered = Sizes(
            len(inventory.gpus) * WHOLE_MILLI, 0, inventory.memory_mib, inventory.storage_mib
        )
        self._shared = shared
        self._grants: dict[str, Grant] = {}

    def take(self, lease_id: str, sizes: Sizes, reserved: tuple[int, ...] = ()) -> Grant | None:
        """Reserve for a lease, or None if it does not fit; a lease's grant never changes.

        `reserved` are the GPUs that the market chose, by their place in the inventory: the lease
        gets them if they are free.
        """
        if lease_id in self._grants:
            return self._grants[lease_id]
        milli = sizes.gpu_milli
        if not is_gpu_size(milli) or (milli < WHOLE_MILLI and not self._shared):
            return None
        sizes = replace(sizes, cpu_milli=0)  # the kernel shares processors out among jobs
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
        """Give back what a lease held, if it held anything."""
        self.use.free(lease_id)
        self._grants.pop(lease_id, None)
