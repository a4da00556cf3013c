"""Leases, attestations and the witness: what meter and witness say to each other."""

from collections.abc import AsyncIterator, Iterable

from marketplace.domain.job import parse_job
from marketplace.domain.life import LeaseState, Outcome, StopReason
from marketplace.errors import InvalidJob
from marketplace.sdk._async.transport import AsyncResource, AsyncTransport
from marketplace.sdk.errors import ApiError
from marketplace.sdk.session import Act, Session
from marketplace.sdk.waiting import async_run
from marketplace.wire.leases import (
    Attestation,
    AttestationAnswer,
    CloseRequest,
    Countersignature,
    FinishReport,
    Heartbeat,
    HeartbeatReport,
    Lease,
    LogChunk,
    LogPosition,
    OutputStream,
    Pending,
    PendingList,
    SignedAttestation,
    SignedClose,
    SignedStop,
    WitnessSignature,
)
from marketplace.wire.orders import AskInfo, BidInfo
from marketplace.witness.desk import Desk
from marketplace.witness.policy import Papers, WitnessRefusal
from settlement.attestation import Close, Stop, UsageAttestation, Voucher


class AsyncLeases(AsyncResource):
    """Leases of the caller, as buyer, provider or witness."""

    async def get(self, lease_id: str) -> Lease:
        """One lease."""
        return await self._transport.get(Lease, f"/v1/leases/{lease_id}")

    def list(
        self,
        *,
        role: str | None = None,
        state: str | None = None,
        node_id: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Lease]:
        """Leases by role (`provider` or `buyer`), state and node."""
        return self._transport.pages(
            Lease, "/v1/leases", role=role, state=state, node_id=node_id, limit=limit
        )

    async def bid(self, bid_id: str) -> BidInfo:
        """The signed bid that a lease of the caller serves."""
        return await self._transport.get(BidInfo, f"/v1/bids/{bid_id}")

    async def attest(
        self, lease_id: str, attestation: UsageAttestation, signature: bytes
    ) -> AttestationAnswer:
        """Hand in the meter's signed usage; the same again is the same attestation."""
        path = f"/v1/leases/{lease_id}/attestations"
        body = SignedAttestation(attestation=attestation, signature=signature)
        return await self._transport.post(AttestationAnswer, path, body, repeatable=True)

    def attestations(
        self, lease_id: str, *, after_sequence: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Attestation]:
        """Attestations of a lease in order, with the vouchers the witness answered with."""
        path = f"/v1/leases/{lease_id}/attestations"
        return self._transport.pages(Attestation, path, after_sequence=after_sequence, limit=limit)

    async def heartbeat(self, lease_id: str, count: int, last: str | None = None) -> Heartbeat:
        """Forward a job's signs of life: how many so far, and when the last came (RFC 3339)."""
        path = f"/v1/leases/{lease_id}/heartbeats"
        body = HeartbeatReport(count=count, last=last)
        return await self._transport.post(Heartbeat, path, body, repeatable=True)

    async def log(self, lease_id: str, stream: str, offset: int, text: str) -> LogPosition:
        """Append job output; `offset` (bytes of the stream so far) makes a repeat harmless."""
        body = LogChunk(stream=OutputStream(stream), offset=offset, text=text)
        path = f"/v1/leases/{lease_id}/logs"
        return await self._transport.post(LogPosition, path, body, repeatable=True)

    async def finish(
        self,
        lease_id: str,
        *,
        outcome: str,
        exit_code: int | None,
        reason: str,
        outputs: str | None,
        attestation: UsageAttestation,
        signature: bytes,
        close: Close,
        close_signature: bytes,
        idempotency_key: str,
    ) -> Lease:
        """Report a job's end with the last attestation and the meter's half of the Close."""
        report = FinishReport(
            outcome=Outcome(outcome),
            exit_code=exit_code,
            reason=reason,
            outputs=outputs,
            attestation=attestation,
            signature=signature,
            close=SignedClose(message=close, signature=close_signature),
        )
        path = f"/v1/leases/{lease_id}/finish"
        return await self._transport.post(Lease, path, report, idempotency_key=idempotency_key)

    async def close(self, lease_id: str, signature: bytes) -> Lease:
        """Hand in the witness's half of the Close."""
        path = f"/v1/leases/{lease_id}/close"
        body = WitnessSignature(signature=signature)
        return await self._transport.post(Lease, path, body, repeatable=True)

    async def stop(self, lease_id: str, stop: Stop, signature: bytes) -> Lease:
        """Hand in a Stop signed by witness or meter."""
        path = f"/v1/leases/{lease_id}/stop"
        body = SignedStop(stop=stop, signature=signature)
        return await self._transport.post(Lease, path, body, repeatable=True)


class AsyncAttestations(AsyncResource):
    """The witness's answers."""

    async def countersign(
        self, attestation_id: str, voucher: Voucher, signature: bytes
    ) -> Attestation:
        """Answer an attestation with a signed voucher."""
        path = f"/v1/attestations/{attestation_id}/countersign"
        body = Countersignature(voucher=voucher, signature=signature)
        return await self._transport.post(Attestation, path, body, repeatable=True)


class AsyncWitness(AsyncResource):
    """Countersigning for the caller's leases with this client's witness key."""

    def __init__(self, transport: AsyncTransport, session: Session) -> None:
        super().__init__(transport, session)
        self._leases = AsyncLeases(transport, session)
        self._attestations = AsyncAttestations(transport, session)

    async def address(self) -> str:
        """The address of this client's witness key."""
        return (await async_run(self._session.witness)).address

    async def tick(self, buyers: Iterable[str] = ()) -> tuple[Act, ...]:
        """Look once at everything pending and answer it. Buyers: whose bids to witness for."""
        await self._market()
        named = tuple(buyers) or (await async_run(self._session.address),)
        desk = await async_run(self._session.desk, named)
        pending = await self._transport.get(PendingList, "/v1/witness/pending")
        acts: list[Act] = []
        for item in pending.data:
            acts += await self._answer(desk, item)
        return tuple(acts)

    async def _answer(self, desk: Desk, item: Pending) -> list[Act]:
        """What one lease wants. A refusal by the market stops this lease, not the others."""
        lease = item.lease
        if lease.witness.lower() != desk.signer.address.lower():
            return []
        acts: list[Act] = []
        try:
            if not desk.knows(lease.lease_no):
                refusal = desk.refused(lease.lease_no) or await self._admit(desk, lease)
                if refusal is not None:
                    return [Act(lease.id, "admit", refusal=refusal)]
            beats = item.heartbeat.count if item.heartbeat else 0
            await async_run(desk.watch, lease.lease_no, beats)
            if item.attestation is not None:
                acts.append(await self._countersign(desk, lease, item.attestation, beats))
            if item.close is not None:
                acts.append(await self._close(desk, lease, item.close, beats))
            elif lease.stop_requested == StopReason.RETRY or (
                lease.stop_requested and lease.state == LeaseState.ACTIVE
            ):
                acts += await self._stop(desk, lease)
        except ApiError as error:
            acts.append(Act(lease.id, "send", problem=f"{error.code}: {error}"))
        return acts

    async def _admit(self, desk: Desk, lease: Lease) -> WitnessRefusal | None:
        bid = await self._leases.bid(lease.bid_id)
        ask = await self._transport.get(AskInfo, f"/v1/asks/{lease.ask_id}")
        if lease.terms is None or lease.job is None:
            return WitnessRefusal.OTHER_LEASE
        try:
            spec = parse_job(lease.job.spec, packed=True)
        except InvalidJob:
            return WitnessRefusal.OTHER_JOB
        papers = Papers(
            lease_no=lease.lease_no,
            bid=bid.bid,
            bid_signature=bid.signature,
            ask=ask.ask,
            prices=lease.terms.prices,
            interval_ms=lease.interval_ms,
            spec=spec,
            opened_unix=lease.terms.start,
        )
        refusal = await async_run(desk.admit, papers)
        if refusal is None and lease.countersigned.ms > desk.mark(lease.lease_no).ms:
            refusal = await self._catch_up(desk, lease)
        return refusal

    async def _catch_up(self, desk: Desk, lease: Lease) -> WitnessRefusal | None:
        """Learn own vouchers that the journal has forgotten: it was restored from an old copy.

        A market that shows one as ours that isn't hides what we signed: nothing is signed then.
        """
        number = lease.lease_no
        after = desk.mark(number).sequence
        async for item in self._leases.attestations(lease.id, after_sequence=after):
            if item.voucher is None:
                continue
            refusal = await async_run(
                desk.adopt, number, item.sequence, item.voucher.message, item.voucher.signature
            )
            if refusal is not None:
                await async_run(desk.dismiss, number, refusal)
                return refusal
        return None

    async def _countersign(self, desk: Desk, lease: Lease, item: Attestation, beats: int) -> Act:
        answer = await async_run(desk.countersign, item.message, item.signature, beats)
        ms, sequence = item.message.ms, item.sequence
        if isinstance(answer, WitnessRefusal):
            return Act(lease.id, "countersign", ms, sequence, refusal=answer)
        await self._attestations.countersign(item.id, *answer)
        return Act(lease.id, "countersign", ms, sequence)

    async def _close(self, desk: Desk, lease: Lease, item: CloseRequest, beats: int) -> Act:
        outcome = item.outcome.outcome if item.outcome else None
        answer = await async_run(
            desk.sign_close, item.message, item.meter_signature, beats, outcome
        )
        if isinstance(answer, WitnessRefusal):
            return Act(lease.id, "close", item.message.ms, refusal=answer)
        await self._leases.close(lease.id, answer)
        return Act(lease.id, "close", item.message.ms)

    async def _stop(self, desk: Desk, lease: Lease) -> list[Act]:
        outcome = lease.outcome.outcome if lease.outcome else None
        reason = lease.stop_requested or ""
        answer = await async_run(desk.sign_stop, lease.lease_no, reason, outcome)
        if answer is WitnessRefusal.NOT_YET:
            return []
        if isinstance(answer, WitnessRefusal):
            return [Act(lease.id, "stop", refusal=answer)]
        await self._leases.stop(lease.id, *answer)
        return [Act(lease.id, "stop")]
