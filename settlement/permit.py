"""The signature that lets an escrow take a deposit without a separate approval transaction."""

from dataclasses import dataclass

from settlement.eip712 import Address, Struct, Uint256


@dataclass(frozen=True, slots=True)
class Permit(Struct):
    """`spender` may move `value` atoms of `owner` until `deadline` (chain time, seconds).

    Signed under the token's own domain. Source: EIP-2612.
    """

    owner: Address
    spender: Address
    value: Uint256
    nonce: Uint256
    deadline: Uint256
