"""What the clients' methods return besides the API's own classes and `onchain`'s."""

from dataclasses import dataclass

from marketplace.domain.job import JobSpec
from marketplace.wire.orders import Plan
from marketplace.witness.policy import WitnessRefusal
from settlement.orders import Bid
from settlement.signing import Signer


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job ready to be bought: its packed spec, its bid, and what it would cost.

    `signer` None: the session's.
    """

    spec: JobSpec
    bid: Bid
    plan: Plan
    signer: Signer | None
    hosted_witness: bool


@dataclass(frozen=True, slots=True)
class Act:
    """One thing a witness did, or why it did not: for logs and people."""

    lease_id: str
    kind: str
    ms: int = 0
    sequence: int | None = None
    refusal: WitnessRefusal | None = None
    problem: str | None = None
