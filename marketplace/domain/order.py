"""Orders as the book holds them: the signed order, what the market knows beside it, its arrival."""

from dataclasses import dataclass

from marketplace.domain.job import JobSpec
from settlement.eip712 import ZERO_ADDRESS
from settlement.orders import FLAG_SHARED, Ask, Bid


@dataclass(frozen=True, slots=True)
class BookMarket:
    """What every lease of this market is subject to. `decimals` are the token's."""

    fee_bps: int = 0
    opener: str = ZERO_ADDRESS
    decimals: int = 18

    def opens(self, opener: str) -> bool:
        """Whether this market may open an order that names `opener`."""
        return opener in (ZERO_ADDRESS, self.opener)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the market knows of a node beside what its ask signs. Reliability in thousandths."""

    node_id: str
    region: str
    runtime: str = "process"
    simulated: bool = False
    verified: bool = False
    reliability_milli: int = 1000


@dataclass(frozen=True, slots=True)
class RestingAsk:
    """An ask in the book; `seq` is its place in the order log and breaks ties of price."""

    id: str
    ask: Ask
    node: NodeFacts
    seq: int

    @property
    def shared(self) -> bool:
        """Whether shares of a GPU are sold."""
        return bool(self.ask.flags & FLAG_SHARED)


@dataclass(frozen=True, slots=True)
class Wants:
    """What a job demands beside what its bid signs. `regions` empty: any."""

    regions: tuple[str, ...] = ()
    runtime: str = "process"
    verified_only: bool = False
    min_reliability_milli: int = 0
    start_deadline_seconds: int = 600
    rests: bool = False

    @classmethod
    def of(cls, spec: JobSpec) -> "Wants":
        """The demands of a job spec."""
        return cls(
            regions=spec.regions,
            runtime=spec.runtime,
            verified_only=spec.verified_only,
            min_reliability_milli=spec.min_reliability_milli,
            start_deadline_seconds=spec.start_deadline_seconds,
            rests=spec.rests,
        )


@dataclass(frozen=True, slots=True)
class RestingBid:
    """A bid in the book. `tried` names asks it cannot open again: one lease per pair of orders.

    `budget_left` (atoms) is what fail-over may still spend; None: the whole budget.
    """

    id: str
    job_id: str
    bid: Bid
    wants: Wants
    seq: int
    tried: frozenset[str] = frozenset()
    budget_left: int | None = None


def region_matches(wanted: tuple[str, ...], region: str) -> bool:
    """Whether a region is one of the wanted, or lies in one: `eu-west` is in `eu`."""
    return not wanted or any(region == w or region.startswith(w + "-") for w in wanted)
