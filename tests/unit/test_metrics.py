"""The text that Prometheus reads: names, units, and labels that cannot grow without bound."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from marketplace.api.metrics import Metrics, template_of
from marketplace.db.store import Tally

EMPTY = Tally({}, {}, {}, None, 0)


def samples(metrics: Metrics, tally: Tally = EMPTY, now_ms: int = 0) -> dict[str, float]:
    """Every sample by its name and label values."""
    text = metrics.text(tally, now_ms).decode()
    return {
        " ".join(
            [sample.name, *(value for _, value in sorted(sample.labels.items()))]
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_answers_are_counted_by_method_route_and_status() -> None:
    metrics = Metrics()
    for status in (200, 200, 404):
        metrics.answered({"method": "GET"}, status, 0.02)
    found = samples(metrics)
    assert found["coulomb_http_requests_total GET other 200"] == 2
    assert found["coulomb_http_requests_total GET other 404"] == 1
    assert found["coulomb_http_request_seconds_count other"] == 3
    assert found["coulomb_http_request_seconds_bucket 0.01 other"] == 0
    assert found["coulomb_http_request_seconds_bucket 0.025 other"] == 3


@pytest.mark.parametrize("method", ["BREW", "get", "X" * 1_000])
def test_a_method_nobody_knows_makes_no_label_of_its_own(method: str) -> None:
    metrics = Metrics()
    metrics.answered({"method": method, "path": "/v1/any"}, 405, 0.0)
    assert samples(metrics)["coulomb_http_requests_total other other 405"] == 1


def test_a_path_without_a_route_makes_no_label_of_its_own() -> None:
    assert template_of({"path": "/v1/jobs/job_1/nothing"}) == "other"


def test_states_without_rows_are_zero_and_the_age_is_in_seconds() -> None:
    tally = Tally({"running": 3}, {"active": 2}, {"sent": 1}, 4_000, 5)
    found = samples(Metrics(), tally, now_ms=5_500)
    assert (found["coulomb_jobs running"], found["coulomb_jobs queued"]) == (3, 0)
    assert (found["coulomb_leases active"], found["coulomb_leases closed"]) == (2, 0)
    assert found["coulomb_outbox_intents sent"] == 1
    assert found["coulomb_outbox_intents dead"] == 0
    assert found["coulomb_outbox_oldest_intent_age_seconds"] == 1.5
    assert found["coulomb_asks_resting"] == 5


def test_without_intents_and_with_a_clock_that_went_back_the_age_is_zero() -> None:
    name = "coulomb_outbox_oldest_intent_age_seconds"
    assert samples(Metrics())[name] == 0
    assert samples(Metrics(), Tally({}, {}, {}, 9_000, 0), now_ms=5_000)[name] == 0


def test_each_application_counts_its_own() -> None:
    one, two = Metrics(), Metrics()
    one.answered({"method": "GET"}, 200, 0.0)
    assert "coulomb_http_requests_total GET other 200" in samples(one)
    assert "coulomb_http_requests_total GET other 200" not in samples(two)
