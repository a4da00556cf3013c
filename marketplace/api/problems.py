"""Errors as RFC 9457 problem documents, and what OpenAPI says of them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from marketplace.errors import ERRORS, ErrorKind, MarketError, Problem
from marketplace.wire.problems import FieldProblem, ProblemDocument, ProblemKind, problems_of
from settlement.errors import ChainError, OutboxConflict

MEDIA_TYPE = "application/problem+json"
EVERYWHERE = ("invalid_request", "rate_limited", "unavailable", "market_error")
READING = ("malformed_json", "too_large", "too_slow", "unsupported_media_type")
"""What a route that reads a body may answer besides."""
RETRY_AFTER = {"description": "seconds until to try again", "schema": {"type": "integer"}}
AUTH = ("unauthenticated", "forbidden")
OWNED = (*AUTH, "not_found")
ONCE = ("idempotency_mismatch", "idempotency_in_flight")
log = structlog.get_logger("api")

_BY_STATUS = {
    400: "malformed_json", 404: "not_found", 405: "method_not_allowed", 408: "too_slow",
    413: "too_large", 415: "unsupported_media_type",
}  # fmt: skip


def document(
    code: str,
    detail: str,
    *,
    instance: str = "/v1/…",
    request_id: str = "req_…",
    errors: tuple[Problem, ...] = (),
    facts: Mapping[str, Any] | None = None,
) -> ProblemDocument:
    """The document of one error; `facts` are members that only some codes have."""
    kind = ERRORS[code]
    return ProblemDocument(
        type=f"/v1/problems/{code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        instance=instance,
        code=code,
        request_id=request_id,
        retryable=kind.retryable,
        errors=tuple(FieldProblem(pointer=p.pointer, detail=p.detail) for p in errors),
        **(facts or {}),
    )


def answer(
    request: Request,
    code: str,
    detail: str,
    errors: tuple[Problem, ...] = (),
    facts: Mapping[str, Any] | None = None,
) -> Response:
    """One problem document as a response."""
    request_id = getattr(request.state, "request_id", "")
    shown = document(
        code, detail, instance=request.url.path, request_id=request_id, errors=errors, facts=facts
    )
    headers = {}
    if code == "unauthenticated":
        headers["WWW-Authenticate"] = 'Bearer realm="coulomb"'
    if shown.status in (429, 503):
        headers["Retry-After"] = str(shown.retry_after_seconds or 1)
    return Response(shown.model_dump_json(), shown.status, headers, MEDIA_TYPE)


def documented(*codes: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI error responses for codes; what every route may answer is added."""
    by_status: dict[int, dict[str, None]] = {}  # a dict for a set that keeps its order
    for code in (*EVERYWHERE, *codes):
        by_status.setdefault(ERRORS[code].status, {})[code] = None
    return {status: _documented(status, [*found]) for status, found in sorted(by_status.items())}


def _documented(status: int, codes: list[str]) -> dict[str, Any]:
    headers = {"headers": {"Retry-After": RETRY_AFTER}} if status in (429, 503) else {}
    return {
        "model": ProblemDocument,
        **headers,
        "description": " · ".join(f"`{code}`: {ERRORS[code].meaning}" for code in codes),
        "content": {
            MEDIA_TYPE: {"example": document(codes[0], ERRORS[codes[0]].meaning).to_json()}
        },
    }


def kind_of(kind: ErrorKind) -> ProblemKind:
    """A row of `GET /v1/problems`."""
    return ProblemKind(type=f"/v1/problems/{kind.code}", **asdict(kind))


def _validation_error(request: Request, error: RequestValidationError) -> Response:
    """Pointers begin at the body, or are a parameter's place and name."""
    mistakes = error.errors()
    found = problems_of(
        {**e, "loc": e["loc"][1:] if e["loc"][:1] == ("body",) else e["loc"]} for e in mistakes
    )
    if any(e["type"] == "json_invalid" for e in mistakes):
        return answer(request, "malformed_json", "the body is not valid JSON", found)
    detail = "; ".join(f"{p.pointer or '/'}: {p.detail}" for p in found)
    return answer(request, "invalid_request", detail, found)


def _http_error(request: Request, error: HTTPException) -> Response:
    code = _BY_STATUS.get(error.status_code, "invalid_request")
    detail = str(error.detail) or HTTPStatus(error.status_code).phrase
    response = answer(request, code, detail)
    response.headers.update(error.headers or {})
    return response


def _chain_error(request: Request, error: ChainError) -> Response:
    log.warning("chain unreachable", error=str(error), path=request.url.path)
    return answer(request, "chain_unavailable", "the chain does not answer; try again")


def _gone(request: Request, error: ClientDisconnect) -> Response:
    """The client is gone: nobody reads the answer, and nothing is wrong here."""
    log.debug("client gone", path=request.url.path)
    return Response(status_code=400)


def _fault(request: Request, error: Exception) -> Response:
    """The caller learns its request id, the log learns the rest."""
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return answer(request, "market_error", "something went wrong on this server")


_ANSWERS: dict[type[Exception], Callable[[Request, Any], Response]] = {
    MarketError: lambda request, e: answer(request, e.code, e.detail, e.problems, e.facts),
    RequestValidationError: _validation_error,
    HTTPException: _http_error,
    ChainError: _chain_error,
    OutboxConflict: lambda request, error: answer(request, "conflict", str(error)),
    ClientDisconnect: _gone,
    Exception: _fault,
}


def install(app: FastAPI) -> None:
    """Answer every error with a problem document."""
    for kind, handler in _ANSWERS.items():
        app.exception_handler(kind)(handler)
