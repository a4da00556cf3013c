from __future__ import annotations

import pytest

from marketplace.agent.progress import Beats, Halt, JobProgress
from marketplace.sdk import Lease
from tests.wire_samples import changed, sample

LEASE = Lease.model_validate(sample(Lease, state="active"))


def test_countersignatures_renew_the_grace_only_when_they_grow() -> None:
    now = [0.0]
    progress = JobProgress(lambda: now[0])
    progress.start_covering()
    now[0] = 10.0
    progress.cover(1000)
    now[0] = 17.5
    progress.cover(1000)
    assert progress.uncovered_ms == 7_500


@pytest.mark.parametrize(
    ("changes", "halt"),
    [
        ({"stop_requested": "cancelled"}, Halt("cancelled", "cancelled")),
        ({"stop_requested": "lost"}, Halt("failed", "lost")),
        ({"stop_requested": "over_budget"}, Halt("over_budget", "budget")),
        ({"state": "stopped"}, Halt("failed", "lease_stopped")),
        ({"state": "closed", "stop_requested": "cancelled"}, Halt("cancelled", "cancelled")),
        ({"state": "active"}, None),
        ({"state": "opening"}, None),
    ],
)
def test_what_the_server_says_becomes_a_halt(changes: dict[str, str], halt: Halt | None) -> None:
    progress = JobProgress()
    progress.observe(changed(LEASE, **changes))
    assert progress.halt == halt


def test_the_first_halt_stands_and_wakes() -> None:
    progress = JobProgress()
    progress.stop(Halt("failed", "witness_silent"))
    progress.observe(changed(LEASE, stop_requested="cancelled"))
    progress.wait_for_halt(60)
    assert progress.halt == Halt("failed", "witness_silent")


def test_signs_of_life_never_fall() -> None:
    progress = JobProgress()
    progress.beat(Beats(3, 1.0))
    progress.beat(Beats(2, 2.0))
    assert progress.beats == Beats(3, 1.0)


def test_news_are_heard_once() -> None:
    progress = JobProgress()
    progress.tell()
    progress.wait_for_news(60)
    progress.wait_for_news(0)
