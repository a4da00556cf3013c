"""What people sign: asks from a provider's terms, bids from jobs, requests for API keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from marketplace.domain.job import JobSpec
from marketplace.domain.pricing import from_scaled, prices_from_json
from marketplace.domain.reader import Reader, bool_of, duration_of, text_of, whole_of
from marketplace.domain.tier import CPU_TIER, TierRegistry
from marketplace.errors import InvalidInput, Problem
from marketplace.limits import ORDER_SECONDS_MAX
from settlement.eip712 import (
    ZERO_ADDRESS,
    Address,
    Bytes32,
    Struct,
    Uint40,
    Uint128,
    Uint256,
    from_text32,
    text32,
)
from settlement.errors import FieldError
from settlement.orders import (
    FLAG_INTERRUPTIBLE,
    FLAG_NO_GPU,
    FLAG_SHARED,
    Ask,
    Bid,
    Prices,
    TierLimit,
)
from settlement.units import (
    MAX_FEE_BPS,
    MAX_NOTICE_SECONDS,
    MAX_START_SECONDS,
    UINT32_MAX,
    time_lock,
)

# Asks

DAY_S = 86_400
# Name of each duration: what holds if the terms leave it out, and the most, in seconds.
DURATIONS = {
    "min_duration": (0, UINT32_MAX),
    "max_duration": (30 * DAY_S, UINT32_MAX),
    "start_limit": (600, MAX_START_SECONDS),
    "expires_in": (30 * DAY_S, ORDER_SECONDS_MAX),
}
TERMS = (
    *DURATIONS, "meter", "prices", "unit", "max_fee_bps", "opener", "no_gpu", "interruptible",
    "notice",
)  # fmt: skip


class NodeState(StrEnum):
    """Whether a node takes new jobs: `away` until its agent is heard of again."""

    ACTIVE = "active"
    DRAINING = "draining"
    AWAY = "away"


class AskState(StrEnum):
    """`suspended`: not on the book for now; `reason` says why."""

    OPEN = "open"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class AskingNode:
    """What a node sells: which it is, and all that it has."""

    provider: str
    number: int
    tier: str
    gpu_count: int
    cpu_milli: int
    memory_mib: int
    storage_mib: int
    shared: bool


def ask_of(
    node: AskingNode, terms: Mapping[str, Any], *, opener: str, fee_bps: int, now: int, salt: int
) -> Ask:
    """The ask that a provider signs for a node. `terms` has prices (decimal texts, or `Prices`) and
    durations as text. With `no_gpu`, and of a node without GPUs, it sells the tier CPU.

    `opener` and `fee_bps` are the market's, unless the terms have others; `now` is Unix time in
    seconds. Raises InvalidInput with every mistake in the terms.
    """
    problems: list[Problem] = []
    reader = Reader(dict(terms), TERMS, problems)
    seconds = {
        name: reader.read(name, duration_of(most), default)
        for name, (default, most) in DURATIONS.items()
    }
    prices = reader.need("prices", _prices, Prices(0))
    unit = reader.read("unit", text_of(32, r"[A-Za-z][A-Za-z0-9_-]*"), "")
    max_fee_bps = reader.read("max_fee_bps", whole_of(0, MAX_FEE_BPS), fee_bps)
    meter = reader.need("meter", text_of(42), ZERO_ADDRESS)
    named_opener = reader.read("opener", text_of(42), opener)
    no_gpu = not node.gpu_count or bool(reader.read("no_gpu", bool_of, False))
    if no_gpu and prices.gpu_hour:
        problems.append(Problem("/prices/gpu_hour", "must be 0: no GPU is sold"))
    interruptible = bool(reader.read("interruptible", bool_of, False))
    notice = reader.read("notice", duration_of(MAX_NOTICE_SECONDS), 0)
    if interruptible and not reader.has("notice"):
        reader.problem("notice", "missing: how long before you take the node back, such as 5m")
    elif notice and not interruptible:
        reader.problem("notice", "says nothing without interruptible: true")
    if problems:
        raise InvalidInput(problems)
    try:
        return Ask(
            provider=node.provider,
            meter=meter,
            opener=named_opener,
            node=node.number,
            tier=text32(CPU_TIER if no_gpu else node.tier),
            gpu_milli=0 if no_gpu else node.gpu_count * 1000,
            cpu_milli=node.cpu_milli,
            memory_mib=node.memory_mib,
            storage_mib=node.storage_mib,
            floor=prices,
            min_seconds=seconds["min_duration"],
            max_seconds=seconds["max_duration"],
            start_limit_seconds=seconds["start_limit"],
            notice_seconds=notice,
            unit=text32(unit) if unit else bytes(32),
            starts_at=0,
            flags=flags_of(
                shared=node.shared and not no_gpu, no_gpu=no_gpu, interruptible=interruptible
            ),
            max_fee_bps=max_fee_bps,
            expiry=now + seconds["expires_in"],
            salt=salt,
        )
    except FieldError as error:
        raise InvalidInput([Problem(error.pointer, error.detail)]) from error


def flags_of(*, shared: bool, no_gpu: bool, interruptible: bool) -> int:
    """The flags of an ask or a bid."""
    flags = FLAG_SHARED * shared | FLAG_NO_GPU * no_gpu
    return flags | FLAG_INTERRUPTIBLE * interruptible


def _prices(value: object) -> Prices:
    return value if isinstance(value, Prices) else prices_from_json(value)


# Bids

EXPIRY_SLACK_SECONDS = 3_600
# What the buyer and the market choose freely; everything else follows from the job.
_FREE = ("buyer", "witness", "opener", "max_fee_bps", "expiry", "salt")


def bid_template(spec: JobSpec, tiers: TierRegistry, **free: Any) -> Bid:
    """The bid for a job: sizes, limits, duration, budget and hash from the spec, `free` as given.

    It has one limit per tier that the job accepts, sorted by name: max_gpu_hour for every GPU, or
    max_hour, all in. Raises FieldError if a value does not fit its field.
    """
    egress, units = spec.egress, spec.units
    prices = (egress.max_price_nano if egress else 0, units.max_price_nano if units else 0)
    return Bid(
        job_hash=spec.hash(),
        limits=tuple(
            TierLimit(text32(name), spec.limit_rate, *prices) for name in tiers.select(spec.gpu)
        ),
        gpu_milli=spec.gpu.gpu_milli,
        cpu_milli=spec.cpu_milli,
        memory_mib=spec.memory_mib,
        storage_mib=spec.storage_mib,
        egress_mib=egress.max_mib if egress else 0,
        units=units.maximum if units else 0,
        unit=text32(units.name) if units else bytes(32),
        max_seconds=spec.max_seconds,
        max_start_seconds=min(spec.start_deadline_seconds, MAX_START_SECONDS),
        min_notice_seconds=spec.min_notice_seconds,
        budget=spec.max_total_atoms,
        nodes=1,
        flags=flags_of(
            shared=spec.gpu.shared,
            no_gpu=not spec.gpu.gpu_milli,
            interruptible=spec.interruptible,
        ),
        **{"opener": ZERO_ADDRESS, **free},
    )


def bid_of(spec: JobSpec, tiers: TierRegistry, *, fee_bps: int, now: int, **free: str | int) -> Bid:
    """The bid that a buyer signs for a job: good for as long as the job may take to start, to move
    to another ask and to run, and for an hour more.

    `fee_bps` and `opener` are the market's, `now` is Unix time in seconds. Raises InvalidInput.
    """
    seconds = spec.start_deadline_seconds + spec.retry_seconds + spec.max_seconds
    expiry = now + seconds + EXPIRY_SLACK_SECONDS
    try:
        return bid_template(spec, tiers, max_fee_bps=fee_bps, expiry=expiry, **free)
    except FieldError as error:
        raise InvalidInput([Problem(error.pointer, error.detail)]) from error


def top_up_lock(
    seconds: int,
    ask: Ask,
    *,
    rate: int,
    paid_seconds: int,
    left: int,
    decimals: int,
    currency: str,
) -> int:
    """Atoms that running a lease `seconds` longer locks at most; its bid may still spend `left`.

    Raises InvalidInput if the ask allows less time, or the bid less money.
    """
    longest = ask.max_seconds - paid_seconds
    if not 0 < seconds <= longest:
        detail = f"must be between 1 and {max(0, longest)} seconds, the ask's longest time"
        raise InvalidInput([Problem("/duration", detail)])
    before = time_lock(rate, paid_seconds, decimals)
    more = time_lock(rate, paid_seconds + seconds, decimals) - before
    if more > left:
        costs, rest = (f"{from_scaled(atoms, decimals)} {currency}" for atoms in (more, left))
        detail = f"costs up to {costs}; the bid's budget has {rest} left"
        raise InvalidInput([Problem("/duration", detail)])
    return more


def bid_problems(bid: Bid, spec: JobSpec, tiers: TierRegistry) -> list[Problem]:
    """Members in which a signed bid differs from its job; none if they agree."""
    free = {name: getattr(bid, name) for name in _FREE}
    expected = bid_template(spec, tiers, **free)
    names = {f.name: json for f, (_, json) in zip(fields(bid), Bid.schema, strict=True)}
    return [
        Problem(f"/bid/{names[f.name]}", "differs from what the job spec says")
        for f in fields(bid)
        if getattr(bid, f.name) != getattr(expected, f.name)
    ]


# API keys

SCOPES = ("buyer", "provider", "operator")


@dataclass(frozen=True, slots=True)
class KeyRequest(Struct):
    """Signed by `account`. Times are Unix seconds; zero: no expiry, no spend cap (atoms).

    `scopes` is text: scope names joined by commas. A nonce of an account is taken once.
    """

    account: Address
    name: Bytes32
    scopes: Bytes32
    issued_at: Uint40
    expires_at: Uint40
    spend_cap: Uint128
    nonce: Uint256

    @property
    def scope_names(self) -> tuple[str, ...]:
        """The scopes asked for, in order."""
        return tuple(from_text32(self.scopes).split(","))


def key_request_of(
    account: str,
    name: str,
    scopes: Sequence[str],
    *,
    now: int,
    nonce: int,
    expires_at: int = 0,
    spend_cap: int = 0,
) -> KeyRequest:
    """The message that an account signs for a new key; `now` is Unix time in seconds.

    Raises InvalidInput.
    """
    try:
        return KeyRequest(
            account=account,
            name=text32(name),
            scopes=text32(",".join(scopes)),
            issued_at=now,
            expires_at=expires_at,
            spend_cap=spend_cap,
            nonce=nonce,
        )
    except FieldError as error:
        raise InvalidInput([Problem(error.pointer or "/name", error.detail)]) from error
