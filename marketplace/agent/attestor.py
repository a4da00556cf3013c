"""Signing for a lease: a value goes into the journal first, and only then is it signed."""

from __future__ import annotations

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
        self,
        journal: AgentJournal,
        signer: Signer,
        entry: LeaseEntry,
        wall_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._journal = journal
        self._signer = signer
        self._entry = entry
        self._wall_ms = wall_ms

    def attest(self, usage: UsageVector, reading: Reading) -> UsageAttestation:
        """AgentJournal a reading and sign cumulative usage under the next sequence number.

        Raises JournalError, and then has signed nothing new.
        """
        entry = self._entry
        self._sign_last()
        evidence = self._journal.add_reading(entry.lease_id, asdict(reading))
        last = self._journal.last(entry.lease_id)
        attestation = UsageAttestation(
            *entry.key,
            sequence=0 if last is None else last.message.sequence + 1,
            observed_at_ms=self._wall_ms(),
            **asdict(usage),
            evidence=evidence,
        )
        self._journal.propose(entry.lease_id, attestation)
        self._sign_last()
        return attestation

    def conclude(self, ending: Ending) -> None:
        """Decide the end: at the last attested usage, with a Close over exactly that.

        A lease that never had an attestation ends with one over nothing.
        """
        entry = self._entry
        self._sign_last()
        if self._journal.last(entry.lease_id) is None:
            self.attest(UsageVector(), Reading(self._wall_ms()))
        final, _ = self.final()
        close = Close(*entry.key, final.ms, final.egress_mib, final.units)
        self._journal.propose_close(entry.lease_id, close)
        self._sign_close()
        self._journal.end(entry.lease_id, ending)

    def final(self) -> tuple[UsageAttestation, bytes]:
        """The last attestation and its signature."""
        last = self._sign_last()
        if last is None:
            raise ValueError("nothing was attested")
        return last

    def close(self) -> tuple[Close, bytes]:
        """The lease's Close and the meter's signature."""
        signed = self._sign_close()
        if signed is None:
            raise ValueError("the lease has no Close")
        return signed

    def stop(self) -> tuple[Stop, bytes]:
        """A Stop of the lease."""
        stop = Stop(*self._entry.key)
        return stop, sign(stop, self._entry.domain, self._signer)

    def _sign_last(self) -> tuple[UsageAttestation, bytes] | None:
        """The newest journaled attestation, signed now if a crash came between the two steps."""
        last = self._journal.last(self._entry.lease_id)
        if last is None:
            return None
        if last.signature is not None:
            return last.message, last.signature
        signature = sign(last.message, self._entry.domain, self._signer)
        self._journal.keep_signature(self._entry.lease_id, last.message.sequence, signature)
        return last.message, signature

    def _sign_close(self) -> tuple[Close, bytes] | None:
        found = self._journal.close_of(self._entry.lease_id)
        if found is None:
            return None
        close, signature = found
        if signature is None:
            signature = sign(close, self._entry.domain, self._signer)
            self._journal.keep_close_signature(self._entry.lease_id, signature)
        return close, signature
