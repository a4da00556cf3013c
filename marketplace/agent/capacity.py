"""Which GPUs a lease gets, so that no GPU is ever promised twice."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.agent.inventory import Gpu, Inventory

WHOLE = 1000


@dataclass(frozen=True, slots=True)
class Grant:
    """What one lease holds: GPUs with a share in thousandths each, memory, storage, a job slot."""

    gpus: tuple[Gpu, ...]
    gpu_milli_each: int
    memory_mib: int
    storage_mib: int
    slot: int


class Capacity:
    """The node's free capacity. Whole GPUs are exclusive; shares pack onto the fullest."""

    def __init__(self, inventory: Inventory, shared: bool) -> None:
        self._inventory = inventory
        self._shared = shared
        self._grants: dict[str, Grant] = {}

    def used_milli(self, uuid: str) -> int:
        """Thousandths of one GPU that leases hold now."""
        return sum(
            grant.gpu_milli_each
            for grant in self._grants.values()
            if any(gpu.uuid == uuid for gpu in grant.gpus)
        )

    def take(
        self,
        lease_id: str,
        gpu_milli: int,
        memory_mib: int,
        storage_mib: int,
        wanted: tuple[int, ...] = (),
    ) -> Grant | None:
        """Reserve for a lease, or None where it does not fit; a lease's grant never changes.

        `wanted` are the places of the GPUs the market reserved: they are taken if they are free.
        """
        if lease_id in self._grants:
            return self._grants[lease_id]
        gpus = self._wanted(wanted, gpu_milli) or self._choose(gpu_milli)
        if not gpus or not self._fits(memory_mib, storage_mib):
            return None
        grant = Grant(gpus, min(gpu_milli, WHOLE), memory_mib, storage_mib, self._free_slot())
        self._grants[lease_id] = grant
        return grant

    def release(self, lease_id: str) -> None:
        """Give back what a lease held, if it held anything."""
        self._grants.pop(lease_id, None)

    def _wanted(self, places: tuple[int, ...], gpu_milli: int) -> tuple[Gpu, ...]:
        everything = self._inventory.gpus
        each = min(gpu_milli, WHOLE)
        if len(set(places)) != len(places) or len(places) * each != gpu_milli:
            return ()
        if any(place >= len(everything) for place in places) or (each < WHOLE and not self._shared):
            return ()
        gpus = tuple(everything[place] for place in places)
        return gpus if all(self.used_milli(gpu.uuid) + each <= WHOLE for gpu in gpus) else ()

    def _choose(self, gpu_milli: int) -> tuple[Gpu, ...]:
        if gpu_milli >= WHOLE:
            if gpu_milli % WHOLE:
                return ()
            free = [gpu for gpu in self._inventory.gpus if self.used_milli(gpu.uuid) == 0]
            count = gpu_milli // WHOLE
            return tuple(free[:count]) if len(free) >= count else ()
        if gpu_milli < 1 or not self._shared:
            return ()
        loads = [(self.used_milli(gpu.uuid), gpu) for gpu in self._inventory.gpus]
        fitting = [(used, gpu) for used, gpu in loads if used + gpu_milli <= WHOLE]
        return (max(fitting, key=lambda pair: pair[0])[1],) if fitting else ()

    def _fits(self, memory_mib: int, storage_mib: int) -> bool:
        memory = sum(g.memory_mib for g in self._grants.values()) + memory_mib
        storage = sum(g.storage_mib for g in self._grants.values()) + storage_mib
        return memory <= self._inventory.memory_mib and storage <= self._inventory.storage_mib

    def _free_slot(self) -> int:
        taken = {grant.slot for grant in self._grants.values()}
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)
