"""Simulates an intent on the pending block before anything is signed.

So an intent that would revert costs nothing, and vouchers that would be skipped take no calldata.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from settlement.attestation import MeteredUsage
from settlement.chain.calls import EscrowCalls, LeaseRef, SettlementEntry
from settlement.chain.client import with_margin
from settlement.chain.contracts import Escrow
from settlement.chain.rpc import code_failed
from settlement.eip712 import checksum
from settlement.errors import (
    CallReverted,
    ChainError,
    FieldError,
    SignatureError,
)
from settlement.leases import LeaseStatus
from settlement.ports import Intent, IntentKind
from settlement.signing import recover

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
# These calls may run the code of contract accounts (ERC-1271), which could burn any amount of gas.
# They get what an opening with two such accounts needs; if that is not enough, they are refused.
CONSENTED = (IntentKind.OPEN, IntentKind.CANCEL)
CONSENT_GAS_MAX = 1_000_000
NOTHING_TO_SETTLE = "nothing_to_settle"
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


class Vetting:
    """Simulates intents of one sender on the pending block."""

    def __init__(self, escrow: Escrow, sender: str) -> None:
        self._escrow = escrow
        self._sender = sender

    def vet(self, intent: Intent) -> Verdict:
        """Judge one pending intent. Raises ChainError if the node does not answer."""
        try:
            if intent.kind in (IntentKind.SETTLE, IntentKind.SETTLE_METERED):
                return self._vet_settle(intent)
            most = CONSENT_GAS_MAX if intent.kind in CONSENTED else None
            return self._vet_call(intent.payload, most)
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

    def _vet_call(self, payload: dict[str, Any], most: int | None = None) -> Go:
        call, client = call_of(payload), self._escrow.client
        if call.gas is not None:
            client.call(call.to, call.data, self._sender, "pending", call.value)
            return Go(call.gas)
        gas = client.estimate_gas(call.to, call.data, self._sender, call.value, most)
        return Go(with_margin(gas))

    def _vet_settle(self, intent: Intent) -> Verdict:
        calls, metered = self._escrow.calls, intent.kind is IntentKind.SETTLE_METERED
        vouchers = calls.vouchers(call_of(intent.payload).data)
        kept, skipped = self._escrow.simulate_settle(vouchers, metered, self._sender, "pending")
        if not skipped:
            return self._vet_call(intent.payload)
        later = [signed for signed in skipped if self._is_early(signed)]
        if not kept:
            early = Wait("UsageAheadOfTime", NOT_YET["UsageAheadOfTime"])
            return early if later else Refuse(NOTHING_TO_SETTLE)
        payload = _payload(calls, kept, metered)
        gas = self._vet_call(payload).gas
        return Go(gas, payload, _payload(calls, later, metered) if later else None)

    def _is_early(self, signed: SettlementEntry) -> bool:
        """Whether a skipped voucher will be paid once chain time has caught up."""
        voucher = signed.voucher
        try:
            witness = recover(voucher, self._escrow.domain(), signed.signature)
        except SignatureError:
            return False
        ref = LeaseRef(voucher.buyer, voucher.provider, witness, voucher.lease_no)
        lease = self._escrow.lease(ref)
        if lease.status not in (LeaseStatus.ACTIVE, LeaseStatus.STOPPED):
            return False
        news = min(voucher.ms, lease.funded * 1000) > lease.used_ms
        if isinstance(voucher, MeteredUsage) and not news:
            counted = self._escrow.counted(ref)
            news = min(voucher.egress_mib, counted.egress_cap_mib) > counted.egress_mib
            news = news or min(voucher.units, counted.units_cap) > counted.units
        now = self._escrow.client.timestamp()
        return news and voucher.ms > (now - lease.start) * 1000


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
        gas, to = payload.get("gas"), str(payload["to"])
        if not _ADDRESS.fullmatch(to):
            raise FieldError("/payload/to", f"{to!r} is not an address")
        return Call(
            checksum(to),
            bytes.fromhex(str(payload["data"]).removeprefix("0x")),
            int(payload.get("value", 0)),
            None if gas is None else int(gas),
        )
    except FieldError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FieldError("/payload", f"is not a call: {error!r}") from error


def _payload(
    calls: EscrowCalls, vouchers: Iterable[SettlementEntry], metered: bool
) -> dict[str, Any]:
    return calls.payload(calls.settle(list(vouchers), metered))
