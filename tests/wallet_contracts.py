"""The wallets of contracts/test/support/Wallets.sol, compiled and deployed for a test."""

from __future__ import annotations

from functools import cache
from typing import Any

from eth_abi.abi import encode
from eth_hash.auto import keccak

from scripts.lib import artifacts
from settlement.chain.client import ChainClient
from settlement.signing import TransactionSigner
from tests.wallet_cases import BAD

UNIT = "test/support/Wallets.sol"


@cache
def _built() -> dict[str, Any]:
    project = artifacts.Project(artifacts.ROOT)
    contracts = artifacts.compiled(project, artifacts.standard_input(project, (UNIT,)))
    return dict(contracts[UNIT])


def _deploy(client: ChainClient, payer: TransactionSigner, name: str, argument: bytes) -> str:
    code = bytes.fromhex(_built()[name]["evm"]["bytecode"]["object"])
    made = client.transact(payer, None, code + argument).contract
    assert made is not None
    return made


def owned_wallet(client: ChainClient, owner: TransactionSigner) -> str:
    """Deploy a wallet of the owner, who also pays for it."""
    return _deploy(client, owner, "OwnedWallet", encode(("address",), (owner.address,)))


def bad_wallet(client: ChainClient, payer: TransactionSigner, kind: str) -> str:
    """Deploy a wallet whose answers must never count as a yes."""
    return _deploy(client, payer, "BadWallet", encode(("uint8",), (BAD.index(kind),)))


def execute(
    client: ChainClient, owner: TransactionSigner, wallet: str, to: str, data: bytes
) -> None:
    """Send a call through a wallet of the owner."""
    selector = keccak(b"execute(address,bytes)")[:4]
    client.transact(owner, wallet, selector + encode(("address", "bytes"), (to, data)))
