"""What the market tells of itself."""

from fastapi import APIRouter

from marketplace.api.edge import EdgeDep, Id, SoundRoute
from marketplace.api.problems import documented, kind_of
from marketplace.errors import ERRORS, NotFound
from marketplace.services.views import config_view, tier_view
from marketplace.wire.market import Health, MarketConfig, TierList
from marketplace.wire.problems import ProblemKind, ProblemList

router = APIRouter(route_class=SoundRoute, tags=["market"], responses=documented())


@router.get("/health", operation_id="get_health")
def health(edge: EdgeDep) -> Health:
    """Say that the server and its database work."""
    with edge.database.read() as store:
        head = store.chain_cursor()
        last = store.order_log.last_seq()
    return Health(status="ok", chain_block=head.number if head else None, order_log=last)


@router.get("/config", operation_id="get_config")
def config(edge: EdgeDep) -> MarketConfig:
    """Chain, contracts, windows, fee and intervals of this market."""
    return config_view(edge.catalog.market, edge.catalog.clock())


@router.get("/problems", operation_id="list_problems")
def list_problems() -> ProblemList:
    """Every stable error code with its status and meaning."""
    return ProblemList(data=tuple(kind_of(kind) for kind in ERRORS.values()))


@router.get("/problems/{code}", operation_id="get_problem", responses=documented("not_found"))
def get_problem(code: Id) -> ProblemKind:
    """One stable error code."""
    if code not in ERRORS:
        raise NotFound("no such code")
    return kind_of(ERRORS[code])


@router.get("/tiers", operation_id="list_tiers")
def list_tiers(edge: EdgeDep) -> TierList:
    """Classes of GPU, with reference prices of real markets."""
    tiers = edge.catalog.tiers
    return TierList(data=tuple(tier_view(tier) for tier in tiers), source=tiers.source)
