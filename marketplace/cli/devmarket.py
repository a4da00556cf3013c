"""A development market: Anvil, contracts, funded well-known accounts, the server, profiles."""

from __future__ import annotations

import shutil
import signal
import threading
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

from marketplace.cli.context import Format, current
from marketplace.cli.output import columns, note, show, warn
from marketplace.cli.serve import require_free
from marketplace.sdk import Coulomb
from marketplace.sdk.errors import ConfigError, CoulombError
from marketplace.sdk.profile import Profile, ProfileFile, config_dir
from marketplace.server.roles import run_roles
from marketplace.server.settings import Settings
from settlement import keystore
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow, Token
from settlement.chain.deploy import Deployment, EscrowSettings, deploy, load_deployment
from settlement.chain.devnet import DEV_CHAIN_ID, Devnet, dev_account
from settlement.errors import SettlementError

ONE = 10**18
OUTSIDE = 10_000 * ONE
DEPOSITED = 1_000 * ONE
BLOCK_SECONDS = 1
PASSWORD = "coulomb-dev"  # noqa: S105 - the keys it guards are public
# Anvil's accounts by index; the operator deploys, relays and opens.
OPERATOR, PROVIDER, BUYER = 0, 1, 2
NAMES = {BUYER: "dev-buyer", PROVIDER: "dev-provider", OPERATOR: "dev-operator"}
SCOPES = {OPERATOR: "operator", PROVIDER: "provider", BUYER: "buyer"}
WINDOWS = {"settle_window": 60}
PLACES = columns("api_url", "rpc_url", "chain_id", "escrow", "token", "folder")


@dataclass(slots=True)
class DevMarket:
    """One market in one folder."""

    folder: Path
    port: int
    rpc_port: int
    interval_ms: int = 1_000
    fee_bps: int = 100

    def run(self, fresh: bool = True) -> int:
        """Start everything, say where it is, and serve until stopped; returns the exit code.

        Being told to end (SIGTERM) is the same as Ctrl-C, so that the chain is never left behind.
        """
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return self._run(fresh)
        except KeyboardInterrupt:
            return 0
        finally:
            signal.signal(signal.SIGTERM, before)

    def _run(self, fresh: bool) -> int:
        for port, option in ((self.port, "--port"), (self.rpc_port, "--rpc-port")):
            require_free("127.0.0.1", port, option)  # before anything of an earlier run is removed
        state = self.folder / "chain.json"
        if fresh and self.folder.exists():
            self._require_ours(state)
            shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Each transaction is mined at once while setting up, then a block comes every second.
        with Devnet(block_seconds=0, port=self.rpc_port, state=state) as chain:
            deployment = self._deployment(chain.client())
            chain.client().rpc("evm_setAutomine", False)
            chain.client().rpc("evm_setIntervalMining", BLOCK_SECONDS)
            self._write_keystores()
            settings = self._settings(chain.rpc_url)
            return run_roles(settings, ready=lambda url: self._announce(url, settings, deployment))

    def _require_ours(self, state: Path) -> None:
        """Raise ConfigError where the folder holds anything but an earlier market."""
        ours = state.exists() or (self.folder / f"{DEV_CHAIN_ID}.json").exists()
        if not ours and any(self.folder.iterdir()):
            raise ConfigError(
                f"{self.folder} holds other files and would be emptied",
                fix="name an empty folder, or one of an earlier `coulomb dev up`",
            )

    def _settings(self, rpc_url: str) -> Settings:
        return Settings(
            database_url=f"sqlite:///{self.folder / 'coulomb.db'}",
            rpc_url=rpc_url,
            chain_id=DEV_CHAIN_ID,
            deployments=self.folder,
            blobs=self.folder / "blobs",
            relayer_keystore=_keystore_of(OPERATOR),
            relayer_password=_password_file(),
            port=self.port,
            interval_ms=self.interval_ms,
            settle_every_s=5,
            confirmations=0,
            poll_s=0.2,
            operators=(dev_account(OPERATOR).address,),
        )

    def _deployment(self, client: ChainClient) -> Deployment:
        """The contracts, deployed and with money on the accounts, unless they are there already."""
        if (self.folder / f"{DEV_CHAIN_ID}.json").exists():
            return load_deployment(self.folder, DEV_CHAIN_ID)
        operator = dev_account(OPERATOR)
        fees = {"fee_bps": self.fee_bps, "fee_recipient": operator.address}
        made = deploy(client, operator, EscrowSettings(**fees, **WINDOWS))  # type: ignore[arg-type]
        escrow, token = made.open(client)
        for index in (PROVIDER, BUYER):
            data = token.transfer(dev_account(index).address, OUTSIDE)
            client.transact(operator, token.address, data)
        _deposit(client, token, escrow)
        made.save(self.folder)
        return made

    def _write_keystores(self) -> None:
        password = _password_file()
        if not password.exists():
            password.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            password.touch(mode=0o600)
            password.write_text(PASSWORD + "\n")
        for index in NAMES:
            if not _keystore_of(index).exists():
                signer = dev_account(index)
                keystore.create(_keystore_of(index), PASSWORD, signer, "pbkdf2", 1_000)

    def _announce(self, url: str, settings: Settings, deployment: Deployment) -> None:
        """Make keys and profiles once the server answers, and say how to use them."""
        options = copy_context()  # a thread does not inherit the command's options by itself
        args = (self._set_up, url, settings, deployment)
        threading.Thread(target=options.run, args=args, name="dev-profiles", daemon=True).start()

    def _set_up(self, url: str, settings: Settings, deployment: Deployment) -> None:
        rpc_url = settings.rpc_url
        try:
            for index in NAMES:
                self._write_profile(index, url, rpc_url, deployment)
        except (CoulombError, SettlementError) as error:
            warn(f"no profiles: {error}")
            return
        warn("the keys of these accounts are Anvil's: public, for play money only")
        note(f"profiles: {', '.join(NAMES.values())}; stop with Ctrl-C")
        note("for `reconcile` and `settle`, with the profile dev-operator, say this as well:")
        note(f"  export COULOMB_DATABASE_URL={settings.database_url}")
        note(f"  export COULOMB_DEPLOYMENTS={settings.deployments}")
        if current().output is Format.TABLE:
            print(f"export COULOMB_PROFILE={NAMES[BUYER]}", flush=True)
            print(f"export COULOMB_API_URL={url}", flush=True)
            print(f"export ETH_RPC_URL={rpc_url}", flush=True)
            return
        places = {
            "api_url": url,
            "rpc_url": rpc_url,
            "chain_id": deployment.chain_id,
            "escrow": deployment.escrow.address,
            "token": deployment.token.address,
            "folder": self.folder,
            "profiles": list(NAMES.values()),
        }
        show(places, PLACES)

    def _write_profile(self, index: int, url: str, rpc_url: str, deployment: Deployment) -> None:
        signer = dev_account(index)
        with Coulomb(url, signer=signer) as client:
            key = client.keys.create("dev", (SCOPES[index],)).key
        ProfileFile().save(
            Profile(
                name=NAMES[index],
                api_url=url,
                api_key=key,
                account=signer.address,
                keystore=NAMES[index],
                password_file=str(_password_file()),
                rpc_url=rpc_url,
                chain_id=deployment.chain_id,
                escrow=deployment.escrow.address,
                token=deployment.token.address,
            )
        )


def _deposit(client: ChainClient, token: Token, escrow: Escrow) -> None:
    buyer = dev_account(BUYER)
    client.transact(buyer, token.address, token.approve(escrow.address, DEPOSITED))
    client.transact(buyer, escrow.address, escrow.calls.deposit(DEPOSITED))


def _keystore_of(index: int) -> Path:
    return config_dir() / "keystores" / NAMES[index]


def _password_file() -> Path:
    return config_dir() / "keystores" / "dev.password"
