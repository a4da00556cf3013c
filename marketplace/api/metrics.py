"""What operators watch, in the text format of Prometheus: requests, and what the database counts.

No label names a wallet, a job or a key: routes are templates, methods and states are among a few.
Source: Prometheus exposition format 0.0.4.
"""

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.requests import Request
from starlette.types import Scope

from marketplace.api.edge import PREFIX, EdgeDep, SoundRoute
from marketplace.db.store import Tally
from marketplace.domain.life import JobState, LeaseState
from settlement.ports import IntentState

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "other"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
disable_created_metrics()  # type: ignore[no-untyped-call]  # when a series began helps nobody

router = APIRouter()


class Metrics:
    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter(
            "coulomb_http_requests_total", "Answers begun.", labels, registry=registry
        )
        self._seconds = Histogram(
            "coulomb_http_request_seconds",
            "Seconds until an answer began; for event streams, until the stream did.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        route = template_of(scope)
        method = scope["method"] if scope["method"] in METHODS else OTHER
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self, tally: Tally, now_ms: int) -> bytes:
        """The requests so far and what the database counts; states without rows are zero."""
        gauges = CollectorRegistry()
        oldest = tally.oldest_intent_ms
        for name, said, states, counts in (
            ("coulomb_jobs", "Jobs.", JobState, tally.jobs),
            ("coulomb_leases", "Leases.", LeaseState, tally.leases),
            ("coulomb_outbox_intents", "Effects wanted on chain.", IntentState, tally.intents),
        ):
            gauge = Gauge(name, said, ("state",), registry=gauges)
            for state, count in ({state.value: 0 for state in states} | dict(counts)).items():
                gauge.labels(state).set(count)
        Gauge(
            "coulomb_outbox_oldest_intent_age_seconds",
            "Age of the oldest intent that is neither final nor dead; 0 if there is none.",
            registry=gauges,
        ).set(0 if oldest is None else max(0, now_ms - oldest) / 1000)
        Gauge("coulomb_asks_resting", "Asks on the book.", registry=gauges).set(tally.asks_resting)
        return generate_latest(self._registry) + generate_latest(gauges)


def template_of(scope: Scope) -> str:
    """The route that a request met, with names where its path has values; `other` for none."""
    route = scope.get("route")
    path = getattr(route, "path", OTHER)
    return PREFIX + path if isinstance(route, SoundRoute) else str(path)


@router.get("/metrics", include_in_schema=False)
def scrape(request: Request, edge: EdgeDep) -> Response:
    """Requests so far, and jobs, leases, intents and asks as the database has them."""
    metrics: Metrics = request.app.state.metrics
    body = metrics.text(edge.tally(), edge.catalog.clock())
    return Response(body, media_type=CONTENT_TYPE_PLAIN_0_0_4)
