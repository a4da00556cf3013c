"""`coulomb dev up`: Anvil, contracts, funded well-known accounts, the server and profiles."""

import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from marketplace.cli import Format
from marketplace.cli.context import confirm, current
from marketplace.cli.output import columns, note, show, warn
from marketplace.cli.serve import quiet_logs, require_free
from marketplace.sdk import Coulomb
from marketplace.sdk.errors import ConfigError, CoulombError
from marketplace.sdk.profile import Profile, ProfileFile, config_dir, state_dir, write_secret
from marketplace.server.roles import run_roles
from marketplace.server.settings import Settings
from settlement import keystore
from settlement.chain.client import ChainClient
from settlement.chain.deploy import (
    Deployment,
    EscrowSettings,
    check_deployment,
    deploy,
    load_deployment,
)
from settlement.chain.devnet import DEV_CHAIN_ID, Devnet, dev_account
from settlement.errors import DeploymentError, SettlementError

app = typer.Typer()
ONE = 10**18
OUTSIDE = 10_000 * ONE
DEPOSITED = 1_000 * ONE
BLOCK_SECONDS = 1
PASSWORD_FILE = "dev.password"  # noqa: S105 - a name
PASSWORD = "coulomb-dev"  # noqa: S105 - the keys it guards are public
# Anvil's accounts by index; the operator deploys, relays and opens.
OPERATOR, PROVIDER, BUYER = 0, 1, 2
NAMES = {BUYER: "dev-buyer", PROVIDER: "dev-provider", OPERATOR: "dev-operator"}
SCOPES = {OPERATOR: "operator", PROVIDER: "provider", BUYER: "buyer"}
SETTLE_WINDOW = 60
RELAY_FEE = "0.01"  # tokens
# What lies in the folder; the old chain is aside while a new market is set up.
LOCK, CHAIN, ASIDE = "dev.lock", "chain.json", "chain.json.old"
DATABASE, BLOBS, DEPLOYMENT = "coulomb.db", "blobs", f"{DEV_CHAIN_ID}.json"
OURS = (LOCK, CHAIN, ASIDE, DEPLOYMENT, BLOBS, *(DATABASE + end for end in ("", "-wal", "-shm")))
LOCK_SECONDS = 10.0
PLACES = columns("api_url", "rpc_url", "chain_id", "escrow", "token", "folder")


@app.command()
def up(
    port: Annotated[int, Option(help="Port of the API; 0 picks a free one.")] = 8420,
    rpc_port: Annotated[int, Option(help="Port of the chain; 0 picks a free one.")] = 8545,
    folder: Annotated[
        Path | None,
        Option(help="Folder of the market's state (default: dev in the XDG state folder)."),
    ] = None,
    fresh: Annotated[
        bool, Option("--fresh", help="Delete the market in the folder and start a new one.")
    ] = False,
    interval_ms: Annotated[
        int, Option(min=500, help="Milliseconds between a node's attestations.")
    ] = 10_000,
    fee_bps: Annotated[
        int, Option(min=0, max=1000, help="The market's fee in basis points: 100 is 1 %.")
    ] = 100,
) -> None:
    """Run a market on this machine until Ctrl-C: chain, contracts, funded accounts, server and
    profiles.

    The next run continues with the same market. The accounts are Anvil's well-known ones: their
    keys are public, their money is play money.
    """
    place = folder or state_dir() / "dev"
    if current().dry_run:
        note(f"would start a chain on port {rpc_port} and a server on port {port} in {place}")
        return
    if fresh and (place / DEPLOYMENT).exists():
        confirm(f"Delete the market in {place}, with its chain and its database?")
    market = DevMarket(place, port, rpc_port, interval_ms, fee_bps)
    quiet_logs()
    raise typer.Exit(market.run(fresh))


@dataclass(slots=True)
class DevMarket:
    """One market in one folder, which one process at a time works on."""

    folder: Path
    port: int
    rpc_port: int
    interval_ms: int
    fee_bps: int

    def run(self, fresh: bool = False) -> int:
        """Start everything, say where it is, and serve until stopped; returns the exit code.

        Goes on from the last time unless `fresh`. Being told to end (SIGTERM) is the same as
        Ctrl-C, so that the chain is saved.
        """
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with _hold(self.folder) as lock_fd:
                return self._run(fresh, lock_fd)
        except KeyboardInterrupt:
            return 0
        finally:
            signal.signal(signal.SIGTERM, before)

    def _run(self, fresh: bool, lock_fd: int) -> int:
        for port, option in ((self.port, "--port"), (self.rpc_port, "--rpc-port")):
            require_free("127.0.0.1", port, option)
        kept = None if fresh else self._kept()
        self._set_aside(kept is None)
        # Each transaction is mined at once while setting up, then a block comes every second.
        with Devnet(0, port=self.rpc_port, state=self.folder / CHAIN, held_fd=lock_fd) as chain:
            client = chain.client()
            deployment = self._deploy(client) if kept is None else self._checked(client, kept)
            client.rpc("evm_setAutomine", False)
            client.rpc("evm_setIntervalMining", BLOCK_SECONDS)
            self._write_keystores()
            settings = self._settings(chain.rpc_url)
            return run_roles(settings, ready=lambda url: self._announce(url, settings, deployment))

    def _kept(self) -> Deployment | None:
        """The market of the last time; None if there was none. Raises ConfigError."""
        if not (self.folder / DEPLOYMENT).exists():
            return None
        if not any((self.folder / name).exists() for name in (CHAIN, ASIDE)):
            raise ConfigError(
                f"{self.folder / CHAIN} is missing: the chain that the market there was on",
                fix="put it back, or start anew with `coulomb dev up --fresh`",
            )
        return load_deployment(self.folder, DEV_CHAIN_ID)

    def _set_aside(self, new: bool) -> None:
        """Keep the old chain from a new market until that has its contracts.

        If the last attempt at a new one ended before that, the old chain is put back first.
        """
        chain, aside = self.folder / CHAIN, self.folder / ASIDE
        if aside.exists():
            aside.replace(chain)
        if new and chain.exists():
            chain.replace(aside)

    def _forget(self) -> None:
        """Remove what is left of an earlier market; without its deployment it counts as none."""
        for name in (DEPLOYMENT, *OURS):
            if name == BLOBS:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            elif name not in (CHAIN, LOCK):
                (self.folder / name).unlink(missing_ok=True)

    def _checked(self, client: ChainClient, kept: Deployment) -> Deployment:
        """The kept market, which has to be on the chain and what this version ships."""
        try:
            check_deployment(client, kept)
        except DeploymentError as error:
            raise ConfigError(
                f"the market kept in {self.folder} cannot go on: {error}",
                fix="start anew with `coulomb dev up --fresh`",
            ) from error
        fee_bps = kept.open(client)[0].config().fee_bps
        if fee_bps != self.fee_bps:
            warn(f"the kept market's fee is {fee_bps} bps; only --fresh changes it")
        return kept

    def _settings(self, rpc_url: str) -> Settings:
        return Settings(
            database_url=f"sqlite:///{self.folder / DATABASE}",
            rpc_url=rpc_url,
            public_rpc_url=rpc_url,
            chain_id=DEV_CHAIN_ID,
            deployments=self.folder,
            blobs=self.folder / BLOBS,
            relayer_keystore=_keystores() / NAMES[OPERATOR],
            relayer_password=_keystores() / PASSWORD_FILE,
            port=self.port,
            interval_ms=self.interval_ms,
            settle_every_s=5,
            relay_fee=RELAY_FEE,
            confirmations=0,
            poll_s=1.0,
            operators=(dev_account(OPERATOR).address,),
        )

    def _deploy(self, client: ChainClient) -> Deployment:
        """New contracts, with money on the accounts, in the place of whatever was kept."""
        operator = dev_account(OPERATOR)
        terms = EscrowSettings(self.fee_bps, operator.address, SETTLE_WINDOW)
        made = deploy(client, operator, terms)
        _, token = made.open(client)
        for index in (PROVIDER, BUYER):
            data = token.transfer(dev_account(index).address, OUTSIDE)
            client.transact(operator, token.address, data)
        _deposit(client, made)
        self._forget()
        made.save(self.folder)
        return made

    def _write_keystores(self) -> None:
        folder = _keystores()
        if not (folder / PASSWORD_FILE).exists():
            write_secret(folder / PASSWORD_FILE, PASSWORD)
        for index, name in NAMES.items():
            if not (folder / name).exists():
                keystore.create(folder / name, PASSWORD, dev_account(index), "pbkdf2", 1_000)

    def _announce(self, url: str, settings: Settings, deployment: Deployment) -> None:
        """Make keys and profiles once the server answers, and say how to use them."""
        options = copy_context()  # a thread does not inherit the command's options by itself
        args = (self._set_up, url, settings, deployment)
        threading.Thread(target=options.run, args=args, name="dev-profiles", daemon=True).start()

    def _set_up(self, url: str, settings: Settings, deployment: Deployment) -> None:
        places: dict[str, Any] = {
            "api_url": url,
            "rpc_url": settings.rpc_url,
            "chain_id": deployment.chain_id,
            "escrow": deployment.escrow.address,
            "token": deployment.token.address,
        }
        try:
            for index in NAMES:
                _write_profile(index, places)
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
            print(f"export ETH_RPC_URL={settings.rpc_url}", flush=True)
        else:
            show({**places, "folder": self.folder, "profiles": list(NAMES.values())}, PLACES)


def _write_profile(index: int, places: dict[str, Any]) -> None:
    signer = dev_account(index)
    name = NAMES[index]
    with Coulomb(places["api_url"], signer=signer) as client:
        key = client.keys.create("dev", (SCOPES[index],)).key
    password = str(_keystores() / PASSWORD_FILE)
    own = {"account": signer.address, "api_key": key, "keystore": name, "password_file": password}
    ProfileFile().save(Profile(name=name, **{**places, **own}))


@contextmanager
def _hold(folder: Path) -> Iterator[int]:
    """Hold a folder, by a lock that its chain shares. Raises ConfigError naming who holds it, and
    for a folder of something else: one that is neither empty nor has such a lock in it.

    If the process that held it was killed, its chain is waited for: it saves its state.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        fix = "name another folder with --folder"
        raise ConfigError(f"{folder} cannot be used: {error.strerror}", fix) from None
    if (names and LOCK not in names) or (folder / LOCK).is_symlink():
        raise ConfigError(
            f"{folder} is not a folder of `coulomb dev up`: it holds {min(names)}",
            fix="name an empty folder, or one of an earlier `coulomb dev up`",
        )
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock_fd = os.open(folder / LOCK, flags, 0o600)
    try:
        until = time.monotonic() + LOCK_SECONDS
        while not _locked(lock_fd):
            pid = os.pread(lock_fd, 32, 0).decode(errors="replace")
            if Path(f"/proc/{pid}").exists() or time.monotonic() > until:
                raise ConfigError(
                    f"process {pid} runs a market in {folder}",
                    fix="stop it, or name another folder with --folder",
                )
            time.sleep(0.1)
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, str(os.getpid()).encode(), 0)
        yield lock_fd
    finally:
        os.close(lock_fd)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _deposit(client: ChainClient, made: Deployment) -> None:
    buyer = dev_account(BUYER)
    escrow, token = made.open(client)
    client.transact(buyer, token.address, token.approve(escrow.address, DEPOSITED))
    client.transact(buyer, escrow.address, escrow.calls.deposit(DEPOSITED))


def _keystores() -> Path:
    return config_dir() / "keystores"
