"""What people see of a job while it runs."""

from typing import Any

import pytest

from marketplace.cli.following import Follower, why_text
from marketplace.wire.jobs import JobEvent, read_streamed


class Job:
    """A job whose events are given."""

    id = "job_1"

    def __init__(self, *states: dict[str, Any]) -> None:
        empty = dict.fromkeys(("reason", "detail", "exit_code", "ending", "lease_id"))
        at = "2027-01-15T08:00:00.000Z"
        self.states = [{**empty, "at": at, **state} for state in states]

    def events(self, _last: int) -> list[JobEvent]:
        return [read_streamed(str(n), "status", state) for n, state in enumerate(self.states)]


def test_each_state_is_shown_once_with_the_code_it_ended_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job: Any = Job(
        {"state": "running", "reason": None},
        {"state": "running", "reason": None, "ending": "failed"},
        {"state": "failed", "reason": "exit_code", "exit_code": 3},
    )
    Follower(job, quiet=False)._show()
    assert capsys.readouterr().err.splitlines() == ["job_1 running", "job_1 failed (exit code 3)"]


@pytest.mark.parametrize(
    ("reason", "code", "text"),
    [
        ("exit_code", 3, "exit code 3"),
        ("exit_code", None, "exit_code"),
        ("completed", 0, ""),
        ("cancelled", None, ""),
        ("node_error", None, "node_error"),
        (None, None, ""),
    ],
)
def test_an_exit_code_is_named(reason: str | None, code: int | None, text: str) -> None:
    assert why_text(reason, code) == text
