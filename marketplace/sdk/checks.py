"""What a signer checks before it signs what a server wrote: nobody signs on a server's word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from marketplace.domain.bidding import bid_problems
from marketplace.domain.job import JobSpec
from marketplace.domain.key_request import KeyRequest
from marketplace.domain.pricing import prices_from_json
from marketplace.domain.tier import TierRegistry
from marketplace.sdk.errors import VerificationError
from marketplace.sdk.models import MarketConfig, Prepared
from settlement.eip712 import ZERO_ADDRESS, Domain, Struct, checksum, text32
from settlement.errors import FieldError
from settlement.orders import Ask, Bid

S = TypeVar("S", bound=Struct)

EXPIRY_SLACK_SECONDS = 86_400
REQUEST_AGE_SECONDS_MAX = 900


def read_document(kind: type[S], prepared: Prepared, domain: Domain) -> S:
    """The struct inside a typed-data document, if every part of the document is as we would write
    it: type, members, chain and contract. Raises VerificationError.
    """
    document = prepared.typed_data
    try:
        struct = kind.from_message(document.get("message"), "/message")
    except FieldError as error:
        raise VerificationError(f"the server's {kind.primary} is malformed: {error}") from None
    ours = struct.typed_data(domain)
    for part in ("domain", "primaryType", "types"):
        if document.get(part) != ours[part]:
            raise VerificationError(
                f"the server's {kind.primary} has another {part} than expected: "
                f"{document.get(part)!r:.300} instead of {ours[part]!r:.300}"
            )
    return struct


def require(kind: str, differences: Iterable[str]) -> None:
    """Raise VerificationError listing the differences, if there are any."""
    listed = list(differences)
    if listed:
        lines = "\n".join(f"  {line}" for line in listed)
        raise VerificationError(
            f"the server's {kind} is not what was asked for; nothing was signed:\n{lines}",
            fix="check the server, or update this client if its tiers are old",
        )


def check_bid(
    bid: Bid,
    spec: JobSpec,
    tiers: TierRegistry,
    market: MarketConfig,
    *,
    buyer: str,
    witness: str,
    now: int,
) -> None:
    """Check a bid against the job it is for: hash, sizes, limits, budget, parties, expiry."""
    longest = spec.start_deadline_seconds + spec.retry_seconds + spec.max_seconds
    parties = {
        "/buyer": (bid.buyer, {checksum(buyer)}),
        "/witness": (bid.witness, {checksum(witness)}),
        # One that anyone may open could be opened again after its job: its budget is not spent.
        "/opener": (bid.opener, {checksum(market.opener)} - {ZERO_ADDRESS}),
    }
    found = [
        f"{p.pointer.removeprefix('/bid')}: {p.detail}" for p in bid_problems(bid, spec, tiers)
    ]
    found += [f"{at}: {is_} is none of {ok}" for at, (is_, ok) in parties.items() if is_ not in ok]
    if not now < bid.expiry <= now + longest + EXPIRY_SLACK_SECONDS:
        found.append(f"/expiry: {bid.expiry} is past, or long after the job's deadlines")
    require("bid", found)


def check_ask(ask: Ask, terms: dict[str, object], *, provider: str, meter: str, now: int) -> None:
    """Check an ask against the terms it was asked for with: who, which prices, until when."""
    prices = terms.get("prices")
    floor = prices_from_json(prices if isinstance(prices, dict) else {})
    found = []
    if ask.provider != checksum(provider):
        found.append(f"/provider: {ask.provider} is not {provider}")
    if ask.meter != checksum(meter):
        found.append(f"/meter: {ask.meter} is not {meter}")
    if ask.floor != floor:
        found.append("/floor: other prices than asked for")
    if ask.expiry <= now:
        found.append("/expiry: is past")
    require("ask", found)


def check_key_request(
    request: KeyRequest,
    *,
    account: str,
    name: str,
    scopes: Iterable[str],
    expires_at: int,
    spend_cap: int,
    now: int,
) -> None:
    """Check that a key request asks for no more than was meant."""
    found = []
    if request.account != checksum(account):
        found.append(f"/account: {request.account} is not {account}")
    if request.name != text32(name):
        found.append("/name: another name")
    if set(request.scope_names) != set(scopes):
        found.append(f"/scopes: {','.join(request.scope_names)} instead of {','.join(scopes)}")
    if request.expires_at != expires_at or request.spend_cap != spend_cap:
        found.append("/expiresAt, /spendCap: other limits")
    if abs(request.issued_at - now) > REQUEST_AGE_SECONDS_MAX:
        found.append(f"/issuedAt: {request.issued_at} is not now ({now}): check the clocks")
    require("key request", found)
