"""The demonstration's market: an Anvil chain, the contracts, and the server in its own process."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from scripts.demo_lib.children import Child, Children, environment, write_secret
from settlement import keystore
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow, Token
from settlement.chain.deploy import Deployment, EscrowSettings, deploy
from settlement.chain.devnet import DEV_CHAIN_ID, Devnet, dev_account

ONE = 10**18
OPERATOR = 0  # the number of the Anvil account that deploys, opens, relays and receives the fee
FEE_BPS = 100
INTERVAL_MS = 1_000
SETTLE_EVERY_S = 3
WINDOW_SECONDS = 60


@dataclass(slots=True)
class Market:
    """A market in a folder. Always stop it; `stop` is safe at any point."""

    folder: Path
    chain: Devnet = field(default_factory=lambda: Devnet(block_seconds=0))
    children: Children = field(init=False)
    deployment: Deployment = field(init=False)
    server: Child = field(init=False)
    api_url: str = ""

    def __post_init__(self) -> None:
        self.children = Children(self.folder / "logs")

    def start_chain(self) -> None:
        """Start Anvil and put the contracts on it. Each transaction is mined at once for now."""
        self.chain.start()
        operator = dev_account(OPERATOR)
        settings = EscrowSettings(
            fee_bps=FEE_BPS,
            fee_recipient=operator.address,
            settle_window=WINDOW_SECONDS,
        )
        self.deployment = deploy(self.client(), operator, settings)
        self.deployment.save(self.folder)

    def give_tokens(self, account: str, atoms: int) -> None:
        """Give tokens to an account, outside the escrow."""
        _, token = self.contracts()
        data = token.transfer(account, atoms)
        self.client().transact(dev_account(OPERATOR), token.address, data)

    def start_server(self) -> None:
        """Start the server with all roles and wait until it answers."""
        home = self.folder / "server"
        password = secrets.token_hex(16)
        password_file = write_secret(home / "password", password)
        # The key is in every copy of Anvil, so a fast key derivation is good enough.
        keystore.create(home / "relayer.json", password, dev_account(OPERATOR), "pbkdf2", 1)
        env = environment(
            home,
            COULOMB_DATABASE_URL=f"sqlite:///{home / 'coulomb.db'}",
            COULOMB_CHAIN_ID=str(DEV_CHAIN_ID),
            COULOMB_DEPLOYMENTS=str(self.folder),
            COULOMB_BLOBS=str(home / "blobs"),
            COULOMB_RELAYER_KEYSTORE=str(home / "relayer.json"),
            COULOMB_RELAYER_PASSWORD=str(password_file),
            COULOMB_INTERVAL_MS=str(INTERVAL_MS),
            COULOMB_SETTLE_EVERY_S=str(SETTLE_EVERY_S),
            COULOMB_CONFIRMATIONS="0",
            COULOMB_POLL_S="0.2",
            ETH_RPC_URL=self.chain.rpc_url,
            COULOMB_PUBLIC_RPC_URL=self.chain.rpc_url,
        )
        self.server = self.children.start("server", ["serve", "--port", "0"], env)
        self.api_url = self.server.says(r"ready (http://\S+)")

    def mine_every_second(self) -> None:
        """Mine a block every second from now on, as a real chain does."""
        self.client().rpc("evm_setAutomine", False)
        self.client().rpc("evm_setIntervalMining", 1)

    def client(self) -> ChainClient:
        """A client of the chain."""
        return self.chain.client()

    def contracts(self) -> tuple[Escrow, Token]:
        """Both contracts."""
        return self.deployment.open(self.client())

    def stop(self) -> None:
        """End every process of this market."""
        self.children.stop()
        self.chain.stop()
