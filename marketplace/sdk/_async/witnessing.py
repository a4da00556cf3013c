"""The witness over the API: fetch what is pending, let the desk judge, send what it signed."""

from __future__ import annotations

from collections.abc import Iterable

from marketplace.sdk._async.base import AsyncResource
from marketplace.sdk._async.leases import AsyncAttestations, AsyncLeases
from marketplace.sdk._async.transport import AsyncTransport
from marketplace.sdk.errors import ApiError
from marketplace.sdk.session import Session
from marketplace.sdk.values import Act
from marketplace.sdk.waiting import async_run
from marketplace.wire.leases import Attestation, CloseRequest, Lease, Pending, PendingList
from marketplace.wire.orders import AskInfo
from marketplace.witness.desk import Desk, Papers
from marketplace.witness.policy import WitnessRefusal


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
            elif lease.stop_requested and lease.state == "active":
                acts += await self._stop(desk, lease)
        except ApiError as error:
            acts.append(Act(lease.id, "send", problem=f"{error.code}: {error}"))
        return acts

    async def _admit(self, desk: Desk, lease: Lease) -> WitnessRefusal | None:
        bid = await self._leases.bid(lease.bid_id)
        ask = await self._transport.get(AskInfo, f"/v1/asks/{lease.ask_id}")
        if lease.terms is None:
            return WitnessRefusal.OTHER_LEASE
        papers = Papers(
            lease_no=lease.lease_no,
            bid=bid.bid,
            bid_signature=bid.signature,
            ask=ask.ask,
            prices=lease.terms.prices,
            interval_ms=lease.interval_ms,
            opened_unix=lease.terms.end - lease.terms.funded_seconds,
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
        answer = await async_run(desk.sign_close, item.message, item.meter_signature, beats)
        if isinstance(answer, WitnessRefusal):
            return Act(lease.id, "close", item.message.ms, refusal=answer)
        await self._leases.close(lease.id, answer)
        return Act(lease.id, "close", item.message.ms)

    async def _stop(self, desk: Desk, lease: Lease) -> list[Act]:
        answer = await async_run(desk.sign_stop, lease.lease_no, lease.stop_requested or "")
        if answer is WitnessRefusal.NOT_YET:
            return []
        if isinstance(answer, WitnessRefusal):
            return [Act(lease.id, "stop", refusal=answer)]
        await self._leases.stop(lease.id, *answer)
        return [Act(lease.id, "stop")]
