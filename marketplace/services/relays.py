"""Sends withdrawals and top-ups that accounts signed: the relayer pays their gas, for a fee.

The relayer must never pay for a call that fails. So everything that could make it fail is looked at
before the call is put down, the chain last; the relayer asks the chain again before it signs. Only
keys sign such calls: a contract may say yes when asked, and burn the relayer's gas when mined.
"""

from dataclasses import dataclass

from marketplace.db.store import Database, Store, Tries
from marketplace.domain.life import LeaseState
from marketplace.errors import (
    CallExpired,
    CallRefused,
    CallUsed,
    Conflict,
    InvalidInput,
    InvalidSignature,
    NotFound,
    NotRelayed,
    Problem,
    PurseExpired,
    RelayFee,
)
from marketplace.limits import (
    RELAY_PAUSE_SECONDS,
    RELAY_SECONDS_MAX,
    RELAY_SECONDS_MIN,
    RELAY_TRIES,
)
from marketplace.services.common import Principal, check_account, money, too_little, unmet
from marketplace.services.leases import opened_from, ref_of
from marketplace.services.ports import Clock, EscrowReads, Market
from marketplace.services.views import call_view
from marketplace.wire.orders import CALL_ID, RelayedCall, SignedTopUp, SignedWithdrawal
from settlement.chain.calls import EscrowCalls
from settlement.consent import PAID_TOP_UPS, TOP_UPS, WITHDRAWALS, KeysOnly, PurseRule
from settlement.errors import CallReverted
from settlement.orders import Numbered, TopUp, Withdraw
from settlement.ports import Intent, IntentKind, IntentState
from settlement.vetting import CONSENT_GAS_MAX

KEY = "call:{account}:{salt}"
"""The outbox's key of a signed call: one transaction for each number of an account."""
NEEDS = "what the call takes"
# Until it is final: a call that was mined may have failed, and cost gas.
ON_ITS_WAY = (IntentState.PENDING, IntentState.SIGNED, IntentState.SENT, IntentState.CONFIRMED)


@dataclass(frozen=True, slots=True)
class Relay:
    """A signed call as the outbox takes it. `needs`: free atoms that it takes at least."""

    kind: IntentKind
    account: str
    call: Withdraw | TopUp
    signature: bytes
    rule: PurseRule
    needs: int
    data: bytes

    @property
    def key(self) -> str:
        """The key of its first try."""
        return KEY.format(account=self.account, salt=self.call.salt)


@dataclass(frozen=True, slots=True)
class Relays:
    market: Market
    clock: Clock
    reads: EscrowReads
    calls: EscrowCalls
    database: Database

    def withdrawal(self, caller: Principal, signed: SignedWithdrawal) -> Relay:
        """A withdrawal to be sent, checked as far as no transaction is needed. Raises InvalidInput,
        NotRelayed, RelayFee, CallExpired, CallUsed, CallRefused, InvalidSignature,
        InsufficientBalance, ChainError."""
        call, signature = signed.call, signed.signature
        self._require_ours(caller, call.account, "account", call.relayer)
        data = self.calls.withdraw_by_signature(call, signature)
        relay = Relay(
            IntentKind.WITHDRAW, call.account, call, signature, WITHDRAWALS, call.amount, data
        )
        if not self._is_known(relay):
            if call.fee >= call.amount:
                detail = f"must be below the amount, {money(self.market, call.amount)}"
                raise RelayFee([Problem("/call/fee", detail)])
            self._check(relay)
        return relay

    def top_up(self, caller: Principal, signed: SignedTopUp) -> Relay:
        """A top-up to be sent, checked as far as no transaction is needed. Raises as `withdrawal`,
        and NotFound, PurseExpired; Conflict if the lease is not active."""
        call, signature = signed.call, signed.signature
        self._require_ours(caller, call.buyer, "buyer", call.relayer)
        with self.database.read() as store:
            lease = store.leases.by_number("0x" + call.lease_no.hex())
            named = (call.buyer, call.provider, call.lease_no)
            if lease is None or ref_of(lease).unwitnessed != named:
                raise NotFound("no such lease")
            opened, state = opened_from(store, lease), lease.state
        rule = PAID_TOP_UPS if call.fee else TOP_UPS
        data = self.calls.top_up_by_signature(opened, call, signature)
        relay = Relay(IntentKind.TOP_UP, call.buyer, call, signature, rule, call.fee, data)
        if not self._is_known(relay):
            if state is not LeaseState.ACTIVE:
                raise Conflict(f"the lease is {state}; only an active one is topped up")
            self._check(relay)
        return relay

    def _require_ours(self, caller: Principal, account: str, member: str, relayer: str) -> None:
        """Pass for a call of the caller's account that only this relayer may send."""
        ours = relayer == self.market.opener
        problems = unmet(
            "/call",
            (account == caller.account, member, "must be the account of the API key"),
            (ours, "relayer", f"must be {self.market.opener}: another could send it first"),
        )
        if problems:
            raise InvalidInput(problems)

    def _is_known(self, relay: Relay) -> bool:
        """Whether this very call was put down before."""
        with self.database.read() as store:
            return self._same(store.tries(relay.key), relay) is not None

    def _same(self, tries: Tries, relay: Relay) -> Intent | None:
        """The newest try, if it is this very call."""
        last = tries.last
        return last if last and last.payload == self.calls.payload(relay.data) else None

    def _check(self, relay: Relay) -> None:
        fee = self.market.relay_fee
        if fee is None:
            raise NotRelayed("this market sends no calls that others signed")
        if relay.call.fee < fee:
            raise RelayFee([Problem("/call/fee", f"must be at least {money(self.market, fee)}")])
        now_ms = self.clock()
        left = relay.call.deadline - now_ms // 1000
        if not RELAY_SECONDS_MIN <= left <= RELAY_SECONDS_MAX:
            detail = f"must lie {RELAY_SECONDS_MIN} to {RELAY_SECONDS_MAX} s ahead, not {left} s"
            raise CallExpired([Problem("/call/deadline", detail)])
        self._check_signer(relay, now_ms)
        state = self.reads.salt_state(relay.account, relay.call.salt, Numbered.CALLS)
        if state.used or state.cancelled:
            said = "was sent before" if state.used else "is cancelled"
            raise _used(relay, said)
        balance = self.reads.balance_of(relay.account)
        if balance < relay.needs:
            raise too_little(self.market, relay.needs, balance, NEEDS)
        refusal = self.reads.refusal(relay.data, self.market.opener, CONSENT_GAS_MAX)
        if refusal is not None:
            raise self._refused(relay, refusal)

    def _check_signer(self, relay: Relay, now_ms: int) -> None:
        """Pass if a key signed: the account's own, or one that a purse's rule names."""
        signed = (relay.call, relay.signature, relay.account, self.market)
        try:
            check_account(*signed, KeysOnly(self.reads), relay.rule, now_ms)
        except InvalidSignature:
            check_account(*signed, self.reads, relay.rule, now_ms)
            raise CallRefused(
                "a contract signed it (ERC-1271), which may say no in the block, when the relayer "
                "has to pay for that; let the wallet send the call itself"
            ) from None

    def _refused(self, relay: Relay, refusal: CallReverted) -> Exception:
        match refusal.name, refusal.arguments:
            case "InsufficientBalance", (_, int(needs), int(balance)):
                return too_little(self.market, needs, balance, NEEDS)
            case "PurseExpired", _:
                return PurseExpired(f"the purse {relay.account} has expired: no lease is extended")
            case "CallUsed", _:
                return _used(relay, "was sent before")
        return CallRefused(f"the escrow would refuse the call: {refusal}")

    def submit(self, store: Store, relay: Relay) -> RelayedCall:
        """Put a call down for the relayer, once; the same one again is answered with how far it has
        come. Raises CallUsed, CallRefused, Conflict."""
        account = store.accounts.get_or_add(relay.account, self.clock(), lock=True)
        tries = store.tries(relay.key)
        if (same := self._same(tries, relay)) is not None:
            return call_view(same, relay.call.salt)
        if not tries.is_free:
            raise _used(relay, "belongs to another call of the account")
        if tries.dead >= RELAY_TRIES:
            last = tries.last.error if tries.last else ""
            raise CallRefused(f"calls of this number failed {tries.dead} times, last with {last}")
        before = store.intent(account.last_call) if account.last_call else None
        if before is not None:
            self._check_before(before)
        account.last_call = tries.key
        intent = store.enqueue(relay.kind, tries.key, self.calls.payload(relay.data))
        return call_view(intent, relay.call.salt)

    def _check_before(self, before: Intent) -> None:
        """An account's calls go one by one: a second one could find its money gone. One that failed
        although the chain was asked first cost gas, so the next has to wait. Raises Conflict."""
        name = CALL_ID.format(before.key.split(":")[2].partition("/")[0])
        if before.state in ON_ITS_WAY:
            raise Conflict(f"{name} of this account is on its way ({before.state}); wait for it")
        age_s = self.clock() // 1000 - before.created_at.timestamp()
        paid_for = before.state is IntentState.DEAD and before.mined_hash is not None
        if paid_for and age_s < RELAY_PAUSE_SECONDS:
            detail = f"{name} failed on the chain with {before.error}"
            wait = f"send calls yourself, or wait {RELAY_PAUSE_SECONDS - age_s:.0f} s"
            raise CallRefused(f"{detail}, and the relayer paid for it; {wait}")

    def get(self, store: Store, caller: Principal, salt: int) -> RelayedCall:
        """How far a call of the caller has come. Raises NotFound."""
        tries = store.tries(KEY.format(account=caller.account, salt=salt))
        if tries.last is None:
            raise NotFound("no such call")
        return call_view(tries.last, salt)


def _used(relay: Relay, said: str) -> CallUsed:
    problem = Problem("/call/salt", said)
    return CallUsed(f"the number {relay.call.salt} {said}", problems=[problem])
