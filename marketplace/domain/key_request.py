"""The typed message by which an account asks for an API key: signing in without a password."""

from __future__ import annotations

from dataclasses import dataclass

from settlement.eip712 import Address, Bytes32, Struct, Uint40, Uint128, Uint256, from_text32

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
