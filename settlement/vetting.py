"""Simulates an intent on the pending block before anything is signed.

So an intent that would revert costs nothing, and vouchers that would be skipped take no calldata.
"""

import re
from dataclasses import dataclass
from typing import Any

from settlement.attestation import MeteredUsage
from settlement.chain.abi import abi
from settlement.chain.calls import LeaseRef, SettlementEntry
from settlement.chain.client import ChainClient, with_margin
from settlement.chain.contracts import Escrow
from settlement.chain.rpc import code_failed
from settlement.eip712 import checksum
from settlement.errors import CallReverted, ChainError, FieldError, SignatureError
from settlement.leases import LeaseStatus
from settlement.ports import Intent, IntentKind
from settlement.signing import recover

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
RELAYED = {
    IntentKind.WITHDRAW: "withdrawBySignature",
    IntentKind.TOP_UP: "topUpBySignature",
}
"""Calls that accounts signed until a deadline, and the functions that take them."""
# These calls may run the code of contract accounts (ERC-1271), which could burn any amount of gas.
# They get what an opening with two such accounts needs; if that is not enough, they are refused.
CONSENTED = (IntentKind.OPEN, IntentKind.CANCEL, *RELAYED)
CONSENT_GAS_MAX = 1_000_000
DEADLINE_SECONDS_MIN = 30  # left of a deadline: what is mined after it reverts, and costs gas
NOTHING_TO_SETTLE = "nothing_to_settle"
NOTHING_TO_FREE = "nothing_to_free"
# Reverts that mean "not yet", and how many attempts to make before giving up (None: no limit).
NOT_YET: dict[str, int | None] = {"UsageAheadOfTime": 120, "RefundTooEarly": None}


@dataclass(frozen=True, slots=True)
class Go:
    """Send it with this much gas.

    If `payload` is given, it replaces the intent's own first. `later` becomes a new intent.
    """

    gas: int
    payload: dict[str, Any] | None = None
    later: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again later; give up after `limit` attempts (None: never)."""

    reason: str
    limit: int | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """It would revert or do nothing, now and later."""

    reason: str


Verdict = Go | Wait | Refuse


def vet(escrow: Escrow, sender: str, intent: Intent) -> Verdict:
    """Judge one pending intent of `sender`. Raises ChainError if the node does not answer."""
    try:
        if intent.kind in (IntentKind.SETTLE, IntentKind.SETTLE_METERED):
            return _vet_settle(escrow, sender, intent)
        if intent.kind is IntentKind.FREE:
            call = call_of(intent.payload)
            if not escrow.simulate_free(call.data, sender, "pending"):
                return Refuse(NOTHING_TO_FREE)
        if intent.kind in RELAYED:
            left = _seconds_left(escrow, intent)
            if left < DEADLINE_SECONDS_MIN:
                return Refuse(f"the deadline is {left} s ahead, too near to be mined in time")
        most = CONSENT_GAS_MAX if intent.kind in CONSENTED else None
        return Go(_gas(escrow.client, sender, intent.payload, most))
    except CallReverted as error:
        if error.name in NOT_YET:
            return Wait(str(error), NOT_YET[error.name])
        return Refuse(str(error))
    except ChainError as error:
        if intent.kind in CONSENTED and code_failed(error):
            return Refuse(f"needs more than {CONSENT_GAS_MAX} gas: {error}")
        raise
    except (FieldError, SignatureError) as error:
        return Refuse(f"malformed intent: {error}")


def _gas(client: ChainClient, sender: str, payload: dict[str, Any], most: int | None = None) -> int:
    """Gas to send a call with. Raises CallReverted if it would fail."""
    call = call_of(payload)
    if call.gas is not None:
        client.call(call.to, call.data, sender, "pending", call.value)
        return call.gas
    return with_margin(client.estimate_gas(call.to, call.data, sender, call.value, most))


def _seconds_left(escrow: Escrow, intent: Intent) -> int:
    """Until the deadline of a call that its account signed, by chain time."""
    arguments = abi("ComputeEscrow").arguments(RELAYED[intent.kind], call_of(intent.payload).data)
    *_, (_, deadline, _, _), _ = arguments
    return int(deadline) - escrow.client.timestamp()


def _vet_settle(escrow: Escrow, sender: str, intent: Intent) -> Verdict:
    calls = escrow.calls
    metered = intent.kind is IntentKind.SETTLE_METERED
    vouchers = calls.vouchers(call_of(intent.payload).data)
    kept, skipped = escrow.simulate_settle(vouchers, metered, sender, "pending")
    if not skipped:
        return Go(_gas(escrow.client, sender, intent.payload))
    later = [signed for signed in skipped if _is_early(escrow, signed)]
    if not kept:
        early = Wait("UsageAheadOfTime", NOT_YET["UsageAheadOfTime"])
        return early if later else Refuse(NOTHING_TO_SETTLE)
    payload = calls.payload(calls.settle(kept, metered))
    rest = calls.payload(calls.settle(later, metered)) if later else None
    return Go(_gas(escrow.client, sender, payload), payload, rest)


def _is_early(escrow: Escrow, signed: SettlementEntry) -> bool:
    """Whether a skipped voucher will be paid once chain time has caught up."""
    voucher = signed.voucher
    try:
        witness = recover(voucher, escrow.domain(), signed.signature)
    except SignatureError:
        return False
    ref = LeaseRef(voucher.buyer, voucher.provider, witness, voucher.lease_no)
    lease = escrow.lease(ref)
    if lease.status not in (LeaseStatus.ACTIVE, LeaseStatus.STOPPED):
        return False
    news = min(voucher.ms, (lease.funded - lease.start_seconds) * 1000) > lease.used_ms
    if isinstance(voucher, MeteredUsage) and not news:
        counted = escrow.counted(ref)
        news = min(voucher.egress_mib, counted.egress_cap_mib) > counted.egress_mib
        news = news or min(voucher.units, counted.units_cap) > counted.units
    return news and voucher.ms > (escrow.client.timestamp() - lease.start) * 1000


@dataclass(frozen=True, slots=True)
class Call:
    """The call that an intent's payload describes."""

    to: str
    data: bytes
    value: int
    gas: int | None


def call_of(payload: dict[str, Any]) -> Call:
    """Parse a payload. Raises FieldError if it is malformed."""
    try:
        gas = payload.get("gas")
        to = str(payload["to"])
        data = bytes.fromhex(str(payload["data"]).removeprefix("0x"))
        value = int(payload.get("value", 0))
        gas = None if gas is None else int(gas)
    except (KeyError, TypeError, ValueError) as error:
        raise FieldError("/payload", f"is not a call: {error!r}") from error
    if not _ADDRESS.fullmatch(to):
        raise FieldError("/payload/to", f"{to!r} is not an address")
    return Call(checksum(to), data, value, gas)
