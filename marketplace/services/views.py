"""Rows as what travels: one builder for each thing that the API answers with."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

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
from marketplace.domain.life import JobLife
from marketplace.domain.matching import AskView
from marketplace.domain.order import Fill
from marketplace.domain.pricing import from_scaled
from marketplace.domain.tier import Tier
from marketplace.services.common import money, unhex
from marketplace.services.leases import billed, cost_now
from marketplace.services.ports import Market
from marketplace.wire.base import time_of, time_or_none
from marketplace.wire.jobs import EVENT, Cost, Job, JobEvent, JobStatus
from marketplace.wire.leases import (
    Attestation,
    AttestationAnswer,
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
    Runtime,
    Scope,
    TierInfo,
    Windows,
)
from marketplace.wire.orders import AskInfo, BidInfo, MatchingAsk
from marketplace.wire.problems import Alternative, ConstraintCount, JobChange, NoMatch
from settlement.attestation import Close, MeteredUsage, Usage, UsageAttestation
from settlement.eip712 import from_text32
from settlement.orders import FLAG_SHARED, Ask, Bid, Prices
from settlement.units import cost

RATE_DECIMALS = 12
NANO_DECIMALS = 9


def scaled(value: int, decimals: int) -> Decimal:
    """An integer of 10^-decimals as an exact decimal number."""
    return Decimal(from_scaled(value, decimals))


def rate_per_hour(rate: int) -> Decimal:
    """A rate (1e-12 token per hour) in tokens per hour."""
    return scaled(rate, RATE_DECIMALS)


# The market


def config_view(market: Market, now_ms: int) -> MarketConfig:
    """What a client must know before it signs anything for this market."""
    return MarketConfig(
        chain_id=market.domain.chain_id,
        rpc_url=market.rpc_url,
        contracts=Contracts(token=market.token, escrow=market.domain.verifying_contract),
        currency=market.currency,
        decimals=market.decimals,
        fee_bps=market.fee_bps,
        windows=Windows(settle_seconds=market.settle_window_s),
        opener=market.opener,
        interval_ms=market.interval_ms,
        settle_every_seconds=market.settle_every_s,
        confirmations=market.confirmations,
        server_time=time_of(now_ms),
    )


def tier_view(tier: Tier) -> TierInfo:
    """A tier with its reference prices."""
    return TierInfo(
        name=tier.name,
        model=tier.gpu,
        memory_mib=tier.memory_gib * 1024,
        usd_per_gpu_hour=ReferencePrices(
            median=scaled(tier.median_nano_per_hour, NANO_DECIMALS),
            low=scaled(tier.low_nano_per_hour, NANO_DECIMALS),
            high=scaled(tier.high_nano_per_hour, NANO_DECIMALS),
        ),
        listings=tier.listings,
        markets=tier.markets,
    )


def book_ask(view: AskView) -> BookAsk:
    """An ask in the book and what is free of it."""
    ask, node = view.ask, view.node
    return BookAsk(
        ask_id=view.order.id,
        provider=ask.provider,
        tier=ask.tier_name,
        region=node.region,
        runtime=node.runtime,
        simulated=node.simulated,
        verified=node.verified,
        reliability=scaled(node.reliability_milli, 3),
        shared=view.order.shared,
        price=ask.floor,
        gpu_milli=ask.gpu_milli,
        free_gpu_milli=max(0, ask.gpu_milli - view.use.gpu_milli),
        max_seconds=ask.max_seconds,
        expires_at=time_of(ask.expiry * 1000),
    )


# Accounts, nodes, orders


def key_view(market: Market, row: ApiKeyRow) -> ApiKey:
    """An API key, without the key itself."""
    return ApiKey(
        id=row.id,
        account=row.account,
        name=row.name,
        scopes=tuple(Scope(name) for name in row.scopes.split(",")),
        hint=row.hint,
        created_at=time_of(row.created_ms),
        expires_at=time_or_none(row.expires_ms),
        revoked_at=time_or_none(row.revoked_ms),
        spend_cap=None if row.spend_cap is None else money(market, row.spend_cap),
        spent=money(market, row.spent),
    )


def node_view(node: NodeRow, gpus: Sequence[GpuRow]) -> Node:
    """A node as its provider sees it."""
    return Node(
        id=node.id,
        provider=node.provider,
        number=node.number,
        name=node.name,
        region=node.region,
        tier=node.tier,
        gpus=tuple(
            Gpu(uuid=g.uuid, model=g.model, memory_mib=g.memory_mib, simulated=g.simulated)
            for g in gpus
        ),
        gpu_milli=node.gpu_count * 1000,
        cpu_milli=node.cpu_milli,
        memory_mib=node.memory_mib,
        storage_mib=node.storage_mib,
        runtime=Runtime(node.runtime),
        shared=node.shared,
        simulated=node.simulated,
        verified=node.verified,
        reliability=scaled(node.reliability_milli, 3),
        interval_ms=node.interval_ms,
        state=node.state,
        last_heartbeat_at=time_of(node.seen_ms),
        created_at=time_of(node.created_ms),
    )


def ask_view(store: Store, row: AskRow, now_ms: int) -> AskInfo:
    """An ask as everyone sees it."""
    ask = Ask.from_message(row.message)
    node = store.nodes.get(row.node_id)
    expired = row.state == AskState.OPEN and row.expiry_s <= now_ms // 1000
    return AskInfo(
        id=row.id,
        ask=ask,
        signature=unhex(row.signature),
        hash=unhex(row.hash),
        node_id=row.node_id,
        provider=row.provider,
        meter=row.meter,
        tier=row.tier,
        region=node.region if node else "",
        runtime=node.runtime if node else "",
        simulated=bool(node and node.simulated),
        verified=bool(node and node.verified),
        reliability=scaled(node.reliability_milli if node else 0, 3),
        shared=bool(ask.flags & FLAG_SHARED),
        gpu_milli=ask.gpu_milli,
        prices=ask.floor,
        unit=from_text32(ask.unit) or None,
        state=AskState.EXPIRED if expired else row.state,
        reason=row.reason,
        expires_at=time_of(row.expiry_s * 1000),
        created_at=time_of(row.created_ms),
    )


def bid_view(row: BidRow) -> BidInfo:
    """A bid as its parties see it."""
    return BidInfo(
        id=row.id,
        account=row.account,
        job_id=row.job_id,
        bid=Bid.from_message(row.message),
        signature=unhex(row.signature),
        hash=unhex(row.hash),
        created_at=time_of(row.created_ms),
    )


# Quotes


def match_view(store: Store, market: Market, fill: Fill) -> MatchingAsk:
    """One possible match."""
    node = store.nodes.get(fill.node_id)
    return MatchingAsk(
        ask_id=fill.ask_id,
        provider=fill.provider,
        tier=fill.tier,
        region=node.region if node else "",
        simulated=bool(node and node.simulated),
        price=fill.prices,
        rate_per_hour=rate_per_hour(fill.terms.rate),
        max_cost=money(market, fill.terms.lock),
        funded_seconds=fill.terms.funded_seconds,
        budget_limited=fill.terms.budget_limited,
    )


def no_match_view(market: Market, why: Explanation) -> NoMatch:
    """Why nothing fits."""
    counts = (
        ConstraintCount(reason=e.reason, alone=e.alone, in_turn=e.in_turn, left=e.left)
        for e in why.eliminations
    )
    return NoMatch(
        considered=why.considered,
        eliminations=tuple(counts),
        relaxations=tuple(_alternative(market, r) for r in why.relaxations),
        summary=why.summary,
    )


def _alternative(market: Market, relaxed: Relaxation) -> Alternative:
    changes = (
        JobChange(reason=c.reason, pointer=c.pointer, value=c.value) for c in relaxed.changes
    )
    return Alternative(
        ask_id=relaxed.ask_id,
        tier=relaxed.tier,
        region=relaxed.region,
        changes=tuple(changes),
        rate_per_hour=rate_per_hour(relaxed.rate),
        max_cost=money(market, relaxed.max_cost),
        text=relaxed.text,
    )


# Jobs


def job_view(store: Store, market: Market, job: JobRow) -> Job:
    """A job as its buyer sees it."""
    lease = store.leases.get(job.lease_id)
    return Job(
        id=job.id,
        account=job.account,
        name=job.name,
        state=job.state,
        reason=job.reason,
        detail=job.detail,
        ending=job.ending,
        bid_id=job.bid_id,
        lease_id=job.lease_id,
        lease_no=lease.lease_bytes if lease else None,
        provider=lease.provider if lease else None,
        witness=lease.witness if lease else None,
        job_hash=unhex(job.job_hash),
        spec=job.spec,
        no_match=NoMatch.model_validate(job.explanation) if job.explanation else None,
        exit_code=job.exit_code,
        outputs=job.outputs,
        max_cost=money(market, lease.lock if lease else job.reserve),
        cost=cost_view(store, market, job, lease) if lease else None,
        created_at=time_of(job.created_ms),
        matched_at=time_or_none(job.matched_ms),
        started_at=time_or_none(job.started_ms),
        finished_at=time_or_none(job.finished_ms),
    )


def cost_view(store: Store, market: Market, job: JobRow, lease: LeaseRow) -> Cost:
    """What a job's lease has cost, and what the job may still cost."""
    bid = store.bids.get(job.bid_id)
    budget = int(bid.message["budget"]) if bid else 0
    used = cost_now(market, lease)
    longest_ms = min(lease.max_seconds, lease.funded_seconds) * 1000
    return Cost(
        accrued=money(market, used),
        rate_per_hour=rate_per_hour(lease.rate),
        locked=money(market, lease.lock),
        projected=money(market, cost(lease.rate, longest_ms, market.decimals)),
        budget_left=money(market, max(0, budget - job.spent - used)),
        ms=int(billed(lease).get("ms", 0)),
    )


def status_view(job: JobRow | JobLife) -> JobStatus:
    """What a `status` event says."""
    return JobStatus(
        state=job.state,
        reason=job.reason,
        detail=job.detail,
        exit_code=job.exit_code,
        ending=job.ending,
        lease_id=job.lease_id,
    )


def event_view(row: JobEventRow) -> JobEvent:
    """One event of a job."""
    at = time_of(row.at_ms)
    return EVENT.validate_python({"id": row.seq, "type": row.type, "data": row.data, "at": at})


# Leases


def used_view(usage: Mapping[str, Any]) -> Used:
    """Cumulative usage that counts for money; what is not said is zero."""
    return Used(**{name: int(usage.get(name, 0)) for name in Used.model_fields})


def measured_view(usage: Mapping[str, Any]) -> Measured:
    """Cumulative usage in every resource; what is not said is zero."""
    return Measured(**{name: int(usage.get(name, 0)) for name in Measured.model_fields})


def lease_view(store: Store, market: Market, lease: LeaseRow) -> Lease:
    """A lease as both parties see it, with its job."""
    job = store.jobs.get(lease.job_id)
    return Lease(
        id=lease.id,
        lease_no=lease.lease_bytes,
        job_id=lease.job_id,
        bid_id=lease.bid_id,
        ask_id=lease.ask_id,
        node_id=lease.node_id,
        buyer=lease.buyer,
        provider=lease.provider,
        witness=lease.witness,
        meter=lease.meter,
        state=lease.state,
        reason=lease.reason,
        interval_ms=lease.interval_ms,
        terms=terms_view(market, lease),
        gpus=tuple(lease.gpus),
        used=measured_view(lease.attested),
        countersigned=used_view(lease.countersigned),
        settled=used_view(lease.settled),
        refused_attestations=lease.refused_count,
        cost=money(market, cost_now(market, lease)),
        released=money(market, lease.released),
        refunded=money(market, lease.refunded),
        stop_requested=lease.stop_requested,
        outcome=outcome_view(lease),
        final=final_view(lease),
        job=_brief(job) if job else None,
        opened_tx=lease.opened_tx,
        closed_tx=lease.closed_tx,
        ready_at=time_or_none(lease.ready_ms),
        created_at=time_of(lease.created_ms),
        closed_at=time_or_none(lease.closed_ms),
    )


def terms_view(market: Market, lease: LeaseRow) -> LeaseTerms | None:
    """The terms that the chain has frozen; None before it has opened the lease."""
    if lease.start_s is None or lease.end_s is None:
        return None
    return LeaseTerms(
        rate=lease.rate,
        prices=Prices.from_message(lease.prices),
        start=lease.start_s,
        end=lease.end_s,
        funded_seconds=lease.funded_seconds,
        lock=money(market, lease.lock),
        gpu_milli=lease.gpu_milli,
        budget_limited=lease.budget_limited,
        metered=lease.metered,
        start_limit_seconds=lease.start_limit_seconds,
        max_seconds=lease.max_seconds,
        unit=lease.unit or None,
        units_cap=lease.units_cap,
        egress_cap_mib=lease.egress_cap_mib,
    )


def outcome_view(lease: LeaseRow) -> JobOutcome | None:
    """What the agent reported of the job's end."""
    return JobOutcome.model_validate(lease.outcome) if lease.outcome else None


def final_view(lease: LeaseRow) -> PendingClose | None:
    """The Close that the meter has signed."""
    if lease.close is None or lease.meter_signature is None:
        return None
    message, signature = Close.from_message(lease.close), unhex(lease.meter_signature)
    return PendingClose(message=message, meter_signature=signature)


def _brief(job: JobRow) -> JobBrief:
    return JobBrief(id=job.id, state=job.state, spec=job.spec)


def heartbeat_view(lease: LeaseRow) -> Heartbeat:
    """A job's signs of life as the market has them."""
    return Heartbeat(count=lease.heartbeat_count, last_at=time_or_none(lease.heartbeat_ms))


def attestation_view(row: AttestationRow) -> Attestation:
    """An attestation as its lease's parties see it."""
    voucher = None
    if row.voucher is not None and row.voucher_signature is not None:
        kind = MeteredUsage if "egressMib" in row.voucher else Usage
        signed = unhex(row.voucher_signature)
        voucher = SignedVoucher(message=kind.from_message(row.voucher), signature=signed)
    state = AttestationState.COUNTERSIGNED if voucher else AttestationState(row.state)
    return Attestation(
        id=row.id,
        lease_id=row.lease_id,
        sequence=row.sequence,
        state=state,
        code=row.code,
        message=UsageAttestation.from_message(row.message),
        signature=unhex(row.signature),
        voucher=voucher,
        created_at=time_of(row.received_ms),
    )


def answer_view(row: AttestationRow) -> AttestationAnswer:
    """What became of an attestation."""
    state = AttestationState(row.state)
    return AttestationAnswer(id=row.id, sequence=row.sequence, state=state, code=row.code)
