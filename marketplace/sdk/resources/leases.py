"""Leases and attestations: what meter and witness say to each other."""

from __future__ import annotations

from functools import partial
from typing import Any

from marketplace.sdk.decode import decode
from marketplace.sdk.flow import Flow, Query, Request, S, listing, op
from marketplace.sdk.models import Attestation, AttestationAnswer, BidInfo, Lease
from marketplace.sdk.resources.base import ApiResource, hex0x
from settlement.attestation import Close, Stop, UsageAttestation, Voucher


class Leases(ApiResource[S]):
    """Leases of the caller, as buyer, provider or witness."""

    @op
    def get(self, lease_id: str) -> Flow[Lease]:
        """One lease."""
        return (yield from self._read(Lease, Request("GET", f"/v1/leases/{lease_id}")))

    @listing
    def list(
        self,
        *,
        role: str | None = None,
        state: str | None = None,
        node_id: str | None = None,
        limit: int | None = None,
    ) -> Query[Lease]:
        """Leases by role (`provider` or `buyer`), state and node."""
        params = {"role": role, "state": state, "node_id": node_id, "limit": limit}
        return Query("/v1/leases", partial(decode, Lease), params)

    @op
    def bid(self, bid_id: str) -> Flow[BidInfo]:
        """The signed bid that a lease of the caller serves."""
        return (yield from self._read(BidInfo, Request("GET", f"/v1/bids/{bid_id}")))

    @op
    def attest(
        self, lease_id: str, attestation: UsageAttestation, signature: bytes
    ) -> Flow[AttestationAnswer]:
        """Hand in the meter's signed usage; the same again is the same attestation."""
        body = {"attestation": attestation.to_message(), "signature": hex0x(signature)}
        path = f"/v1/leases/{lease_id}/attestations"
        request = Request("POST", path, json=body, repeatable=True)
        return (yield from self._read(AttestationAnswer, request))

    @listing
    def attestations(
        self, lease_id: str, *, after_sequence: int | None = None, limit: int | None = None
    ) -> Query[Attestation]:
        """Attestations of a lease in order, with the vouchers the witness answered with."""
        params = {"after_sequence": after_sequence, "limit": limit}
        path = f"/v1/leases/{lease_id}/attestations"
        return Query(path, partial(decode, Attestation), params)

    @op
    def heartbeat(self, lease_id: str, count: int, last: str | None = None) -> Flow[Any]:
        """Forward a job's signs of life: how many so far, and when the last came (RFC 3339)."""
        path = f"/v1/leases/{lease_id}/heartbeats"
        request = Request("POST", path, json={"count": count, "last": last}, repeatable=True)
        return (yield from self._json(request))

    @op
    def log(self, lease_id: str, stream: str, offset: int, text: str) -> Flow[Any]:
        """Append job output; `offset` (bytes of the stream so far) makes a repeat harmless."""
        body = {"stream": stream, "offset": offset, "text": text}
        path = f"/v1/leases/{lease_id}/logs"
        return (yield from self._json(Request("POST", path, json=body, repeatable=True)))

    @op
    def finish(
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
    ) -> Flow[Any]:
        """Report a job's end with the last attestation and the meter's half of the Close."""
        body = {
            "outcome": outcome,
            "exit_code": exit_code,
            "reason": reason,
            "outputs": outputs,
            "attestation": attestation.to_message(),
            "signature": hex0x(signature),
            "close": {"message": close.to_message(), "signature": hex0x(close_signature)},
        }
        path = f"/v1/leases/{lease_id}/finish"
        request = Request("POST", path, json=body, idempotency_key=idempotency_key)
        return (yield from self._json(request))

    @op
    def close(self, lease_id: str, signature: bytes) -> Flow[Any]:
        """Hand in the witness's half of the Close."""
        path = f"/v1/leases/{lease_id}/close"
        request = Request("POST", path, json={"signature": hex0x(signature)}, repeatable=True)
        return (yield from self._json(request))

    @op
    def stop(self, lease_id: str, stop: Stop, signature: bytes) -> Flow[Any]:
        """Hand in a Stop signed by witness or meter."""
        body = {"stop": stop.to_message(), "signature": hex0x(signature)}
        request = Request("POST", f"/v1/leases/{lease_id}/stop", json=body, repeatable=True)
        return (yield from self._json(request))


class Attestations(ApiResource[S]):
    """The witness's answers."""

    @op
    def countersign(self, attestation_id: str, voucher: Voucher, signature: bytes) -> Flow[Any]:
        """Answer an attestation with a signed voucher."""
        body = {"voucher": voucher.to_message(), "signature": hex0x(signature)}
        path = f"/v1/attestations/{attestation_id}/countersign"
        return (yield from self._json(Request("POST", path, json=body, repeatable=True)))
