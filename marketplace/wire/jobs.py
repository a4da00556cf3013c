"""Jobs: bought with a signed bid, watched, cancelled, topped up, and what they cost in the end."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from marketplace.domain.life import JOB_ENDED, JobState, Outcome
from marketplace.limits import NUMBER_DIGITS_MAX
from marketplace.wire.base import (
    AccountSignature,
    Address,
    Answer,
    Body,
    DecimalText,
    Hash32,
    Lax,
    LeaseNo,
    Many,
    Money,
    RatePerHour,
    Sha256,
    Signed,
    Time,
    TxHash,
    hex_text,
)
from marketplace.wire.jobfile import JobDocument, JobFile
from marketplace.wire.leases import Measured, OutputStream
from marketplace.wire.orders import Transaction
from marketplace.wire.problems import NoMatch
from settlement.orders import Bid


class JobOrder(Body):
    """A job and its signed bid."""

    job: JobFile
    bid: Signed[Bid]
    signature: AccountSignature


class Cost(Answer):
    """What a job's present lease has cost so far and may still cost.

    `projected` is what the longest time, top-ups included, will cost; once the lease is over, what
    it has cost. `ms` is the time that counts.
    """

    accrued: Money
    rate_per_hour: RatePerHour
    locked: Money
    projected: Money
    budget_left: Money
    ms: int


class Job(Answer):
    """A job as its buyer sees it. `max_cost` is what its lease locked, or will lock, at most.

    `ending` says how a job will end while it is being ended. With `account`, `provider` and
    `witness`, `lease_no` names the lease on chain.
    """

    id: str
    account: Address
    name: str
    state: Annotated[JobState, Lax]
    reason: str | None = Field(description="why it is in this state, as a code")
    detail: str | None = Field(description="the same for people")
    ending: Annotated[Outcome, Lax] | None
    bid_id: str
    lease_id: str | None
    lease_no: LeaseNo | None
    provider: Address | None
    witness: Address | None
    job_hash: Hash32
    spec: JobDocument
    no_match: NoMatch | None
    exit_code: int | None
    outputs: Sha256 | None = Field(description="the blob that the job left")
    max_cost: Money
    cost: Cost | None
    created_at: Time
    matched_at: Time | None
    started_at: Time | None
    finished_at: Time | None

    @property
    def is_final(self) -> bool:
        """Whether it has ended for good."""
        return self.state in JOB_ENDED


class TopUpRequest(Body):
    """How much longer a job is to run."""

    duration: str = Field(max_length=20, examples=["30m"])


class TopUpPlan(Answer):
    """What the buyer sends so that a job runs longer, and what that locks at most."""

    lease_id: str
    transaction: Transaction
    lock: Money


# Receipts and blobs


class ReceiptLine(Answer):
    """One resource: how much, at which price, what it cost."""

    resource: str = Field(examples=["gpu"])
    quantity: DecimalText
    unit: str = Field(examples=["GPU-seconds"])
    price: DecimalText
    price_unit: str = Field(examples=["per GPU-hour"])
    cost: Money


class ReceiptTransaction(Answer):
    """One transaction that moved the lease's money, and what it did."""

    kind: str = Field(examples=["Settled"])
    tx_hash: TxHash
    block: int


def transaction_lines(transactions: Sequence[ReceiptTransaction]) -> list[str]:
    """One line per transaction; of three and more of a kind in a row the first and the last."""
    lines: list[str] = []
    for kind, group in groupby(transactions, key=lambda t: t.kind):
        run = list(group)
        shown = [f"{kind:<8} {t.tx_hash} in block {t.block}" for t in (run[0], run[-1])]
        if len(run) == 1:
            shown = shown[:1]
        elif len(run) > 2:
            shown.insert(1, f"{kind:<8} … {len(run) - 2} more, in JSON …")
        lines += shown
    return lines


class Receipt(Answer):
    """Usage → rate → cost → transactions of one closed lease.

    `gross` is the sum of the lines and of `fee` and `net`. `conserved`: locked = released +
    refunded, and released is what the usage costs. `readings` counts accepted attestations.
    """

    id: str
    job_id: str
    lease_id: str
    lease_no: LeaseNo
    buyer: Address
    provider: Address
    witness: Address
    tier: str
    simulated: bool
    readings: int
    used_ms: int
    gpu_seconds: DecimalText
    rate: DecimalText
    rate_unit: Literal["token per hour"]
    lines: Many[ReceiptLine]
    gross: Money
    fee: Money
    net: Money
    locked: Money
    released: Money
    refunded: Money
    conserved: bool
    transactions: Many[ReceiptTransaction]
    created_at: Time

    def __str__(self) -> str:
        return "\n  ".join(self._text())

    def _text(self) -> Iterator[str]:
        simulated = " · simulated GPU" if self.simulated else ""
        yield f"Receipt {self.id} · job {self.job_id} · {self.tier}{simulated}"
        gpus = f"{self.gpu_seconds:f} GPU-s, " if self.gpu_seconds else ""
        yield (
            f"measured {self.used_ms} ms in {self.readings} readings, {gpus}"
            f"at {self.rate:f} {self.gross.currency}/h"
        )
        for line in self.lines:
            yield (
                f"{line.resource:<8} {line.quantity:f} {line.unit} at {line.price:f} "
                f"{line.price_unit} = {line.cost}"
            )
        yield f"{self.net} to the provider, {self.fee} as fee, {self.refunded} back to the buyer"
        sums = "all accounted for" if self.conserved else "NOT ALL ACCOUNTED FOR"
        yield f"locked {self.locked}, released {self.released}: {sums}"
        yield f"lease    {hex_text(self.lease_no)}"
        for name in ("buyer", "provider", "witness"):
            yield f"{name:<8} {getattr(self, name)}"
        yield from transaction_lines(self.transactions)


class JobReceipt(Receipt):
    """The receipt of a job's last lease. `earlier` are those of leases that were lost."""

    earlier: Many[Receipt]


class Blob(Answer):
    """A stored file, by its content."""

    sha256: Sha256
    size: int = Field(description="bytes")


# Events. Lists show an event as {id, type, data, at}. In the stream (server-sent events) `id` and
# `event` are fields of their own, and the data is `data` with `at` added to it.


class JobStatus(Answer):
    """A job's new state."""

    state: Annotated[JobState, Lax]
    reason: str | None
    detail: str | None
    exit_code: int | None
    ending: Annotated[Outcome, Lax] | None
    lease_id: str | None


class LogPiece(Answer):
    """A piece of a job's output. `offset` counts the stream's UTF-8 bytes before it; `truncated`:
    nothing after it is kept.
    """

    stream: Annotated[OutputStream, Lax]
    offset: int
    text: str
    truncated: bool = Field(default=False, exclude_if=lambda value: not value)


class JobMetric(Measured):
    """Cumulative usage at one attestation."""

    lease_id: str
    sequence: int


class _Event(Answer):
    id: int
    at: Time


class StatusEvent(_Event):
    """A job has changed its state."""

    type: Literal["status"]
    data: JobStatus


class LogEvent(_Event):
    """A job has written output."""

    type: Literal["log"]
    data: LogPiece


class MetricEvent(_Event):
    """A job's usage was attested."""

    type: Literal["metric"]
    data: JobMetric


class CostEvent(_Event):
    """A job has cost more."""

    type: Literal["cost"]
    data: Cost


class ReceiptEvent(_Event):
    """A lease of the job is closed."""

    type: Literal["receipt"]
    data: Receipt


JobEvent = Annotated[
    StatusEvent | LogEvent | MetricEvent | CostEvent | ReceiptEvent, Field(discriminator="type")
]
EVENT: TypeAdapter[JobEvent] = TypeAdapter(JobEvent)


def streamed(event: JobEvent) -> dict[str, Any]:
    """An event's data as the stream sends it."""
    row = event.to_json()
    return {**row["data"], "at": row["at"]}


def read_streamed(id: str, type: str, data: Any) -> JobEvent:
    """An event from the fields of a server-sent event; `data` is its parsed JSON.

    Raises pydantic.ValidationError.
    """
    at = data.get("at") if isinstance(data, dict) else None
    number = int(id) if id.isascii() and id.isdigit() and len(id) <= NUMBER_DIGITS_MAX else id
    return EVENT.validate_python({"id": number, "type": type, "data": data, "at": at})
