"""Accounts and their API keys: asked for by signature, shown once, kept as hashes."""

import hashlib
import secrets
from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import ApiKeyRow
from marketplace.domain.drafts import SCOPES, KeyRequest, key_request_of
from marketplace.domain.pricing import to_scaled
from marketplace.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Problem,
    Unauthenticated,
)
from marketplace.limits import API_KEYS_MAX as KEYS_MAX
from marketplace.limits import KEY_REQUEST_SECONDS_MAX, SALT_AHEAD_MAX
from marketplace.limits import TIME_SECONDS_MAX as SECONDS_MAX
from marketplace.services.common import Principal, check_account, money, new_id, unmet
from marketplace.services.ports import Clock, EscrowReads, Market
from marketplace.wire.market import Account, KeyDraft, SignedKeyRequest
from settlement.consent import API_KEYS
from settlement.eip712 import checksum, from_text32
from settlement.errors import FieldError

KEY_PREFIX = "coul_"
CLOCK_SKEW_S = 60


def hash_key(key: str) -> str:
    """What is stored of a key. A key is random, so its plain SHA-256 gives nothing away."""
    return hashlib.sha256(key.encode()).hexdigest()


def note_salt(store: Store, address: str, salt: int, pointer: str, now_ms: int) -> None:
    """Note that an order has this salt. Raises InvalidInput if it is void or too far ahead."""
    account = store.accounts.get_or_add(address, now_ms, lock=True)
    if salt < account.orders_from:
        raise InvalidInput([Problem(pointer, "was cancelled together with all older orders")])
    if salt > account.next_salt + SALT_AHEAD_MAX:
        detail = f"is far ahead of the next one, {account.next_salt}"
        raise InvalidInput([Problem(pointer, detail)])
    if salt >= account.next_salt:
        account.next_salt = salt + 1


@dataclass(frozen=True, slots=True)
class Accounts:
    market: Market
    clock: Clock
    reads: EscrowReads

    def prepare_key(self, draft: KeyDraft) -> KeyRequest:
        """The message to sign for a new key. Raises InvalidInput."""
        if len(set(draft.scopes)) != len(draft.scopes):
            raise InvalidInput([Problem("/scopes", "must be different ones")])
        cap = 0
        if draft.spend_cap is not None:
            cap = to_scaled(draft.spend_cap, self.market.decimals, "/spend_cap")
        return key_request_of(
            draft.account,
            draft.name,
            draft.scopes,
            now=self.clock() // 1000,
            nonce=secrets.randbits(128),
            expires_at=draft.expires_at or 0,
            spend_cap=cap,
        )

    def check_key(self, signed: SignedKeyRequest) -> KeyRequest:
        """Check a signed request, if need be by the chain, before any transaction is begun. For a
        purse its owner signs, or its operator until it expires. Raises InvalidInput, Forbidden,
        InvalidSignature, PurseExpired, ChainError."""
        request = signed.message
        now_ms = self.clock()
        self._check(request, now_ms // 1000)
        parties = (request.account, self.market, self.reads)
        check_account(request, signed.signature, *parties, API_KEYS, now_ms)
        return request

    def create_key(self, store: Store, request: KeyRequest) -> tuple[ApiKeyRow, str]:
        """Make a key from a checked request; returns its row and the key itself, just this once."""
        now_ms = self.clock()
        store.accounts.get_or_add(request.account, now_ms)
        if store.keys.live_count(request.account) >= KEYS_MAX:
            raise Conflict(f"an account has at most {KEYS_MAX} keys; revoke one first")
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        row = ApiKeyRow(
            id=new_id("key"),
            account=request.account,
            name=from_text32(request.name),
            secret_hash=hash_key(key),
            hint=key[-4:],
            scopes=",".join(request.scope_names),
            nonce=str(request.nonce),
            created_ms=now_ms,
            expires_ms=request.expires_at * 1000 or None,
            spend_cap=request.spend_cap or None,
        )
        return store.keys.add(row, AlreadyExists("this signed request has made a key before")), key

    def _check(self, request: KeyRequest, now_s: int) -> None:
        try:
            from_text32(request.name)
            are_known = set(request.scope_names) <= set(SCOPES)
        except FieldError:
            are_known = False
        scopes = f"must be names of {', '.join(SCOPES)} joined by commas"
        is_fresh = now_s - KEY_REQUEST_SECONDS_MAX <= request.issued_at <= now_s + CLOCK_SKEW_S
        issued = (
            f"must lie within the last {KEY_REQUEST_SECONDS_MAX} seconds; prepare a new request"
        )
        has_passed = 0 < request.expires_at <= now_s
        problems = unmet(
            "/message",
            (are_known, "scopes", scopes),
            (is_fresh, "issuedAt", issued),
            (not has_passed, "expiresAt", "has passed"),
            (request.expires_at <= SECONDS_MAX, "expiresAt", "lies after the year 9999"),
        )
        if problems:
            raise InvalidInput(problems)
        operators = {checksum(address) for address in self.market.operators}
        if "operator" in request.scope_names and request.account not in operators:
            raise Forbidden("this account is not an operator of this market")

    def authenticate(self, store: Store, key: str) -> Principal:
        """Who a key belongs to. Raises Unauthenticated: unknown, revoked or expired."""
        row = store.keys.by_secret(hash_key(key)) if key.startswith(KEY_PREFIX) else None
        if row is None:
            raise Unauthenticated("the API key is unknown")
        if row.revoked_ms is not None:
            raise Unauthenticated("the API key was revoked")
        if row.expires_ms is not None and row.expires_ms <= self.clock():
            raise Unauthenticated("the API key has expired")
        return Principal(row.account, tuple(row.scopes.split(",")), row.id)

    def revoke(self, store: Store, caller: Principal, key_id: str) -> ApiKeyRow:
        """Make a key of the caller useless at once."""
        row = store.keys.get(key_id, lock=True)
        if row is None or row.account != caller.account:
            raise NotFound("no such key")
        if row.revoked_ms is None:
            row.revoked_ms = self.clock()
        return row

    def salt(self, store: Store, address: str) -> int:
        """The account's next salt, which no later call returns again."""
        account = store.accounts.get_or_add(address, self.clock(), lock=True)
        account.next_salt += 1
        return account.next_salt - 1

    def free(self, caller: Principal, address: str) -> int:
        """Free atoms of the caller's own account: asked before any transaction is begun, which a
        slow chain would keep open. Raises NotFound for another's, ChainError."""
        if checksum_or_none(address) != caller.account:
            raise NotFound("no such account, or not yours")
        return self.reads.balance_of(caller.account)

    def funds(self, store: Store, caller: Principal, free: int) -> Account:
        """Free and locked atoms of the caller's account, and its next salt."""
        row = store.accounts.get(caller.account)
        return Account(
            address=caller.account,
            free=money(self.market, free),
            locked=money(self.market, max(0, store.leases.locked_atoms(caller.account))),
            reserved=money(self.market, store.jobs.reserved_atoms(caller.account)),
            next_salt=row.next_salt if row else 0,
        )


def checksum_or_none(address: str) -> str | None:
    """An address in EIP-55 form; None if it is not one."""
    digits = address.removeprefix("0x").lower()
    if len(address) != 42 or any(c not in "0123456789abcdef" for c in digits):
        return None
    return checksum(address)
