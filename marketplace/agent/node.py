"""What the leases of this node share, and what the threads that work on one lease share."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

from marketplace.agent.channel import JobLogs
from marketplace.agent.folders import JobFolders
from marketplace.agent.inventory import Inventory, Nvml
from marketplace.agent.journal import AgentJournal, Ending, LeaseEntry
from marketplace.agent.meters import Reading
from marketplace.agent.onchain import ChainLook
from marketplace.agent.runtime.process import ProcessRuntime
from marketplace.domain.life import TAKEN_BACK, LeaseState, Outcome, StopReason, runs_again
from marketplace.limits import STOP_SECONDS
from marketplace.sdk import Coulomb
from marketplace.wire.leases import Lease, SignedVoucher, Used
from settlement.attestation import Close, Stop, Usage, UsageAttestation, Voucher
from settlement.eip712 import Domain
from settlement.leases import LeaseView, Shows
from settlement.signing import Signer, sign
from settlement.usage import UsageVector

log = structlog.get_logger("coulomb.agent")
Counts = tuple[int, int, int]  # ms, egress MiB, units: compared in this order, as the server does
LIVE = (LeaseState.OPENING, LeaseState.ACTIVE)  # states of a lease whose job may run


def unix_ms() -> int:
    """The wall clock, for people and for `observed_at_ms`; nothing is measured by it."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class ThisNode:
    api: Coulomb
    journal: AgentJournal
    runtime: ProcessRuntime
    signer: Signer
    domain: Domain  # of the escrow that it signs for
    inventory: Inventory
    jobs_folder: Path
    node_id: str = ""
    shared: bool = False
    nvml: Nvml | None = None
    shows: Shows | None = None  # leases on a node of our own; None: the market's word counts
    stop_grace_s: float = 10.0
    pids_max: int = 512
    poll_s: float = 1.0


class Attestor:
    """Signs for one lease with the meter key; repeating all but `attest` yields the same bytes."""

    def __init__(self, journal: AgentJournal, signer: Signer, entry: LeaseEntry) -> None:
        self._journal = journal
        self._signer = signer
        self._entry = entry

    def attest(self, usage: UsageVector, reading: Reading) -> UsageAttestation:
        """Journal a reading, then sign usage under the next number. Raises JournalError."""
        lease_id = self._entry.lease_id
        last = self._sign_last()
        evidence = self._journal.add_reading(lease_id, asdict(reading))
        sequence = 0 if last is None else last[0].sequence + 1
        attestation = UsageAttestation(
            *self._entry.key, sequence, unix_ms(), **asdict(usage), evidence=evidence
        )
        self._journal.propose(lease_id, attestation)
        self._sign_last()  # the message is durable now
        return attestation

    def conclude(self, ending: Ending) -> None:
        """Decide the end, with a Close over exactly the last attested usage, or over nothing."""
        if self._sign_last() is None:
            self.attest(UsageVector(), Reading(unix_ms()))
        final, _ = self.final()
        again = runs_again(self._entry.retry_on, ending.outcome)
        close = Close(*self._entry.key, final.ms, final.egress_mib, final.units, again)
        self._journal.end(self._entry.lease_id, ending, close)
        self.close()

    def amend(self, ending: Ending) -> None:
        """Replace an ending that the server has not taken, and the Close if its `again` changes."""
        close, _ = self.close()
        close = replace(close, again=runs_again(self._entry.retry_on, ending.outcome))
        self._journal.amend_ending(self._entry.lease_id, ending, close)

    def final(self) -> tuple[UsageAttestation, bytes]:
        last = self._sign_last()
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
            self._journal.keep_close_signature(entry.lease_id, close, signature)
        return close, signature

    def stop(self) -> tuple[Stop, bytes]:
        stop = Stop(*self._entry.key, again=False, deadline=unix_ms() // 1000 + STOP_SECONDS)
        return stop, sign(stop, self._entry.domain, self._signer)

    def _sign_last(self) -> tuple[UsageAttestation, bytes] | None:
        """Sign the newest journaled attestation unless its signature is journaled, too; return
        both, or None if nothing was attested."""
        last = self._journal.last(self._entry.lease_id)
        if last is None:
            return None
        message, signature, _ = last
        if signature is None:
            signature = sign(message, self._entry.domain, self._signer)
            self._journal.keep_signature(self._entry.lease_id, message.sequence, signature)
        return message, signature


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a job is to stop: its outcome, the reason, and whether it gets time to end by itself."""

    outcome: Outcome
    reason: str
    grace: bool = True


class HeldLease:
    """One lease in hand: what the threads of its job and of its courier tell each other.

    Each look at the server's view of the lease is an `observe`, in three steps: `heed` (stop the
    job if the server asks for it), `learn` (fetch and check the vouchers that are new), `cover`
    (note how much is countersigned by now, which renews the witness's grace).
    """

    def __init__(
        self,
        node: ThisNode,
        entry: LeaseEntry,
        clock_s: Callable[[], float] = time.monotonic,
        notice_s: int | None = None,
        shown: LeaseView | None = None,
    ) -> None:
        """`notice_s`: how long after notice the node is taken back; None: it is not. `shown`: what
        our own node of the chain has shown of it already."""
        self.node = node
        self.entry = entry
        self.id = entry.lease_id
        self.folders = JobFolders(node.jobs_folder / entry.lease_id)
        self.attestor = Attestor(node.journal, node.signer, entry)
        self.logs: JobLogs | None = None  # None: no job runs and none is to be reported
        self.halt: Halt | None = None  # why its job is to stop, if it is
        self.paid_ms = 0  # the most that the chain pays for, by the last look
        self.beats: tuple[int, float | None] = (0, None)  # signs of life; Unix time of the last
        self._look = ChainLook(node.shows, entry, shown, clock_s) if node.shows else None
        self._clock_s = clock_s
        self._notice_s = notice_s
        self._taken_back_at_s: float | None = None  # by `clock_s`; None: no notice was given
        self._told_notice = False
        self._lock = threading.Lock()
        self._learning = threading.Lock()
        self._halted = threading.Event()
        self._news = threading.Event()
        self._voucher_sequence = -1
        self._covered_ms = 0
        self._covered_at_s = clock_s()

    @property
    def now(self) -> LeaseEntry:
        """What the journal holds of it by now; `entry` is how it was taken up."""
        return self.node.journal.lease(self.id) or self.entry

    def open_logs(self) -> JobLogs:
        self.logs = JobLogs(self.folders.logs)
        return self.logs

    def observe(self, lease: Lease) -> None:
        """Take in what the server says, and what the witness verifiably signed."""
        self.heed(lease)
        self.cover(self.learn(lease))  # also once the job has ended: the last voucher pays the most

    def heed(self, lease: Lease) -> None:
        """Note what is paid for; stop the job if the server asks for that, or the lease is over."""
        if lease.terms is not None:
            stated = lease.terms.paid_seconds
            self.paid_ms = (self._look.paid_seconds(stated) if self._look else stated) * 1000
        over = self._look.over if self._look else None
        if (reason := lease.stop_requested) is not None:
            cancelled = reason == StopReason.CANCELLED
            self.stop(Halt(Outcome.CANCELLED if cancelled else Outcome.FAILED, reason))
        elif lease.state not in LIVE:
            self.stop(Halt(Outcome.FAILED, f"lease_{lease.state}"))
        elif over is not None:  # the market keeps it to itself
            self.stop(Halt(Outcome.FAILED, f"lease_{over.name.lower()}"))
        elif lease.notice_at is not None and self._notice_s is not None:
            self._heed_notice(self._notice_s)
        self.tell()

    @property
    def has_notice(self) -> bool:
        """Whether its provider takes the node back."""
        return self._taken_back_at_s is not None

    def _heed_notice(self, notice_s: int) -> None:
        """Stop the job once all of the notice has passed since it was seen here, which is no sooner
        than the market noted it. A job that runs is told at once, by a file."""
        now_s = self._clock_s()
        if self._taken_back_at_s is None:
            self._taken_back_at_s = now_s + notice_s
            log.info("notice_given", lease=self.id, seconds=notice_s)
        left_s = self._taken_back_at_s - now_s
        if self.logs is not None and not self._told_notice:
            self._told_notice = True
            self.logs.say(f"the provider takes this node back in {max(0, round(left_s))}s")
            try:
                self.folders.tell_notice(unix_ms() // 1000 + round(left_s))
            except OSError as error:  # the disk is full, most likely
                log.warning("notice_not_told", lease=self.id, error=str(error))
        if left_s <= 0:
            self.stop(Halt(Outcome.LOST, TAKEN_BACK))

    def stop(self, halt: Halt) -> None:
        """Have the job stopped. Only the first reason counts."""
        with self._lock:
            self.halt = self.halt or halt
        self._halted.set()

    def wait_for_halt(self, timeout_s: float) -> None:
        self._halted.wait(timeout_s)

    def tell(self) -> None:
        """Wake the courier: there is something new to send or to look at."""
        self._news.set()

    def wait_for_news(self, timeout_s: float) -> None:
        self._news.wait(timeout_s)
        self._news.clear()

    def start_covering(self) -> None:
        """The job is ready: from now on countersignatures are due."""
        self._covered_at_s = self._clock_s()

    def cover(self, countersigned_ms: int) -> None:
        """Take in how much the witness has countersigned; only growth renews the grace."""
        with self._lock:
            if countersigned_ms > self._covered_ms:
                self._covered_ms = countersigned_ms
                self._covered_at_s = self._clock_s()

    def uncovered_ms(self, metered_ms: int) -> int:
        """How long countersignatures stay away, or how far they are behind the meter: the longer.

        A witness that signs a little in every grace is not silent, yet leaves most of it unpaid.
        """
        silent_ms = int((self._clock_s() - self._covered_at_s) * 1000)
        return max(silent_ms, metered_ms - self._covered_ms)

    def learn(self, lease: Lease) -> int:
        """The countersigned ms by now; fetches vouchers only if the server claims more.

        Only vouchers are paid, so the node believes no number: it checks each voucher itself.
        """
        with self._learning:
            if self._counts(lease.countersigned) > self._best():
                after = self._voucher_sequence
                for held in self.node.api.leases.attestations(self.id, after_sequence=after):
                    if held.voucher is not None:
                        self._keep(held.voucher, held.sequence)
            return self._best()[0]

    def _keep(self, signed: SignedVoucher, sequence: int) -> None:
        """Keep a voucher that is better, if the witness that the buyer named signed it."""
        voucher, entry = signed.message, self.entry
        of_lease = isinstance(voucher, entry.voucher_type)
        if not of_lease or not entry.is_signed(voucher, signed.signature, entry.witness):
            log.error("voucher_ignored", lease=self.id, sequence=sequence)
        elif self._counts(voucher) > self._best():
            self.node.journal.keep_voucher(self.id, voucher, signed.signature)
            self._voucher_sequence = sequence

    def is_covered(self, said: UsageAttestation) -> bool:
        """Whether what was learned so far pays for all that an attestation states."""
        return self._best() >= self._counts(said)

    def _best(self) -> Counts:
        kept = self.now.voucher
        return self._counts(kept.voucher) if kept is not None else (0, 0, 0)

    def _counts(self, used: Used | Voucher | UsageAttestation) -> Counts:
        if isinstance(used, Usage) or not self.entry.metered:
            return used.ms, 0, 0
        return used.ms, used.egress_mib, used.units
