"""The signature that lets an escrow take a deposit without an approval before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from settlement.eip712 import Struct


@dataclass(frozen=True, slots=True)
class Permit(Struct):
    """`spender` may move `value` atoms of `owner` until `deadline` (chain time, seconds).

    Signed under the token's own domain. Source: EIP-2612.
    """

    primary: ClassVar[str] = "Permit"
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        ("address", "owner"),
        ("address", "spender"),
        ("uint256", "value"),
        ("uint256", "nonce"),
        ("uint256", "deadline"),
    )

    owner: str
    spender: str
    value: int
    nonce: int
    deadline: int
