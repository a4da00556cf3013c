"""A job's life in any order of facts: like the naive one, and its leases as the chain's fold."""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from marketplace.domain.advance import (
    BidFilled,
    BidLeftBook,
    BidVoided,
    BuyerCancelled,
    CloseOverdue,
    CloseSigned,
    Fact,
    Fault,
    NoticeGiven,
    OpeningFailed,
    ProviderSilent,
    ProviderStopped,
    RetryWindowPassed,
    RunReported,
    StartLimitPassed,
    StopOverdue,
    StopSigned,
    UsageAttested,
    advance,
)
from marketplace.domain.life import (
    JOB_ENDED,
    JOB_ON_NODE,
    LEASE_OVER,
    REPORTABLE,
    Do,
    Effect,
    JobLife,
    JobState,
    LeaseLife,
    LeaseState,
    Outcome,
    PutOnBook,
    Retry,
    RetryOn,
    RunReport,
    StopReason,
    SuspendAsk,
    TellStatus,
)
from marketplace.errors import Conflict
from marketplace.services.lives import chain_facts
from scripts.lib.life_page import LEASES_OF
from settlement.events import (
    Closed,
    LeaseEvent,
    MarkedAgain,
    Opened,
    Settled,
    SettledEntry,
    Stopped,
)
from settlement.leases import LeaseStatus, fold
from tests.conftest import NIGHTLY
from tests.property.naive_life import NaiveLease, NaiveLife, Refused

VERDICTS: dict[str, Fact] = {
    "lost": ProviderSilent(),
    "start_limit": StartLimitPassed(),
    "unwitnessed": CloseOverdue(),
    "gone": StopOverdue(),
}
REASONS = (None, "why", "exit_code", "no_capacity", "agent_stopped")
ON_CHAIN = ("active", "stopped", "closed")
START, FUNDED, LATE = 1_000, 600, 60
STEPS = ("stop", "settle", "close", "mark")
NEWEST = st.sampled_from((0, 0, 0, 1, 2))  # mostly the newest lease


def word_of(effect: Effect) -> Any:
    """An effect as the naive life notes it: a `Do` is its text."""
    match effect:
        case TellStatus(job):
            said = (job.state, job.reason, job.detail, job.exit_code, job.ending, job.lease_id)
            return ("tell", *said)
        case PutOnBook():
            return ("on book", effect.until_ms, effect.rests)
        case SuspendAsk():
            return ("suspend", effect.reason)
    return effect


def opened_event(number: bytes) -> Opened:
    names = (number, "b", "p", "w", "m", b"bid", b"ask", b"prices")
    return Opened(*names, 1, 1000, 1, 0, START + FUNDED, FUNDED, LATE, 10, 0)


class Life(RuleBasedStateMachine):
    """One job, its leases, the book's view of its bid, and a chain that reorganises."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_000_000
        self.leases: dict[str, LeaseLife] = {}
        self.chain: dict[str, list[LeaseEvent | Settled]] = {}
        self.counts: Counter[tuple[str, Do]] = Counter()
        self.may: Counter[tuple[str, Do]] = Counter()
        self.on_book = True
        self.asked_off = False
        self.cancelled = False
        self.ended: JobLife | None = None

    @initialize(
        on=st.sets(st.sampled_from(RetryOn)),
        seconds=st.sampled_from((60, 3_600)),
        limited=st.booleans(),
        steps=st.integers(0, 7),
        outcome=st.sampled_from(REPORTABLE),
    )
    def begin(
        self, on: set[RetryOn], seconds: int, limited: bool, steps: int, outcome: Outcome
    ) -> None:
        """A job, and the first steps of an ordinary life, so that many lives get somewhere."""
        until_ms = self.now_ms + 600_000
        retry = Retry(tuple(sorted(on)), seconds)
        self.job = JobLife(JobState.QUEUED, reserve=5, rest_until_ms=until_ms, retry=retry)
        self.naive = NaiveLife(retry.on, seconds, until_ms, reserve=5)
        lost = RetryOn.INTERRUPTION in on
        for step in (
            lambda: self.fill(limited, 7),
            lambda: self.mine(0, []),
            lambda: self.attest(0),
            lambda: self.find_overdue(0, "lost") if lost else self.report(0, outcome, None),
            lambda: self.find_overdue(0, "gone"),
            lambda: self.mine(0, ["stop"]),
            lambda: self.mine(0, ["mark"]),
        )[:steps]:
            step()

    # How a fact is taken in by both

    def take(self, fact: Fact, lease_id: str | None) -> bool:
        """Let the function take a fact in; whether it was not refused."""
        lease = self.leases.get(lease_id) if lease_id else None
        try:
            job, after, effects = advance(self.job, lease, fact, self.now_ms)
        except Conflict:
            return False
        if self.job.state in JOB_ENDED:
            assert job == self.job, "an ended job moved"
        elif job.state in JOB_ENDED and self.cancelled:
            report = lease.report if lease else None
            assert job.state.value in {"cancelled", report.outcome.value if report else None}
        if after is not None:
            self.leases[after.id] = after
        self.job = job
        self.note(lease_id or (after.id if after else ""), effects)
        self.done += map(word_of, effects)
        return True

    def note(self, lease_id: str, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Do):
                self.counts[lease_id, effect] += 1
            elif isinstance(effect, PutOnBook):
                assert not self.on_book, "the bid is on the book twice"
                assert not self.cancelled
                self.on_book = True
        if Do.TAKE_OFF_BOOK in effects:
            assert self.on_book
            assert not self.asked_off
            self.asked_off = True
        if self.cancelled:
            assert Do.SEND_OPENING not in effects
        assert Counter(effects)[Do.SETTLE_CHARGE] <= 1

    def both(self, fact: Fact, lease_id: str | None, naive: Any, *arguments: Any) -> bool:
        """Let both take it in, and compare all of what they say; whether they did not refuse."""
        self.done: list[Any] = []
        self.naive.done.clear()
        self.naive.now_ms = self.now_ms
        taken = self.take(fact, lease_id)
        try:
            naive(*arguments)
        except Refused:
            assert not taken
            return False
        assert taken
        self.compare()
        return True

    def compare(self) -> None:
        assert self.done == self.naive.done
        ours, theirs = self.job, self.naive
        for name in ("state", "lease_id", "ending", "reason", "detail", "exit_code", "outputs",
                     "reserve", "retry_until_ms", "matched_ms", "started_ms", "finished_ms",
                     "void"):  # fmt: skip
            assert getattr(ours, name) == getattr(theirs, name), name
        assert (ours.requeue_after, list(ours.excluded)) == (theirs.waits_for, theirs.tried)
        assert self.leases.keys() == theirs.leases.keys()
        for key, lease in self.leases.items():
            naive = theirs.leases[key]
            said = lease.report
            assert (
                lease.state, lease.reason, lease.ready_ms, lease.stop_requested,
                lease.stop_requested_ms, lease.stop_signed, lease.again, lease.finished_ms,
                said and (said.outcome, said.reason, said.exit_code, said.outputs),
            ) == (
                naive.state, naive.reason, naive.ready_ms, naive.stop, naive.stop_ms,
                naive.stop_signed, naive.marked, naive.finished_ms, naive.report,
            )  # fmt: skip
            assert (lease.notice_ms, lease.is_broken) == (naive.notice_ms, naive.is_broken())

    def newest(self) -> list[LeaseLife]:
        return list(self.leases.values())[::-1]

    def pick(self, index: int) -> str:
        """A lease by its number from the newest."""
        return list(self.leases)[-1 - index % len(self.leases)]

    # The book

    @precondition(lambda self: self.on_book)
    @rule(limited=st.booleans(), lock=st.integers(1, 9), notice=st.sampled_from((None, 60)))
    def fill(self, limited: bool, lock: int, notice: int | None = None) -> None:
        number = f"lease{len(self.leases)}"
        ask = f"ask{len(self.leases)}"
        lease = LeaseLife(number, LeaseState.OPENING, lock, limited, notice_seconds=notice)
        self.on_book = self.asked_off = False
        naive = NaiveLease(number, ask, lock, limited, notice_s=notice)
        self.both(BidFilled(lease, ask), None, self.naive.filled, naive)
        if number in self.leases:
            self.chain[number] = []

    @precondition(lambda self: self.on_book)
    @rule(detail=st.sampled_from((None, "why")))
    def leave_book(self, detail: str | None) -> None:
        cancelled, self.on_book, self.asked_off = self.asked_off, False, False
        reason = "cancelled" if cancelled else "expired"
        fact = BidLeftBook(reason, cancelled, detail)
        self.both(fact, None, self.naive.left_book, reason, cancelled, detail)
        assert self.job.state in JOB_ENDED

    # The buyer

    @rule()
    def cancel(self) -> None:
        if self.both(BuyerCancelled(), self.job.lease_id, self.naive.cancel):
            self.cancelled = True

    @rule()
    def make_void(self) -> None:
        self.both(BidVoided(), self.job.lease_id, self.naive.make_void)
        if self.job.void and self.job.ending is Outcome.CANCELLED:
            self.cancelled = True

    # The chain

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST, fault=st.sampled_from(Fault))
    def fail_to_open(self, index: int, fault: Fault) -> None:
        key = self.pick(index)
        opened = [k for k, events in self.chain.items() if events and k != key]
        previous = opened[-1] if opened else None
        if self.leases[key].state is LeaseState.OPENING:
            self.may[key, Do.FREE_CAPACITY] += 1
        fact = OpeningFailed("why", fault, previous)
        self.both(fact, key, self.naive.open_failed, key, "why", fault, previous)

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST, steps=st.lists(st.sampled_from(STEPS), max_size=4))
    def mine(self, index: int, steps: list[str]) -> None:
        """The chain opens a lease, or takes what else may happen to it: several events at once."""
        key = self.pick(index)
        for step in ["open", *steps]:
            state, number = fold(self.chain[key]), key.encode()
            if state is None and step == "open":
                self.chain[key].append(opened_event(number))
            elif state is None:
                continue
            elif step == "mark" and state.status is not LeaseStatus.ACTIVE and not state.again:
                self.chain[key].append(MarkedAgain(number, "b", "p"))
            elif state.status is LeaseStatus.CLOSED:
                continue
            elif step == "settle":
                entry = SettledEntry(number, state.used_ms + 1)
                self.chain[key].append(Settled("p", (entry,)))
            elif step == "close":
                self.chain[key].append(Closed(number, "b", "p", state.used_ms, 0, 10))
            elif step == "stop" and state.status is LeaseStatus.ACTIVE:
                self.chain[key].append(Stopped(number, "b", "p", START + 60, 5))
        self.project(key)

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST, keep=st.integers(0, 2))
    def reorganise(self, index: int, keep: int) -> None:
        """A reorg drops the newest events of a lease."""
        key = self.pick(index)
        del self.chain[key][keep:]
        self.project(key)

    def project(self, key: str) -> None:
        chain = fold(self.chain[key])
        lease = self.leases[key]
        before, known = lease.state, self.naive.leases[key].state
        assert before == known
        self.done = []
        self.naive.done.clear()
        self.naive.now_ms = self.now_ms
        for fact in chain_facts(lease, chain):
            assert self.take(fact, key)
        if chain is not None:
            self.naive.chain_has(key, chain.status.name.lower(), chain.again)
        elif before in ON_CHAIN:
            self.naive.chain_has(key, None, False)
        self.compare()
        after = self.leases[key].state
        if after in LEASE_OVER and before not in LEASE_OVER:
            self.may[key, Do.FREE_CAPACITY] += 1
        if after is LeaseState.CLOSED and before is not LeaseState.CLOSED:
            self.may[key, Do.WRITE_RECEIPT] += 1

    @rule()
    def pass_retry_window(self) -> None:
        """The watchdog's look: only a job that waits for a lease is moved."""
        waited = self.job.requeue_after
        self.both(RetryWindowPassed(), waited or self.job.lease_id, self.naive.retry_passed)
        if waited:
            assert (self.job.state, self.job.reason) == (JobState.FAILED, "retry_passed")

    # The agent, the witness, the watchdog

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST)
    def attest(self, index: int) -> None:
        key = self.pick(index)
        self.both(UsageAttested(self.now_ms), key, self.naive.attested, key, self.now_ms)

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST, outcome=st.sampled_from(Outcome), reason=st.sampled_from(REASONS))
    def report(self, index: int, outcome: Outcome, reason: str | None) -> None:
        key, said = self.pick(index), (outcome, reason, 1, "outputs")
        self.both(RunReported(RunReport(*said)), key, self.naive.reported, key, said)

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST)
    def sign_close(self, index: int) -> None:
        key = self.pick(index)
        self.both(CloseSigned(), key, self.naive.close_signed, key)

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST, by_meter=st.booleans())
    def sign_stop(self, index: int, by_meter: bool) -> None:
        key = self.pick(index)
        self.both(StopSigned(by_meter), key, self.naive.stop_signed, key, by_meter)

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST)
    def find_that_the_provider_stopped(self, index: int) -> None:
        key = self.pick(index)
        self.both(ProviderStopped(), key, self.naive.stopped_by_provider, key)
        if self.leases[key].state in LEASE_OVER:
            assert self.leases[key].is_broken

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST)
    def give_notice(self, index: int) -> None:
        key = self.pick(index)
        self.both(NoticeGiven(), key, self.naive.notice_given, key)

    @precondition(lambda self: any(lease.notice_seconds for lease in self.leases.values()))
    @rule(seconds=st.sampled_from((0, 59, 60, 61)))
    def take_back(self, seconds: int) -> None:
        """An agent ends a job after notice, in time or too soon, and the chain closes the lease:
        only the latter counts against its provider."""
        index = next(i for i, lease in enumerate(self.newest()) if lease.notice_seconds)
        key = self.pick(index)
        self.both(NoticeGiven(), key, self.naive.notice_given, key)
        before = self.leases[key]
        if before.notice_ms is None or before.report or before.state is not LeaseState.ACTIVE:
            return
        self.now_ms = max(self.now_ms, before.notice_ms + 1000 * seconds)
        said = (Outcome.LOST, "taken_back", None, None)
        self.both(RunReported(RunReport(*said)), key, self.naive.reported, key, said)
        kept = self.now_ms >= before.notice_ms + 60_000
        assert self.leases[key].is_broken is (before.is_broken or not kept)
        self.mine(index, ["close"])

    @precondition(lambda self: self.leases)
    @rule(index=NEWEST, verdict=st.sampled_from(sorted(VERDICTS)))
    def find_overdue(self, index: int, verdict: str) -> None:
        key = self.pick(index)
        self.both(VERDICTS[verdict], key, self.naive.overdue, key, verdict)

    @rule(seconds=st.sampled_from((1, 59, 4_000)))
    def wait(self, seconds: int) -> None:
        self.now_ms += 1000 * seconds

    # What always holds

    @invariant()
    def leases_are_as_the_chain_has_them(self) -> None:
        for key, lease in self.leases.items():
            state = fold(self.chain[key])
            if state is None:
                assert lease.state in (LeaseState.OPENING, LeaseState.FAILED_TO_OPEN)
            else:
                assert lease.state.upper() == state.status.name

    @invariant()
    def an_ended_job_stays_as_it_ended(self) -> None:
        if self.ended is None and self.job.state in JOB_ENDED:
            self.ended = self.job
            assert self.job.reserve == 0
            assert self.job.finished_ms is not None
            assert self.job.requeue_after is None
        assert self.ended is None or self.job == self.ended

    @invariant()
    def a_job_that_is_not_queued_has_a_lease_that_fits(self) -> None:
        lease = self.leases.get(self.job.lease_id or "")
        assert (lease.state if lease else None) in LEASES_OF[self.job.state]

    @invariant()
    def of_a_jobs_leases_at_most_one_may_run(self) -> None:
        going = [
            key
            for key, lease in self.leases.items()
            if lease.state is LeaseState.ACTIVE and not lease.stop_requested and not lease.report
        ]
        assert set(going) <= {self.job.lease_id}

    @invariant()
    def each_lease_frees_its_capacity_and_has_its_receipt_once_per_end(self) -> None:
        for key in self.leases:
            for effect in (Do.FREE_CAPACITY, Do.WRITE_RECEIPT):
                assert self.counts[key, effect] == self.may[key, effect], (key, effect)

    @invariant()
    def only_a_queued_job_waits_or_is_on_the_book(self) -> None:
        if self.job.state is JobState.QUEUED:
            assert self.on_book != (self.job.requeue_after is not None)

    @invariant()
    def the_chain_has_each_mark(self) -> None:
        for key, lease in self.leases.items():
            chain = fold(self.chain[key])
            assert lease.again is (chain is not None and chain.again)

    @invariant()
    def a_witness_is_asked_for_a_mark_only_while_the_job_waits_for_it(self) -> None:
        for key, lease in self.leases.items():
            waits = self.job.requeue_after == key
            if lease.stop_requested is StopReason.RETRY:
                assert waits
            if waits and lease.state in LEASE_OVER:
                assert (lease.stop_requested, lease.again) == (StopReason.RETRY, False)

    @invariant()
    def a_job_on_a_node_reserves_nothing(self) -> None:
        if self.job.state in JOB_ON_NODE:
            assert self.job.reserve == 0


Life.TestCase.settings = settings(
    max_examples=1_000 if NIGHTLY else 200, stateful_step_count=20, deadline=None
)
TestLife = Life.TestCase
