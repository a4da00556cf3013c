"""What every request meets: problem documents, ids, limits, idempotency, pages, streams."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from marketplace.api.limits import Limits
from marketplace.db.changes import job_topic
from marketplace.db.tables import ApiKeyRow, BidRow, JobRow, LeaseRow, OrderEntryRow
from marketplace.errors import ERRORS
from marketplace.limits import STOP_SECONDS_MAX
from settlement.errors import ChainUnavailable
from settlement.orders import Cancel, Numbered
from tests.api_client import Api, problem
from tests.databases import rows_of
from tests.market_world import TOKEN

Opened = Callable[[Limits], AbstractContextManager[Api]]


def test_every_error_is_a_problem_document(api: Api) -> None:
    problem(api.call("GET", "/nothing"), 404, "not_found")
    problem(api.call("PUT", "/asks"), 405, "method_not_allowed")
    problem(api.call("GET", "/jobs"), 401, "unauthenticated")
    response = api.call("GET", "/jobs")
    assert response.headers["www-authenticate"].startswith("Bearer")
    problem(api.call("GET", "/jobs", api.provider), 403, "forbidden")
    problem(api.call("GET", "/asks/ask_1"), 404, "not_found")
    problem(api.call("GET", "/asks", params={"limit": "101"}), 422, "invalid_request")
    problem(api.call("GET", "/asks", params={"cursor": "é"}), 422, "invalid_request")


def test_a_body_of_many_names_is_refused_before_anybody_looks_at_them(api: Api) -> None:
    job = {f"name-{number}": 1 for number in range(5_000)}
    problem(api.call("POST", "/quotes", json={"job": job}), 400, "malformed_json")


def test_every_code_is_listed_with_its_meaning(api: Api) -> None:
    listed = api.ok(api.call("GET", "/problems"))["data"]
    assert {kind["code"] for kind in listed} == set(ERRORS)
    for kind in listed:
        assert api.ok(api.call("GET", f"/problems/{kind['code']}")) == kind


def test_a_given_request_id_comes_back_and_a_strange_one_does_not(api: Api) -> None:
    ask = {"X-Request-Id": "mine-1"}
    assert api.call("GET", "/health", headers=ask).headers["x-request-id"] == "mine-1"
    for strange in ("a b", "x" * 65, "<script>"):
        answer = api.call("GET", "/health", headers={"X-Request-Id": strange})
        assert answer.headers["x-request-id"].startswith("req_")


# Rates


def test_rate_limits_are_told_and_kept(opened: Opened) -> None:
    with opened(Limits(per_minute=3)) as api:
        left = [api.call("GET", "/health").headers["ratelimit"] for _ in range(3)]
        assert [text.split(";")[1] for text in left] == ["r=2", "r=1", "r=0"]
        refusal = api.call("GET", "/health")
        assert problem(refusal, 429, "rate_limited")["retryable"] is True
        assert 1 <= int(refusal.headers["retry-after"]) <= 60
        assert refusal.headers["ratelimit-policy"] == '"default";q=3;w=60'


def test_more_requests_at_once_than_allowed_are_sent_away(opened: Opened) -> None:
    with opened(Limits(in_flight=4)) as api:
        answers = api.together(*[("GET", "/health", {})] * 40)
        assert {answer.status_code for answer in answers} == {200, 503}
        refusal = next(a for a in answers if a.status_code == 503)
        problem(refusal, 503, "unavailable")
        assert refusal.headers["retry-after"] == "1"
        assert api.call("GET", "/health").status_code == 200


# Idempotency


def jobs_stored(api: Api) -> int:
    with api.world.database.read() as store:
        return len(rows_of(store, JobRow))


def test_one_effect_per_idempotency_key(api: Api) -> None:
    api.world.offer(api.world.node(gpus=4))
    body = api.submission()
    headers = {"Idempotency-Key": "k-1"}
    first = api.call("POST", "/jobs", api.buyer, json=body, headers=headers)
    assert (first.status_code, first.headers["location"]) == (
        202, f"/v1/jobs/{first.json()['id']}",
    )  # fmt: skip
    assert "idempotency-replayed" not in first.headers
    api.world.match()
    again = api.call("POST", "/jobs", api.buyer, json=body, headers=headers)
    assert (again.status_code, again.json(), again.headers["location"]) == (
        202, first.json(), first.headers["location"],
    )  # fmt: skip
    assert again.headers["idempotency-replayed"] == "true"
    assert jobs_stored(api) == 1
    other = api.call("POST", "/jobs", api.buyer, json=api.submission(), headers=headers)
    problem(other, 422, "idempotency_mismatch")
    cancel = f"/jobs/{first.json()['id']}/cancel"
    problem(api.call("POST", cancel, api.buyer, headers=headers), 422, "idempotency_mismatch")
    api.world.clock.advance(24 * 3600)
    api.world.catalog.watchdog.forget()
    again = api.call("POST", "/jobs", api.buyer, json=body, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"


def test_another_account_may_use_the_same_idempotency_key(api: Api) -> None:
    world = api.world
    world.ask(world.node(gpus=4))
    headers = {"Idempotency-Key": "same"}
    for buyer in (world.buyer, world.stranger):
        world.fund(account=buyer)
        key = api.key(buyer, "buyer")
        api.ok(api.call("POST", "/jobs", key, json=api.submission(buyer), headers=headers))
    assert jobs_stored(api) == 2


def test_a_refusal_is_not_stored_so_the_same_key_may_be_tried_again(api: Api) -> None:
    api.world.ask()
    body, headers = api.submission(), {"Idempotency-Key": "k"}
    refused = api.call("POST", "/jobs", api.buyer, json=body, headers=headers)
    shortfall = problem(refused, 402, "insufficient_balance")["shortfall"]
    assert shortfall["currency"] == "CMP"
    api.world.fund()
    api.ok(api.call("POST", "/jobs", api.buyer, json=body, headers=headers))


def test_the_same_key_at_the_same_time_has_one_effect(api: Api) -> None:
    api.world.offer(api.world.node(gpus=4))
    options = {
        "json": api.submission(),
        "headers": {"Authorization": f"Bearer {api.buyer}", "Idempotency-Key": "k"},
    }
    answers = api.together(*[("POST", "/jobs", options)] * 12)
    codes = {answer.status_code for answer in answers}
    assert codes <= {202, 409}
    assert len({a.json()["id"] for a in answers if a.status_code == 202}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert problem(answer, 409, "idempotency_in_flight")["retryable"] is True
    assert jobs_stored(api) == 1


def test_concurrent_submissions_never_book_a_gpu_twice(api: Api) -> None:
    api.world.ask(api.world.node(gpus=3))
    api.world.fund(1_000)
    headers = {"Authorization": f"Bearer {api.buyer}"}
    bodies = [api.submission() for _ in range(12)]
    requests = [("POST", "/jobs", {"json": body, "headers": headers}) for body in bodies]
    assert {answer.status_code for answer in api.together(*requests)} == {202}
    api.world.match()
    api.world.chain.mine()
    with api.world.database.read() as store:
        states = sorted(job.state for job in rows_of(store, JobRow))
        gpus = [gpu for lease in rows_of(store, LeaseRow) for gpu in lease.gpus]
    assert states == ["no_match"] * 9 + ["starting"] * 3
    assert sorted(gpus) == [0, 1, 2]


# Bad submissions: refused, and nothing stored


def with_bid(body: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {**body, "bid": {**body["bid"], **members}}


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (lambda b: {**b, "signature": "0x" + "00" * 65}, 422, "invalid_signature"),
        (lambda b: {**b, "signature": "0x0"}, 422, "invalid_request"),
        (lambda b: {**b, "signature": "0x00"}, 422, "invalid_signature"),
        (lambda b: {**b, "signature": "0x" + "00" * 2_049}, 422, "invalid_request"),
        (lambda b: {**b, "extra": 1}, 422, "invalid_request"),
        (lambda b: with_bid(b, extra=1), 422, "invalid_request"),
        (lambda b: with_bid(b, gpuMilli=-1), 422, "invalid_request"),
        (lambda b: with_bid(b, gpuMilli=2**32), 422, "invalid_request"),
        (lambda b: with_bid(b, gpuMilli=2_000), 422, "invalid_order"),
        (lambda b: with_bid(b, budget="9" * 100), 422, "invalid_request"),
        (lambda b: with_bid(b, expiry=1), 422, "invalid_order"),
        (lambda b: with_bid(b, salt=str(2**64)), 422, "invalid_request"),
        (lambda b: with_bid(b, salt=str(2**64 - 1)), 422, "invalid_signature"),
        (lambda b: {**b, "job": {**b["job"], "comand": ["x"]}}, 422, "invalid_job"),
        (lambda b: {**b, "job": {**b["job"], "name": "other"}}, 422, "invalid_order"),
        (lambda b: {**b, "job": {**b["job"], "workdir": "."}}, 422, "invalid_job"),
    ],
)
def test_a_bad_submission_is_refused_and_nothing_is_stored(
    api: Api, spoil: Any, status: int, code: str
) -> None:
    api.world.offer()
    problem(api.call("POST", "/jobs", api.buyer, json=spoil(api.submission())), status, code)
    with api.world.database.read() as store:
        assert (rows_of(store, JobRow), rows_of(store, BidRow)) == ([], [])
        assert [row.kind for row in rows_of(store, OrderEntryRow)] == ["ask"]


def test_a_replayed_submission_is_refused(api: Api) -> None:
    api.world.offer(api.world.node(gpus=4))
    body = api.submission()
    api.ok(api.call("POST", "/jobs", api.buyer, json=body))
    refusal = problem(api.call("POST", "/jobs", api.buyer, json=body), 409, "already_exists")
    assert refusal["errors"][0]["pointer"] == "/bid/salt"


def test_a_spend_cap_is_402(api: Api) -> None:
    api.world.offer()
    draft = {"account": api.world.buyer.address, "name": "capped", "scopes": ["buyer"]}
    message = api.ok(api.call("POST", "/keys/prepare", json={**draft, "spend_cap": "0.1"}))
    signature = api.sign_message(message["message"], api.world.buyer)
    signed = {"message": message["message"], "signature": signature}
    key = api.ok(api.call("POST", "/keys", json=signed))["key"]
    problem(api.call("POST", "/jobs", key, json=api.submission()), 402, "budget_exceeded")


def test_a_chain_that_does_not_answer_is_503_and_nothing_is_stored(api: Api) -> None:
    api.world.offer()
    body = api.submission()
    api.world.chain.down = ChainUnavailable("no answer")
    refusal = problem(api.call("POST", "/jobs", api.buyer, json=body), 503, "chain_unavailable")
    assert refusal["retryable"] is True
    path = f"/accounts/{api.world.buyer.address}"
    problem(api.call("GET", path, api.buyer), 503, "chain_unavailable")
    assert jobs_stored(api) == 0


# Attestations over HTTP


def test_refused_attestations_are_422_and_recorded(api: Api) -> None:
    world = api.world
    _, lease_id = world.start()
    path = f"/leases/{lease_id}/attestations"
    ready = api.ok(api.call("POST", path, api.provider, json=api.attestation(lease_id, 0, 0)))
    assert (ready["state"], ready["code"], ready["sequence"]) == ("accepted", None, 0)
    world.clock.advance(2)
    api.ok(api.call("POST", path, api.provider, json=api.attestation(lease_id, 1, 2_000)))
    for body, reason in (
        (api.attestation(lease_id, 2, 1_000), "backwards"),
        (api.attestation(lease_id, 2, 9_000), "outside_lease"),
        (
            api.attestation(lease_id, 2, 2_000, observed_at_ms=world.clock() + 9_000),
            "ahead_of_clock",
        ),
        (api.attestation(lease_id, 2, 2_000, world.witness), "invalid_signature"),
        (api.attestation(lease_id, 1, 1_999), "sequence_used"),
    ):
        answer = api.call("POST", path, api.provider, json=body)
        assert problem(answer, 422, "attestation_refused")["reason"] == reason
    rows = api.ok(api.call("GET", path, api.buyer))["data"]
    assert [row["code"] for row in rows if row["state"] == "refused"] == [
        "backwards", "outside_lease", "ahead_of_clock", "invalid_signature", "sequence_used",
    ]  # fmt: skip
    later = api.ok(api.call("GET", path, api.buyer, params={"after_sequence": 1}))["data"]
    assert {row["sequence"] for row in later} == {2}


def test_an_acknowledged_voucher_is_in_the_database_when_the_answer_comes(api: Api) -> None:
    world = api.world
    _, lease_id = world.start()
    world.attest(lease_id, 0, 0)
    row, _ = world.attest(lease_id, 1, 2_000, after=2)
    pending = api.ok(api.call("GET", "/witness/pending", api.buyer))["data"]
    assert pending[0]["attestation"]["id"] == row.id
    body = api.voucher(pending[0]["attestation"])
    path = f"/attestations/{row.id}/countersign"
    answer = api.ok(api.call("POST", path, api.buyer, json=body))
    assert answer["state"] == "countersigned"
    assert answer["voucher"]["signature"] == body["signature"]
    assert world.row("vouchers", lease_id).signature == body["signature"]
    lease = api.ok(api.call("GET", f"/leases/{lease_id}", api.provider))
    assert lease["countersigned"]["ms"] == 2_000


# Pages and streams


@pytest.mark.parametrize("seconds", [-1, 0, STOP_SECONDS_MAX + 1])
def test_a_stop_without_a_deadline_soon_is_refused(api: Api, seconds: int) -> None:
    _, lease_id = api.world.start()
    body = api.stop(lease_id, seconds=seconds)
    answer = api.call("POST", f"/leases/{lease_id}/stop", api.buyer, json=body)
    errors = problem(answer, 422, "invalid_request")["errors"]
    assert [error["pointer"] for error in errors] == ["/stop/deadline"]
    assert api.world.lease(lease_id).stop_signature is None


def test_only_the_witness_says_that_a_seat_may_open_again(api: Api) -> None:
    world = api.world
    _, lease_id = world.start()
    path = f"/leases/{lease_id}/stop"
    by_meter = api.stop(lease_id, world.meter, again=True)
    problem(api.call("POST", path, api.provider, json=by_meter), 422, "invalid_signature")
    api.ok(api.call("POST", path, api.buyer, json=api.stop(lease_id, again=True)))
    world.chain.mine()
    assert world.chain.state(world.lease(lease_id).lease_bytes).again


def test_a_cancel_of_signed_calls_is_refused(api: Api) -> None:
    account = api.world.buyer
    signed = Cancel(account.address, Numbered.CALLS, 0, False)
    body = {"cancel": signed.to_message(), "signature": api.sign(signed, account)}
    answer = api.call("POST", "/orders/cancel", api.buyer, json=body)
    errors = problem(answer, 422, "invalid_request")["errors"]
    assert [error["pointer"] for error in errors] == ["/cancel/kind"]


def test_lists_are_walked_to_the_end_by_cursor(api: Api) -> None:
    made = [api.world.ask(price=f"{i + 1}.00") for i in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = api.ok(api.call("GET", "/asks", params=params))
        seen += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
        assert page["has_more"] is (cursor is not None)
        if cursor is None:
            break
    assert seen == made[::-1]
    filtered = api.ok(api.call("GET", "/asks", params={"state": "cancelled"}))
    assert filtered["data"] == []


def test_logs_are_kept_once_whatever_is_sent_again(api: Api) -> None:
    world = api.world
    job_id, lease_id = world.start()
    path = f"/leases/{lease_id}/logs"

    def send(offset: int, text: str, stream: str = "stdout") -> int:
        body = {"stream": stream, "offset": offset, "text": text}
        return int(api.ok(api.call("POST", path, api.provider, json=body))["next_offset"])

    assert send(0, "hello ") == 6
    assert send(0, "hello ") == 6
    assert send(3, "lo wörld") == 12
    assert send(12, "\n") == 13
    assert send(0, "warning", "stderr") == 7
    rows = api.ok(api.call("GET", f"/jobs/{job_id}/logs", api.buyer))["data"]
    out = "".join(row["data"]["text"] for row in rows if row["data"]["stream"] == "stdout")
    assert out == "hello wörld\n"
    for stream, text in (("net", "x"), ("stdout", ""), ("stdout", "\ud800")):
        bad = json.dumps({"stream": stream, "offset": 13, "text": text})
        headers = {"Content-Type": "application/json"}
        answer = api.call("POST", path, api.provider, content=bad, headers=headers)
        assert answer.status_code in (400, 422), (stream, text, answer.text)


def events(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Server-sent events as (id, type, data)."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_a_jobs_events_are_streamed_and_resumed_after_the_last_seen(api: Api) -> None:
    world = api.world
    world.offer()
    job_id, _ = world.run(10)
    path = f"/jobs/{job_id}/events"
    answer = api.call("GET", path, api.buyer)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "x-request-id" in answer.headers
    seen = events(answer.text)
    assert [data["state"] for _, kind, data in seen if kind == "status"] == [
        "queued", "matched", "starting", "running", "running", "succeeded",
    ]  # fmt: skip
    assert [kind for _, kind, _ in seen][-1] == "receipt"
    cost = next(data for _, kind, data in reversed(seen) if kind == "cost")
    assert cost["accrued"]["atoms"] == str(10_000 * 2500 * TOKEN // 3_600_000_000)
    middle = seen[4][0]
    again = api.call("GET", path, api.buyer, headers={"Last-Event-ID": str(middle)})
    assert events(again.text) == seen[5:]
    for bad in ("x", "-1", "9" * 19, "9" * 30):
        refusal = api.call("GET", path, api.buyer, headers={"Last-Event-ID": bad})
        problem(refusal, 422, "invalid_request")


def test_a_stream_tells_at_once_what_was_committed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.api.sse.UNTOLD_S", 3_600.0)
    world = api.world
    job_id, lease_id = world.start()
    path, headers = f"/jobs/{job_id}/events", {"Authorization": f"Bearer {api.buyer}"}

    async def watch() -> list[tuple[int, str, dict[str, Any]]]:
        stream = asyncio.create_task(api.http.get(path, headers=headers))
        while job_topic(job_id) not in world.database.changes._waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for act in (
            lambda: world.use(lease_id, 0, 0),
            lambda: world.finish(lease_id, 1, 1_000),
            lambda: world.close(lease_id),
            world.chain.mine,
        ):
            await asyncio.to_thread(act)
        return events((await asyncio.wait_for(stream, 30)).text)

    seen = api.runner.run(watch())
    assert [data["state"] for _, kind, data in seen if kind == "status"][-1] == "succeeded"
    assert seen[-1][1] == "receipt"
    assert job_topic(job_id) not in world.database.changes._waiting


def test_a_receipt_maps_usage_to_rate_to_cost_to_transactions(api: Api) -> None:
    world = api.world
    world.offer()
    job_id, lease_id = world.run(36)
    for key in (api.buyer, api.provider):
        receipt = api.ok(api.call("GET", f"/jobs/{job_id}/receipt", key))
        assert (receipt["lease_id"], receipt["used_ms"], receipt["conserved"]) == (
            lease_id, 36_000, True,
        )  # fmt: skip
        assert receipt["gross"]["amount"] == "0.025"
        assert [t["kind"] for t in receipt["transactions"]] == ["Opened", "Closed"]
        listed = api.ok(api.call("GET", "/receipts", key))["data"]
        assert [row["id"] for row in listed] == [receipt["id"]]


def test_no_key_is_ever_in_an_answer_or_a_row(api: Api) -> None:
    key = api.buyer
    answers = [
        api.call("GET", path, key).text
        for path in ("/keys", "/jobs", "/leases", "/witness/pending", "/bids", "/receipts")
    ]
    assert not any(key in text or key[5:] in text for text in answers)
    with api.world.database.read() as store:
        assert key not in repr(rows_of(store, ApiKeyRow))
