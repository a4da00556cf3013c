"""What several services share: ids, money, the caller, signatures, events."""

from dataclasses import dataclass

from uuid_utils import uuid7

from marketplace.db.store import Store
from marketplace.db.tables import JobEventRow
from marketplace.errors import InsufficientBalance, InvalidSignature, Problem, PurseExpired
from marketplace.services.ports import Market
from marketplace.wire.base import Answer, Money
from settlement import errors as settlement
from settlement.consent import NOTHING, AccountReads, PurseRule, require_consent
from settlement.eip712 import Struct
from settlement.errors import SignatureError
from settlement.signing import verify


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling: an account, through an API key with scopes."""

    account: str
    scopes: tuple[str, ...]
    key_id: str | None

    @property
    def is_operator(self) -> bool:
        """Whether it may see what belongs to others."""
        return "operator" in self.scopes


def new_id(prefix: str) -> str:
    """A sortable id: prefix and a UUID of version 7."""
    return f"{prefix}_{uuid7().hex}"


def money(market: Market, atoms: int) -> Money:
    return Money.of(atoms, market.currency, market.decimals)


def unhex(text: str) -> bytes:
    """0x hex that a row keeps, as bytes."""
    return bytes.fromhex(text[2:])


def unmet(where: str, *demands: tuple[bool, str, str]) -> list[Problem]:
    """A problem for each demand that does not hold. A demand: whether it holds, member, detail."""
    return [Problem(f"{where}/{member}", said) for holds, member, said in demands if not holds]


def check_signature(struct: Struct, signature: bytes, expected: str, market: Market) -> None:
    """Pass if `expected` signed this struct for this market's contract and chain. Raises
    InvalidSignature, which says what the signature is bound to instead if that is known."""
    try:
        verify(struct, market.domain, signature, expected)
    except SignatureError as error:
        raise _not_signed(error, expected, market) from error


def check_account(
    struct: Struct,
    signature: bytes,
    account: str,
    market: Market,
    reads: AccountReads,
    rule: PurseRule = NOTHING,
    now_ms: int = 0,
) -> None:
    """Pass if an account signed: its key, its contract, or, if it is a purse, whom the rule allows.
    Asks the chain only if the key did not sign: call it outside of transactions. Raises
    InvalidSignature, PurseExpired, ChainError."""
    try:
        now = now_ms // 1000
        require_consent(struct, market.domain, signature, account, reads, rule, now)
    except settlement.ExpiredPurse as error:
        raise PurseExpired(str(error)) from error
    except SignatureError as error:
        raise _not_signed(error, account, market) from error


def _not_signed(error: SignatureError, expected: str, market: Market) -> InvalidSignature:
    """The refusal, which says what the signature must be bound to."""
    where = f"contract {market.domain.verifying_contract} on chain {market.domain.chain_id}"
    by = "" if isinstance(error, settlement.PurseRefused) else f" by {expected}"
    detail = f"{error}; it must be signed{by} for {where}"
    return InvalidSignature(detail, problems=[Problem("/signature", str(error))])


def too_little(market: Market, needed: int, free: int, what: str) -> InsufficientBalance:
    """The refusal of an account that has less than it needs, in atoms; `free` may be negative."""
    facts = {
        "required": money(market, needed),
        "balance": money(market, max(0, free)),
        "shortfall": money(market, needed - free),
    }
    return InsufficientBalance(f"the free escrow balance is below {what}", facts=facts)


def emit(store: Store, job_id: str, kind: str, data: Answer, now_ms: int) -> None:
    """Append one event to a job's stream. `kind` names its class in `wire.jobs`."""
    row = JobEventRow(job_id=job_id, type=kind, data=data.to_json(), at_ms=now_ms)
    store.events.append(row)
