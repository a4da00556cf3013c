"""What a request's body may be: JSON of any content within bounds, or a blob; nothing else."""

import json
from typing import Any

import pytest

from tests.api_client import Api, problem


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b"", 422, "invalid_request"),
        (b"[]", 422, "invalid_request"),
        (b'"text"', 422, "invalid_request"),
        (b"\xff\xfe", 400, "malformed_json"),
        (b'{"job": {"name": "\\ud800"}}', 400, "malformed_json"),
        (b'{"job": {"name": NaN}}', 400, "malformed_json"),
        (b'{"job": {"gpus": 1e999}}', 400, "malformed_json"),
        (b'{"job": {}, "job": {}}', 400, "malformed_json"),
        (b'{"job": ' + b"[" * 50 + b"]" * 50 + b"}", 422, "invalid_request"),
        (b'{"job": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "malformed_json"),
        (b'{"job": ' + b"9" * 5_000 + b"}", 400, "malformed_json"),
        (b'{"job": {}, "extra": 1}', 422, "invalid_request"),
        (b'{"job": {}}', 422, "invalid_job"),
    ],
)
def test_a_body_that_is_no_request_is_refused(
    api: Api, content: bytes, status: int, code: str
) -> None:
    headers = {"Content-Type": "application/json"}
    problem(api.call("POST", "/quotes", content=content, headers=headers), status, code)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("kind", ["application/JSON", "APPLICATION/json ; charset=utf-8"])
def test_nesting_without_end_is_refused_however_json_is_spelled(
    api: Api, kind: str, opening: bytes
) -> None:
    headers, body = {"Content-Type": kind}, opening * 85_000
    refusal = api.call("POST", "/keys/prepare", content=body, headers=headers)
    problem(refusal, 400, "malformed_json")
    draft = json.dumps({"account": api.world.buyer.address, "name": "n", "scopes": ["buyer"]})
    api.ok(api.call("POST", "/keys/prepare", content=draft.encode(), headers=headers))


@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "text/json", "application/jsonx", "application/problem+json",
     "application/octet-stream", "application/x-www-form-urlencoded",
     "multipart/form-data; boundary=application/json", "json"],
)  # fmt: skip
def test_json_under_another_media_type_is_refused_unread(api: Api, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    for body in (b"[" * 85_000, b'{"job": {}}'):
        refusal = api.call("POST", "/quotes", content=body, headers=headers)
        problem(refusal, 415, "unsupported_media_type")


def test_blobs_need_no_json_whatever_they_are_called(api: Api) -> None:
    for kind in ("application/json", "application/octet-stream"):
        body, headers = b"[" * 85_000, {"Content-Type": kind}
        stored = api.ok(api.call("POST", "/blobs", api.buyer, content=body, headers=headers))
        assert stored["size"] == len(body)


def test_unknown_and_coerced_members_are_refused_with_pointers(api: Api) -> None:
    gpu = {"uuid": "GPU-1", "model": "H100", "memory_mib": "81920", "simulatd": True}
    node = {"number": 2**24, "name": "a b", "region": "eu", "tier": "x", "gpus": [gpu]}
    body = problem(api.call("POST", "/nodes", api.provider, json=node), 422, "invalid_request")
    pointers = {error["pointer"] for error in body["errors"]}
    assert {
        "/number", "/name", "/gpus/0/memory_mib", "/gpus/0/simulatd", "/cpu_milli", "/runtime",
    } <= pointers  # fmt: skip


def test_a_body_above_its_limit_is_refused_before_it_is_read(api: Api) -> None:
    huge = b'{"job": "' + b"x" * (1024 * 1024) + b'"}'
    headers = {"Content-Type": "application/json"}
    problem(api.call("POST", "/quotes", content=huge, headers=headers), 413, "too_large")

    async def pieces() -> Any:
        for _ in range(65):
            yield b"x" * 1024 * 1024

    problem(api.call("POST", "/blobs", api.buyer, content=pieces()), 413, "too_large")
    assert [path for path in api.world.folder.rglob("*") if path.is_file()] == []
    body = b"y" * (3 * 1024 * 1024)
    api.ok(api.call("POST", "/blobs", api.buyer, content=body))


def test_blobs_come_back_as_they_went(api: Api) -> None:
    stored = api.ok(api.call("POST", "/blobs", api.buyer, content=b"folder"))
    assert api.ok(api.call("POST", "/blobs", api.buyer, content=b"folder")) == stored
    answer = api.call("GET", f"/blobs/{stored['sha256']}", api.buyer)
    assert (answer.content, answer.headers["content-type"]) == (
        b"folder", "application/octet-stream",
    )  # fmt: skip
