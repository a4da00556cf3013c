"""Rows as what travels: one builder for each thing that the API answers with."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from marketplace.db.store import Store
from marketplace.db.tables import (
    ApiKeyRow,
    AskRow,
    AttestationRow,
    BidRow,
    GpuRow,
    JobEventRow,
    JobRow,
    LeaseRow,
    NodeRow,
)
from marketplace.domain.drafts import AskState
from marketplace.domain.explain import Explanation, Relaxation
from marketplace.domain.life import LeaseState
from marketplace.domain.matching import AskView
from marketplace.domain.order import Fill
from marketplace.domain.pricing import from_scaled
from marketplace.domain.tier import Tier
from marketplace.services.common import money
from marketplace.services.ports import Market
from marketplace.wire.base import Answer, time_of, time_or_none
from marketplace.wire.jobs import EVENT, Cost, Job, JobEvent
from marketplace.wire.leases import (
    Attestation,
    AttestationState,
    Heartbeat,
    JobBrief,
    JobOutcome,
    Lease,
    LeaseTerms,
    Measured,
    PendingClose,
    SignedVoucher,
    Used,
)
from marketplace.wire.market import (
    ApiKey,
    BookAsk,
    Contracts,
    Gpu,
    MarketConfig,
    Node,
    ReferencePrices,
    TierInfo,
    Windows,
)
from marketplace.wire.orders import (
    CALL_ID,
    AskInfo,
    BidInfo,
    CallState,
    MatchingAsk,
    RelayedCall,
)
from marketplace.wire.problems import Alternative, ConstraintCount, JobChange, NoMatch
from settlement.eip712 import from_text32
from settlement.orders import FLAG_SHARED, Ask, Prices
from settlement.ports import Intent, IntentState
from settlement.units import cost, counted_cost

A = TypeVar("A", bound=Answer)
U = TypeVar("U", bound=Used)
CALL_STATES = {
    IntentState.PENDING: CallState.PENDING,
    IntentState.SIGNED: CallState.SENT,
    IntentState.SENT: CallState.SENT,
    IntentState.CONFIRMED: CallState.CONFIRMED,
    IntentState.FINAL: CallState.FINAL,
    IntentState.DEAD: CallState.FAILED,
}
RATE_DECIMALS = 12
NANO_DECIMALS = 9


def answer_of(kind: type[A], source: object, **more: Any) -> A:
    """An answer from what `source` has under the same names, and what else is given. Times
    (`created_at`) come from Unix milliseconds (`created_ms`)."""
    for name in kind.model_fields.keys() - more.keys():
        if name.endswith("_at"):
            more[name] = time_or_none(getattr(source, name.removesuffix("_at") + "_ms"))
        else:
            more[name] = getattr(source, name)
    return kind(**more)


def scaled(value: int, decimals: int) -> Decimal:
    """An integer of 10^-decimals as an exact decimal number."""
    return Decimal(from_scaled(value, decimals))


def rate_per_hour(rate: int) -> Decimal:
    """A rate (1e-12 token per hour) in tokens per hour."""
    return scaled(rate, RATE_DECIMALS)


# The market


def config_view(market: Market, now_ms: int) -> MarketConfig:
    """What a client must know before it signs anything for this market."""
    return answer_of(
        MarketConfig,
        market,
        chain_id=market.domain.chain_id,
        contracts=Contracts(token=market.token, escrow=market.domain.verifying_contract),
        windows=Windows(settle_seconds=market.settle_window_s),
        settle_every_seconds=market.settle_every_s,
        relay_fee=None if market.relay_fee is None else money(market, market.relay_fee),
        server_time=time_of(now_ms),
    )


def tier_view(tier: Tier) -> TierInfo:
    prices = ReferencePrices(
        median=scaled(tier.median_nano_per_hour, NANO_DECIMALS),
        low=scaled(tier.low_nano_per_hour, NANO_DECIMALS),
        high=scaled(tier.high_nano_per_hour, NANO_DECIMALS),
    )
    return answer_of(
        TierInfo,
        tier,
        model=tier.gpu,
        memory_mib=tier.memory_gib * 1024,
        usd_per_gpu_hour=prices if tier.listings else None,
    )


def book_ask(view: AskView) -> BookAsk:
    """An ask in the book and what is free of it."""
    ask, node = view.ask, view.node
    return answer_of(
        BookAsk,
        node,
        ask_id=view.order.id,
        provider=ask.provider,
        tier=ask.tier_name,
        reliability=scaled(node.reliability_milli, 3),
        shared=view.order.shared,
        notice_seconds=ask.notice,
        price=ask.floor,
        gpu_milli=ask.gpu_milli,
        free_gpu_milli=max(0, ask.gpu_milli - view.use.gpu_milli),
        free_cpu_milli=max(0, view.offered.cpu_milli - view.use.cpu_milli),
        free_memory_mib=max(0, view.offered.memory_mib - view.use.memory_mib),
        free_storage_mib=max(0, view.offered.storage_mib - view.use.storage_mib),
        max_seconds=ask.max_seconds,
        expires_at=time_of(ask.expiry * 1000),
    )


# Accounts, nodes, orders


def key_view(market: Market, row: ApiKeyRow) -> ApiKey:
    """An API key, without the key itself."""
    cap = None if row.spend_cap is None else money(market, row.spend_cap)
    scopes = row.scopes.split(",")
    spent = money(market, row.spent)
    return answer_of(ApiKey, row, scopes=scopes, spend_cap=cap, spent=spent)


def node_view(node: NodeRow, gpus: Sequence[GpuRow]) -> Node:
    return answer_of(
        Node,
        node,
        gpus=tuple(answer_of(Gpu, gpu) for gpu in gpus),
        gpu_milli=node.gpu_count * 1000,
        reliability=scaled(node.reliability_milli, 3),
        last_heartbeat_at=time_of(node.seen_ms),
    )


def ask_view(store: Store, row: AskRow, now_ms: int) -> AskInfo:
    ask = Ask.from_message(row.message)
    node = store.nodes.need(row.node_id)
    expired = row.state is AskState.OPEN and row.expiry_s <= now_ms // 1000
    return answer_of(
        AskInfo,
        row,
        ask=ask,
        region=node.region,
        runtime=node.runtime,
        simulated=node.simulated,
        verified=node.verified,
        reliability=scaled(node.reliability_milli, 3),
        shared=bool(ask.flags & FLAG_SHARED),
        notice_seconds=ask.notice,
        gpu_milli=ask.gpu_milli,
        prices=ask.floor,
        unit=from_text32(ask.unit) or None,
        state=AskState.EXPIRED if expired else row.state,
        expires_at=time_of(row.expiry_s * 1000),
    )


def call_view(intent: Intent, salt: int) -> RelayedCall:
    """How far a signed call has come, from the intent that carries it."""
    return RelayedCall(
        id=CALL_ID.format(salt),
        call=intent.kind,
        state=CALL_STATES[intent.state],
        tx_hash=intent.mined_hash or intent.tx_hash,
        error=intent.error if intent.state is IntentState.DEAD else None,
        created_at=intent.created_at,
    )


def bid_view(row: BidRow) -> BidInfo:
    return answer_of(BidInfo, row, bid=row.message)


# Quotes


def match_view(store: Store, market: Market, fill: Fill) -> MatchingAsk:
    node = store.nodes.need(fill.node_id)
    return answer_of(
        MatchingAsk,
        fill,
        meter=store.asks.need(fill.ask_id).message["meter"],
        region=node.region,
        simulated=node.simulated,
        price=fill.prices,
        rate_per_hour=rate_per_hour(fill.terms.rate),
        max_cost=money(market, fill.terms.lock),
        paid_seconds=fill.terms.paid_seconds,
        start_limit_seconds=fill.terms.start_seconds,
        notice_seconds=fill.notice_seconds,
        budget_limited=fill.terms.budget_limited,
    )


def no_match_view(market: Market, why: Explanation) -> NoMatch:
    eliminations = tuple(answer_of(ConstraintCount, count) for count in why.eliminations)
    relaxations = tuple(_alternative(market, relaxed) for relaxed in why.relaxations)
    return answer_of(NoMatch, why, eliminations=eliminations, relaxations=relaxations)


def _alternative(market: Market, relaxed: Relaxation) -> Alternative:
    changes = tuple(answer_of(JobChange, change) for change in relaxed.changes)
    rate = rate_per_hour(relaxed.rate)
    max_cost = money(market, relaxed.max_cost)
    return answer_of(Alternative, relaxed, changes=changes, rate_per_hour=rate, max_cost=max_cost)


# Jobs


def job_view(store: Store, market: Market, job: JobRow) -> Job:
    lease = store.leases.get(job.lease_id)
    return answer_of(
        Job,
        job,
        lease_no=lease.lease_no if lease else None,
        provider=lease.provider if lease else None,
        witness=lease.witness if lease else None,
        no_match=NoMatch.model_validate(job.explanation) if job.explanation else None,
        max_cost=money(market, most_of(lease) if lease else job.reserve),
        cost=cost_view(store, market, job, lease) if lease else None,
    )


def most_of(lease: LeaseRow) -> int:
    """Atoms that a lease could cost at most when it was last opened or topped up."""
    if lease.state is LeaseState.CLOSED:
        return lease.released + lease.refunded
    return lease.lock + lease.refunded


def cost_view(store: Store, market: Market, job: JobRow, lease: LeaseRow) -> Cost:
    """What a job's lease has cost, and what the job may still cost."""
    budget = int(store.bids.need(job.bid_id).message["budget"])
    used = cost_now(market, lease)
    going = lease.state in (LeaseState.OPENING, LeaseState.ACTIVE)
    projected = cost(lease.rate, lease.paid_seconds * 1000, market.decimals) if going else used
    return Cost(
        accrued=money(market, used),
        rate_per_hour=rate_per_hour(lease.rate),
        locked=money(market, lease.lock),
        projected=money(market, projected),
        budget_left=money(market, max(0, budget - job.spent - used)),
        ms=usage_view(Used, _billed(lease)).ms,
    )


def event_view(row: JobEventRow) -> JobEvent:
    at = time_of(row.at_ms)
    return EVENT.validate_python({"id": row.seq, "type": row.type, "data": row.data, "at": at})


# Leases


def usage_view(kind: type[U], usage: Mapping[str, Any]) -> U:
    """Cumulative usage; what is not said is zero."""
    return kind(**{name: int(usage.get(name, 0)) for name in kind.model_fields})


def _billed(lease: LeaseRow) -> dict[str, Any]:
    """The usage that counts: what is attested while the lease runs, once it has ended what was
    countersigned, and in the end what the chain settled."""
    if lease.state in (LeaseState.OPENING, LeaseState.ACTIVE):
        return lease.attested
    return lease.settled if lease.state is LeaseState.CLOSED else lease.countersigned


def cost_now(market: Market, lease: LeaseRow) -> int:
    """Atoms that the lease costs as far as is known; if it is closed, what was released."""
    if lease.state is LeaseState.CLOSED:
        return lease.released
    usage = usage_view(Used, _billed(lease))
    decimals = market.decimals
    time = cost(lease.rate, usage.ms, decimals)
    prices = Prices.from_message(lease.prices)
    if not lease.metered:
        return time
    counted = (prices.egress_gib, prices.unit, usage.egress_mib, usage.units)
    return time + counted_cost(*counted, decimals)


def lease_view(store: Store, market: Market, lease: LeaseRow) -> Lease:
    """A lease as both parties see it, with its job."""
    job = store.jobs.need(lease.job_id)
    return answer_of(
        Lease,
        lease,
        terms=terms_view(market, lease),
        used=usage_view(Measured, lease.attested),
        countersigned=usage_view(Used, lease.countersigned),
        settled=usage_view(Used, lease.settled),
        refused_attestations=lease.refused_count,
        cost=money(market, cost_now(market, lease)),
        released=money(market, lease.released),
        refunded=money(market, lease.refunded),
        outcome=outcome_view(lease),
        final=final_view(lease),
        job=answer_of(JobBrief, job),
    )


def terms_view(market: Market, lease: LeaseRow) -> LeaseTerms | None:
    """The terms that the chain has frozen; None before it has opened the lease."""
    start = lease.start_s
    end = lease.end_s
    lock = money(market, lease.lock)
    if start is None or end is None:
        return None
    return answer_of(LeaseTerms, lease, start=start, end=end, lock=lock, unit=lease.unit or None)


def outcome_view(lease: LeaseRow) -> JobOutcome | None:
    """What the agent reported of the job's end."""
    return JobOutcome.model_validate(lease.outcome) if lease.outcome else None


def final_view(lease: LeaseRow) -> PendingClose | None:
    """The Close that the meter has signed."""
    return None if lease.close is None else answer_of(PendingClose, lease, message=lease.close)


def heartbeat_view(lease: LeaseRow) -> Heartbeat:
    """A job's signs of life as the market has them."""
    return Heartbeat(count=lease.heartbeat_count, last_at=time_or_none(lease.heartbeat_ms))


def attestation_view(row: AttestationRow) -> Attestation:
    voucher = None
    if row.voucher is not None:
        signed = {"message": row.voucher, "signature": row.voucher_signature}
        voucher = SignedVoucher.model_validate(signed)
    state = AttestationState.COUNTERSIGNED if voucher else row.state
    at = time_of(row.received_ms)
    return answer_of(Attestation, row, state=state, voucher=voucher, created_at=at)
