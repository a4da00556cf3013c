# Written by scripts/lib/unasync.py from the file of this name in _async: change that one.
"""The witness over the API: fetch what is pending, let the desk judge, send what it signed."""

from __future__ import annotations

from collections.abc import Iterable

from marketplace.sdk._sync.base import Resource
from marketplace.sdk._sync.leases import Attestations, Leases
from marketplace.sdk._sync.transport import Transport
from marketplace.sdk.errors import ApiError
from marketplace.sdk.session import Session
from marketplace.sdk.values import Act
from marketplace.sdk.waiting import run
from marketplace.wire.asks import AskInfo
from marketplace.wire.leases import CloseRequest, Lease, Pending, PendingList
from marketplace.wire.usage import Attestation
from marketplace.witness.desk import Desk, Papers
from marketplace.witness.policy import WitnessRefusal


class Witness(Resource):
    """Countersigning for the caller's leases with this client's witness key."""

    def __init__(self, transport: Transport, session: Session) -> None:
        super().__init__(transport, session)
        self._leases = Leases(transport, session)
        self._attestations = Attestations(transport, session)

    def address(self) -> str:
        """The address of this client's witness key."""
        return (run(self._session.witness)).address

    def tick(self, buyers: Iterable[str] = ()) -> tuple[Act, ...]:
        """Look once at everything pending and answer it. Buyers: whose bids to witness for."""
        self._market()
        named = tuple(buyers) or (run(self._session.address),)
        desk = run(self._session.desk, named)
        pending = self._transport.get(PendingList, "/v1/witness/pending")
        acts: list[Act] = []
        for item in pending.data:
            acts += self._answer(desk, item)
        return tuple(acts)

    def _answer(self, desk: Desk, item: Pending) -> list[Act]:
        """What one lease wants. A refusal by the market stops this lease, not the others."""
        lease = item.lease
        if lease.witness.lower() != desk.signer.address.lower():
            return []
        acts: list[Act] = []
        try:
            if not desk.knows(lease.lease_no):
                refusal = desk.refused(lease.lease_no) or self._admit(desk, lease)
                if refusal is not None:
                    return [Act(lease.id, "admit", refusal=refusal)]
            beats = item.heartbeat.count if item.heartbeat else 0
            run(desk.watch, lease.lease_no, beats)
            if item.attestation is not None:
                acts.append(self._countersign(desk, lease, item.attestation, beats))
            if item.close is not None:
                acts.append(self._close(desk, lease, item.close, beats))
            elif lease.stop_requested and lease.state == "active":
                acts += self._stop(desk, lease)
        except ApiError as error:
            acts.append(Act(lease.id, "send", problem=f"{error.code}: {error}"))
        return acts

    def _admit(self, desk: Desk, lease: Lease) -> WitnessRefusal | None:
        bid = self._leases.bid(lease.bid_id)
        ask = self._transport.get(AskInfo, f"/v1/asks/{lease.ask_id}")
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
        refusal = run(desk.admit, papers)
        if refusal is None and lease.countersigned.ms > desk.mark(lease.lease_no).ms:
            refusal = self._catch_up(desk, lease)
        return refusal

    def _catch_up(self, desk: Desk, lease: Lease) -> WitnessRefusal | None:
        """Learn own vouchers that the journal has forgotten: it was restored from an old copy.

        A market that shows one as ours that isn't hides what we signed: nothing is signed then.
        """
        number = lease.lease_no
        after = desk.mark(number).sequence
        for item in self._leases.attestations(lease.id, after_sequence=after):
            if item.voucher is None:
                continue
            refusal = run(
                desk.adopt, number, item.sequence, item.voucher.message, item.voucher.signature
            )
            if refusal is not None:
                run(desk.dismiss, number, refusal)
                return refusal
        return None

    def _countersign(self, desk: Desk, lease: Lease, item: Attestation, beats: int) -> Act:
        answer = run(desk.countersign, item.message, item.signature, beats)
        ms, sequence = item.message.ms, item.sequence
        if isinstance(answer, WitnessRefusal):
            return Act(lease.id, "countersign", ms, sequence, refusal=answer)
        self._attestations.countersign(item.id, *answer)
        return Act(lease.id, "countersign", ms, sequence)

    def _close(self, desk: Desk, lease: Lease, item: CloseRequest, beats: int) -> Act:
        answer = run(desk.sign_close, item.message, item.meter_signature, beats)
        if isinstance(answer, WitnessRefusal):
            return Act(lease.id, "close", item.message.ms, refusal=answer)
        self._leases.close(lease.id, answer)
        return Act(lease.id, "close", item.message.ms)

    def _stop(self, desk: Desk, lease: Lease) -> list[Act]:
        answer = run(desk.sign_stop, lease.lease_no, lease.stop_requested or "")
        if answer is WitnessRefusal.NOT_YET:
            return []
        if isinstance(answer, WitnessRefusal):
            return [Act(lease.id, "stop", refusal=answer)]
        self._leases.stop(lease.id, *answer)
        return [Act(lease.id, "stop")]
