"""Invariant 36: every route against every role. A route without a row here fails."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from marketplace.db.tables import ReceiptRow
from marketplace.limits import RELAY_SECONDS
from marketplace.wire.orders import AskDraft
from settlement.eip712 import ZERO_ADDRESS
from settlement.orders import Cancel, Numbered, TopUp, Withdraw
from settlement.ports import IntentKind
from tests.api_client import Api
from tests.databases import rows_of
from tests.market_world import RELAY_FEE, TOKEN, gpu, node_listing
from tests.market_world import key_draft as made_key_draft


@dataclass(frozen=True, slots=True)
class Row:
    """What one route answers to each role.

    `right` is whoever should get through (None: everyone); `other` another account with every
    scope, who must not learn of the object (404), or gets its own; `scope` the owner's account with
    a key that lacks the scope. None: there is no such role for this route.
    """

    right: str | None
    other: int | None
    scope: int | None
    body: Callable[[Api, "Objects"], dict[str, Any]] | None = None
    status: int = 200
    query: str = ""


@dataclass(frozen=True, slots=True)
class Objects:
    """One object of each kind, all of one buyer and one provider."""

    node_id: str
    ask_id: str
    job_id: str
    bid_id: str
    lease_id: str
    attestation_id: str
    key_id: str
    sha256: str
    address: str
    call_id: str = "call_7"
    code: str = "not_found"


def nothing(api: Api, objects: Objects) -> dict[str, Any]:
    return {"json": {}}


def node_body(api: Api, objects: Objects) -> dict[str, Any]:
    return {"json": node_listing(900, [gpu("GPU-new")])}


def ask_draft(api: Api, objects: Objects) -> dict[str, Any]:
    meter = api.world.meter.address
    prices = {"gpu_hour": "2.50"}
    return {"json": {"node_id": objects.node_id, "meter": meter, "prices": prices}}


def signed_ask(api: Api, objects: Objects) -> dict[str, Any]:
    with api.world.database.read() as store:
        node = store.nodes.get(objects.node_id)
    draft = AskDraft.model_validate(ask_draft(api, objects)["json"])
    ask = api.world.catalog.asks.prepare(node, draft, 1)
    return {"json": {"ask": ask.to_message(), "signature": api.sign(ask, api.world.provider)}}


def key_draft(api: Api, objects: Objects) -> dict[str, Any]:
    account = api.world.buyer.address
    return {"json": {"account": account, "name": "k", "scopes": ["buyer"]}}


def signed_key(api: Api, objects: Objects) -> dict[str, Any]:
    accounts = api.world.catalog.accounts
    request = accounts.prepare_key(made_key_draft(api.world.buyer.address))
    signature = api.sign(request, api.world.buyer)
    return {"json": {"message": request.to_message(), "signature": signature}}


def bid_draft(api: Api, objects: Objects) -> dict[str, Any]:
    submission = api.submission()
    return {"json": {"job": submission["job"], "witness": api.world.witness.address}}


def countersignature(api: Api, objects: Objects) -> dict[str, Any]:
    with api.world.database.read() as store:
        row = store.attestations.get(objects.attestation_id)
    return {"json": api.voucher({"message": row.message})}


def next_attestation(api: Api, objects: Objects) -> dict[str, Any]:
    return {"json": api.attestation(objects.lease_id, 2, 1_500)}


def finished(api: Api, objects: Objects) -> dict[str, Any]:
    return {"json": api.finish(objects.lease_id, 2, 1_500)}


def closed(api: Api, objects: Objects) -> dict[str, Any]:
    api.world.finish(objects.lease_id, 2, 1_500)
    return {"json": api.close_half(objects.lease_id)}


def cancel(api: Api, objects: Objects) -> dict[str, Any]:
    signed = Cancel(api.world.buyer.address, Numbered.ORDERS, 0, False)
    return {"json": {"cancel": signed.to_message(), "signature": api.sign(signed, api.world.buyer)}}


def withdrawal(api: Api, objects: Objects) -> dict[str, Any]:
    """The buyer's withdrawal that the market's relayer, nobody yet, may send."""
    return relayed(api, Withdraw(objects.address, "0x" + "aa" * 20, TOKEN, 8, *relay_terms(api)))


def top_up(api: Api, objects: Objects) -> dict[str, Any]:
    lease = api.world.lease(objects.lease_id)
    names = (lease.buyer, lease.provider, lease.lease_bytes)
    return relayed(api, TopUp(*names, 60, 8, *relay_terms(api)))


def relay_terms(api: Api) -> tuple[int, str, int]:
    """Deadline, relayer and fee."""
    return api.world.clock() // 1000 + RELAY_SECONDS, ZERO_ADDRESS, RELAY_FEE


def relayed(api: Api, call: Withdraw | TopUp) -> dict[str, Any]:
    return {"json": {"call": call.to_message(), "signature": api.sign(call, api.world.buyer)}}


PUBLIC: Any = Row(None, None, None)
TABLE: dict[tuple[str, str], Row] = {
    ("GET", "/metrics"): PUBLIC,
    ("GET", "/v1/health"): PUBLIC,
    ("GET", "/v1/config"): PUBLIC,
    ("GET", "/v1/problems"): PUBLIC,
    ("GET", "/v1/problems/{code}"): PUBLIC,
    ("GET", "/v1/tiers"): PUBLIC,
    ("GET", "/v1/asks"): PUBLIC,
    ("GET", "/v1/asks/{ask_id}"): PUBLIC,
    ("GET", "/v1/book"): PUBLIC,
    ("POST", "/v1/quotes"): Row(
        None, None, None, lambda api, o: {"json": {"job": bid_draft(api, o)["json"]["job"]}}
    ),
    ("POST", "/v1/keys/prepare"): Row(None, None, None, key_draft),
    ("POST", "/v1/keys"): Row(None, None, None, signed_key, 201),
    ("GET", "/v1/keys"): Row("buyer", 200, None),
    ("DELETE", "/v1/keys/{key_id}"): Row("buyer", 404, None),
    ("GET", "/v1/accounts/{address}"): Row("buyer", 404, None),
    ("POST", "/v1/nodes"): Row("provider", 201, 403, node_body, 201),
    ("GET", "/v1/nodes"): Row("provider", 200, 403),
    ("GET", "/v1/nodes/{node_id}"): Row("provider", 404, 403),
    ("POST", "/v1/nodes/{node_id}/heartbeat"): Row("provider", 404, 403, nothing),
    ("POST", "/v1/nodes/{node_id}/drain"): Row("provider", 404, 403, nothing),
    ("POST", "/v1/nodes/{node_id}/interrupt"): Row("provider", 404, 403, nothing),
    ("POST", "/v1/nodes/{node_id}/leave"): Row("provider", 404, 403, nothing),
    ("POST", "/v1/nodes/{node_id}/resume"): Row("provider", 404, 403, nothing),
    ("POST", "/v1/asks/prepare"): Row("provider", 404, 403, ask_draft),
    ("POST", "/v1/asks"): Row("provider", 422, 403, signed_ask, 201),
    ("DELETE", "/v1/asks/{ask_id}"): Row("provider", 404, 403),
    ("POST", "/v1/bids/prepare"): Row("buyer", 200, 403, bid_draft),
    ("GET", "/v1/bids"): Row("buyer", 200, 403),
    ("GET", "/v1/bids/{bid_id}"): Row("buyer", 404, None),
    ("POST", "/v1/jobs"): Row(
        "buyer", 422, 403, lambda api, o: {"json": api.submission(budget={"max_total": "1"})}, 202
    ),
    ("GET", "/v1/jobs"): Row("buyer", 200, 403),
    ("GET", "/v1/jobs/{job_id}"): Row("buyer", 404, 403),
    ("POST", "/v1/jobs/{job_id}/cancel"): Row("buyer", 404, 403, nothing, 202),
    ("GET", "/v1/jobs/{job_id}/events"): Row("buyer", 404, 403),
    ("GET", "/v1/jobs/{job_id}/logs"): Row("buyer", 404, 403),
    ("GET", "/v1/jobs/{job_id}/receipt"): Row("buyer", 404, None),
    ("GET", "/v1/leases"): Row("buyer", 200, None),
    ("GET", "/v1/leases/{lease_id}"): Row("buyer", 404, None),
    ("POST", "/v1/leases/{lease_id}/attestations"): Row(
        "provider", 404, 403, next_attestation, 201
    ),
    ("GET", "/v1/leases/{lease_id}/attestations"): Row("buyer", 404, None),
    ("POST", "/v1/leases/{lease_id}/heartbeats"): Row(
        "provider", 404, 403, lambda api, o: {"json": {"count": 1, "last": None}}
    ),
    ("POST", "/v1/leases/{lease_id}/logs"): Row(
        "provider", 404, 403,
        lambda api, o: {"json": {"stream": "stdout", "offset": 0, "text": "hello\n"}},
    ),
    ("POST", "/v1/leases/{lease_id}/finish"): Row("provider", 404, 403, finished),
    ("POST", "/v1/leases/{lease_id}/close"): Row("buyer", 404, None, closed),
    ("POST", "/v1/leases/{lease_id}/stop"): Row(
        "buyer", 404, None, lambda api, o: {"json": api.stop(o.lease_id)}
    ),
    ("POST", "/v1/jobs/{job_id}/top-up/prepare"): Row(
        "buyer", 404, 403, lambda api, o: {"json": {"duration": "1m"}}
    ),
    ("POST", "/v1/orders/cancel/prepare"): Row(
        "buyer", 404, None, lambda api, o: {"json": {"order_id": o.job_id}}
    ),
    ("POST", "/v1/orders/cancel"): Row("buyer", 422, None, cancel, 202),
    ("POST", "/v1/attestations/{attestation_id}/countersign"): Row(
        "buyer", 404, 403, countersignature
    ),
    ("POST", "/v1/calls/withdrawals"): Row("buyer", 422, None, withdrawal, 202),
    ("POST", "/v1/calls/top-ups"): Row("buyer", 422, 403, top_up, 202),
    ("GET", "/v1/calls/{call_id}"): Row("buyer", 404, None),
    ("GET", "/v1/witness/pending"): Row("buyer", 200, 403),
    ("GET", "/v1/receipts"): Row("buyer", 200, None),
    ("POST", "/v1/blobs"): Row("buyer", 201, None, lambda api, o: {"content": b"bytes"}, 201),
    ("GET", "/v1/blobs/{sha256}"): Row("buyer", 404, None),
}  # fmt: skip
DOCUMENTATION = ("/v1/openapi.json", "/v1/docs", "/docs/oauth2-redirect")
# Lists that another account gets, too, but empty of what is not its own.
OWN_LISTS = [
    path for (method, path), row in TABLE.items()
    if method == "GET" and row.other == 200 and "{" not in path
]  # fmt: skip


def routes(api: Api) -> set[tuple[str, str]]:
    """Every (method, path) that the application serves, HEAD and the documentation aside."""
    found = set()
    for context in iter_route_contexts(api.app.routes):
        if context.path not in DOCUMENTATION:
            found |= {(method, context.path) for method in context.methods - {"HEAD"}}
    return found


@pytest.fixture
def objects(api: Api) -> Objects:
    return objects_in(api)


@pytest.fixture(scope="module")
def still_objects(still_api: Api) -> Objects:
    return objects_in(still_api)


def objects_in(api: Api) -> Objects:
    """A running job with one unanswered attestation, and a closed one with a receipt."""
    world = api.world
    node = world.node(gpus=4)
    ask = world.offer(node)
    closed_job, _ = world.run(5)
    job_id, lease_id = world.open()
    world.attest(lease_id, 0, 0)
    row, _ = world.attest(lease_id, 1, 1_000, after=1.5)
    sha256 = world.keep_blob(b"content")
    with world.database.write() as store:
        world.catalog.blobs.own(store, world.caller(world.buyer), sha256, 7)
        rowid = rows_of(store, ReceiptRow, job_id=closed_job)[0].id
    assert rowid
    with world.database.write() as store:  # a signed call that has been sent
        store.enqueue(
            IntentKind.WITHDRAW, f"call:{world.buyer.address}:7", {"to": "0x", "data": "0x"}
        )
    key_id = api.ok(api.call("GET", "/keys", api.buyer))["data"][0]["id"]
    return Objects(
        node, ask, job_id, world.job(job_id).bid_id, lease_id, row.id, key_id, sha256,
        world.buyer.address,
    )  # fmt: skip


def test_every_route_has_a_row(api: Api) -> None:
    assert routes(api) == set(TABLE)


def market(
    request: pytest.FixtureRequest, route: tuple[str, str], status: int
) -> tuple[Api, Objects]:
    """A market of its own for a request that may change it; all others share one."""
    still = "still_" if route[0] == "GET" or status >= 400 else ""
    return request.getfixturevalue(f"{still}api"), request.getfixturevalue(f"{still}objects")


def answer(api: Api, objects: Objects, route: tuple[str, str], key: str | None) -> int:
    method, path = route
    values = {name: getattr(objects, name) for name in Objects.__slots__}
    row = TABLE[route]
    options = row.body(api, objects) if row.body else {}
    target = "http://market" + path.format(**values)
    if path.endswith("/receipt"):
        with api.world.database.read() as store:
            target = f"/jobs/{rows_of(store, ReceiptRow)[0].job_id}/receipt"
    if path.endswith("/events"):
        with api.world.database.read() as store:  # a stream that ends
            target = f"/jobs/{rows_of(store, ReceiptRow)[0].job_id}/events"
    return api.call(method, target, key, **options).status_code


def ids(route: tuple[str, str]) -> str:
    return " ".join(route)


PROTECTED = [route for route, row in TABLE.items() if row.right is not None]


@pytest.mark.parametrize("route", list(TABLE), ids=ids)
def test_whoever_has_the_right_gets_through(
    request: pytest.FixtureRequest, route: tuple[str, str]
) -> None:
    row = TABLE[route]
    api, objects = market(request, route, row.status)
    key = None if row.right is None else str(getattr(api, row.right))
    assert answer(api, objects, route, key) == row.status


@pytest.mark.parametrize("route", PROTECTED, ids=ids)
def test_anonymous_and_unknown_keys_are_401(
    still_api: Api, still_objects: Objects, route: tuple[str, str]
) -> None:
    for key in (None, "coul_unknown", "garbage"):
        assert answer(still_api, still_objects, route, key) == 401


@pytest.mark.parametrize("route", PROTECTED, ids=ids)
def test_another_account_does_not_learn_of_the_object(
    request: pytest.FixtureRequest, route: tuple[str, str]
) -> None:
    other = TABLE[route].other
    assert other
    api, objects = market(request, route, other)
    stranger = api.key(api.world.stranger, "buyer", "provider")
    assert answer(api, objects, route, stranger) == other


@pytest.mark.parametrize("route", [r for r in PROTECTED if TABLE[r].scope is not None], ids=ids)
def test_a_key_without_the_scope_is_403(
    still_api: Api, still_objects: Objects, route: tuple[str, str]
) -> None:
    row = TABLE[route]
    world = still_api.world
    owner = world.buyer if row.right == "buyer" else world.provider
    wrong = "provider" if row.right == "buyer" else "buyer"
    assert answer(still_api, still_objects, route, still_api.key(owner, wrong)) == row.scope


@pytest.mark.parametrize("path", OWN_LISTS)
def test_lists_hold_only_what_is_the_callers(
    still_api: Api, still_objects: Objects, path: str
) -> None:
    stranger = still_api.key(still_api.world.stranger, "buyer", "provider")
    data = still_api.ok(still_api.call("GET", path.removeprefix("/v1"), stranger))["data"]
    if path == "/v1/keys":
        assert {row["account"] for row in data} == {still_api.world.stranger.address}
    else:
        assert data == []


def test_a_provider_cannot_countersign_close_or_cancel_for_its_buyer(
    api: Api, objects: Objects
) -> None:
    both = api.key(api.world.provider, "provider", "buyer")
    body = countersignature(api, objects)
    path = f"/attestations/{objects.attestation_id}/countersign"
    assert api.call("POST", path, both, **body).status_code == 404
    assert api.call("POST", f"/jobs/{objects.job_id}/cancel", both).status_code == 404
    half = closed(api, objects)
    assert api.call("POST", f"/leases/{objects.lease_id}/close", both, **half).status_code == 404


def test_a_buyer_cannot_attest_log_or_finish_for_its_provider(api: Api, objects: Objects) -> None:
    both = api.key(api.world.buyer, "provider", "buyer")
    lease = f"/leases/{objects.lease_id}"
    for path, body in (
        ("/attestations", next_attestation(api, objects)),
        ("/finish", finished(api, objects)),
        ("/heartbeats", {"json": {"count": 1, "last": None}}),
        ("/logs", {"json": {"stream": "stdout", "offset": 0, "text": "x"}}),
    ):
        assert api.call("POST", lease + path, both, **body).status_code == 404
