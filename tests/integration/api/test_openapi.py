"""OpenAPI says all there is: ids, errors, examples; and answers are as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from marketplace.api.schemas import base, offers, orders, work
from pydantic import TypeAdapter

from marketplace.api.problems import KINDS, MEDIA_TYPE
from tests.api_client import Api
from tests.market_world import job_spec

STREAMS_AND_BYTES = ("watch_job", "get_blob")


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    return dict(api.ok(api.call("GET", "/openapi.json")))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def test_operation_ids_are_unique_verbs_with_nouns(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids)) > 40
    assert all("_" in name and name == name.lower() for name in ids)


def test_every_operation_has_a_description_and_its_errors(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert operation["description"], where
        assert operation["tags"], where
        codes = {code for code in operation["responses"] if code[0] in "45"}
        assert {"422", "429", "503"} <= codes, where
        if operation.get("security"):
            assert "401" in codes, where
        if "{" in path:
            assert "404" in codes, where
        if "application/json" in operation.get("requestBody", {}).get("content", {}):
            assert {"400", "413", "415"} <= codes, where
        for code in codes:
            content = operation["responses"][code]["content"][MEDIA_TYPE]
            assert content["example"]["code"] in KINDS, where
            assert content["example"]["status"] == int(code), where


def test_every_success_has_a_schema(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        success = next(r for code, r in operation["responses"].items() if code[0] == "2")
        if operation["operationId"] not in STREAMS_AND_BYTES:
            assert "$ref" in success["content"]["application/json"]["schema"], (method, path)


def test_every_private_route_names_its_credentials(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert [scheme["scheme"] for scheme in schemes.values()] == ["bearer"]
    private = [o["operationId"] for _, _, o in operations(document) if o.get("security")]
    assert "submit_job" in private
    assert "list_asks" not in private


def test_request_schemas_refuse_what_they_do_not_name(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for _, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content:
            name = content["schema"]["$ref"].rpartition("/")[2]
            assert schemas[name]["additionalProperties"] is False, path


def check(kind: Any, value: Any) -> None:
    TypeAdapter(kind).validate_python(value, strict=False)


def test_answers_are_as_documented(api: Api) -> None:
    world = api.world
    world.ask()
    world.fund()
    job_id, lease_id = world.run(5)
    _, second = world.open()
    world.attest(second, 0, 0)
    world.clock.advance(1)
    world.attest(second, 1, 1_000)
    world.finish(second, 2, 1_000)

    def get(path: str, key: str | None = None) -> Any:
        return api.ok(api.call("GET", path, key))

    check(offers.TierList, get("/tiers"))
    check(offers.AskPage, get("/asks"))
    check(offers.BookView, get("/book"))
    check(offers.NodePage, get("/nodes", api.provider))
    check(offers.KeyPage, get("/keys", api.buyer))
    check(offers.Account, get(f"/accounts/{world.buyer.address}", api.buyer))
    check(work.JobPage, get("/jobs", api.buyer))
    check(work.Job, get(f"/jobs/{job_id}", api.buyer))
    check(work.JobEventPage, get(f"/jobs/{job_id}/logs", api.buyer))
    check(work.Receipt, get(f"/jobs/{job_id}/receipt", api.buyer))
    check(work.ReceiptPage, get("/receipts", api.provider))
    check(work.BidPage, get("/bids", api.buyer))
    check(work.LeasePage, get("/leases", api.provider))
    check(work.Lease, get(f"/leases/{lease_id}", api.buyer))
    check(work.AttestationPage, get(f"/leases/{second}/attestations", api.buyer))
    check(work.WitnessPending, get("/witness/pending", api.buyer))
    check(base.ProblemDocument, api.call("GET", "/jobs").json())
    world.ask()
    _, third = world.open()
    top_up = {"json": {"duration": "1m"}}
    job = world.lease(third).job_id
    check(
        orders.TopUp, api.ok(api.call("POST", f"/jobs/{job}/top-up/prepare", api.buyer, **top_up))
    )
    quote = api.ok(api.call("POST", "/quotes", json={"job": job_spec()}))
    check(offers.Quote, quote)
    draft = {"job": job_spec(), "witness": world.witness.address}
    check(work.PreparedBid, api.ok(api.call("POST", "/bids/prepare", api.buyer, json=draft)))


def test_money_and_times_have_their_forms(api: Api) -> None:
    api.world.fund(3)
    account = api.ok(api.call("GET", f"/accounts/{api.world.buyer.address}", api.buyer))
    assert account["free"] == {"amount": "3", "currency": "CMP", "atoms": str(3 * 10**18)}
    config = api.ok(api.call("GET", "/config"))
    assert config["server_time"] == "2027-01-15T08:00:00.000Z"
    assert set(config["contracts"]) == {"ComputeToken", "ComputeEscrow"}
