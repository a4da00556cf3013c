"""What people see of a job while it runs."""

from __future__ import annotations

from typing import Any

import pytest

from marketplace.cli.following import Follower, why_text


class Job:
    """A job whose events are given."""

    id = "job_1"

    def __init__(self, *states: dict[str, Any]) -> None:
        self.states = states

    def events(self, _last: str) -> list[Any]:
        return [Event(str(n), state) for n, state in enumerate(self.states)]


class Event:
    """A status event."""

    type = "status"

    def __init__(self, number: str, body: dict[str, Any]) -> None:
        self.id, self.body = number, body

    def json(self) -> dict[str, Any]:
        return self.body


def test_each_state_is_shown_once_with_the_code_it_ended_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job: Any = Job(
        {"state": "running", "reason": None},
        {"state": "running", "reason": None, "ending": "failed"},
        {"state": "failed", "reason": "exit_code", "exit_code": 3},
    )
    Follower(job, quiet=False)._show()
    assert capsys.readouterr().err.splitlines() == [
        "job_1 running",
        "job_1 failed (exit code 3)",
    ]


@pytest.mark.parametrize(
    ("reason", "code", "text"),
    [
        ("exit_code", 3, "exit code 3"),
        ("exit_code", None, "exit_code"),
        ("completed", 0, "completed"),
        (None, None, ""),
    ],
)
def test_an_exit_code_is_named(reason: str | None, code: int | None, text: str) -> None:
    assert why_text(reason, code) == text
