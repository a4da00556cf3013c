"""Carries intents from the outbox to finality: each has at most one effect, whatever crashes.

The nonce, the signed bytes and their hash are stored in one commit before anything is broadcast, so
after a crash the same bytes go out again. A lost answer is looked up by hash and nonce. Another
signing happens for other fees, or to give a nonce up that the node refuses, always with the same
nonce, so only one of the signings can be mined.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from settlement.chain.client import ChainClient, Receipt, transaction_fields
from settlement.errors import (
    CallReverted,
    ChainError,
    ChainUnavailable,
    OutboxConflict,
    SendReason,
    SendRejected,
)
from settlement.fees import FeeOffer, FeePolicy
from settlement.ports import BlockRef, Intent, IntentState, OutboxStore
from settlement.signing import TransactionSigner
from settlement.vetting import Refuse, Vetting, Wait, call_of

Failpoint = Callable[[str], None]
Alert = Callable[[Intent | None, str], None]

FAILPOINTS = (
    "vetted",
    "signed",
    "stored",
    "broadcast",
    "marked_sent",
    "receipt_seen",
    "marked_confirmed",
    "final_due",
    "marked_final",
)
_GAPS_PER_TICK = 64
_HOLD_SECONDS_MAX = 15.0


@dataclass(frozen=True, slots=True)
class RelayerSettings:
    """`confirmations`: blocks above a transaction's own before it is final, 0 on devnets.

    `stuck_blocks`: blocks a transaction may wait in the pool before its fee is raised.
    `lost_looks`: looks in a row that find a nonce used by a stranger before the intent is dead.
    `refusals`: of the same bytes, over `refused_seconds` at least and for no passing reason, before
    an empty transaction goes instead.
    """

    confirmations: int = 12
    max_in_flight: int = 32
    stuck_blocks: int = 10
    lost_looks: int = 3
    refusals: int = 5
    refused_seconds: float = 60.0
    fees: FeePolicy = field(default_factory=FeePolicy)


@dataclass(slots=True)
class Tick:
    """What one tick did: numbers of intents."""

    sent: int = 0
    confirmed: int = 0
    final: int = 0
    dead: int = 0
    held: int = 0
    replaced: int = 0


class Relayer:
    """One sender's hands. Not for two threads at once; two processes collide harmlessly."""

    def __init__(
        self,
        store: OutboxStore,
        client: ChainClient,
        signer: TransactionSigner,
        vetting: Vetting,
        settings: RelayerSettings | None = None,
        alert: Alert | None = None,
        failpoint: Failpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._client = client
        self._signer = signer
        self._vetting = vetting
        self._settings = settings or RelayerSettings()
        self._alert = alert or _quiet
        self._failpoint = failpoint or _pass_by
        self._clock = clock
        self._held_until: dict[int, float] = {}
        self._strangers: dict[int, int] = {}
        self._pooled_at: dict[str, int] = {}
        self._refusals: dict[str, tuple[int, float]] = {}
        self._seen: BlockRef | None = None
        self.busy = True
        """Whether the last tick had an intent to send or to wait for: a new block may move it."""

    def tick(self) -> Tick:
        """Move every intent on as far as the chain allows now.

        Raises ChainUnavailable and WrongChain: try again later, nothing is lost.
        """
        self._client.check()  # another chain would tell lies about every nonce
        done = Tick()
        flying = self._watch(done)
        self.busy = self._launch(done) or flying
        return done

    # In flight

    def _watch(self, done: Tick) -> bool:
        """Look after what was signed; returns whether there was anything."""
        address = self._signer.address
        flying = self._store.in_flight(address)
        if not flying and self._client.head() == self._seen:
            return False
        mined = self._client.nonce(address)  # before the receipts: too low is safe, too high not
        head = self._client.head()
        self._repair_gaps({i.nonce for i in flying}, mined)
        for intent in flying:
            receipt = self._receipt(intent)
            if receipt is not None:
                self._mined(intent, receipt, head, done)
            else:
                self._unmined(intent, mined, head, done)
        self._seen = head
        return bool(flying)

    def _receipt(self, intent: Intent) -> Receipt | None:
        for tx_hash in _hashes(intent):
            receipt = self._client.receipt(tx_hash)
            if receipt is not None:
                return receipt
        return None

    def _mined(self, intent: Intent, receipt: Receipt, head: BlockRef, done: Tick) -> None:
        self._strangers.pop(intent.id, None)
        deep = head.number - receipt.block_number >= self._settings.confirmations
        if self._calls_itself(receipt.to):
            if deep:
                self._kill(intent, f"the node refused the call: {intent.error}", done)
            return
        if intent.block_hash != receipt.block_hash:
            self._failpoint("receipt_seen")
            self._store.mark_confirmed(
                intent.id, receipt.tx_hash, receipt.block_number, receipt.block_hash
            )
            done.confirmed += 1
            self._failpoint("marked_confirmed")
        if not deep:
            return
        self._failpoint("final_due")
        if receipt.succeeded:
            self._store.mark_final(intent.id)
            done.final += 1
            self._failpoint("marked_final")
        else:
            self._kill(intent, str(self._why(intent, receipt)), done)

    def _why(self, intent: Intent, receipt: Receipt) -> CallReverted:
        payload = intent.payload
        data, value = bytes.fromhex(payload["data"][2:]), int(payload.get("value", 0))
        return self._client.why_reverted(receipt, payload["to"], data, self._signer.address, value)

    def _unmined(self, intent: Intent, mined: int, head: BlockRef, done: Tick) -> None:
        if intent.state is IntentState.CONFIRMED:  # a reorg took its block away
            self._store.mark_unconfirmed(intent.id)
        if self._client.knows(intent.tx_hash or ""):
            self._strangers.pop(intent.id, None)
            if intent.state is IntentState.SIGNED:
                self._store.mark_sent(intent.id)
            self._raise_if_stuck(intent, mined, head, done)
        elif intent.nonce is not None and intent.nonce < mined:
            self._suspect_stranger(intent, intent.nonce, head, done)
        else:  # never arrived, or dropped, or an older signing still waits in its place
            self._broadcast(intent, done)

    def _suspect_stranger(self, intent: Intent, nonce: int, head: BlockRef, done: Tick) -> None:
        """The nonce is used, and by none of ours that the node knows: dead once that is settled."""
        deep = max(0, head.number - self._settings.confirmations)
        if self._client.nonce(self._signer.address, deep) <= nonce:
            return
        looks = self._strangers[intent.id] = self._strangers.get(intent.id, 0) + 1
        if looks >= self._settings.lost_looks:
            self._kill(intent, f"nonce {nonce} went to an unknown transaction", done)

    def _repair_gaps(self, flying: set[int | None], mined: int) -> None:
        """Send again what a deep reorg took out from below those in flight."""
        following = self._store.next_nonce(self._signer.address) or 0
        for nonce in range(mined, min(following, mined + _GAPS_PER_TICK)):
            if nonce in flying:
                continue
            owner = self._store.by_nonce(self._signer.address, nonce)
            if owner is None or owner.raw is None:
                self._alert(owner, f"nonce_gap: nobody here was given nonce {nonce}")
                return
            try:
                self._client.send_raw(owner.raw)
            except SendRejected as error:
                self._alert(owner, str(error))

    def _raise_if_stuck(self, intent: Intent, mined: int, head: BlockRef, done: Tick) -> None:
        tx_hash = intent.tx_hash or ""
        since = self._pooled_at.setdefault(tx_hash, head.number)
        if intent.nonce != mined or head.number - since < self._settings.stuck_blocks:
            return
        self._pooled_at[tx_hash] = head.number
        self._replace(intent, done)

    # Sending

    def _broadcast(self, intent: Intent, done: Tick) -> bool:
        """Hand the stored bytes to the node; whether it took them."""
        if intent.raw is None:
            raise OutboxConflict(f"intent {intent.id} is {intent.state} without signed bytes")
        try:
            self._client.send_raw(intent.raw)
        except SendRejected as error:
            self._note(intent, error)
            if error.reason is SendReason.UNDERPRICED:
                self._replace(intent, done)
            elif error.reason is not SendReason.NONCE_TOO_LOW:  # the next look tells who used it
                self._alert(intent, str(error))
                if error.reason is SendReason.OTHER:
                    self._refused(intent, done)
            return False
        self._refusals.pop(intent.tx_hash or "", None)
        self._failpoint("broadcast")
        self._store.mark_sent(intent.id)
        done.sent += 1
        self._failpoint("marked_sent")
        return True

    def _replace(self, intent: Intent, done: Tick) -> None:
        """Sign once more for a higher fee: same nonce, same call."""
        fields = _decode(intent.raw or b"")
        fees = self._client.fees()
        old = FeeOffer(fields["maxFeePerGas"], fields["maxPriorityFeePerGas"])
        offer = self._settings.fees.raised(old, fees.base, fees.priority)
        if offer is None:
            self._alert(intent, f"fee_above_cap: the base fee is {fees.base} wei per gas")
            return
        fields |= {"maxFeePerGas": offer.maximum, "maxPriorityFeePerGas": offer.priority}
        raw, tx_hash = self._signer.sign_transaction(fields)
        self._store.mark_replaced(intent.id, intent.tx_hash or "", raw, tx_hash)
        done.replaced += 1
        try:
            self._client.send_raw(raw)
        except SendRejected as error:
            self._note(replace(intent, raw=raw), error)
            return
        self._store.mark_sent(intent.id)

    def _refused(self, intent: Intent, done: Tick) -> None:
        """Free those behind from bytes that the node won't ever take: an empty transaction takes
        their nonce, so they can't be mined any more. Once it is final the intent is dead."""
        tx_hash = intent.tx_hash or ""
        count, since = self._refusals.get(tx_hash, (0, self._clock()))
        self._refusals[tx_hash] = (count + 1, since)
        if count + 1 < self._settings.refusals or self._calls_itself(_to(intent)):
            return
        if self._clock() - since < self._settings.refused_seconds:
            return
        if any(self._client.knows(older) for older in intent.replaced):
            return  # an older signing waits in the pool: it may yet do what is wanted
        del self._refusals[tx_hash]
        self._alert(intent, f"given up, an empty transaction takes nonce {intent.nonce}")
        fields = _decode(intent.raw or b"")
        address = self._signer.address
        gas = self._client.estimate_gas(address, b"", address)
        fields |= {"to": bytes.fromhex(address[2:]), "data": b"", "value": 0, "gas": gas}
        raw, tx_hash = self._signer.sign_transaction(fields)
        self._store.mark_replaced(intent.id, intent.tx_hash or "", raw, tx_hash)
        done.replaced += 1
        self._broadcast(self._store.get(intent.id), done)

    def _calls_itself(self, to: str | None) -> bool:
        """Whether a transaction to `to` is an empty one: no intent calls the relayer."""
        return to is not None and to.lower() == self._signer.address.lower()

    def _note(self, intent: Intent, error: SendRejected) -> None:
        """Keep the node's words, but not those about an empty transaction over those before."""
        if not self._calls_itself(_to(intent)):
            self._store.note_attempt(intent.id, str(error))

    # New ones

    def _launch(self, done: Tick) -> bool:
        """Send what waits, as far as there is room; returns whether anything waited or flew."""
        flying = self._store.in_flight(self._signer.address)
        room = self._settings.max_in_flight - len(flying)
        if room <= 0 or any(intent.state is IntentState.SIGNED for intent in flying):
            return True  # what the node won't take now is not buried under more
        waiting = self._store.pending(room + len(self._held_until))
        if not waiting:
            return bool(flying)
        fees = self._client.fees()
        offer = self._settings.fees.offer(fees.base, fees.priority)
        now = self._clock()
        for intent in waiting:
            if self._held_until.get(intent.id, now) > now:
                done.held += 1
                continue
            if offer is None:
                self._alert(intent, f"fee_above_cap: the base fee is {fees.base} wei per gas")
                break
            took = self._launch_one(intent, offer, done)
            room -= took is not None
            if took is False or room <= 0:
                break
        return True

    def _launch_one(self, intent: Intent, offer: FeeOffer, done: Tick) -> bool | None:
        """Vet, sign, store, send. None where no nonce was given, else whether the node took it."""
        try:
            verdict = self._vetting.vet(intent)
        except ChainUnavailable:
            raise
        except (
            ChainError
        ) as error:  # the node can't estimate: a thing to look at, not to give up on
            self._hold(intent, str(error), None, done)
            self._alert(intent, str(error))
            return None
        self._failpoint("vetted")
        if isinstance(verdict, Refuse):
            self._kill(intent, verdict.reason, done)
            return None
        if isinstance(verdict, Wait):
            self._hold(intent, verdict.reason, verdict.limit, done)
            return None
        self._held_until.pop(intent.id, None)
        if verdict.payload is not None:
            self._store.amend(intent.id, verdict.payload, verdict.later)
            intent = replace(intent, payload=verdict.payload)
        signed = self._sign(intent, verdict.gas, offer)
        if signed is None:
            return None
        return self._broadcast(signed, done)

    def _sign(self, intent: Intent, gas: int, offer: FeeOffer) -> Intent | None:
        """Give the intent a nonce and store its signed bytes; None where another was faster."""
        address, call = self._signer.address, call_of(intent.payload)
        nonce = max(self._store.next_nonce(address) or 0, self._client.nonce(address, "pending"))
        fields = transaction_fields(
            self._client.chain_id,
            call.to,
            call.data,
            call.value,
            gas,
            offer.maximum,
            offer.priority,
        )
        raw, tx_hash = self._signer.sign_transaction(fields | {"nonce": nonce})
        self._failpoint("signed")
        try:
            self._store.mark_signed(intent.id, address, nonce, raw, tx_hash)
        except OutboxConflict:
            return None
        self._failpoint("stored")
        return self._store.get(intent.id)

    def _hold(self, intent: Intent, reason: str, limit: int | None, done: Tick) -> None:
        attempts = self._store.note_attempt(intent.id, reason)
        if limit is not None and attempts >= limit:
            self._kill(intent, reason, done)
            return
        pause = min(_HOLD_SECONDS_MAX, 0.1 * 2 ** min(attempts, 10))
        self._held_until[intent.id] = self._clock() + pause
        done.held += 1

    def _kill(self, intent: Intent, reason: str, done: Tick) -> None:
        self._held_until.pop(intent.id, None)
        self._strangers.pop(intent.id, None)
        self._store.mark_dead(intent.id, reason)
        done.dead += 1
        self._alert(intent, reason)


def _hashes(intent: Intent) -> tuple[str, ...]:
    """Every hash it may be mined under, the newest signing first."""
    newest = () if intent.tx_hash is None else (intent.tx_hash,)
    return (*newest, *reversed(intent.replaced))


def _decode(raw: bytes) -> dict[str, Any]:
    """The fields of a signed EIP-1559 transaction, ready to be signed again."""
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from hexbytes import HexBytes

    fields: dict[str, Any] = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    return {k: v for k, v in fields.items() if k not in ("v", "r", "s", "accessList")}


def _to(intent: Intent) -> str:
    """Whom the newest signing calls."""
    return "0x" + bytes(_decode(intent.raw or b"")["to"]).hex()


def _quiet(intent: Intent | None, reason: str) -> None:
    """Nobody asked to be told."""


def _pass_by(name: str) -> None:
    """No failpoint is set."""
