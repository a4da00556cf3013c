"""What of a node a lease gets: the one rule that the matcher and the node's agent follow."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from settlement.orders import Ask, Bid
from settlement.units import Sizes

WHOLE_MILLI = 1000
Sized = Ask | Bid | Sizes


def is_gpu_size(milli: int) -> bool:
    """Whether a lease can have this size: no GPU, a share of one, or whole GPUs."""
    return 0 <= milli <= WHOLE_MILLI or (milli > 0 and milli % WHOLE_MILLI == 0)


def sizes_of(ask: Ask, bid: Bid) -> Sizes:
    """What a lease of this pair takes. Sizes that the bid leaves open are the share of what the
    ask offers that its GPUs are, rounded down."""
    whole = max(1, ask.gpu_milli)
    return Sizes(
        bid.gpu_milli,
        bid.cpu_milli or ask.cpu_milli * bid.gpu_milli // whole,
        bid.memory_mib or ask.memory_mib * bid.gpu_milli // whole,
        bid.storage_mib or ask.storage_mib * bid.gpu_milli // whole,
    )


@dataclass(frozen=True, slots=True)
class Placed:
    """What one lease holds: its sizes and the GPUs, by index on the node."""

    sizes: Sizes
    gpus: tuple[int, ...]


@dataclass(slots=True)
class NodeUse:
    """What leases hold of one node.

    A share lives on one GPU and a whole GPU is shared with nobody, so the sum of gpu_milli on any
    GPU is at most 1000. Sums over leases never exceed what is offered in all.
    """

    gpu_milli: int = 0
    cpu_milli: int = 0
    memory_mib: int = 0
    storage_mib: int = 0
    on_gpu: list[int] = field(default_factory=list)
    leases: dict[Hashable, Placed] = field(default_factory=dict)

    def place(
        self, offered: Sized, wanted: Sized, preferred: tuple[int, ...] = ()
    ) -> tuple[int, ...] | None:
        """GPUs that a lease of these sizes gets within what is offered; None if it does not fit.

        `preferred` GPUs if they are free. Else for whole GPUs the first idle ones, and for a share
        the fullest GPU that it still fits on, the first of equals.
        """
        milli = wanted.gpu_milli
        if (
            self.gpu_milli + milli > offered.gpu_milli
            or self.cpu_milli + wanted.cpu_milli > offered.cpu_milli
            or self.memory_mib + wanted.memory_mib > offered.memory_mib
            or self.storage_mib + wanted.storage_mib > offered.storage_mib
        ):
            return None
        if not milli:
            return ()
        if preferred and self._are_free(preferred, offered.gpu_milli, milli):
            return preferred
        if milli < WHOLE_MILLI:
            return self._place_share(offered.gpu_milli, milli)
        count, whole = milli // WHOLE_MILLI, offered.gpu_milli // WHOLE_MILLI
        if not self.gpu_milli:
            return tuple(range(count)) if count <= whole else None
        idle = [index for index in range(whole) if not self._on(index)][:count]
        return tuple(idle) if len(idle) == count else None

    def _place_share(self, offered_milli: int, share: int) -> tuple[int, ...] | None:
        best, best_used = None, -1
        for index in range(-(-offered_milli // WHOLE_MILLI)):
            used = self._on(index)
            if best_used < used <= _room(offered_milli, index) - share:
                best, best_used = index, used
        return None if best is None else (best,)

    def _are_free(self, gpus: tuple[int, ...], offered_milli: int, milli: int) -> bool:
        """Whether these are distinct GPUs with room for just such a lease."""
        each = min(milli, WHOLE_MILLI)
        return len(set(gpus)) * each == len(gpus) * each == milli and all(
            index >= 0 and self._on(index) + each <= _room(offered_milli, index) for index in gpus
        )

    def _on(self, index: int) -> int:
        return self.on_gpu[index] if index < len(self.on_gpu) else 0

    def is_full_for(self, offered: Sized) -> bool:
        """Whether not even the smallest bid finds a GPU, or a core if no GPU is offered."""
        if offered.gpu_milli:
            return self.gpu_milli >= offered.gpu_milli
        return self.cpu_milli >= offered.cpu_milli

    def hold(self, key: Hashable, sizes: Sizes, gpus: tuple[int, ...]) -> None:
        """Reserve GPUs that `place` found."""
        self._count(sizes, gpus, 1)
        self.leases[key] = Placed(sizes, gpus)

    def free(self, key: Hashable) -> bool:
        """Give back what a lease held; False if it holds nothing."""
        placed = self.leases.pop(key, None)
        if placed is not None:
            self._count(placed.sizes, placed.gpus, -1)
        return placed is not None

    def _count(self, sizes: Sizes, gpus: tuple[int, ...], sign: int) -> None:
        for index in gpus:
            self.on_gpu += [0] * (index + 1 - len(self.on_gpu))
            self.on_gpu[index] += sign * min(sizes.gpu_milli, WHOLE_MILLI)
        self.gpu_milli += sign * sizes.gpu_milli
        self.cpu_milli += sign * sizes.cpu_milli
        self.memory_mib += sign * sizes.memory_mib
        self.storage_mib += sign * sizes.storage_mib


def _room(offered_milli: int, index: int) -> int:
    """Thousandths of one GPU that are offered: an offer may end with a part of its last GPU."""
    return min(WHOLE_MILLI, offered_milli - index * WHOLE_MILLI)
