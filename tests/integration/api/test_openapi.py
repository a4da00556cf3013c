"""OpenAPI says all there is: ids, errors, examples; and answers are as it says."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from marketplace.api.problems import MEDIA_TYPE
from marketplace.domain.drafts import KeyRequest
from marketplace.errors import ERRORS
from settlement.attestation import Close, Stop, Usage, UsageAttestation
from settlement.orders import Ask, Bid, Cancel, Prices
from tests.api_client import Api
from tests.openapi_checks import OpenApi

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
            assert content["example"]["code"] in ERRORS, where
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


def test_problems_and_events_have_schemas(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for code, response in operation["responses"].items():
            if code[0] in "45":
                assert list(response["content"]) == [MEDIA_TYPE], (method, path, code)
                schema = response["content"][MEDIA_TYPE]["schema"]
                assert schema == {"$ref": "#/components/schemas/ProblemDocument"}
            if code in ("429", "503"):
                assert "Retry-After" in response["headers"], (method, path, code)
    stream = document["paths"]["/v1/jobs/{job_id}/events"]["get"]["responses"]["200"]
    mapping = stream["content"]["text/event-stream"]["schema"]["discriminator"]["mapping"]
    assert set(mapping) == {"status", "log", "metric", "cost", "receipt"}


def test_every_body_and_answer_has_an_example_that_fits(document: dict[str, Any]) -> None:
    checks = OpenApi(document)
    for method, path, operation in operations(document):
        parts = [(("requestBody",), operation.get("requestBody", {}))]
        parts += [(("responses", code), r) for code, r in operation["responses"].items()]
        for where, part in parts:
            for kind, content in part.get("content", {}).items():
                if kind in ("application/json", MEDIA_TYPE):
                    place = ("paths", path, method, *where, "content", kind, "schema")
                    assert checks.mistake(place, content["example"]) is None, place


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert names <= set(document["components"]["schemas"])


def test_signed_structs_and_job_files_have_schemas_of_their_own(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for struct in (Ask, Bid, Cancel, Close, KeyRequest, Prices, Stop, Usage, UsageAttestation):
        shown = schemas[struct.primary]
        assert list(shown["properties"]) == [name for _, name in struct.schema]
        assert shown["additionalProperties"] is False
    assert schemas["JobOrder"]["properties"]["job"] == {"$ref": "#/components/schemas/JobFile"}


def test_no_answer_is_an_object_of_anything(document: dict[str, Any]) -> None:
    """Known content has a schema; an EIP-712 document's message depends on its type."""
    schemas = document["components"]["schemas"]
    open_ = {
        f"{name}.{member}"
        for name, schema in schemas.items()
        for member, value in schema.get("properties", {}).items()
        if value.get("additionalProperties") is True
    }
    assert open_ == {"TypedData.message"}


def test_money_and_times_have_their_forms(api: Api) -> None:
    api.world.fund(3)
    account = api.ok(api.call("GET", f"/accounts/{api.world.buyer.address}", api.buyer))
    assert account["free"] == {"amount": "3", "currency": "CMP", "atoms": str(3 * 10**18)}
    config = api.ok(api.call("GET", "/config"))
    assert config["server_time"] == "2027-01-15T08:00:00.000Z"
    assert set(config["contracts"]) == {"ComputeToken", "ComputeEscrow"}
