"""Who may sign for an account: its key, its contract (ERC-1271), or the people of a purse.

The escrow asks in this order, and so do server, witness and clients. Source: `Leases._signed`,
`Opening._requireBuyer`, `Amending._requirePayer`, `Leases._requireConsent` in contracts.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from settlement.eip712 import Domain, Struct
from settlement.errors import ExpiredPurse, PurseRefused, SignatureError
from settlement.signing import recover_digest, verify

OPERATOR, OWNER = "operator", "owner"


@dataclass(frozen=True, slots=True)
class Purse:
    """An account whose `operator` signs bids for its `owner` until `expiry` (chain time, s)."""

    owner: str
    expiry: int
    operator: str


@dataclass(frozen=True, slots=True)
class PurseRule:
    """Who signs one kind of message for a purse: at any time, or only until its expiry."""

    what: str
    at_any_time: tuple[str, ...] = ()
    until_expiry: tuple[str, ...] = ()

    @property
    def signers(self) -> tuple[str, ...]:
        """Everybody who signs such messages."""
        return self.until_expiry + self.at_any_time


NOTHING = PurseRule("this")
WITHDRAWALS = PurseRule("withdrawals")
BIDS = PurseRule("bids", until_expiry=(OPERATOR,))
OPENED_BIDS = PurseRule("bids", at_any_time=(OPERATOR,))
"""Bids whose lease is open: the escrow has compared the expiry, which may have passed since."""
API_KEYS = PurseRule("API keys", at_any_time=(OWNER,), until_expiry=(OPERATOR,))
CANCELS = PurseRule("cancels", at_any_time=(OPERATOR, OWNER))
TOP_UPS = PurseRule("top-ups", until_expiry=(OPERATOR, OWNER))
PAID_TOP_UPS = PurseRule("top-ups that somebody else sends for a fee", until_expiry=(OWNER,))


class AccountReads(Protocol):
    """What the chain says of accounts. Raise ChainError if it cannot be reached."""

    def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        """Whether the contract at an account says the signature is its own (ERC-1271). False if
        there is no contract, or if its code fails."""

    def purse(self, account: str) -> Purse | None:
        """Who owns and operates a purse; None if the account is none."""


@dataclass(frozen=True, slots=True)
class KeysOnly:
    """The same, but no contract's answer counts as a signature."""

    reads: AccountReads

    def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        return False

    def purse(self, account: str) -> Purse | None:
        return self.reads.purse(account)


def require_consent(
    struct: Struct,
    domain: Domain,
    signature: bytes,
    account: str,
    reads: AccountReads | None,
    rule: PurseRule,
    now: int,
) -> None:
    """Check that an account signed the struct, or, if it is a purse, whom `rule` allows at `now`
    (Unix time in seconds). The chain is asked only if the account's own key did not sign.

    Raises SignatureError, ExpiredPurse, ChainError.
    """
    digest = struct.digest(domain)
    try:
        return verify(struct, domain, signature, account)
    except SignatureError:
        if reads is None:
            raise
        if reads.accepts_signature(account, digest, signature):
            return
        purse = reads.purse(account)
        if purse is None:
            raise
    roles = {OPERATOR: purse.operator, OWNER: purse.owner}
    # Both are asked: an operator's contract that says yes to everything must not hide the owner.
    signed = [role for role, who in roles.items() if _signed(reads, who, digest, signature)]
    valid = rule.at_any_time + (rule.until_expiry if now <= purse.expiry else ())
    if any(role in valid for role in signed):
        return
    if any(role in rule.until_expiry for role in signed):
        when = datetime.fromtimestamp(purse.expiry, UTC).isoformat().replace("+00:00", "Z")
        raise ExpiredPurse(f"the purse {account} expired at {when}: nothing new opens for it")
    if not rule.signers:
        raise PurseRefused(f"{account} is a purse; nobody signs {rule.what} for it")
    wanted = " or ".join(f"its {role} {roles[role]}" for role in rule.signers)
    by = f"its {signed[0]}" if signed else "somebody else"
    raise PurseRefused(f"{account} is a purse; {wanted} signs its {rule.what}, not {by}")


def _signed(reads: AccountReads, account: str, digest: bytes, signature: bytes) -> bool:
    """Whether an account's key or contract signed."""
    try:
        if recover_digest(digest, signature) == account:
            return True
    except SignatureError:
        pass
    return reads.accepts_signature(account, digest, signature)
