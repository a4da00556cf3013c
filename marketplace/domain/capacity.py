"""Capacity of one node, across all its asks: GPUs one by one, and what comes beside them."""

from __future__ import annotations

from dataclasses import dataclass, field

from settlement.orders import Ask, Bid
from settlement.units import Sizes

WHOLE_MILLI = 1000


@dataclass(frozen=True, slots=True)
class Held:
    """What one lease holds: its sizes and the GPUs, by index on the node."""

    sizes: Sizes
    gpus: tuple[int, ...]


@dataclass(slots=True)
class NodeUse:
    """What open leases hold of one (provider, node).

    A share lives on one GPU and a whole GPU is shared with nobody, so that the sum of gpu_milli on
    any GPU is at most 1000. Sums over leases never exceed what an ask offers in all.
    """

    provider: str
    node: int
    gpu_milli: int = 0
    cpu_milli: int = 0
    memory_mib: int = 0
    storage_mib: int = 0
    on_gpu: list[int] = field(default_factory=list)
    leases: dict[tuple[str, str], Held] = field(default_factory=dict)

    def place(self, ask: Ask, bid: Bid) -> tuple[int, ...] | None:
        """GPUs that the bid would take within what the ask offers, or None where it cannot.

        Whole GPUs: the first idle ones. A share: the fullest GPU it still fits on, then the first.
        """
        if (
            self.gpu_milli + bid.gpu_milli > ask.gpu_milli
            or self.cpu_milli + bid.cpu_milli > ask.cpu_milli
            or self.memory_mib + bid.memory_mib > ask.memory_mib
            or self.storage_mib + bid.storage_mib > ask.storage_mib
        ):
            return None
        if bid.gpu_milli < WHOLE_MILLI:
            return self._place_share(ask.gpu_milli, bid.gpu_milli)
        wanted = bid.gpu_milli // WHOLE_MILLI
        whole = ask.gpu_milli // WHOLE_MILLI
        if not self.gpu_milli:
            return tuple(range(wanted)) if wanted <= whole else None
        idle = [i for i in range(whole) if not self._on(i)][:wanted]
        return tuple(idle) if len(idle) == wanted else None

    def _place_share(self, offered: int, share: int) -> tuple[int, ...] | None:
        best, best_used = None, -1
        for index in range(-(-offered // WHOLE_MILLI)):
            room = min(WHOLE_MILLI, offered - index * WHOLE_MILLI)
            used = self._on(index)
            if used + share <= room and used > best_used:
                best, best_used = index, used
        return None if best is None else (best,)

    def _on(self, index: int) -> int:
        return self.on_gpu[index] if index < len(self.on_gpu) else 0

    def is_full_for(self, ask: Ask) -> bool:
        """Whether not even the smallest bid finds a GPU within what the ask offers."""
        return self.gpu_milli >= ask.gpu_milli

    def hold(self, key: tuple[str, str], sizes: Sizes, gpus: tuple[int, ...]) -> None:
        """Reserve; the caller has asked `place`. Shares and whole GPUs alike fill their GPUs."""
        share = sizes.gpu_milli if sizes.gpu_milli < WHOLE_MILLI else WHOLE_MILLI
        for index in gpus:
            if index >= len(self.on_gpu):
                self.on_gpu += [0] * (index + 1 - len(self.on_gpu))
            self.on_gpu[index] += share
        self._count(sizes, 1)
        self.leases[key] = Held(sizes, gpus)

    def free(self, key: tuple[str, str]) -> bool:
        """Give back what a lease held; False where it holds nothing."""
        held = self.leases.pop(key, None)
        if held is None:
            return False
        share = held.sizes.gpu_milli if held.sizes.gpu_milli < WHOLE_MILLI else WHOLE_MILLI
        for index in held.gpus:
            self.on_gpu[index] -= share
        self._count(held.sizes, -1)
        return True

    def _count(self, sizes: Sizes, sign: int) -> None:
        self.gpu_milli += sign * sizes.gpu_milli
        self.cpu_milli += sign * sizes.cpu_milli
        self.memory_mib += sign * sizes.memory_mib
        self.storage_mib += sign * sizes.storage_mib
