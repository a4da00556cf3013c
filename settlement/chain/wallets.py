"""Accounts that are contracts: whether one says that a signature is its own. Source: ERC-1271."""

from __future__ import annotations

from eth_abi.abi import encode

from settlement.chain.client import ChainClient
from settlement.chain.translate import code_failed
from settlement.errors import CallReverted, ChainError, ChainUnavailable, WrongChain

MAGIC = bytes.fromhex("1626ba7e")  # selector of isValidSignature(bytes32,bytes), and its "yes"
GAS_MAX = 300_000
"""Gas for call and calldata together: below what opening a lease leaves for one signature."""


def accepts(client: ChainClient, account: str, digest: bytes, signature: bytes) -> bool:
    """Whether the contract at an account answers exactly the magic value, within GAS_MAX.

    False where there is no contract, or where its code fails. Raises ChainError where the node
    does not say: nobody knows, ask again.
    """
    data = MAGIC + encode(("bytes32", "bytes"), (digest, signature))
    try:
        answer = client.call(account, data, gas=GAS_MAX)
    except CallReverted:
        return False
    except (ChainUnavailable, WrongChain):
        raise
    except ChainError as error:
        if code_failed(error):
            return False
        raise
    return answer == MAGIC.ljust(32, b"\0")
