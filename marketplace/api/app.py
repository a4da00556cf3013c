"""The HTTP application: routes under /v1, problem documents, limits, OpenAPI."""

from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from marketplace.api import problems
from marketplace.api.edge import PREFIX, Edge
from marketplace.api.limits import Gate, Limits
from marketplace.api.metrics import Metrics
from marketplace.api.metrics import router as scraped
from marketplace.api.openapi import finished
from marketplace.api.routes import (
    accounts,
    asks,
    bids,
    blobs,
    calls,
    jobs,
    leases,
    market,
    nodes,
    orders,
)  # fmt: skip
from marketplace.db.store import Database
from marketplace.services.catalog import Catalog

DESCRIPTION = """Coulomb is a market for GPU compute that is paid by the measured second.

Sign in with a key request (`POST /v1/keys/prepare`, sign, `POST /v1/keys`); send the key as
`Authorization: Bearer coul_…`. Orders, vouchers, stops and closes carry their own EIP-712
signatures. Errors are RFC 9457 documents; `GET /v1/problems` lists every code.
"""


class MarketApi(FastAPI):
    """FastAPI inside the gate, so that even a fault's answer carries the gate's headers."""

    limits: Limits = Limits()

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = finished(super().openapi())
        return self.openapi_schema

    def build_middleware_stack(self) -> ASGIApp:
        inner = super().build_middleware_stack()
        edge = self.state.edge
        return Gate(inner, self.limits, self.state.metrics.answered, edge.account_of)


def create_api(catalog: Catalog, database: Database, limits: Limits | None = None) -> MarketApi:
    """The application over ready-made services; it starts no thread and opens nothing."""
    app = MarketApi(
        title="Coulomb",
        version="1",
        description=DESCRIPTION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=f"{PREFIX}/docs",
        redoc_url=None,
    )
    app.limits = limits or Limits()
    app.state.edge = Edge(catalog, database, app.limits)
    app.state.metrics = Metrics()
    problems.install(app)
    root = APIRouter(prefix=PREFIX)
    for nouns in (market, accounts, nodes, asks, bids, jobs, leases, orders, calls, blobs):
        root.include_router(nouns.routes)
    app.include_router(root)
    app.include_router(scraped)
    return app
