"""The typed message by which an account asks for an API key: signing in without a password."""

from collections.abc import Sequence
from dataclasses import dataclass

from marketplace.errors import InvalidInput, Problem
from settlement.eip712 import (
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
