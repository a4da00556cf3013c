"""Jobs: planned, checked, signed, placed, watched, and their results fetched."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from marketplace.data import load_tiers
from marketplace.domain.job import JobSpec
from marketplace.sdk.archive import unpack
from marketplace.sdk.checks import check_bid, read_document
from marketplace.sdk.decode import decode
from marketplace.sdk.errors import (
    ChainUnavailable,
    CoulombError,
    InputError,
    RateLimited,
    TransportError,
    Unavailable,
    WaitTimeout,
)
from marketplace.sdk.flow import (
    Flow,
    Query,
    Request,
    Resource,
    S,
    Sleep,
    call,
    listing,
    op,
    streaming,
)
from marketplace.sdk.jobfile import JobSource, load_job
from marketplace.sdk.models import Lease, Prepared
from marketplace.sdk.purchases import Job, LogEvent, LogPiece, Plan, PreparedBid, Receipt
from marketplace.sdk.resources.base import ApiResource, hex0x
from marketplace.sdk.resources.blobs import Blobs
from marketplace.sdk.resources.witnessing import Act, Witness
from marketplace.sdk.sse import EventSource
from marketplace.sdk.workdir import pack_folder
from settlement.orders import Bid
from settlement.signing import Signer, sign

PASSING = (TransportError, Unavailable, RateLimited, ChainUnavailable)
PATIENCE_SECONDS = 120.0
SETTLING_SECONDS = 60.0
POLL_SECONDS = (0.25, 2.0)

Watcher = Callable[[Job, tuple[Act, ...]], None]


@dataclass(frozen=True, slots=True)
class Order:
    """A job ready to be bought: its packed spec, the checked bid, and what it would cost.

    `signer` None: the session's.
    """

    spec: JobSpec
    bid: Bid
    plan: Plan
    signer: Signer | None
    hosted_witness: bool


class Jobs(ApiResource[S]):
    """Jobs of the caller."""

    @op
    def prepare(
        self, source: JobSource, *, signer: Signer | None = None, witness: str | None = None
    ) -> Flow[Order]:
        """Pack, upload and have a bid written, check it, and say what it would cost.

        Nothing is signed or bought. `witness` names a hosted witness; without it this client's own
        key witnesses. Raises InputError, VerificationError.
        """
        spec, folder = yield from call(partial(load_job, source))
        if spec.workdir is not None:
            content = yield from call(partial(pack_folder, folder / spec.workdir))
            blob = yield from Blobs.put.flow(Blobs[S](self._shell, self._session), content)
            spec = spec.packed(blob.sha256, blob.size)
        market = yield from self._market()
        buyer = signer.address if signer else (yield from call(self._session.address))
        own = (yield from call(self._session.witness)).address if witness is None else witness
        body = {"job": spec.to_json(), "witness": own, "account": buyer}
        request = Request("POST", "/v1/bids/prepare", json=body, repeatable=True)
        prepared = yield from self._read(PreparedBid, request)
        document = Prepared(prepared.typed_data)
        bid = read_document(Bid, document, self._session.domain())
        check_bid(
            bid,
            spec,
            load_tiers(),
            market,
            buyer=buyer,
            witness=own,
            now=int(time.time()),
        )
        return Order(spec, bid, prepared.plan, signer, witness is not None)

    @op
    def place(self, order: Order, *, idempotency_key: str | None = None) -> Flow[JobHandle[S]]:
        """Sign a checked bid and buy. A repeat of the same order is the same job."""
        return (yield from self._place(order, idempotency_key))

    def _place(self, order: Order, idempotency_key: str | None) -> Flow[JobHandle[S]]:
        domain = self._session.domain()
        signer = order.signer or (yield from call(self._session.signer))
        signature = yield from call(partial(sign, order.bid, domain, signer))
        body = {
            "job": order.spec.to_json(),
            "bid": order.bid.to_message(),
            "signature": hex0x(signature),
        }
        key = idempotency_key or "job-" + order.bid.struct_hash().hex()
        request = Request("POST", "/v1/jobs", json=body, idempotency_key=key)
        job = yield from self._read(Job, request)
        return JobHandle(self, job, witnessed=not order.hosted_witness)

    @op
    def submit(
        self,
        source: JobSource,
        *,
        signer: Signer | None = None,
        witness: str | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[JobHandle[S]]:
        """Prepare and place in one go."""
        order = yield from Jobs.prepare.flow(self, source, signer=signer, witness=witness)
        return (yield from self._place(order, idempotency_key))

    @op
    def get(self, job_id: str) -> Flow[JobHandle[S]]:
        """One job."""
        job = yield from self._read(Job, Request("GET", f"/v1/jobs/{job_id}"))
        return JobHandle(self, job)

    @listing
    def list(self, *, state: str | None = None, limit: int | None = None) -> Query[Job]:
        """Every job of the caller, newest first."""
        return Query("/v1/jobs", partial(decode, Job), {"state": state, "limit": limit})

    @listing
    def receipts(self, *, limit: int | None = None) -> Query[Receipt]:
        """Every receipt of the caller."""
        return Query("/v1/receipts", partial(decode, Receipt), {"limit": limit})


class JobHandle(ApiResource[S]):
    """One job and what can be done with it. `job` is its state when last asked."""

    def __init__(self, owner: Resource[S], job: Job, witnessed: bool = True) -> None:
        super().__init__(owner._shell, owner._session)
        self.job = job
        self.witnessed = witnessed

    def __repr__(self) -> str:
        return f"JobHandle({self.job.id}, {self.job.state})"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def state(self) -> str:
        """Its state when last asked."""
        return self.job.state

    @op
    def refresh(self) -> Flow[Job]:
        """Ask for its state."""
        self.job = yield from self._read(Job, Request("GET", f"/v1/jobs/{self.id}"))
        return self.job

    @op
    def cancel(self) -> Flow[Job]:
        """Ask for its end; what ran is paid, the rest comes back."""
        path = f"/v1/jobs/{self.id}/cancel"
        request = Request("POST", path, json={}, idempotency_key=f"cancel-{self.id}")
        yield from self._json(request)
        return (yield from JobHandle.refresh.flow(self))

    @op
    def wait(
        self,
        timeout_seconds: float | None = None,
        *,
        watcher: Watcher | None = None,
        settled: bool = True,
    ) -> Flow[Job]:
        """Witness the job until it has ended, and (`settled`) until its lease is closed.

        Bears with a server that is away for up to two minutes. Raises WaitTimeout; the job goes on.
        """
        began = time.monotonic()
        ended_at: float | None = None
        clock = _Patience()
        while True:
            try:
                acts = yield from self._witness()
                job = yield from JobHandle.refresh.flow(self)
                done = job.is_final and (not settled or (yield from self._is_settled()))
                clock.recovered()
            except PASSING as error:
                done, acts = False, ()
                clock.failed(error)
            if watcher is not None:
                watcher(self.job, acts)
            now = time.monotonic()
            if self.job.is_final and ended_at is None:
                ended_at = now
            if done or (ended_at is not None and now - ended_at > SETTLING_SECONDS):
                return self.job
            if timeout_seconds is not None and now - began > timeout_seconds:
                raise WaitTimeout(f"{self.id} is {self.job.state} after {timeout_seconds:g} s")
            yield Sleep(self._poll_seconds())

    @op
    def lease(self) -> Flow[Lease | None]:
        """Its latest lease."""
        if self.job.lease_id is None:
            yield from JobHandle.refresh.flow(self)
        if self.job.lease_id is None:
            return None
        return (yield from self._read(Lease, Request("GET", f"/v1/leases/{self.job.lease_id}")))

    @op
    def receipt(self) -> Flow[Receipt]:
        """Usage → rate → cost → transactions."""
        return (yield from self._read(Receipt, Request("GET", f"/v1/jobs/{self.id}/receipt")))

    @listing
    def logs(self) -> Query[LogPiece]:
        """Its output so far."""
        return Query(f"/v1/jobs/{self.id}/logs", lambda row: decode(LogEvent, row).data)

    @streaming
    def events(self, last_id: str = "") -> EventSource:
        """Status, log, metric, cost and receipt events until the job has ended; resumes by id."""
        return EventSource(f"/v1/jobs/{self.id}/events", self._shell.policy, last_id)

    @op
    def result(self, into: str | Path) -> Flow[list[str]]:
        """Fetch its outputs, check them, unpack them into a folder; returns the files' names."""
        job = yield from JobHandle.refresh.flow(self)
        if job.outputs is None:
            raise InputError(f"{job.id} ({job.state}) has no outputs")
        content = yield from Blobs.get.flow(Blobs[S](self._shell, self._session), job.outputs)
        return (yield from call(partial(unpack, io.BytesIO(content), Path(into))))

    def _witness(self) -> Flow[tuple[Act, ...]]:
        if not self.witnessed:
            return ()
        return (yield from Witness.tick.flow(Witness[S](self._shell, self._session)))

    def _is_settled(self) -> Flow[bool]:
        lease = yield from JobHandle.lease.flow(self)
        return lease is None or lease.state in ("closed", "failed_to_open")

    def _poll_seconds(self) -> float:
        market = self._session.market
        low, high = POLL_SECONDS
        return min(high, max(low, (market.interval_ms if market else 1000) / 4000))


class _Patience:
    """How long failures that pass by themselves are borne."""

    def __init__(self) -> None:
        self._since: float | None = None

    def recovered(self) -> None:
        """The last try worked."""
        self._since = None

    def failed(self, error: CoulombError) -> None:
        """One more failure; raises it when they have lasted too long."""
        now = time.monotonic()
        self._since = self._since if self._since is not None else now
        if now - self._since > PATIENCE_SECONDS:
            raise error
