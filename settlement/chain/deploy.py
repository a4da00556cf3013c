"""Deploys the contracts, records where, and checks that they match the shipped artifacts.

A deployment's file is deployments/<chainId>.json: the chain id, the block, and for each contract
its address, the transaction that created it and the hash of its ABI.
"""

import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

from settlement import strict_json
from settlement.chain.abi import abi, artifact
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow, EscrowConfig, Token
from settlement.eip712 import ZERO_ADDRESS, Domain, checksum
from settlement.errors import DeploymentError, WrongChain
from settlement.hashing import keccak
from settlement.signing import TransactionSigner

DEFAULT_SUPPLY = 1_000_000_000 * 10**18


@dataclass(frozen=True, slots=True)
class EscrowSettings:
    """An escrow's fixed terms: the fee in basis points (at most 1000), the window in seconds."""

    fee_bps: int = 0
    fee_recipient: str = ZERO_ADDRESS
    settle_window: int = 86_400


@dataclass(frozen=True, slots=True)
class Deployed:
    """One contract on chain."""

    address: str
    tx_hash: str
    abi_hash: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """The contracts of one chain. `block` is the first that may have their events."""

    chain_id: int
    block: int
    token: Deployed
    escrow: Deployed

    def to_json(self) -> dict[str, Any]:
        """The form of deployments/<chainId>.json."""
        contracts = {
            name: {"address": at.address, "txHash": at.tx_hash, "abiHash": at.abi_hash}
            for name, at in (("ComputeToken", self.token), ("ComputeEscrow", self.escrow))
        }
        return {"chainId": self.chain_id, "block": self.block, "contracts": contracts}

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Inverse of `to_json`. Raises DeploymentError on anything else."""
        try:
            places = document["contracts"]
            token, escrow = (
                Deployed(checksum(str(p["address"])), str(p["txHash"]), str(p["abiHash"]))
                for p in (places["ComputeToken"], places["ComputeEscrow"])
            )
            return cls(int(document["chainId"]), int(document["block"]), token, escrow)
        except (KeyError, TypeError, ValueError) as error:
            raise DeploymentError(f"not a deployment file: {error!r}") from error

    def save(self, folder: Path) -> Path:
        """Write deployments/<chainId>.json atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.chain_id}.json"
        draft = path.with_suffix(".json.new")
        draft.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
        return path

    def open(self, client: ChainClient) -> tuple[Escrow, Token]:
        """Both contracts, read through a client."""
        return Escrow(client, self.escrow.address), Token(client, self.token.address)


def deploy(
    client: ChainClient,
    signer: TransactionSigner,
    settings: EscrowSettings | None = None,
    token: str | None = None,
    holder: str | None = None,
    supply: int = DEFAULT_SUPPLY,
) -> Deployment:
    """Deploy an escrow, and before it a ComputeToken unless `token` is the address of one.

    `holder` (by default the signer) receives a new token's whole `supply` in atoms.
    """
    client.check()
    first = client.head().number + 1
    if token is None:
        placed = _create(client, signer, "ComputeToken", holder or signer.address, supply)
    else:
        placed = Deployed(checksum(token), "", artifact("ComputeToken").abi_hash)
    terms = (placed.address, *astuple(settings or EscrowSettings()))
    extension = _create(client, signer, "EscrowExtension", terms)
    escrow = _create(client, signer, "ComputeEscrow", terms, extension.address)
    return Deployment(client.chain_id, first, placed, escrow)


def load_deployment(folder: Path, chain_id: int) -> Deployment:
    """Read deployments/<chainId>.json. Raises DeploymentError if it is missing or malformed."""
    path = folder / f"{chain_id}.json"
    try:
        document = strict_json.load(path)
    except FileNotFoundError:
        raise DeploymentError(
            f"nothing is deployed on chain {chain_id}: there is no {path}"
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DeploymentError(f"{path} cannot be read: {why}") from error
    deployment = Deployment.from_json(document)
    if deployment.chain_id != chain_id:
        raise DeploymentError(f"{path} describes chain {deployment.chain_id}, not chain {chain_id}")
    return deployment


def check_deployment(client: ChainClient, deployment: Deployment) -> None:
    """Check that the escrow on chain is the shipped one and pays in the deployment's token.

    Raises WrongChain, or DeploymentError with what differs.
    """
    client.check()
    if client.chain_id != deployment.chain_id:
        raise WrongChain(
            f"the deployment is on chain {deployment.chain_id}, the node serves {client.chain_id}"
        )
    shipped, extension = artifact("ComputeEscrow"), artifact("EscrowExtension")
    at = deployment.escrow.address
    if deployment.escrow.abi_hash != shipped.abi_hash:
        raise DeploymentError(
            f"the escrow at {at} has another ABI than the shipped one: "
            "use the release that it was deployed with, or deploy again"
        )
    code = client.code(at)
    if not code:
        raise DeploymentError(f"there is no contract at {at}")
    if not shipped.matches(code):
        raise DeploymentError(f"the code at {at} is not the shipped escrow")
    escrow = Escrow(client, at)
    config = escrow.config()
    if config.token != deployment.token.address:
        paid_in = config.token
        named = deployment.token.address
        raise DeploymentError(f"the escrow pays in the token {paid_in}, not in {named}")
    # The escrow runs the extension's code, with what is fixed in that code, on its own storage. Its
    # constructor compares the terms, but another one could have placed the same code.
    place = checksum(escrow.read("extension"))
    decimals = Token(client, config.token).decimals()
    fixed = _fixed(config, decimals, escrow.domain())
    if shipped.immutable_words(code) != {*fixed, int(place, 16)}:
        raise DeploymentError(f"the code at {at} holds other terms than it tells")
    code = client.code(place)
    if not extension.matches(code):
        raise DeploymentError(f"the code at {place} is not the shipped extension")
    theirs = Escrow(client, place)
    fixed = _fixed(config, decimals, theirs.domain())
    if theirs.terms() != config or extension.immutable_words(code) != fixed:
        raise DeploymentError(f"the extension at {place} has other terms than the escrow at {at}")


def _fixed(config: EscrowConfig, decimals: int, domain: Domain) -> set[int]:
    """The immutables of a contract at the domain's address. Source: `Ledger`, and OpenZeppelin's
    `EIP712`, which keeps name and version as short strings: the length is the last byte."""
    texts = [text.encode() for text in (domain.name, domain.version)]
    words = [domain.separator(), *map(keccak, texts)]
    words += [text.ljust(31, b"\0") + bytes([len(text)]) for text in texts]
    addresses = (config.token, config.fee_recipient, domain.verifying_contract)
    numbers = (10**decimals, config.fee_bps, config.settle_window, domain.chain_id)
    return {*numbers, *(int(a, 16) for a in addresses), *(int.from_bytes(w, "big") for w in words)}


def _create(client: ChainClient, signer: TransactionSigner, name: str, *arguments: Any) -> Deployed:
    shipped = artifact(name)
    data = shipped.bytecode + abi(name).constructor(*arguments)
    receipt = client.transact(signer, None, data)
    if receipt.contract is None:
        raise DeploymentError(f"transaction {receipt.tx_hash} created no contract")
    return Deployed(receipt.contract, receipt.tx_hash, shipped.abi_hash)
