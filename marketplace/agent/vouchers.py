"""What a lease's witness has countersigned, by its signature and not by the server's word for it.

Usage is paid on vouchers alone. A server that only says that there are some would have a node work
for nothing, so the node checks each one itself and keeps the best.
"""

from __future__ import annotations

import structlog

from marketplace.agent.assignment import Assignment
from marketplace.agent.journal import LeaseEntry
from marketplace.agent.node import Node
from marketplace.sdk.models import Lease, SignedVoucher
from settlement.attestation import MeteredUsage, Usage, Voucher
from settlement.errors import FieldError, SignatureError
from settlement.signing import verify

log = structlog.get_logger("coulomb.agent")


class Vouchers:
    """The vouchers of one lease whose job runs here."""

    def __init__(self, node: Node, entry: LeaseEntry, job: Assignment) -> None:
        self._node = node
        self._entry = entry
        self._witness = job.witness
        self._kind: type[Usage | MeteredUsage] = MeteredUsage if job.metered else Usage
        self._sequence = -1
        self._ms = 0

    def learn(self, lease: Lease) -> int:
        """The countersigned ms by now; asks for vouchers only where the server speaks of more.

        Raises ApiDown, ApiError, JournalError.
        """
        if lease.countersigned.ms > self._ms:
            for held in self._node.api.attestations(self._entry.lease_id, self._sequence):
                if held.voucher is not None:
                    self._take(held.sequence, held.voucher)
        return self._ms

    def _take(self, sequence: int, signed: SignedVoucher) -> None:
        voucher = self._verified(signed)
        if voucher is None:
            log.error("voucher_ignored", lease=self._entry.lease_id, sequence=sequence)
        elif voucher.ms > self._ms:
            self._node.journal.keep_voucher(
                self._entry.lease_id, sequence, voucher, signed.signature
            )
            self._sequence, self._ms = sequence, voucher.ms

    def _verified(self, signed: SignedVoucher) -> Voucher | None:
        """The voucher, if the witness that the buyer named signed it for this very lease."""
        entry = self._entry
        try:
            voucher = self._kind.from_message(signed.message)
            verify(voucher, entry.domain, signed.signature, self._witness)
        except (FieldError, SignatureError):
            return None
        parties = (voucher.buyer, voucher.provider, voucher.lease_no)
        return voucher if parties == (entry.buyer, entry.provider, entry.lease_no) else None
