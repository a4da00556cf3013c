"""A whole market of real processes for tests: Anvil, the server, agents, people with keys.

    with World(folder) as world:
        node = world.provider("north", gpus="4xH100")   # a real agent, its ask on the book
        buyer = world.buyer("ada")                      # a funded account with an API key
        with world.client(buyer) as client:
            job = client.jobs.submit({...})
            job.wait(60)

Everything lies in one folder; ports are picked by the system; every process ends with the world.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import Any, Self

from marketplace.agent.config import AgentConfig, NodeConfig, save_config
from marketplace.sdk import Coulomb, Lease, RetryPolicy
from marketplace.sdk.profile import Profile, ProfileFile, write_secret
from marketplace.sdk.session import Session
from settlement import keystore
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow, Token
from settlement.chain.deploy import EscrowSettings, deploy
from settlement.chain.devnet import DEV_CHAIN_ID, Devnet, dev_account
from settlement.signing import LocalSigner
from tests.escrow_world import mine_every_second
from tests.forked import coulomb, fork
from tests.openapi_checks import CheckedTransport
from tests.programs import PATIENCE_S, Program, Programs, clean_env, wait_for

ONE = 10**18
PASSWORD = "end-to-end"
FEE_BPS = 250
SETTLE_WINDOW = 60
RELAY_FEE = "0.01"
TIER = "H100-80GB-SXM"
PRICES = {"gpu_hour": "2.50"}
GAS = 10 * ONE
OPERATOR, RELAYER = 0, 1
SETTLE_EVERY_S = 1
PATIENT = RetryPolicy(attempts=60, wait_max=0.5)  # other tests kill the server


@dataclass(slots=True)
class Party:
    """Someone with an account: a folder for its settings, a key, a witness key, an API key."""

    name: str
    home: Path
    signer: LocalSigner
    witness: LocalSigner
    api_key: str = ""

    @property
    def address(self) -> str:
        return self.signer.address

    @property
    def password_file(self) -> Path:
        return self.home / "password"

    @property
    def state(self) -> Path:
        """Where its programs keep what they must not forget, such as the witness's journal."""
        return self.home / "state" / "coulomb"

    @property
    def keystore(self) -> Path:
        return self.home / "config" / "coulomb" / "keystores" / self.name


@dataclass(slots=True)
class Provider:
    """A party that sells: its agent and its node."""

    party: Party
    agent: Program
    meter: LocalSigner
    node_id: str
    state_dir: Path

    @property
    def address(self) -> str:
        return self.party.address


@dataclass(slots=True)
class World:
    """A market in `folder`. `interval_ms` is the time between attestations."""

    folder: Path
    interval_ms: int = 1_000
    chain: Devnet = field(default_factory=lambda: Devnet(block_seconds=0))
    api_url: str = ""
    parties: dict[str, Party] = field(default_factory=dict)
    providers: dict[str, Provider] = field(default_factory=dict)
    programs: Programs = field(init=False)
    server: Program = field(init=False)
    escrow: Escrow = field(init=False)
    token: Token = field(init=False)
    _purse: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.programs = Programs(self.folder / "logs")

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.stop)
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- the market -------------------------------------------------------------------------------

    def start(self) -> Self:
        """Chain, contracts, server. Blocks come every second from then on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.chain.start()
        operator = dev_account(OPERATOR)
        terms = EscrowSettings(FEE_BPS, operator.address, SETTLE_WINDOW)
        deployment = deploy(self.chain_client, operator, terms)
        deployment.save(self.folder)
        self.escrow, self.token = deployment.open(self.chain_client)
        mine_every_second(self.chain_client)
        self._start_server()
        return self

    def stop(self) -> None:
        self.programs.stop()
        self.chain.stop()

    @property
    def chain_client(self) -> ChainClient:
        return self.chain.client()

    def _start_server(self) -> None:
        home = self.folder / "server"
        home.mkdir()
        write_secret(home / "password", PASSWORD)
        relayer = dev_account(RELAYER)
        keystore.create(home / "relayer.json", PASSWORD, relayer, "pbkdf2", 1)
        env = clean_env(
            home,
            COULOMB_DATABASE_URL=f"sqlite:///{home / 'coulomb.db'}",
            COULOMB_CHAIN_ID=str(DEV_CHAIN_ID),
            COULOMB_DEPLOYMENTS=str(self.folder),
            COULOMB_BLOBS=str(home / "blobs"),
            COULOMB_RELAYER_KEYSTORE=str(home / "relayer.json"),
            COULOMB_RELAYER_PASSWORD=str(home / "password"),
            COULOMB_INTERVAL_MS=str(self.interval_ms),
            COULOMB_SETTLE_EVERY_S=str(SETTLE_EVERY_S),
            COULOMB_CONFIRMATIONS="0",
            COULOMB_RELAY_FEE=RELAY_FEE,
            COULOMB_POLL_S="0.2",
            ETH_RPC_URL=self.chain.rpc_url,
            COULOMB_PUBLIC_RPC_URL=self.chain.rpc_url,
        )
        self.server = self.programs.start("server", ["serve", "--port", "0"], env)
        self.api_url = self.server.says(r"ready (http://\S+)")
        # Started again, it listens where its clients know it to be.
        self.server.words = ["serve", "--port", self.api_url.rpartition(":")[2]]

    def restart_server(self) -> None:
        """Start a killed server again, at the same address."""
        self.server.start().says(r"(ready) http")

    @property
    def database(self) -> Path:
        return self.folder / "server" / "coulomb.db"

    # -- people -----------------------------------------------------------------------------------

    def party(self, name: str, scopes: tuple[str, ...], tokens: int = 0) -> Party:
        """Someone with gas, a profile with an API key, and `tokens` atoms outside the escrow."""
        made = self.newcomer(name)
        self.fund(made.address, tokens)
        with Coulomb(self.api_url, signer=made.signer) as client:
            made.api_key = client.keys.create(name, scopes).key or ""
            market = client.market.config()
        ProfileFile(made.home / "config" / "coulomb" / "config.yaml").save(
            Profile(
                api_url=self.api_url,
                api_key=made.api_key,
                account=made.address,
                keystore=name,
                password_file=str(made.password_file),
                rpc_url=self.chain.rpc_url,
                chain_id=market.chain_id,
                escrow=market.contracts.escrow,
                token=market.contracts.token,
            )
        )
        self.parties[name] = made
        return made

    def buyer(self, name: str, deposit: int = 100 * ONE) -> Party:
        """A buyer with `deposit` atoms in the escrow."""
        made = self.party(name, ("buyer",), deposit)
        with self.client(made) as client:
            client.wallet.deposit(deposit)
        return made

    def fund(self, address: str, tokens: int) -> None:
        chain = self.chain_client
        chain.rpc("anvil_setBalance", address, hex(GAS))
        if tokens:
            data = "0x" + self.token.transfer(address, tokens).hex()
            sender = dev_account(OPERATOR).address
            call = {"from": sender, "to": self.token.address, "data": data}
            with self._purse:  # Anvil signs and counts the nonce, one call at a time
                sent = chain.rpc("eth_sendTransaction", call)
            assert chain.wait(sent).succeeded

    def newcomer(self, name: str) -> Party:
        """Someone with a key in a keystore that is quick to open, and nothing else yet."""
        home = self.folder / "people" / name
        home.mkdir(parents=True)
        made = Party(name, home, LocalSigner.create(), LocalSigner.create())
        write_secret(made.password_file, PASSWORD)
        keystore.create(made.keystore, PASSWORD, made.signer, "pbkdf2", 1)
        witness = made.state / "witness"
        keystore.create(witness / "key.json", PASSWORD, made.witness, "pbkdf2", 1)
        write_secret(witness / "key.password", PASSWORD)
        return made

    def client(self, party: Party) -> Coulomb:
        """A client of the SDK in this process; it shares key and journal with the commands.

        Every answer it gets is held against the server's OpenAPI document.
        """
        keys = (lambda: party.signer), (lambda: party.witness)
        session = Session(*keys, rpc_url=self.chain.rpc_url, state=party.state)
        options = {"session": session, "retry": PATIENT, "transport": CheckedTransport()}
        return Coulomb(self.api_url, party.api_key, **options)

    def env(self, party: Party) -> dict[str, str]:
        """The environment of a party's commands; their settings are in its profile."""
        return clean_env(party.home)

    def cli(
        self, party: Party, *words: str, code: int = 0, env: Mapping[str, str] | None = None
    ) -> Any:
        """Run a `coulomb` command to its end; its JSON. Fails on any exit code but `code`."""
        said = self.cli_text(party, *words, "-o", "json", code=code, env=env)
        return json.loads(said) if said.strip() else None

    def cli_text(
        self, party: Party, *words: str, code: int = 0, env: Mapping[str, str] | None = None
    ) -> str:
        """Run a `coulomb` command to its end; its stdout. Fails on any exit code but `code`."""
        folder = Path(mkdtemp(dir=party.home))
        out, err = folder / "stdout", folder / "stderr"
        process = fork(coulomb, words, {**self.env(party), **(env or {})}, out, err)
        process.join(PATIENCE_S)
        said = f"coulomb {' '.join(words)}\n{out.read_text()}\n{err.read_text()}"
        if process.exitcode is None:
            process.kill()
        assert process.exitcode == code, f"exit code {process.exitcode}, not {code}: {said}"
        return out.read_text()

    def start_cli(
        self, party: Party, name: str, *words: str, env: Mapping[str, str] | None = None
    ) -> Program:
        """Start a `coulomb` command that runs beside the test."""
        return self.programs.start(name, words, {**self.env(party), **(env or {})})

    # -- providers --------------------------------------------------------------------------------

    def provider(
        self,
        name: str,
        gpus: str | None = "4xH100",
        *,
        number: int = 1,
        terms: Mapping[str, Any] | None = None,
        interval_ms: int | None = None,
        **node: Any,
    ) -> Provider:
        """A provider with a running agent on simulated GPUs (or none) and an ask on the book."""
        party = self.party(name, ("provider",))
        settings = {**node, "simulated": gpus, "number": number}
        meter, config = self._write_agent(party, interval_ms or self.interval_ms, settings)
        state_dir = party.home / "state" / "agent"
        agent = self.start_cli(party, f"agent-{name}", "provider", "start", "--config", str(config))
        node_id = agent.says(r'"node": "(node_[^"]+)"')
        made = Provider(party, agent, meter, node_id, state_dir)
        self.offer(made, terms or {})
        self.providers[name] = made
        return made

    def offer(self, provider: Provider, terms: Mapping[str, Any]) -> None:
        """One more ask for a provider's node, at 2.50 an hour unless told otherwise."""
        usual = {"meter": provider.meter.address, "prices": PRICES, "start_limit": "30s"}
        with self.client(provider.party) as client:
            client.asks.offer(provider.node_id, {**usual, **terms})

    def _write_agent(
        self, party: Party, interval_ms: int, node: Mapping[str, Any]
    ) -> tuple[LocalSigner, Path]:
        meter = LocalSigner.create()
        keystore.create(party.home / "meter.json", PASSWORD, meter, "pbkdf2", 1)
        write_secret(party.home / "api.key", party.api_key)
        settings: dict[str, Any] = {
            "name": party.name, "region": "eu-west", "tier": TIER,
            "cpu_milli": 16_000, "memory_mib": 16_384, "storage_mib": 16_384,
        }  # fmt: skip
        config = party.home / "agent.yaml"
        save_config(
            AgentConfig(
                api_url=self.api_url,
                api_key_file=party.home / "api.key",
                node=NodeConfig(**{**settings, **node}),
                meter_keystore=party.home / "meter.json",
                meter_password_file=party.password_file,
                state_dir=party.home / "state" / "agent",
                rpc_url=self.chain.rpc_url,
                escrow=self.escrow.address,
                interval_ms=interval_ms,
                poll_ms=300,
                stop_grace_ms=1_000,
            ),
            config,
        )
        return meter, config

    def leases_of(self, provider: Provider) -> list[Lease]:
        """The leases that are open on a provider's nodes."""
        with self.client(provider.party) as client:
            return list(client.leases.list(role="provider", state="active"))

    # -- looking ----------------------------------------------------------------------------------

    def wait_for(self, what: str, ask: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
        """The first true answer; fails with the ends of all logs."""
        return wait_for(what, ask, seconds, about=self.programs.tails)


def job_of(command: str, **more: Any) -> dict[str, Any]:
    """A job file's object: a shell command on one GPU for at most two minutes."""
    return {
        "name": "job", "command": command, "resources": {"gpu": "H100:1"},
        "pricing": {"max_gpu_hour": "3.00"}, "max_duration": "2m", "start_deadline": "1m", **more,
    }  # fmt: skip
