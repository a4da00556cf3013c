"""Event streams arrive in any pieces and resume where they broke."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marketplace.sdk.flow import Response
from marketplace.sdk.sse import EVENT_BYTES_MAX, EventSource, Parser, ServerEvent
from marketplace.sdk.transfer import RetryPolicy

from marketplace.sdk.errors import ConnectFailed, Forbidden, Problem, ProtocolError, Unavailable

POLICY = RetryPolicy(attempts=3, first=1.0)


def parse(*chunks: bytes) -> list[ServerEvent]:
    parser = Parser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [ServerEvent("message", "a")]),
        (b"data:a\n\n", [ServerEvent("message", "a")]),
        (b"data:  a\n\n", [ServerEvent("message", " a")]),
        (b"data: a\ndata: b\n\n", [ServerEvent("message", "a\nb")]),
        (b"data\n\n", [ServerEvent("message", "")]),
        (b"event: log\ndata: x\nid: 7\n\n", [ServerEvent("log", "x", "7")]),
        (b"id: 7\n\ndata: x\n\n", [ServerEvent("message", "x", "7")]),
        (b"id: 7\ndata: a\n\nid\ndata: b\n\n", [
            ServerEvent("message", "a", "7"), ServerEvent("message", "b", ""),
        ]),
        (b"id: a\0b\ndata: x\n\n", [ServerEvent("message", "x", "")]),
        (b": ping\n\nevent: x\n\ndata: y\n\n", [ServerEvent("message", "y")]),
        (b"unknown: x\ndata: y\n\n", [ServerEvent("message", "y")]),
        (b"\xef\xbb\xbfdata: y\n\n", [ServerEvent("message", "y")]),
        (b"data: a\r\ndata: b\r\n\r\n", [ServerEvent("message", "a\nb")]),
        (b"data: a\rdata: b\r\rdata: c\r\r", [
            ServerEvent("message", "a\nb"), ServerEvent("message", "c"),
        ]),
        (b"data: unfinished", []),
        (b"data: \xff\n\n", [ServerEvent("message", "�")]),
    ],
)  # fmt: skip
def test_stream_is_read(stream: bytes, expected: list[ServerEvent]) -> None:
    assert parse(stream) == expected
    assert parse(*(bytes([byte]) for byte in stream)) == expected


@given(
    st.lists(st.sampled_from(["data: ä", "id: 1", "event: log", ": c", "", "retry: 5"])), st.data()
)
def test_pieces_do_not_matter(lines: list[str], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    stream = "".join(line + end for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(*pieces) == parse(stream)


def test_retry_is_remembered_and_bounded() -> None:
    parser = Parser()
    assert list(parser.feed(b"retry: 250\nretry: x\n\n")) == []
    assert parser.retry_ms == 250
    list(parser.feed(b"retry: 99999999\n\n"))
    assert parser.retry_ms == 60_000


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 65_530 + b"\n"])
def test_endless_event_is_refused(piece: bytes) -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        parse(*[piece] * (EVENT_BYTES_MAX // len(piece) + 2))


def status(state: str, number: int) -> bytes:
    return f'id: {number}\nevent: status\ndata: {{"state":"{state}"}}\n\n'.encode()


def source() -> EventSource:
    return EventSource("/v1/jobs/job_1/events", POLICY, draw=lambda: 1.0)


def test_stream_ends_with_the_job() -> None:
    stream = source()
    assert [e.id for e in stream.feed(status("running", 1) + status("succeeded", 2))] == ["1", "2"]
    assert stream.ended() == 0
    assert stream.over


def test_stream_cut_before_the_end_resumes_after_the_last_event() -> None:
    stream = source()
    assert "Last-Event-ID" not in stream.request().headers
    list(stream.feed(status("running", 41) + b"id: 42\ndata: half"))
    assert stream.ended() == 1.0
    assert not stream.over
    assert stream.request().headers["Last-Event-ID"] == "41"
    assert [e.data for e in stream.feed(b"data: new\n\n")] == ["new"]


def test_wait_follows_the_servers_retry() -> None:
    stream = source()
    list(stream.feed(b"retry: 250\n\n"))
    assert stream.ended() == 0.25


def test_lost_connections_are_borne_until_patience_ends() -> None:
    stream = source()
    assert [stream.broke(ConnectFailed("x")) for _ in range(2)] == [1.0, 2.0]
    with pytest.raises(ConnectFailed):
        stream.broke(ConnectFailed("x"))


def test_an_event_renews_patience() -> None:
    stream = source()
    for number in range(5):
        stream.broke(ConnectFailed("x"))
        list(stream.feed(status("running", number)))


def test_server_that_is_busy_is_asked_again() -> None:
    stream = source()
    error = Unavailable(Problem(503, "unavailable", "t", retry_after=4.0))
    assert stream.broke(error, Response(503, {}, b"")) == 4.0


def test_refused_stream_raises_at_once() -> None:
    with pytest.raises(Forbidden):
        source().broke(Forbidden(Problem(403, "forbidden", "t")), Response(403, {}, b""))


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}])
def test_answer_that_is_no_stream_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        source().opened(headers)
    source().opened({"content-type": "text/event-stream; charset=utf-8"})


def test_event_json_must_be_json() -> None:
    assert ServerEvent("cost", '{"a":1}').json() == {"a": 1}
    for data in ("nope", "[" * 100_000, "NaN", "\ud800"):
        with pytest.raises(ProtocolError):
            ServerEvent("cost", data, "3").json()


def test_stream_with_nothing_left_ends() -> None:
    stream = source()
    for _ in range(3):
        stream.ended()
        assert not stream.over
    stream.ended()
    assert stream.over
