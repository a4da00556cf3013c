"""Print docs/life.md: every case of `marketplace.domain.advance`, found by trying them all.

Usage: python scripts/lib/life_page.py > docs/life.md
"""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from itertools import groupby
from typing import Any, NamedTuple

from marketplace.domain.advance import (
    BidFilled,
    BidLeftBook,
    EndReverted,
    Fact,
    Fault,
    OpeningFailed,
    RunReported,
    SeatMarked,
    StopSigned,
    UsageAttested,
    advance,
)
from marketplace.domain.life import (
    JOB_ENDED,
    JOB_LIVE,
    JOB_ON_NODE,
    JOB_STEPS,
    LEASE_OVER,
    LEASE_STEPS,
    REORG_STEPS,
    REPORTABLE,
    Effect,
    JobLife,
    JobState,
    LeaseLife,
    LeaseState,
    Outcome,
    PutOnBook,
    Reason,
    Retry,
    RetryOn,
    RunReport,
    StopReason,
    SuspendAsk,
    TellStatus,
)
from marketplace.errors import Conflict

HEAD = """# The life of a job and its lease

What can happen to a job and its lease, and what follows. `python scripts/lib/life_page.py` prints
this page from the code: states are in [`life.py`](../marketplace/domain/life.py), facts and
decisions in [`advance.py`](../marketplace/domain/advance.py).

## States of a job

A queued job waits for an ask. A matched job has a lease that is being opened, a starting one has an
open lease, and a running one has said that it is ready. A running job that goes on to another ask
is shown as lost for a moment, and then as queued.
"""
LEASES = """
## States of a lease

A stopped lease has ended and its node is free, but the chain still pays its vouchers. A closed
lease is paid and refunded. Once a lease has ended, its bid opens another one only if it is marked:
a Close or a Stop said so, signed by the buyer's witness. If a job is retried and the mark is
missing, the market asks the witness for such a Stop ("retry"), and the job waits for it. A lease
that failed to open can still open late; its job has gone on by then, so the market asks for a Stop.
"""
FACTS = """
## Facts

A table lists the states in which a fact does something, what becomes of the job and the lease, and
the effects in the order in which they are carried out. In every other state the fact changes
nothing. A dot stands for no change. A row with an "if" replaces the row without one. "any" lease is
any that such a job can have; "none" is a job without a lease.
"""
Pair = tuple[JobState, LeaseState | None]
Result = tuple[str, str, str]  # what the job becomes, what the lease becomes, effects
NOTHING: Result = ("·", "·", "·")

_SOME = tuple(LeaseState)
LEASES_OF: dict[JobState, tuple[LeaseState | None, ...]] = {
    JobState.QUEUED: (None, *_SOME),
    JobState.MATCHED: (LeaseState.OPENING,),
    JobState.STARTING: (LeaseState.ACTIVE,),
    JobState.RUNNING: (LeaseState.ACTIVE, LeaseState.OPENING, LeaseState.FAILED_TO_OPEN),
    JobState.SUCCEEDED: _SOME,
    JobState.FAILED: _SOME,
    JobState.CANCELLED: (None, *_SOME),
    JobState.OVER_BUDGET: _SOME,
    JobState.NO_MATCH: (None,),
    JobState.LOST: _SOME,
}
"""States that the latest lease of a job can be in."""

_EVERY = tuple(JobState)


class If(NamedTuple):
    """What else matters: members of job and lease, the job's states, the If it adds to, the lease's
    states."""

    name: str
    job: dict[str, Any]
    lease: dict[str, Any]
    states: tuple[JobState, ...]
    adds_to: str = ""
    leases: tuple[LeaseState, ...] = _SOME


PLAIN = If("", {}, {}, _EVERY)
_GIVEN_UP, _FAILURE = "the provider is given up", "the agent reported failure"
_CANCELLED = {"ending": Outcome.CANCELLED}
_LOST = {"ending": Outcome.LOST, "reason": "provider_lost"}
_FAILED = {"ending": Outcome.FAILED}
_RETRIED = {"retry": Retry((RetryOn.INTERRUPTION, RetryOn.ERROR))}
_WAITS = {"requeue_after": "lease"}
_ASKED = {"stop_requested": StopReason.LOST}
_UNMARKED = {"stop_requested": StopReason.RETRY}
_WAITS_FOR_END, _WAITS_FOR_MARK = "the job waits for its end", "the job waits for its mark"
_GOING = tuple(state for state in LeaseState if state not in LEASE_OVER)
_QUEUED = (JobState.QUEUED,)
_REPORTS = {outcome: {"report": RunReport(outcome, "…")} for outcome in REPORTABLE}
IFS = (
    If("the job has gone on to another lease", {"lease_id": "other"}, {}, _EVERY),
    If("the bid is void", {"void": True}, {}, JOB_LIVE),
    If(_WAITS_FOR_END, _WAITS, _ASKED, _QUEUED, leases=_GOING),
    If(f"{_WAITS_FOR_END}, and the bid is void", _WAITS | {"void": True}, _ASKED, _QUEUED,
       _WAITS_FOR_END, _GOING),
    If(_WAITS_FOR_MARK, _WAITS, _UNMARKED, _QUEUED, leases=LEASE_OVER),
    If(f"{_WAITS_FOR_MARK}, and the bid is void", _WAITS | {"void": True}, _UNMARKED, _QUEUED,
       _WAITS_FOR_MARK, LEASE_OVER),
    If("the lease is marked", {}, {"again": True}, _EVERY, leases=LEASE_OVER),
    If("the buyer has cancelled", _CANCELLED, {}, JOB_LIVE),
    If("`no-capacity` is retried", {"retry": Retry((RetryOn.NO_CAPACITY,))}, {}, JOB_LIVE),
    If("the job was queued again before", {"retry_until_ms": 9}, {}, JOB_LIVE),
    If("the lease is interruptible", {}, {"notice_seconds": 300}, _EVERY),
    If("notice was given", {}, {"notice_seconds": 300, "notice_ms": 1}, _EVERY),
    If("the job is ready", {}, {"ready_ms": 1}, _EVERY),
    If("the budget limits the lease", {}, {"budget_limited": True}, _EVERY),
    If(_GIVEN_UP, _LOST, _ASKED, JOB_ON_NODE),
    If(f"{_GIVEN_UP}, and `interruption` is retried", _LOST | _RETRIED, _ASKED, JOB_ON_NODE,
       _GIVEN_UP),
    If(f"{_GIVEN_UP}, and `interruption` is retried, but the bid is void",
       _LOST | _RETRIED | {"void": True}, _ASKED, JOB_ON_NODE, _GIVEN_UP),
    If(f"{_GIVEN_UP}, but the buyer has cancelled", _CANCELLED | _RETRIED, _ASKED, JOB_ON_NODE,
       _GIVEN_UP),
    If(f"{_GIVEN_UP}, and a Stop is signed", _LOST, _ASKED | {"stop_signed": True}, JOB_ON_NODE,
       _GIVEN_UP),
    If("the agent reported success", {"ending": Outcome.SUCCEEDED}, _REPORTS[Outcome.SUCCEEDED],
       JOB_ON_NODE),
    If("the agent reported a spent budget", {"ending": Outcome.OVER_BUDGET},
       _REPORTS[Outcome.OVER_BUDGET], JOB_ON_NODE),
    If(_FAILURE, _FAILED, _REPORTS[Outcome.FAILED], JOB_ON_NODE),
    If(f"{_FAILURE}, and `error` is retried", _FAILED | _RETRIED, _REPORTS[Outcome.FAILED],
       JOB_ON_NODE, _FAILURE),
    If(f"{_FAILURE}, and `error` is retried, but the bid is void",
       _FAILED | _RETRIED | {"void": True}, _REPORTS[Outcome.FAILED], JOB_ON_NODE, _FAILURE),
    If(f"{_FAILURE}, but the buyer has cancelled", _CANCELLED | _RETRIED,
       _REPORTS[Outcome.FAILED], JOB_ON_NODE, _FAILURE),
)  # fmt: skip
VARIANTS: dict[type, dict[str, Fact]] = {
    BidFilled: {"": BidFilled(LeaseLife("new", LeaseState.OPENING, 1), "ask")},
    BidLeftBook: {
        "It expired, or nothing matches": BidLeftBook("reason"),
        "It was cancelled": BidLeftBook("reason", cancelled=True),
    },
    OpeningFailed: {
        "The ask is to blame": OpeningFailed("error", Fault.ASK),
        "Neither is": OpeningFailed("error", Fault.PAIR),
        "The buyer is to blame": OpeningFailed("error", Fault.BUYER),
    },
    EndReverted: {
        f"It is {to} again": EndReverted(to) for to in (LeaseState.ACTIVE, LeaseState.STOPPED)
    },
    SeatMarked: {
        "The mark has come": SeatMarked(again=True),
        "A reorg took it back": SeatMarked(again=False),
    },
    UsageAttested: {"": UsageAttested(1)},
    RunReported: {
        "Success": RunReported(RunReport(Outcome.SUCCEEDED)),
        "Failure": RunReported(RunReport(Outcome.FAILED)),
        "A cancelled job": RunReported(RunReport(Outcome.CANCELLED)),
        "A spent budget": RunReported(RunReport(Outcome.OVER_BUDGET)),
        "A node that was taken back": RunReported(RunReport(Outcome.LOST)),
    },
    StopSigned: {
        "The witness did": StopSigned(),
        "The meter did": StopSigned(by_meter=True),
    },
}


def _try(pair: Pair, fact: Fact, case: If) -> Result | None:
    """What a fact does in a pair of states; None if nothing, or if the lease's state rules it."""
    rule = type(fact)
    if rule.counts is not None and pair[1] not in rule.counts:
        return None
    job = replace(JobLife(pair[0], "lease" if pair[1] else None), **case.job)
    lease = replace(LeaseLife("lease", pair[1], 1), **case.lease) if pair[1] else None
    try:
        after, lease_after, effects = advance(job, lease, fact, 1)
    except Conflict:
        return "refused", "·", "·"
    if (after, lease_after) == (job, lease) and not effects:
        return None
    return _job_text(job, after, effects), _lease_text(lease, lease_after), _effects_text(effects)


def _job_text(job: JobLife, after: JobLife, effects: Iterable[Effect]) -> str:
    told = [effect.job.state for effect in effects if isinstance(effect, TellStatus)]
    path = [state for state, _ in groupby([job.state, *told, after.state])][1:]
    said = [" → ".join(path)] if path else []
    if path and after.reason not in (None, job.reason, "…"):
        said[0] += f" ({after.reason})"
    if after.ending is not job.ending and after.ending is not None:
        said.append(f"ending: {after.ending}")
    said += ["bid void"] if after.void and not job.void else []
    if after.requeue_after is not None and job.requeue_after is None:
        said.append("waits for the lease")
    elif job.requeue_after is not None and (after.requeue_after, after.state) == (None, job.state):
        said.append("waits no longer")
    return ", ".join(said) or "·"


def _lease_text(lease: LeaseLife | None, after: LeaseLife | None) -> str:
    if after is None or after == lease:
        return "·"
    if lease is None or lease.id != after.id:
        return f"new: {after.state}"
    said = [str(after.state)] if after.state is not lease.state else []
    if after.stop_requested is not lease.stop_requested:
        reason = after.stop_requested
        said.append(f"Stop asked for: {reason}" if reason else "Stop no longer asked for")
    said += ["marked" if after.again else "not marked"] if after.again is not lease.again else []
    said += ["has notice"] if after.notice_ms != lease.notice_ms else []
    said += ["its provider stopped it"] if after.reason == Reason.PROVIDER_STOPPED else []
    said += ["ready"] if after.ready_ms != lease.ready_ms else []
    said += ["report kept"] if after.report != lease.report else []
    return ", ".join(said) or "·"


def _effects_text(effects: Iterable[Effect]) -> str:
    return "; ".join(map(_effect_text, effects)) or "·"


def _effect_text(effect: Effect) -> str:
    if isinstance(effect, TellStatus):
        return "tell the status"
    if isinstance(effect, PutOnBook):
        return f"put the bid back on the book, {'to rest' if effect.rests else 'not to rest'}"
    if isinstance(effect, SuspendAsk):
        return "suspend the ask"
    return str(effect)


def _rows(fact: Fact) -> Iterator[str]:
    """The table of a fact: states with the same result share a row, and so do ifs."""
    tried: dict[str, dict[Pair, Result | None]] = {}
    ifs: dict[tuple[str, Result], list[str]] = {}
    for case in (PLAIN, *IFS):
        known = tried[case.name] = {
            (state, lease): _try((state, lease), fact, case)
            for state in case.states
            for lease in LEASES_OF[state]
            if _applies(case, lease)
        }
        new: dict[Result, dict[JobState, list[LeaseState | None]]] = {}
        for pair, result in known.items():
            if result != (tried[case.adds_to][pair] if case is not PLAIN else None):
                leases = new.setdefault(result or NOTHING, {})
                leases.setdefault(pair[0], []).append(pair[1])
        for result, leases_of in new.items():
            for states in _merged(leases_of):
                ifs.setdefault((states, result), []).append(case.name)
    for (states, result), names in ifs.items():
        yield f"| {states} | {'; or '.join(names)} | {' | '.join(result)} |"


def _applies(case: If, lease: LeaseState | None) -> bool:
    if lease is None:
        return not (case.lease or case.job.get("lease_id"))
    return lease in case.leases


def _merged(leases_of: dict[JobState, list[LeaseState | None]]) -> Iterator[str]:
    """States of jobs, and the states of leases that these have alike, as two cells."""
    merged: dict[str, list[JobState]] = {}
    for state, leases in leases_of.items():
        every = len(leases) == len(LEASES_OF[state]) > 1
        name = "any" if every else ", ".join(lease or "none" for lease in leases)
        merged.setdefault(name, []).append(state)
    for name, states in merged.items():
        ended = set(JOB_ENDED) - {JobState.NO_MATCH} <= set(states)
        live = [state for state in states if state not in JOB_ENDED]
        yield f"{', '.join([*live, 'ended'] if ended else states)} | {name}"


def _rule_text(kind: type[Fact]) -> str:
    rule = kind
    if rule.counts is None:
        return ""
    elsewhere = set(LeaseState) - set(rule.counts)
    refused = elsewhere - set(rule.ignored)
    said = f"It counts if the lease is {' or '.join(rule.counts)}"
    if not refused:
        return f"\n{said}.\n"
    if refused == elsewhere:
        return f"\n{said}; otherwise it is refused.\n"
    return f"\n{said}; it is refused if the lease is {' or '.join(sorted(refused))}.\n"


def _diagram(steps: Iterable[tuple[StrEnum, StrEnum, str]], first: StrEnum) -> str:
    lines = [f"    {a} --> {b}{': ' + label if label else ''}" for a, b, label in steps]
    return "\n".join(["", "```mermaid", "stateDiagram-v2", f"    [*] --> {first}", *lines, "```\n"])


def page() -> str:
    """The whole page."""
    jobs = ((a, b, "") for a, after in JOB_STEPS.items() for b in after)
    there = [(a, b, "") for a, after in LEASE_STEPS.items() for b in after]
    back = [(a, b, "reorg") for a, after in REORG_STEPS.items() for b in after]
    parts = [HEAD, _diagram(jobs, JobState.QUEUED), LEASES]
    parts += [_diagram([*there, *back], LeaseState.OPENING), FACTS]
    for kind in Fact.__subclasses__():
        parts.append(f"\n### {kind.__name__}\n\n{inspect.getdoc(kind)}\n{_rule_text(kind)}")
        for name, fact in (VARIANTS.get(kind) or {"": kind()}).items():
            rows = list(_rows(fact))
            parts.append(f"\n{name}:\n" if name else "")
            parts.append("\n| Job | Lease | If | Job becomes | Lease becomes | Effects |\n")
            parts.append("\n".join(["|---|---|---|---|---|---|", *rows, ""]))
            if not rows:
                parts[-2:] = ["\nIt changes neither.\n"]
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
