"""A job's event stream goes on over lost connections, after the last event seen, within bounds."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.limits import EVENT_BYTES_MAX
from marketplace.sdk import AsyncCoulomb, Coulomb, RetryPolicy
from marketplace.sdk._async import transport as async_module
from marketplace.sdk._sync import transport as module
from marketplace.sdk._sync.transport import Transport
from marketplace.sdk.errors import (
    ConnectFailed,
    Forbidden,
    ProtocolError,
    Unavailable,
)
from marketplace.sdk.http import Resumption, ServerEvent, read_event
from marketplace.wire.jobs import Job
from tests.wire_samples import sample

POLICY = RetryPolicy(attempts=3, first=1.0, draw=lambda: 1.0)
TYPE = {"content-type": "text/event-stream; charset=utf-8"}


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in the pieces given."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces

    async def __aiter__(self) -> Any:
        for piece in self.pieces:
            yield piece


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(module, "sleep", slept.append)
    monkeypatch.setattr(async_module, "async_sleep", note)
    return slept


def streamed(*connections: tuple[bytes, ...] | httpx.Response | Exception) -> tuple[Any, list[Any]]:
    """A transport of one stream over several connections, and the ids it was resumed from."""
    left, asked = list(connections), list[Any]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        found = left.pop(0) if left else ()
        if isinstance(found, Exception):
            raise found
        if isinstance(found, httpx.Response):
            return found
        return httpx.Response(200, stream=Pieces(*found), headers=TYPE)

    return httpx.MockTransport(answer), asked


def events(*connections: Any) -> list[ServerEvent]:
    transport, _ = streamed(*connections)
    client = httpx.Client(base_url="http://market", transport=transport)
    return list(Transport(client, POLICY).events("/v1/jobs/job_1/events"))


def status(state: str, number: int | str) -> bytes:
    data = {"state": state, "reason": None, "detail": None, "exit_code": None, "ending": None,
            "lease_id": None, "at": "2027-01-15T08:00:00.000Z"}  # fmt: skip
    return f"id: {number}\nevent: status\ndata: {json.dumps(data)}\n\n".encode()


def log(text: str, number: int) -> bytes:
    data = {"stream": "stdout", "offset": 0, "text": text, "at": "2027-01-15T08:00:00.000Z"}
    return f"id: {number}\nevent: log\ndata: {json.dumps(data)}\n\n".encode()


FINAL = status("succeeded", 9)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [("message", "a", "")]),
        (b"data:a\n\n", [("message", "a", "")]),
        (b"data: a\ndata: b\n\n", [("message", "a\nb", "")]),
        (b"event: log\ndata: x\nid: 7\n\n", [("log", "x", "7")]),
        (b"id: 7\n\ndata: x\n\n", [("message", "x", "7")]),
        (b": ping\n\nevent: x\n\ndata: y\n\n", [("message", "y", "")]),
        (b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb", "")]),
        (b"data: \xc3\xa4\n\n", [("message", "ä", "")]),
        (b"data: unfinished", []),
    ],
)
def test_stream_is_read_in_any_pieces(stream: bytes, expected: list[tuple[str, str, str]]) -> None:
    whole = events((stream, FINAL) if expected else (FINAL, stream))
    bytewise = events(tuple(bytes([byte]) for byte in stream + FINAL)) if expected else whole
    for found in (whole, bytewise):
        shown = [(e.type, e.data, e.id) for e in found if e.type != "status"]
        assert shown == expected


@given(
    st.lists(st.sampled_from(["data: ä", "id: 1", "event: log", ": c", "", "retry: 5"])), st.data()
)
def test_pieces_do_not_matter(lines: list[str], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    stream = "".join(line + end for line in lines).encode() + end.encode() + FINAL
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert events(tuple(piece for piece in pieces if piece)) == events((stream,))


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 65_529 + b"\n"])
def test_endless_event_is_refused(piece: bytes) -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        events((piece,) * (EVENT_BYTES_MAX // len(piece) + 2))


def test_many_events_may_be_longer_than_one(waits: list[float]) -> None:
    piece = b"data: " + b"x" * 65_526 + b"\n\n"
    assert len(events((*(piece,) * (EVENT_BYTES_MAX // len(piece) + 2), FINAL))) == 19


def test_stream_ends_with_the_job(waits: list[float]) -> None:
    assert [e.id for e in events((status("running", 1), status("succeeded", 2)))] == ["1", "2"]
    assert waits == [0.0]


def test_stream_cut_before_the_end_resumes_after_the_last_event(waits: list[float]) -> None:
    cut = (status("running", 41), b"id: 42\ndata: half")
    transport, asked = streamed(cut, httpx.ReadError("x"), (b"data: new\n\n", FINAL))
    client = httpx.Client(base_url="http://market", transport=transport)
    found = list(Transport(client, POLICY).events("/x", "40"))
    assert [e.id for e in found] == ["41", "41", "9"]
    assert asked == ["40", "41", "41"]
    assert waits == [1.0, 1.0, 0.0]


def test_wait_follows_the_servers_retry_within_bounds(waits: list[float]) -> None:
    events((b"retry: 250\nretry: x\n\n",), (b"retry: 99999999\n\n",), (FINAL,))
    assert waits == [0.25, 10.0, 0.0]


def test_lost_connections_are_borne_until_patience_ends(waits: list[float]) -> None:
    with pytest.raises(ConnectFailed):
        events(*[httpx.ConnectError("x")] * 3)
    assert waits == [1.0, 2.0]


def test_an_event_renews_patience(waits: list[float]) -> None:
    lost = httpx.ReadError("x")
    connections = [part for n in range(5) for part in (lost, (status("running", n),))]
    assert len(events(*connections, (FINAL,))) == 6


def test_server_that_is_busy_is_asked_again(waits: list[float]) -> None:
    busy = httpx.Response(503, json={"code": "unavailable"}, headers={"retry-after": "4"})
    assert len(events(busy, (FINAL,))) == 1
    assert waits == [4.0, 0.0]
    with pytest.raises(Unavailable):
        events(busy, busy, busy)


def test_an_id_that_no_request_could_carry_is_refused() -> None:
    with pytest.raises(ProtocolError, match="an event has the id"):
        events(("id: é\n".encode() + b'event: status\ndata: {"state": "running"}\n\n',))


def test_refused_stream_raises_at_once(waits: list[float]) -> None:
    with pytest.raises(Forbidden):
        events(httpx.Response(403, json={"code": "forbidden"}))
    assert waits == []


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}])
def test_answer_that_is_no_stream_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ProtocolError, match="text/event-stream"):
        events(httpx.Response(200, content=b"{}", headers=headers))


def test_stream_with_nothing_left_ends() -> None:
    stream = Resumption(POLICY)
    for _ in range(3):
        stream.ended()
        assert not stream.over
    stream.ended()
    assert stream.over


def test_events_resume_in_both_clients() -> None:
    connections = ((status("running", 1),), (log("hi", 2), status("failed", 3)))
    transport, asked = streamed(*connections)
    with Coulomb("http://market", transport=transport, retry=POLICY) as client:
        found = list(handle_of(client).events())
    assert [(e.id, e.type) for e in found] == [(1, "status"), (2, "log"), (3, "status")]
    assert found[1].data.text == "hi"
    assert asked == [None, "1"]
    transport, asked = streamed(*connections)

    async def main() -> list[int]:
        async with AsyncCoulomb("http://market", transport=transport, retry=POLICY) as other:
            return [e.id async for e in handle_of(other).events()]

    assert asyncio.run(main()) == [1, 2, 3]
    assert asked == [None, "1"]


def handle_of(client: Any) -> Any:
    from marketplace.sdk import AsyncJobHandle, JobHandle

    kind = JobHandle if isinstance(client, Coulomb) else AsyncJobHandle
    return kind(client.jobs._transport, client.session, Job.model_validate(sample(Job, id="job_1")))


def test_unknown_kinds_are_left_out_and_wrong_events_refused() -> None:
    assert read_event(ServerEvent("weather", "{}", "4")) is None
    for data in ("nope", "5", '{"state":"dancing"}', '{"state":"running"}'):
        with pytest.raises(ProtocolError):
            read_event(ServerEvent("status", data, "4"))
