"""GET /metrics over a market with traffic: what it tells, and what it must not tell."""

import re

from prometheus_client.parser import text_string_to_metric_families

from marketplace.domain.life import JobState, LeaseState
from settlement.ports import IntentState
from tests.api_client import Api

URL = "http://market/metrics"
OUTSIDE = {"/metrics", "other"}


def scrape(api: Api) -> tuple[str, dict[str, set[tuple[str, ...]]]]:
    """The text, and the label values of every family."""
    api.world.clock.advance(1)
    answer = api.call("GET", URL)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    labels = {
        family.name: {
            tuple(value for name, value in sample.labels.items() if name != "le")
            for sample in family.samples
        }
        for family in text_string_to_metric_families(answer.text)
    }
    return answer.text, labels


def test_a_scrape_shows_requests_by_template_and_the_market_by_state(api: Api) -> None:
    job_id, _ = api.world.start()
    api.call("GET", f"/jobs/{job_id}", api.buyer)
    text, labels = scrape(api)
    assert ("GET", "/v1/jobs/{job_id}", "200") in labels["coulomb_http_requests"]
    assert ("/v1/keys",) in labels["coulomb_http_request_seconds"]
    assert 'coulomb_jobs{state="starting"} 1.0' in text
    assert 'coulomb_leases{state="active"} 1.0' in text
    assert 'coulomb_outbox_intents{state="final"} 1.0' in text
    assert "coulomb_asks_resting 1.0" in text
    assert "coulomb_outbox_oldest_intent_age_seconds 0.0" in text


def test_label_values_are_bounded_whatever_is_asked_for(api: Api) -> None:
    for i in range(30):
        api.call("GET", f"/jobs/job_{i}", api.buyer)
        api.call("GET", f"/no/such/{i}")
        api.call(f"BREW{i}", f"/leases/lease_{i}")
        api.call("POST", f"/problems/{i}")
    templates = set(api.ok(api.call("GET", "/openapi.json"))["paths"])
    _, labels = scrape(api)
    requests = labels["coulomb_http_requests"]
    assert {route for _, route, _ in requests} <= templates | OUTSIDE
    assert {method for method, _, _ in requests} <= {"GET", "POST", "DELETE", "PUT", "other"}
    assert {route for (route,) in labels["coulomb_http_request_seconds"]} <= templates | OUTSIDE
    assert {state for (state,) in labels["coulomb_jobs"]} == set(JobState)
    assert {state for (state,) in labels["coulomb_leases"]} == set(LeaseState)
    assert {state for (state,) in labels["coulomb_outbox_intents"]} == set(IntentState)


def test_a_scrape_tells_nothing_of_anyone(api: Api) -> None:
    job_id, lease_id = api.world.start()
    for path in (f"/jobs/{job_id}", f"/accounts/{api.world.buyer.address}", f"/leases/{lease_id}"):
        api.call("GET", path, api.buyer)
    text, labels = scrape(api)
    assert not re.search(r"0x[0-9a-fA-F]{8}|coul_|(job|lease|key|node|ask|bid)_[0-9a-f]{8}", text)
    assert all(name.startswith("coulomb_") for name in labels)


def test_what_the_database_counts_is_read_once_a_second(api: Api) -> None:
    scrape(api)
    api.world.ask()
    assert "coulomb_asks_resting 0.0" in api.call("GET", URL).text
    assert "coulomb_asks_resting 1.0" in scrape(api)[0]


def test_the_documented_api_does_not_include_it(api: Api) -> None:
    assert "/metrics" not in api.ok(api.call("GET", "/openapi.json"))["paths"]
    assert api.call("GET", "/metrics").status_code == 404
