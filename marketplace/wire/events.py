"""Events of a job: `status`, `log`, `metric`, `cost`, `receipt`.

Lists show an event as {id, type, data, at}. In the stream (server-sent events) `id` and `event` are
fields of their own, and the data is `data` with `at` added to it.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from marketplace.domain.life import JobState, Outcome
from marketplace.wire.base import Answer, Lax, Time
from marketplace.wire.jobs import Cost
from marketplace.wire.receipts import Receipt
from marketplace.wire.usage import Measured, OutputStream


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
    number = int(id) if id.isascii() and id.isdigit() else id
    return EVENT.validate_python({"id": number, "type": type, "data": data, "at": at})
