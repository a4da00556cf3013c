"""Jobs: plans, signs, places and watches them, and fetches their results."""

import io
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from marketplace.data import load_tiers
from marketplace.domain.drafts import bid_of
from marketplace.domain.life import LeaseState
from marketplace.sdk._async.leases import AsyncWitness
from marketplace.sdk._async.market import AsyncBlobs
from marketplace.sdk._async.transport import AsyncResource, AsyncTransport
from marketplace.sdk.archive import unpack
from marketplace.sdk.errors import InputError, VerificationError, WaitTimeout, input_errors
from marketplace.sdk.http import read_event
from marketplace.sdk.jobfile import (
    OUTPUTS,
    JobSource,
    PreparedJob,
    empty_folder,
    load_job,
    outputs_of,
    pack_folder,
    why_no_outputs,
)
from marketplace.sdk.keyring import parse_address
from marketplace.sdk.session import Act, Session
from marketplace.sdk.waiting import PASSING, async_run, async_sleep
from marketplace.wire.jobs import Job, JobEvent, JobOrder, JobReceipt, LogEvent, LogPiece, Receipt
from marketplace.wire.leases import Lease
from marketplace.wire.market import Account
from marketplace.wire.orders import Plan, QuoteAnswer, QuoteRequest
from settlement.eip712 import ZERO_ADDRESS
from settlement.signing import Signer

Watcher = Callable[[Job, tuple[Act, ...]], None]
SETTLED = (LeaseState.CLOSED, LeaseState.FAILED_TO_OPEN)
SETTLING_SECONDS = 60.0
PATIENCE_SECONDS = 120.0
POLL_SECONDS = (0.25, 2.0)


class AsyncJobHandle(AsyncResource):
    """One job and what can be done with it. `job` is its state when last asked.

    `witnessed`: whether `wait` countersigns the job's usage.
    """

    def __init__(
        self, transport: AsyncTransport, session: Session, job: Job, witnessed: bool = True
    ) -> None:
        super().__init__(transport, session)
        self.job = job
        self.witnessed = witnessed
        self._witness = AsyncWitness(transport, session)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.job.id}, {self.job.state})"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def state(self) -> str:
        """Its state when last asked."""
        return self.job.state

    async def refresh(self) -> Job:
        """Ask for its state."""
        self.job = await self._transport.get(Job, f"/v1/jobs/{self.id}")
        return self.job

    async def cancel(self) -> Job:
        """Ask for its end. What ran is paid for, the rest comes back."""
        path, key = f"/v1/jobs/{self.id}/cancel", f"cancel-{self.id}"
        await self._transport.post(Job, path, idempotency_key=key)
        return await self.refresh()

    async def wait(
        self,
        timeout_seconds: float | None = None,
        *,
        watcher: Watcher | None = None,
        settled: bool = True,
    ) -> Job:
        """Witness the job until it has ended, and (`settled`) until its lease is closed.

        Waits up to two minutes for a server that is away. Raises WaitTimeout; the job goes on.
        """
        began = time.monotonic()
        ended_at: float | None = None
        failing_since: float | None = None
        while True:
            done = False
            acts: tuple[Act, ...] = ()
            try:
                if self.witnessed:
                    acts = await self._witness.tick()
                job = await self.refresh()
                done = job.is_final and (not settled or await self._is_settled())
                failing_since = None
            except PASSING:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > PATIENCE_SECONDS:
                    raise
            if watcher is not None:
                watcher(self.job, acts)
            now = time.monotonic()
            if self.job.is_final and ended_at is None:
                ended_at = now
            if done or (ended_at is not None and now - ended_at > SETTLING_SECONDS):
                return self.job
            if timeout_seconds is not None and now - began > timeout_seconds:
                raise WaitTimeout(f"{self.id} is {self.job.state} after {timeout_seconds:g} s")
            await async_sleep(self._poll_seconds())

    async def lease(self) -> Lease | None:
        """Its latest lease."""
        lease_id = self.job.lease_id or (await self.refresh()).lease_id
        return (
            None if lease_id is None else await self._transport.get(Lease, f"/v1/leases/{lease_id}")
        )

    async def receipt(self) -> JobReceipt:
        """Usage → rate → cost → transactions."""
        return await self._transport.get(JobReceipt, f"/v1/jobs/{self.id}/receipt")

    async def logs(self) -> AsyncIterator[LogPiece]:
        """Its output so far."""
        async for event in self._transport.pages(LogEvent, f"/v1/jobs/{self.id}/logs"):
            yield event.data

    async def events(self, last_id: int | str = "") -> AsyncIterator[JobEvent]:
        """Its events until it has ended: those after `last_id`, over as many connections as needed.

        Kinds of events that this version does not know are left out.
        """
        async for event in self._transport.events(f"/v1/jobs/{self.id}/events", str(last_id)):
            known = read_event(event)
            if known is not None:
                yield known

    async def result(self, into: str | Path) -> list[str]:
        """Fetch its outputs, check them, unpack them into a new or empty folder; the files' names.

        Raises InputError if there are none, and says why.
        """
        folder = empty_folder(Path(into))
        job = await self.refresh()
        if job.outputs is None:
            raise InputError(f"{job.id} has no outputs: {why_no_outputs(job)}")
        content = await AsyncBlobs(self._transport, self._session).get(job.outputs)
        below = [path.removeprefix(OUTPUTS).strip("/") for path in outputs_of(job)]
        return await async_run(partial(unpack, io.BytesIO(content), folder, below=below))

    async def _is_settled(self) -> bool:
        lease = await self.lease()
        return lease is None or lease.state in SETTLED

    def _poll_seconds(self) -> float:
        market = self._session.market
        low, high = POLL_SECONDS
        return min(high, max(low, (market.interval_ms if market else 1000) / 4000))


class AsyncJobs(AsyncResource):
    """Jobs of the caller."""

    async def prepare(
        self, source: JobSource, *, signer: Signer | None = None, witness: str | None = None
    ) -> PreparedJob:
        """Pack and upload a job's folder, write its bid, and say what it would cost.

        Nothing is signed or bought. `witness` names a hosted witness; without it this client's own
        key witnesses. Raises InputError, VerificationError.
        """
        hosted = None if witness is None else parse_address(witness)
        spec, folder = await async_run(load_job, source)
        if spec.workdir is not None:
            content = await async_run(pack_folder, folder / spec.workdir)
            blob = await AsyncBlobs(self._transport, self._session).put(content)
            spec = spec.packed(blob.sha256, blob.size)
        market = await self._market()
        if market.opener == ZERO_ADDRESS:
            raise VerificationError(
                "the market lets anyone open its leases; a bid could be opened again after its job"
            )
        if signer is not None:
            buyer = self._session.account_of(signer)
        else:
            buyer = await async_run(self._session.address)
        own = hosted or (await async_run(self._session.witness)).address
        account = await self._transport.get(Account, f"/v1/accounts/{buyer}")
        quote = await self._transport.post(
            QuoteAnswer, "/v1/quotes", QuoteRequest(job=spec.to_json()), repeatable=True
        )
        with input_errors("the job"):
            bid = bid_of(
                spec,
                load_tiers(),
                buyer=buyer,
                witness=own,
                opener=market.opener,
                fee_bps=market.fee_bps,
                now=int(time.time()),
                salt=self._session.take_salt(buyer, account.next_salt),
            )
        free = account.free.atoms - account.reserved.atoms
        plan = Plan.of(quote, bid, free, market.currency, market.decimals)
        of_purse = self._session.purse is not None
        return PreparedJob(spec, bid, plan, signer, hosted is not None, of_purse)

    async def place(
        self, order: PreparedJob, *, idempotency_key: str | None = None
    ) -> AsyncJobHandle:
        """Sign a bid and buy. A repeat of the same order is the same job."""
        signature = await self._sign(order.bid, order.signer)
        body = JobOrder(job=order.spec.to_json(), bid=order.bid, signature=signature)
        key = idempotency_key or "job-" + order.bid.struct_hash().hex()
        job = await self._transport.post(Job, "/v1/jobs", body, idempotency_key=key)
        return AsyncJobHandle(self._transport, self._session, job, not order.hosted_witness)

    async def submit(
        self,
        source: JobSource,
        *,
        signer: Signer | None = None,
        witness: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJobHandle:
        """Prepare and place in one go."""
        order = await self.prepare(source, signer=signer, witness=witness)
        return await self.place(order, idempotency_key=idempotency_key)

    async def get(self, job_id: str) -> AsyncJobHandle:
        """One job."""
        job = await self._transport.get(Job, f"/v1/jobs/{job_id}")
        return AsyncJobHandle(self._transport, self._session, job)

    def list(self, *, state: str | None = None, limit: int | None = None) -> AsyncIterator[Job]:
        """Every job of the caller, newest first."""
        return self._transport.pages(Job, "/v1/jobs", state=state, limit=limit)

    def receipts(self, *, limit: int | None = None) -> AsyncIterator[Receipt]:
        """Every receipt of the caller."""
        return self._transport.pages(Receipt, "/v1/receipts", limit=limit)
