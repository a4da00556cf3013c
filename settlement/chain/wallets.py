"""Contract accounts: whether one accepts a signature as its own. Source: ERC-1271."""

from eth_abi.abi import encode

from settlement.chain.client import ChainClient
from settlement.chain.translate import code_failed
from settlement.errors import CallReverted, ChainError, ChainUnavailable, WrongChain

MAGIC = bytes.fromhex("1626ba7e")  # the selector of isValidSignature, which also means "yes"
GAS_MAX = 300_000
"""Gas for call and calldata. Opening a lease leaves more than this for one signature."""


def accepts(client: ChainClient, account: str, digest: bytes, signature: bytes) -> bool:
    """Whether the contract at `account` answers exactly MAGIC within GAS_MAX.

    False if there is no contract or its code fails. Raises ChainError if the node gives no answer:
    ask again later.
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
