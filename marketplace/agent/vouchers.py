"""What a lease's witness has countersigned, by its signature and not by the server's word for it.

Only vouchers are paid. A server that merely says that there are some would have a node work for
nothing, so the node checks each one itself and keeps the best.
"""

from __future__ import annotations

import threading

import structlog

from marketplace.agent.api import AgentApi
from marketplace.agent.journal import AgentJournal, LeaseEntry
from marketplace.wire.leases import Lease, SignedVoucher, Used
from settlement.attestation import Usage, UsageAttestation, Voucher
from settlement.errors import SignatureError
from settlement.signing import verify

log = structlog.get_logger("coulomb.agent")
Counts = tuple[int, int, int]  # ms, egress MiB, units: compared in this order, as the server does


class Vouchers:
    """The vouchers of one lease, whether its job runs here or ran under an earlier agent.

    Safe to use from several threads.
    """

    def __init__(self, api: AgentApi, journal: AgentJournal, entry: LeaseEntry) -> None:
        self._api = api
        self._journal = journal
        self._entry = entry
        self._lock = threading.Lock()
        self._sequence = -1
        self._best: Counts | None = None  # None: the journal was not read yet

    def learn(self, lease: Lease) -> int:
        """The countersigned ms by now; asks for vouchers only if the server speaks of more.

        Raises ApiDown, ApiError, JournalError.
        """
        with self._lock:
            if self._best is None:
                self._best = self._kept()
            if self._counts(lease.countersigned) > self._best:
                for held in self._api.attestations(self._entry.lease_id, self._sequence):
                    if held.voucher is not None:
                        self._best = self._take(held.sequence, held.voucher, self._best)
            return self._best[0]

    def cover(self, said: UsageAttestation) -> bool:
        """Whether what was learned so far pays for all that an attestation states."""
        with self._lock:
            return self._best is not None and self._best >= self._counts(said)

    def _kept(self) -> Counts:
        kept = self._journal.voucher(self._entry.lease_id)
        return (0, 0, 0) if kept is None else self._counts(kept[0])

    def _take(self, sequence: int, signed: SignedVoucher, best: Counts) -> Counts:
        """The best one after this one, which is kept if it is better."""
        voucher = self._verified(signed)
        if voucher is None:
            log.error("voucher_ignored", lease=self._entry.lease_id, sequence=sequence)
        elif self._counts(voucher) > best:
            self._journal.keep_voucher(self._entry.lease_id, voucher, signed.signature)
            self._sequence = sequence
            return self._counts(voucher)
        return best

    def _counts(self, used: Used | Voucher | UsageAttestation) -> Counts:
        """What of it this lease's vouchers state."""
        if isinstance(used, Usage) or not self._entry.metered:
            return used.ms, 0, 0
        return used.ms, used.egress_mib, used.units

    def _verified(self, signed: SignedVoucher) -> Voucher | None:
        """The voucher, if the witness that the buyer named signed it for this very lease."""
        entry = self._entry
        voucher = signed.message
        if not isinstance(voucher, entry.voucher_type):
            return None
        try:
            verify(voucher, entry.domain, signed.signature, entry.witness)
        except SignatureError:
            return None
        named = (voucher.buyer, voucher.provider, voucher.lease_no)
        return voucher if named == entry.key else None
