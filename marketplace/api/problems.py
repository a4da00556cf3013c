"""Errors as RFC 9457 documents: one table of every code the API answers with."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from marketplace.errors import MarketError, Problem
from settlement.errors import ChainError, OutboxConflict

MEDIA_TYPE = "application/problem+json"
log = structlog.get_logger("api")


@dataclass(frozen=True, slots=True)
class Kind:
    """One stable code: its HTTP status, a title that never changes, what it means."""

    code: str
    status: int
    title: str
    meaning: str
    retryable: bool = False

    def to_json(self) -> dict[str, Any]:
        """The row of `GET /v1/problems`."""
        return {
            "type": f"/v1/problems/{self.code}",
            "code": self.code,
            "status": self.status,
            "title": self.title,
            "meaning": self.meaning,
            "retryable": self.retryable,
        }


_TABLE = (
    Kind("malformed_json", 400, "Malformed JSON", "The body is not JSON."),
    Kind("invalid_request", 422, "Invalid request", "Members are wrong; `errors` lists them all."),
    Kind("invalid_job", 422, "Invalid job", "The job spec is wrong; `errors` lists all mistakes."),
    Kind(
        "invalid_order", 422, "Invalid order",
        "A signed order contradicts its node, its job or the market.",
    ),
    Kind(
        "invalid_signature", 422, "Invalid signature",
        "The signature is malformed, or not by the key, contract and chain it must be for.",
    ),
    Kind("unauthenticated", 401, "Unauthenticated", "No API key, or one that is not valid."),
    Kind("forbidden", 403, "Forbidden", "The key lacks the scope, or the account the right."),
    Kind("not_found", 404, "Not found", "No such object, or not visible to the caller."),
    Kind("method_not_allowed", 405, "Method not allowed", "The path has no such method."),
    Kind("unsupported_media_type", 415, "Unsupported media type", "Send application/json."),
    Kind("conflict", 409, "Conflict", "The object's state does not allow this now."),
    Kind("illegal_transition", 409, "Illegal transition", "The state has no such next step."),
    Kind("already_exists", 409, "Already exists", "A number, salt, UUID or order is taken."),
    Kind(
        "idempotency_mismatch", 422, "Idempotency key reused",
        "The Idempotency-Key was first used with another request.",
    ),
    Kind(
        "idempotency_in_flight", 409, "Request in flight",
        "The first request with this Idempotency-Key has not finished.", True,
    ),
    Kind(
        "insufficient_balance", 402, "Insufficient balance",
        "The free escrow balance does not cover the lock; `shortfall` says by how much.",
    ),
    Kind("budget_exceeded", 402, "Budget exceeded", "The key's spend cap would be passed."),
    Kind("no_capacity", 409, "No capacity", "No ask matches; `explanation` says why."),
    Kind(
        "attestation_refused", 422, "Attestation refused",
        "The reading was recorded as refused; `reason` says why.",
    ),
    Kind("too_large", 413, "Too large", "The body is above the limit of this route."),
    Kind("too_slow", 408, "Too slow", "The body did not arrive in time; send it again.", True),
    Kind("rate_limited", 429, "Rate limited", "Too many requests; see Retry-After.", True),
    Kind("unavailable", 503, "Unavailable", "Overloaded or restarting; see Retry-After.", True),
    Kind("chain_unavailable", 503, "Chain unavailable", "The chain does not answer.", True),
    Kind("market_error", 500, "Internal error", "A fault of this server; it was logged.", True),
)  # fmt: skip
KINDS = {kind.code: kind for kind in _TABLE}
_BY_STATUS = {
    400: "malformed_json",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_media_type",
}


def answer(
    request: Request,
    code: str,
    detail: str,
    errors: tuple[Problem, ...] = (),
    facts: dict[str, Any] | None = None,
) -> JSONResponse:
    """One problem document as a response."""
    kind = KINDS[code]
    body = {
        "type": f"/v1/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": request.url.path,
        "code": code,
        "request_id": getattr(request.state, "request_id", ""),
        "retryable": kind.retryable,
        "errors": [error.to_json() for error in errors],
        **(facts or {}),
    }
    headers = {}
    if code == "unauthenticated":
        headers["WWW-Authenticate"] = 'Bearer realm="coulomb"'
    if kind.status in (429, 503):
        headers["Retry-After"] = str((facts or {}).get("retry_after_seconds", 1))
    return JSONResponse(body, kind.status, headers, MEDIA_TYPE)


def pointer_of(location: tuple[Any, ...]) -> str:
    """A pydantic location as an RFC 6901 pointer into the body (or the parameter's name)."""
    steps = location[1:] if location and location[0] == "body" else location
    return "".join("/" + str(s).replace("~", "~0").replace("/", "~1") for s in steps)


def _market_error(request: Request, error: MarketError) -> JSONResponse:
    return answer(request, error.code, error.detail, error.problems, error.facts)


def _validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
    found = tuple(Problem(pointer_of(e["loc"]), e["msg"]) for e in error.errors())
    if any(e["type"] == "json_invalid" for e in error.errors()):
        return answer(request, "malformed_json", "the body is not valid JSON", found)
    detail = "; ".join(f"{p.pointer or '/'}: {p.detail}" for p in found)
    return answer(request, "invalid_request", detail, found)


def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    code = _BY_STATUS.get(error.status_code, "invalid_request")
    detail = str(error.detail) or HTTPStatus(error.status_code).phrase
    response = answer(request, code, detail)
    response.headers.update(error.headers or {})
    return response


def _chain_error(request: Request, error: ChainError) -> JSONResponse:
    log.warning("chain unreachable", error=str(error), path=request.url.path)
    return answer(request, "chain_unavailable", "the chain does not answer; try again")


def _outbox_conflict(request: Request, error: OutboxConflict) -> JSONResponse:
    return answer(request, "conflict", str(error))


def _gone(request: Request, error: ClientDisconnect) -> Response:
    """Nobody is there to read an answer, and nothing is wrong here."""
    log.debug("client gone", path=request.url.path)
    return Response(status_code=400)


def unexpected(request: Request, error: Exception) -> JSONResponse:
    """A fault: the caller learns its request id, the log learns the rest."""
    log.error("unexpected error", path=request.url.path, exc_info=error)
    return answer(request, "market_error", "something went wrong on this server")


def install(app: FastAPI) -> None:
    """Answer every error with a problem document."""
    app.exception_handler(MarketError)(_market_error)
    app.exception_handler(RequestValidationError)(_validation_error)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(ChainError)(_chain_error)
    app.exception_handler(OutboxConflict)(_outbox_conflict)
    app.exception_handler(ClientDisconnect)(_gone)
    app.exception_handler(Exception)(unexpected)
