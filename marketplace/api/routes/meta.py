"""What the market tells of itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from marketplace.api.edge import EdgeDep, SoundRoute, problems
from marketplace.api.problems import KINDS
from marketplace.api.schemas.base import Answer, Id, ProblemKind
from marketplace.api.schemas.offers import TierList
from marketplace.errors import NotFound

router = APIRouter(route_class=SoundRoute, tags=["market"], responses=problems())


class Health(Answer):
    """Whether the server works, and how far along the chain and the order log it is."""

    status: str
    chain_block: int | None
    order_log: int


class Config(Answer):
    """What a client has to know before it signs anything for this market."""

    chain_id: int
    rpc_url: str
    contracts: dict[str, str]
    currency: str
    decimals: int
    fee_bps: int
    windows: dict[str, int]
    opener: str
    interval_ms: int
    settle_every_seconds: int
    confirmations: int
    server_time: str


class ProblemList(BaseModel):
    """Every code that errors carry."""

    data: list[ProblemKind]


@router.get("/health", operation_id="get_health", response_model=Health)
def health(edge: EdgeDep) -> dict[str, Any]:
    """Say that the server and its database work."""
    with edge.database.read() as store:
        head = store.chain_cursor()
        last = store.order_log.last_seq()
    return {
        "status": "ok",
        "chain_block": head.number if head else None,
        "order_log": last,
    }


@router.get("/config", operation_id="get_config", response_model=Config)
def config(edge: EdgeDep) -> dict[str, Any]:
    """Chain, contracts, windows, fee and intervals of this market."""
    return edge.catalog.config()


@router.get("/problems", operation_id="list_problems", response_model=ProblemList)
def list_problems() -> dict[str, Any]:
    """Every stable error code with its status and meaning."""
    return {"data": [kind.to_json() for kind in KINDS.values()]}


@router.get(
    "/problems/{code}",
    operation_id="get_problem",
    response_model=ProblemKind,
    responses=problems("not_found"),
)
def get_problem(code: Id) -> dict[str, Any]:
    """One stable error code."""
    if code not in KINDS:
        raise NotFound("no such code")
    return KINDS[code].to_json()


@router.get("/tiers", operation_id="list_tiers", response_model=TierList)
def list_tiers(edge: EdgeDep) -> dict[str, Any]:
    """Classes of GPU, with reference prices of real markets."""
    tiers = edge.catalog.tiers
    rows = []
    for tier in tiers:
        row = tier.to_json()
        model, gib = row.pop("gpu"), row.pop("memory_gib")
        rows.append({**row, "model": model, "memory_mib": gib * 1024})
    return {"data": rows, "source": tiers.source}
