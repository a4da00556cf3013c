"""Signing for a lease: a value goes into the journal first, and only then is it signed."""

import time
from collections.abc import Callable
from dataclasses import asdict

from marketplace.agent.journal import AgentJournal, Ending, LeaseEntry
from marketplace.agent.meters import Reading
from settlement.attestation import Close, Stop, UsageAttestation
from settlement.signing import Signer, sign
from settlement.usage import UsageVector


def unix_ms() -> int:
    """The wall clock, for people and for `observed_at_ms`; nothing is measured by it."""
    return time.time_ns() // 1_000_000


class Attestor:
    """Signs for one lease with the meter key.

    `attest` adds a reading each time; any other method may be repeated and yields the same bytes.
    """

    def __init__(
        self, journal: AgentJournal, signer: Signer, entry: LeaseEntry,
        wall_ms: Callable[[], int] = unix_ms,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._signer = signer
        self._entry = entry
        self._wall_ms = wall_ms

    def attest(self, usage: UsageVector, reading: Reading) -> UsageAttestation:
        """Journal a reading and sign cumulative usage under the next sequence number.

        Raises JournalError, and then has signed nothing new.
        """
        lease_id = self._entry.lease_id
        last = self._signed_last()
        attestation = UsageAttestation(
            *self._entry.key,
            sequence=0 if last is None else last[0].sequence + 1,
            observed_at_ms=self._wall_ms(),
            **asdict(usage),
            evidence=self._journal.add_reading(lease_id, asdict(reading)),
        )
        self._journal.propose(lease_id, attestation)
        self._signed_last()
        return attestation

    def conclude(self, ending: Ending) -> None:
        """Decide the end: at the last attested usage, with a Close over exactly that.

        A lease that never had an attestation ends with one over nothing.
        """
        if self._signed_last() is None:
            self.attest(UsageVector(), Reading(self._wall_ms()))
        final, _ = self.final()
        close = Close(*self._entry.key, final.ms, final.egress_mib, final.units)
        self._journal.propose_close(self._entry.lease_id, close)
        self.close()
        self._journal.end(self._entry.lease_id, ending)

    def final(self) -> tuple[UsageAttestation, bytes]:
        """The last attestation and its signature."""
        last = self._signed_last()
        if last is None:
            raise ValueError("nothing was attested")
        return last

    def close(self) -> tuple[Close, bytes]:
        """The lease's Close, signed now if a crash came between journal and signature."""
        entry = self._journal.lease(self._entry.lease_id)
        if entry is None or entry.close is None:
            raise ValueError("the lease has no Close")
        close, signature = entry.close
        if signature is None:
            signature = sign(close, entry.domain, self._signer)
            self._journal.keep_close_signature(entry.lease_id, signature)
        return close, signature

    def stop(self) -> tuple[Stop, bytes]:
        """A Stop of the lease."""
        stop = Stop(*self._entry.key)
        return stop, sign(stop, self._entry.domain, self._signer)

    def _signed_last(self) -> tuple[UsageAttestation, bytes] | None:
        """The newest journaled attestation, signed now if a crash came between the two steps."""
        last = self._journal.last(self._entry.lease_id)
        if last is None:
            return None
        signature = last.signature
        if signature is None:
            signature = sign(last.message, self._entry.domain, self._signer)
            self._journal.keep_signature(self._entry.lease_id, last.message.sequence, signature)
        return last.message, signature
