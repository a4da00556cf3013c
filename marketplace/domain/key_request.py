"""The typed message by which an account asks for an API key: signing in without a password."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from settlement.eip712 import Struct, from_text32

SCOPES = ("buyer", "provider", "operator")


@dataclass(frozen=True, slots=True)
class KeyRequest(Struct):
    """Signed by `account`. Times are Unix seconds; zero: no expiry, no spend cap (atoms).

    `scopes` is text: scope names joined by commas. A nonce of an account is taken once.
    """

    primary: ClassVar[str] = "KeyRequest"
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        ("address", "account"),
        ("bytes32", "name"),
        ("bytes32", "scopes"),
        ("uint40", "issuedAt"),
        ("uint40", "expiresAt"),
        ("uint128", "spendCap"),
        ("uint256", "nonce"),
    )

    account: str
    name: bytes
    scopes: bytes
    issued_at: int
    expires_at: int
    spend_cap: int
    nonce: int

    @property
    def scope_names(self) -> tuple[str, ...]:
        """The scopes asked for, in order."""
        return tuple(from_text32(self.scopes).split(","))
