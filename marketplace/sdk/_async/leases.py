"""Leases and attestations: what meter and witness say to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator

from marketplace.domain.life import Outcome
from marketplace.sdk._async.base import AsyncResource
from marketplace.wire.leases import (
    Attestation,
    AttestationAnswer,
    Countersignature,
    FinishReport,
    Heartbeat,
    HeartbeatReport,
    Lease,
    LogChunk,
    LogPosition,
    OutputStream,
    SignedAttestation,
    SignedClose,
    SignedStop,
    WitnessSignature,
)
from marketplace.wire.orders import BidInfo
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
        return await self._transport.post(
            AttestationAnswer,
            f"/v1/leases/{lease_id}/attestations",
            SignedAttestation(attestation=attestation, signature=signature),
            repeatable=True,
        )

    def attestations(
        self, lease_id: str, *, after_sequence: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Attestation]:
        """Attestations of a lease in order, with the vouchers the witness answered with."""
        path = f"/v1/leases/{lease_id}/attestations"
        return self._transport.pages(Attestation, path, after_sequence=after_sequence, limit=limit)

    async def heartbeat(self, lease_id: str, count: int, last: str | None = None) -> Heartbeat:
        """Forward a job's signs of life: how many so far, and when the last came (RFC 3339)."""
        return await self._transport.post(
            Heartbeat,
            f"/v1/leases/{lease_id}/heartbeats",
            HeartbeatReport(count=count, last=last),
            repeatable=True,
        )

    async def log(self, lease_id: str, stream: str, offset: int, text: str) -> LogPosition:
        """Append job output; `offset` (bytes of the stream so far) makes a repeat harmless."""
        return await self._transport.post(
            LogPosition,
            f"/v1/leases/{lease_id}/logs",
            LogChunk(stream=OutputStream(stream), offset=offset, text=text),
            repeatable=True,
        )

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
        path, body = f"/v1/leases/{lease_id}/close", WitnessSignature(signature=signature)
        return await self._transport.post(Lease, path, body, repeatable=True)

    async def stop(self, lease_id: str, stop: Stop, signature: bytes) -> Lease:
        """Hand in a Stop signed by witness or meter."""
        path, body = f"/v1/leases/{lease_id}/stop", SignedStop(stop=stop, signature=signature)
        return await self._transport.post(Lease, path, body, repeatable=True)


class AsyncAttestations(AsyncResource):
    """The witness's answers."""

    async def countersign(
        self, attestation_id: str, voucher: Voucher, signature: bytes
    ) -> Attestation:
        """Answer an attestation with a signed voucher."""
        return await self._transport.post(
            Attestation,
            f"/v1/attestations/{attestation_id}/countersign",
            Countersignature(voucher=voucher, signature=signature),
            repeatable=True,
        )
