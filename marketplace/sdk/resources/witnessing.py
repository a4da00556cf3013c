"""The witness over the API: fetch what is pending, let the desk judge, send what it signed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from marketplace.sdk.decode import decode
from marketplace.sdk.errors import ApiError, ProtocolError
from marketplace.sdk.flow import Flow, Request, S, call, op
from marketplace.sdk.models import AskInfo, Attestation, BidInfo, CloseRequest, Lease, Pending
from marketplace.sdk.resources.base import ApiResource, hex0x
from marketplace.witness.desk import Desk, Papers
from marketplace.witness.policy import Refusal
from settlement.attestation import MeteredUsage, Usage, Voucher
from settlement.errors import FieldError


@dataclass(frozen=True, slots=True)
class Act:
    """One thing a witness did, or why it did not: for logs and people."""

    lease_id: str
    kind: str
    ms: int = 0
    sequence: int | None = None
    refusal: Refusal | None = None
    problem: str | None = None


class Witness(ApiResource[S]):
    """Countersigning for the caller's leases with this client's witness key."""

    @op
    def address(self) -> Flow[str]:
        """The address of this client's witness key."""
        signer = yield from call(self._session.witness)
        return signer.address

    @op
    def tick(self, buyers: Iterable[str] = ()) -> Flow[tuple[Act, ...]]:
        """Look once at everything pending and answer it. Buyers: whose bids to witness for."""
        yield from self._market()
        named = tuple(buyers) or ((yield from call(self._session.address)),)
        desk = yield from call(partial(self._session.desk, named))
        pending = yield from self._pending()
        acts: list[Act] = []
        for item in pending:
            acts += yield from self._answer(desk, item)
        return tuple(acts)

    def _pending(self) -> Flow[list[Pending]]:
        body = yield from self._json(Request("GET", "/v1/witness/pending"))
        if not isinstance(body, dict) or not isinstance(body.get("data"), list):
            raise ProtocolError("/v1/witness/pending: expected a list with `data`")
        return [decode(Pending, item) for item in body["data"]]

    def _answer(self, desk: Desk, item: Pending) -> Flow[list[Act]]:
        """What one lease wants. A refusal by the market stops this lease, not the others."""
        lease = item.lease
        if lease.witness.lower() != desk.signer.address.lower():
            return []
        acts: list[Act] = []
        try:
            if not desk.knows(_number(lease)):
                refusal = desk.refused(_number(lease)) or (yield from self._admit(desk, lease))
                if refusal is not None:
                    return [Act(lease.id, "admit", refusal=refusal)]
            beats = item.heartbeat.count if item.heartbeat else 0
            yield from call(partial(desk.watch, _number(lease), beats))
            if item.attestation is not None:
                acts.append((yield from self._countersign(desk, lease, item.attestation, beats)))
            if item.close is not None:
                acts.append((yield from self._close(desk, lease, item.close, beats)))
            elif lease.stop_requested and lease.state == "active":
                acts += yield from self._stop(desk, lease)
        except ApiError as error:
            acts.append(Act(lease.id, "send", problem=f"{error.code}: {error}"))
        return acts

    def _admit(self, desk: Desk, lease: Lease) -> Flow[Refusal | None]:
        bid = yield from self._read(BidInfo, Request("GET", f"/v1/bids/{lease.bid_id}"))
        ask = yield from self._read(AskInfo, Request("GET", f"/v1/asks/{lease.ask_id}"))
        if lease.terms is None:
            return Refusal.OTHER_LEASE
        papers = Papers(
            lease_no=_number(lease),
            bid=bid.bid,
            bid_signature=bid.signature,
            ask=ask.ask,
            prices=lease.terms.prices,
            interval_ms=lease.interval_ms,
            opened_unix=lease.terms.start,
        )
        refusal = yield from call(partial(desk.admit, papers))
        if refusal is None and lease.countersigned.ms > desk.mark(papers.lease_no).ms:
            refusal = yield from self._catch_up(desk, lease)
        return refusal

    def _catch_up(self, desk: Desk, lease: Lease) -> Flow[Refusal | None]:
        """Learn own vouchers that the journal has forgotten: it was restored from an old copy.

        A market that shows one as ours that is none hides what we signed: nothing is signed then.
        """
        cursor: str | None = None
        while True:
            params = {"after_sequence": desk.mark(_number(lease)).sequence, "cursor": cursor}
            path = f"/v1/leases/{lease.id}/attestations"
            body = yield from self._json(Request("GET", path, params))
            for item in [decode(Attestation, row) for row in body["data"]]:
                if item.voucher is not None:
                    voucher = voucher_of(item.voucher.message)
                    signature = item.voucher.signature
                    number = _number(lease)
                    adopt = partial(desk.adopt, number, item.sequence, voucher, signature)
                    refusal = yield from call(adopt)
                    if refusal is not None:
                        yield from call(partial(desk.dismiss, number, refusal))
                        return refusal
            cursor = body.get("next_cursor") if body.get("has_more") else None
            if cursor is None:
                return None

    def _countersign(self, desk: Desk, lease: Lease, item: Attestation, beats: int) -> Flow[Act]:
        answer = yield from call(partial(desk.countersign, item.message, item.signature, beats))
        ms, sequence = item.message.ms, item.sequence
        if isinstance(answer, Refusal):
            return Act(lease.id, "countersign", ms, sequence, refusal=answer)
        voucher, signature = answer
        body = {"voucher": voucher.to_message(), "signature": hex0x(signature)}
        path = f"/v1/attestations/{item.id}/countersign"
        yield from self._json(Request("POST", path, json=body, repeatable=True))
        return Act(lease.id, "countersign", ms, sequence)

    def _close(self, desk: Desk, lease: Lease, item: CloseRequest, beats: int) -> Flow[Act]:
        sign_it = partial(desk.sign_close, item.message, item.meter_signature, beats)
        answer = yield from call(sign_it)
        if isinstance(answer, Refusal):
            return Act(lease.id, "close", item.message.ms, refusal=answer)
        path, body = f"/v1/leases/{lease.id}/close", {"signature": hex0x(answer)}
        yield from self._json(Request("POST", path, json=body, repeatable=True))
        return Act(lease.id, "close", item.message.ms)

    def _stop(self, desk: Desk, lease: Lease) -> Flow[list[Act]]:
        reason = lease.stop_requested or ""
        answer = yield from call(partial(desk.sign_stop, _number(lease), reason))
        if answer is Refusal.NOT_YET:
            return []
        if isinstance(answer, Refusal):
            return [Act(lease.id, "stop", refusal=answer)]
        stop, signature = answer
        body = {"stop": stop.to_message(), "signature": hex0x(signature)}
        path = f"/v1/leases/{lease.id}/stop"
        yield from self._json(Request("POST", path, json=body, repeatable=True))
        return [Act(lease.id, "stop")]


def _number(lease: Lease) -> bytes:
    return bytes.fromhex(lease.lease_no.removeprefix("0x"))


def voucher_of(message: object) -> Voucher:
    """A voucher by its members; which of the two it is shows in them."""
    metered = isinstance(message, dict) and "egressMib" in message
    try:
        return MeteredUsage.from_message(message) if metered else Usage.from_message(message)
    except FieldError as error:
        raise ProtocolError(f"voucher: {error}") from None
