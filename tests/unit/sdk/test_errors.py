"""The drawn tree is the tree, and every problem the market knows has its exception."""

import inspect
import re

import pytest

from marketplace.errors import ERRORS
from marketplace.sdk import errors
from marketplace.sdk.errors import BY_CODE, BY_STATUS, ApiError, CoulombError, error_of, problem_of


def classes() -> dict[str, type[CoulombError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, CoulombError)
    }


def drawn() -> dict[str, str | None]:
    """Each class of the docstring's drawing and the class it hangs from."""
    stack: list[tuple[int, str]] = []
    found: dict[str, str | None] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+)(?:\s|$)", line)
        if match is None or line.startswith("What"):
            continue
        depth, name = len(match.group(1)) // 4, match.group(2)
        del stack[depth:]
        found[name] = stack[-1][1] if stack else None
        stack.append((depth, name))
    return found


def test_drawing_is_the_tree() -> None:
    actual = {
        name: None if kind is CoulombError else kind.__mro__[1].__name__
        for name, kind in classes().items()
    }
    assert drawn() == actual


def test_all_lists_every_public_name() -> None:
    expected = {*classes(), "error_of", "problem_of"}
    assert set(errors.__all__) == expected
    assert errors.__all__ == sorted(errors.__all__)


def test_every_kind_of_api_error_can_happen() -> None:
    leaves = {k for k in classes().values() if issubclass(k, ApiError) and not k.__subclasses__()}
    assert leaves <= {*BY_CODE.values(), *BY_STATUS.values()}


EXPECTED = {
    "AttestationRefused": ["attestation_refused"],
    "BudgetExceeded": ["budget_exceeded"],
    "ChainUnavailable": ["chain_unavailable"],
    "Conflict": [
        "conflict", "illegal_transition", "already_exists", "purse_expired", "not_relayed",
        "call_used", "call_refused",
    ],
    "Forbidden": ["forbidden"],
    "IdempotencyMismatch": ["idempotency_mismatch"],
    "InFlight": ["idempotency_in_flight"],
    "InsufficientBalance": ["insufficient_balance"],
    "InvalidSignature": ["invalid_signature"],
    "NoCapacity": ["no_capacity"],
    "NotFound": ["not_found"],
    "RateLimited": ["rate_limited", "too_many_stops"],
    "Rejected": [
        "malformed_json", "method_not_allowed", "unsupported_media_type", "too_large",
        "invalid_request", "invalid_job", "invalid_order", "relay_fee", "call_expired",
    ],
    "ServerError": ["market_error"],
    "Unauthenticated": ["unauthenticated"],
    "Unavailable": ["too_slow", "unavailable"],
}  # fmt: skip
NAMES = {code: name for name, codes in EXPECTED.items() for code in codes}


def test_every_code_of_the_table_is_expected() -> None:
    assert set(ERRORS) == set(NAMES)


@pytest.mark.parametrize("code", sorted(NAMES))
def test_code_of_the_table_maps_to_its_exception_and_fix(code: str) -> None:
    kind = ERRORS[code]
    error = error_of(problem_of(kind.status, {"code": code, "title": kind.title}))
    assert type(error).__name__ == NAMES[code]
    assert (error.kind, error.fix) == (kind, kind.fix)


@pytest.mark.parametrize(
    ("status", "name"),
    [(418, "Rejected"), (500, "ServerError"), (599, "ServerError"), (402, "FundsError")],
)
def test_unknown_code_maps_by_status(status: int, name: str) -> None:
    error = error_of(problem_of(status, {"code": "new_code"}))
    assert (type(error).__name__, error.kind, error.fix) == (name, None, "")


def test_problem_is_read_with_every_member() -> None:
    body = {
        "type": "https://x", "title": "Wrong", "status": 422, "detail": "two things",
        "code": "invalid_job", "request_id": "req_1", "retryable": False, "new_member": 1,
        "errors": [{"pointer": "/name", "detail": "too long"}],
        "shortfall": {"amount": "5", "currency": "CMP", "atoms": "5"},
    }  # fmt: skip
    error = error_of(problem_of(422, body))
    assert str(error) == "two things\n  /name: too long"
    assert (error.code, error.status, error.request_id) == ("invalid_job", 422, "req_1")
    assert error.problem.shortfall is not None
    assert error.problem.shortfall.atoms == 5


def test_wrong_members_of_a_problem_are_left_out() -> None:
    body = {"code": "not_found", "detail": "no such job", "errors": ["junk"], "shortfall": 5}
    error = error_of(problem_of(404, body))
    assert (error.code, str(error), error.problem.errors) == ("not_found", "no such job", ())


@pytest.mark.parametrize("body", [None, [], "x", 5])
def test_body_that_is_no_problem_keeps_its_status(body: object) -> None:
    error = error_of(problem_of(503, body))
    assert type(error).__name__ == "Unavailable"
    assert str(error) == "HTTP 503"


@pytest.mark.parametrize(
    ("detail", "fields", "text"),
    [
        ("/a: is wrong", ["a"], "/a: is wrong"),
        ("/a: is wrong; /b: is wrong", ["a", "b"], "Invalid\n  /a: is wrong\n  /b: is wrong"),
        ("the number is taken", ["a"], "the number is taken\n  /a: is wrong"),
    ],
)
def test_a_mistake_is_said_once(detail: str, fields: list[str], text: str) -> None:
    errors = [{"pointer": f"/{name}", "detail": "is wrong"} for name in fields]
    body = {"code": "invalid_request", "title": "Invalid", "detail": detail, "errors": errors}
    assert str(error_of(problem_of(422, body))) == text
