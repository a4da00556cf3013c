"""Carries intents from the outbox to finality. Each has at most one effect, whatever crashes.

The nonce, the signed bytes and their hash are stored in one commit before the broadcast, so after a
crash the relayer sends the same bytes again. If the node's answer is lost, the relayer looks the
transaction up by hash and nonce. It signs an intent again only to raise the fee or to give up a
transaction that the node refuses, and always with the same nonce, so only one can be mined.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from settlement.chain.client import TransactionReceipt, transaction_fields
from settlement.chain.contracts import Escrow
from settlement.errors import ChainError, ChainUnavailable, OutboxConflict, SendReason, SendRejected
from settlement.fees import FeePolicy, TransactionFees
from settlement.ports import BlockRef, Intent, IntentState, OutboxStore
from settlement.signing import TransactionSigner
from settlement.vetting import Refuse, Wait, call_of, vet

Failpoint = Callable[[str], None]
Alert = Callable[[Intent | None, str], None]

FAILPOINTS = (
    "vetted", "signed", "stored", "broadcast", "marked_sent",
    "receipt_seen", "marked_confirmed", "final_due", "marked_final",
)  # fmt: skip
_GAPS_PER_TICK = 64
_HOLD_SECONDS_MAX = 15.0


@dataclass(frozen=True, slots=True)
class RelayerSettings:
    """`confirmations`: blocks above a transaction's own before it is final; 0 on devnets.

    `stuck_blocks`: blocks that a transaction may wait in the pool before its fee is raised.
    `lost_looks`: how many ticks must find a nonce used by an unknown transaction before the intent
    is dead. `refusals`: how often, over at least `refused_seconds`, the node must refuse the same
    bytes for no passing reason before an empty transaction replaces them.
    """

    confirmations: int = 12
    max_in_flight: int = 32
    stuck_blocks: int = 10
    lost_looks: int = 3
    refusals: int = 5
    refused_seconds: float = 60.0
    fees: FeePolicy = field(default_factory=FeePolicy)


@dataclass(slots=True)
class RelayerTick:
    """How many intents one tick moved, by outcome."""

    sent: int = 0
    confirmed: int = 0
    final: int = 0
    dead: int = 0
    held: int = 0
    replaced: int = 0


class Relayer:
    """Sends for one account. Not thread-safe; a second process for the account does no harm."""

    def __init__(
        self,
        store: OutboxStore,
        escrow: Escrow,
        signer: TransactionSigner,
        settings: RelayerSettings | None = None,
        alert: Alert | None = None,
        failpoint: Failpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._escrow = escrow
        self._client = escrow.client
        self._signer = signer
        self._address = signer.address
        self._settings = settings or RelayerSettings()
        self._alert = alert or (lambda intent, reason: None)
        self._failpoint = failpoint or (lambda name: None)
        self._clock = clock
        self._held_until: dict[int, float] = {}
        self._strangers: dict[int, int] = {}
        self._pooled_at: dict[str, int] = {}
        self._refusals: dict[str, tuple[int, float]] = {}
        self._head: BlockRef | None = None
        self._done = RelayerTick()
        self.busy = True
        """Whether the last tick left an intent to send or to wait for."""

    def tick(self) -> RelayerTick:
        """Move every intent on as far as the chain allows now.

        Raises ChainUnavailable and WrongChain: try again later; nothing is lost.
        """
        self._client.check()  # the nonces of another chain would mislead
        self._done = RelayerTick()
        flying = self._watch()
        self.busy = self._launch() or flying
        return self._done

    # In flight

    def _watch(self) -> bool:
        """Follow up what was signed; return whether there was anything."""
        flying = self._store.in_flight(self._address)
        if not flying and self._client.head() == self._head:
            return False
        # Read before the receipts: only a count that is too high would be unsafe.
        mined = self._client.nonce(self._address)
        head = self._client.head()
        self._repair_gaps({intent.nonce for intent in flying}, mined)
        for intent in flying:
            newest = () if intent.tx_hash is None else (intent.tx_hash,)
            receipts = map(self._client.receipt, (*newest, *reversed(intent.replaced)))
            receipt = next((found for found in receipts if found is not None), None)
            if receipt is not None:
                self._mined(intent, receipt, head)
            else:
                self._unmined(intent, mined, head)
        self._head = head
        return bool(flying)

    def _mined(self, intent: Intent, receipt: TransactionReceipt, head: BlockRef) -> None:
        self._strangers.pop(intent.id, None)
        deep = head.number - receipt.block_number >= self._settings.confirmations
        if self._calls_itself(receipt.to):
            if deep:
                self._kill(intent, f"the node refused the transaction: {intent.error}")
            return
        if intent.block_hash != receipt.block_hash:
            self._failpoint("receipt_seen")
            place = (receipt.block_number, receipt.block_hash)
            self._store.mark_confirmed(intent.id, receipt.tx_hash, *place)
            self._done.confirmed += 1
            self._failpoint("marked_confirmed")
        if not deep:
            return
        self._failpoint("final_due")
        if receipt.succeeded:
            self._store.mark_final(intent.id)
            self._done.final += 1
            self._failpoint("marked_final")
        else:
            call = call_of(intent.payload)
            parts = (call.to, call.data, self._address, call.value)
            self._kill(intent, str(self._client.why_reverted(receipt, *parts)))

    def _unmined(self, intent: Intent, mined: int, head: BlockRef) -> None:
        if intent.state is IntentState.CONFIRMED:  # a reorg removed its block
            self._store.mark_unconfirmed(intent.id)
        if self._client.knows(intent.tx_hash or ""):
            self._strangers.pop(intent.id, None)
            if intent.state is IntentState.SIGNED:
                self._store.mark_sent(intent.id)
            self._raise_if_stuck(intent, mined, head)
        elif intent.nonce is not None and intent.nonce < mined:
            self._suspect_stranger(intent, intent.nonce, head)
        else:  # it never arrived, was dropped, or an older one with its nonce is still pooled
            self._broadcast(intent)

    def _suspect_stranger(self, intent: Intent, nonce: int, head: BlockRef) -> None:
        """An unknown transaction used the nonce: the intent is dead once that is final."""
        deep = max(0, head.number - self._settings.confirmations)
        if self._client.nonce(self._address, deep) <= nonce:
            return
        looks = self._strangers[intent.id] = self._strangers.get(intent.id, 0) + 1
        if looks >= self._settings.lost_looks:
            self._kill(intent, f"an unknown transaction used nonce {nonce}")

    def _repair_gaps(self, flying: set[int | None], mined: int) -> None:
        """Send again the final transactions that a deep reorg removed."""
        following = self._store.next_nonce(self._address) or 0
        for nonce in range(mined, min(following, mined + _GAPS_PER_TICK)):
            if nonce in flying:
                continue
            owner = self._store.by_nonce(self._address, nonce)
            if owner is None or owner.raw is None:
                self._alert(owner, f"nonce_gap: no stored intent has nonce {nonce}")
                return
            try:
                self._client.send_raw(owner.raw)
            except SendRejected as error:
                self._alert(owner, str(error))

    def _raise_if_stuck(self, intent: Intent, mined: int, head: BlockRef) -> None:
        tx_hash = intent.tx_hash or ""
        since = self._pooled_at.setdefault(tx_hash, head.number)
        if intent.nonce != mined or head.number - since < self._settings.stuck_blocks:
            return
        self._pooled_at[tx_hash] = head.number
        self._replace(intent)

    # Sending

    def _broadcast(self, intent: Intent) -> bool:
        """Send the stored bytes to the node; return whether it took them."""
        if intent.raw is None:
            raise OutboxConflict(f"intent {intent.id} is {intent.state} without signed bytes")
        try:
            self._client.send_raw(intent.raw)
        except SendRejected as error:
            self._note(intent, error)
            if error.reason is SendReason.UNDERPRICED:
                self._replace(intent)
            elif error.reason is not SendReason.NONCE_TOO_LOW:  # the next tick finds who used it
                self._alert(intent, str(error))
                if error.reason is SendReason.OTHER:
                    self._give_up_if_refused(intent)
            return False
        self._refusals.pop(intent.tx_hash or "", None)
        self._failpoint("broadcast")
        self._store.mark_sent(intent.id)
        self._done.sent += 1
        self._failpoint("marked_sent")
        return True

    def _replace(self, intent: Intent) -> None:
        """Replace the transaction with one that has a higher fee and the same nonce and call."""
        fields = _decode(intent.raw or b"")
        advice = self._client.fees()
        old = TransactionFees(fields["maxFeePerGas"], fields["maxPriorityFeePerGas"])
        offer = self._settings.fees.raised(old, advice)
        if offer is None:
            self._alert(intent, f"fee_above_cap: the base fee is {advice.base} wei per gas")
            return
        fields |= {"maxFeePerGas": offer.maximum, "maxPriorityFeePerGas": offer.priority}
        raw = self._sign_again(intent, fields)
        try:
            self._client.send_raw(raw)
        except SendRejected as error:
            self._note(replace(intent, raw=raw), error)
            return
        self._store.mark_sent(intent.id)

    def _sign_again(self, intent: Intent, fields: dict[str, Any]) -> bytes:
        """Sign and store another transaction with the intent's nonce."""
        raw, tx_hash = self._signer.sign_transaction(fields)
        self._store.mark_replaced(intent.id, intent.tx_hash or "", raw, tx_hash)
        self._done.replaced += 1
        return raw

    def _give_up_if_refused(self, intent: Intent) -> None:
        """Unblock later nonces: replace a permanently refused transaction with an empty one.

        The refused one can then no longer be mined. Once the empty one is final, the intent is
        dead.
        """
        tx_hash = intent.tx_hash or ""
        count, since = self._refusals.get(tx_hash, (0, self._clock()))
        self._refusals[tx_hash] = (count + 1, since)
        if count + 1 < self._settings.refusals or self._calls_itself(_to(intent)):
            return
        if self._clock() - since < self._settings.refused_seconds:
            return
        if any(self._client.knows(older) for older in intent.replaced):
            return  # the pool holds an older one, which may still succeed
        del self._refusals[tx_hash]
        self._alert(intent, f"given up: an empty transaction takes nonce {intent.nonce}")
        fields = _decode(intent.raw or b"")
        gas = self._client.estimate_gas(self._address, b"", self._address)
        fields |= {"to": bytes.fromhex(self._address[2:]), "data": b"", "value": 0, "gas": gas}
        self._sign_again(intent, fields)
        self._broadcast(self._store.get(intent.id))

    def _calls_itself(self, to: str | None) -> bool:
        """Whether a transaction to `to` is an empty one: no intent calls the relayer's account."""
        return to is not None and to.lower() == self._address.lower()

    def _note(self, intent: Intent, error: SendRejected) -> None:
        """Store why the node refused the call, but not why it refused the empty replacement."""
        if not self._calls_itself(_to(intent)):
            self._store.note_attempt(intent.id, str(error))

    # New intents

    def _launch(self) -> bool:
        """Send pending intents while there is room; return whether any is pending or in flight."""
        flying = self._store.in_flight(self._address)
        room = self._settings.max_in_flight - len(flying)
        if room <= 0 or any(intent.state is IntentState.SIGNED for intent in flying):
            return True  # send nothing more while the node does not take a transaction
        waiting = self._store.pending(room + len(self._held_until))
        if not waiting:
            return bool(flying)
        advice = self._client.fees()
        now = self._clock()
        offer = self._settings.fees.offer(advice)
        for intent in waiting:
            if self._held_until.get(intent.id, now) > now:
                self._done.held += 1
                continue
            if offer is None:
                self._alert(intent, f"fee_above_cap: the base fee is {advice.base} wei per gas")
                break
            took = self._launch_one(intent, offer)
            if took is not None:
                room -= 1
            if took is False or room <= 0:
                break
        return True

    def _launch_one(self, intent: Intent, offer: TransactionFees) -> bool | None:
        """Vet, sign, store, send. None if it got no nonce, else whether the node took it."""
        try:
            verdict = vet(self._escrow, self._address, intent)
        except ChainUnavailable:
            raise
        except ChainError as error:  # the node failed to estimate: worth an alert and another try
            self._hold(intent, str(error), None)
            self._alert(intent, str(error))
            return None
        self._failpoint("vetted")
        if isinstance(verdict, Refuse):
            self._kill(intent, verdict.reason)
            return None
        if isinstance(verdict, Wait):
            self._hold(intent, verdict.reason, verdict.limit)
            return None
        self._held_until.pop(intent.id, None)
        if verdict.payload is not None:
            self._store.amend(intent.id, verdict.payload, verdict.later)
            intent = replace(intent, payload=verdict.payload)
        signed = self._sign(intent, verdict.gas, offer)
        if signed is None:
            return None
        return self._broadcast(signed)

    def _sign(self, intent: Intent, gas: int, offer: TransactionFees) -> Intent | None:
        """Give the intent a nonce and store its signed bytes; None if another process was first."""
        call = call_of(intent.payload)
        stored = self._store.next_nonce(self._address) or 0
        nonce = max(stored, self._client.nonce(self._address, "pending"))
        chain_id = self._client.chain_id
        fields = transaction_fields(chain_id, call.to, call.data, call.value, gas, offer)
        raw, tx_hash = self._signer.sign_transaction(fields | {"nonce": nonce})
        self._failpoint("signed")
        try:
            self._store.mark_signed(intent.id, self._address, nonce, raw, tx_hash)
        except OutboxConflict:
            return None
        self._failpoint("stored")
        return self._store.get(intent.id)

    def _hold(self, intent: Intent, reason: str, limit: int | None) -> None:
        attempts = self._store.note_attempt(intent.id, reason)
        if limit is not None and attempts >= limit:
            self._kill(intent, reason)
            return
        pause = min(_HOLD_SECONDS_MAX, 0.1 * 2 ** min(attempts, 10))
        self._held_until[intent.id] = self._clock() + pause
        self._done.held += 1

    def _kill(self, intent: Intent, reason: str) -> None:
        self._held_until.pop(intent.id, None)
        self._strangers.pop(intent.id, None)
        self._store.mark_dead(intent.id, reason)
        self._done.dead += 1
        self._alert(intent, reason)


def _decode(raw: bytes) -> dict[str, Any]:
    """The fields of a signed EIP-1559 transaction, ready to sign again."""
    from eth_account.typed_transactions.typed_transaction import TypedTransaction
    from hexbytes import HexBytes

    fields: dict[str, Any] = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    return {k: v for k, v in fields.items() if k not in ("v", "r", "s", "accessList")}


def _to(intent: Intent) -> str:
    """The address that the newest transaction calls."""
    return "0x" + bytes(_decode(intent.raw or b"")["to"]).hex()
