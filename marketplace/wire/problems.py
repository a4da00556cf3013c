"""Problem documents (RFC 9457), and why nothing matches a job."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from pydantic import Field

from marketplace.errors import Problem
from marketplace.limits import PROBLEMS_MAX
from marketplace.wire.base import Answer, Many, Money, RatePerHour, is_none


class ConstraintCount(Answer):
    """How many asks one constraint refuses: by itself, after those before it, and what is left."""

    reason: str = Field(examples=["rate_above_limit"])
    alone: int
    in_turn: int
    left: int


class JobChange(Answer):
    """One member of the job file to change, and to what."""

    reason: str = Field(examples=["rate_above_limit"])
    pointer: str = Field(examples=["/pricing/max_gpu_hour"], description="RFC 6901")
    value: str = Field(examples=["2.5"])


class Alternative(Answer):
    """Changes that together make one ask fit, and what the lease would then lock at most."""

    ask_id: str
    tier: str
    region: str
    changes: Many[JobChange]
    rate_per_hour: RatePerHour
    max_cost: Money
    text: str = Field(description="the same in one line")


class NoMatch(Answer):
    """Why none of the `considered` asks fits. `relaxations` come with the cheapest first."""

    considered: int
    eliminations: Many[ConstraintCount]
    relaxations: Many[Alternative]
    summary: str


class FieldProblem(Answer):
    """One thing that is wrong with the request."""

    pointer: str = Field(examples=["/job/max_duration"], description="RFC 6901")
    detail: str


class ProblemDocument(Answer):
    """What an error answers. `GET /v1/problems` lists every code.

    The members after `errors` are there only with codes that have them.
    """

    type: str = Field(examples=["/v1/problems/invalid_signature"])
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(examples=["invalid_signature"])
    request_id: str
    retryable: bool
    errors: Many[FieldProblem]
    required: Money | None = Field(default=None, exclude_if=is_none)
    balance: Money | None = Field(default=None, exclude_if=is_none)
    shortfall: Money | None = Field(default=None, exclude_if=is_none)
    spend_cap: Money | None = Field(default=None, exclude_if=is_none)
    spent: Money | None = Field(default=None, exclude_if=is_none)
    explanation: NoMatch | None = Field(default=None, exclude_if=is_none)
    reason: str | None = Field(default=None, exclude_if=is_none)
    attestation_id: str | None = Field(default=None, exclude_if=is_none)
    sequence: int | None = Field(default=None, exclude_if=is_none)
    retry_after_seconds: int | None = Field(default=None, exclude_if=is_none)


class ProblemKind(Answer):
    """One stable code. `fix` says what to do, `exit_code` what the command line ends with."""

    type: str
    code: str
    status: int
    title: str
    meaning: str
    fix: str
    retryable: bool
    exit_code: int


class ProblemList(Answer):
    """Every code that errors carry."""

    data: Many[ProblemKind]


def pointer_of(location: Iterable[Any]) -> str:
    """A pydantic location as an RFC 6901 pointer."""
    return "".join("/" + str(s).replace("~", "~0").replace("/", "~1") for s in location)


def problems_of(errors: Iterable[Mapping[str, Any]]) -> tuple[Problem, ...]:
    """Pydantic's errors as pointers and sentences, those of signed structs included."""
    found: list[Problem] = []
    for error in islice(errors, PROBLEMS_MAX):
        at = pointer_of(error["loc"])
        inner = (error.get("ctx") or {}).get("problems")
        if error["type"] == "wire" and inner:
            found += [Problem(at + p.pointer, p.detail) for p in inner]
        else:
            found.append(Problem(at, error["msg"].removeprefix("Value error, ")))
    return tuple(found)
