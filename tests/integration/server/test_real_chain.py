"""The whole server as a process on a real Anvil: a job's life, and SIGKILL at any moment of it."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.domain.drafts import KeyRequest
from marketplace.limits import STOP_SECONDS
from marketplace.server.settings import ROLES
from settlement.attestation import Close, Stop, UsageAttestation, voucher_for
from settlement.chain.calls import LeaseRef
from settlement.chain.deploy import Deployment, EscrowSettings, deploy
from settlement.chain.devnet import DEV_CHAIN_ID, Devnet, dev_account
from settlement.eip712 import Domain, Struct
from settlement.events import Closed, Opened, Settled
from settlement.leases import LeaseStatus
from settlement.orders import Ask, Bid
from settlement.signing import LocalSigner, sign
from settlement.units import cost
from tests.escrow_world import mine_every_second
from tests.market_world import TOKEN, gpu, job_spec, key_of, node_listing
from tests.openapi_checks import OpenApi
from tests.programs import Program
from tests.server_process import serve
from tests.wallet_contracts import execute, owned_wallet

PATIENCE_S = 120.0


@dataclass(slots=True)
class Server:
    """The server process, restarted at will, and a client of it that tries again."""

    folder: Path
    net: Devnet
    deployment: Deployment
    program: Program | None = None
    url: str = ""
    restarts: int = -1
    keys: dict[str, str] = field(default_factory=dict)
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=10))
    openapi: OpenApi | None = None

    def start(self, *roles: str) -> None:
        """Start with the given roles, all of them unless said; returns once it serves."""
        self.program = self.spawn(*roles or ROLES)
        self.url = self.program.says(r"(http://\S+)")
        self.restarts += 1

    def spawn(self, *roles: str) -> Program:
        """A process of the market."""
        words = (self.folder, self.net.rpc_url, roles)
        log = self.folder / f"{'-'.join(roles)}.log"
        return Program("server", words, os.environ, log, serve).start()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nothing said."""
        assert self.program is not None
        self.program.kill()

    def stop(self) -> None:
        """SIGTERM, after which it must end well."""
        assert self.program is not None
        self.program.stop()
        assert self.program.code == 0, self.program.tail()
        self.http.close()

    @property
    def domain(self) -> Domain:
        return Domain(DEV_CHAIN_ID, self.deployment.escrow.address)

    def sign(self, struct: Struct, signer: LocalSigner) -> str:
        return "0x" + sign(struct, self.domain, signer).hex()

    def call(self, method: str, path: str, key: str = "", **options: Any) -> Any:
        """One request, tried again while the server is away, and held against what the server says
        of itself; its JSON."""
        headers = dict(options.pop("headers", {}))
        if key:
            headers["Authorization"] = f"Bearer {self.keys[key]}"
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                url = f"{self.url}/v1{path}"
                answer = self.http.request(method, url, headers=headers, **options)
                break
            except httpx.TransportError:
                assert time.monotonic() < until
                time.sleep(0.05)
        assert answer.status_code < 300, (path, answer.status_code, answer.text)
        self.openapi = self.openapi or OpenApi(self.http.get(f"{self.url}/v1/openapi.json").json())
        self.openapi.check(method, answer.request.url, answer)
        return answer.json()

    def login(self, name: str, signer: LocalSigner, account: str = "") -> None:
        """An API key of the signer's account, or of the contract account that it signs for."""
        draft = {"account": account or signer.address, "name": name, "scopes": [name]}
        message = self.call("POST", "/keys/prepare", json=draft)["message"]
        signature = self.sign(KeyRequest.from_message(message), signer)
        made = self.call("POST", "/keys", json={"message": message, "signature": signature})
        self.keys[name] = made["key"]

    def wait(self, path: str, key: str, done: Callable[[Any], bool]) -> Any:
        until = time.monotonic() + PATIENCE_S
        while True:
            found = self.call("GET", path, key)
            if done(found):
                return found
            assert time.monotonic() < until, found
            time.sleep(0.05)


BUYER, PROVIDER = 1, 2
METER, WITNESS = key_of("meter"), key_of("witness")


@contextmanager
def served(folder: Path, tokens: int) -> Iterator[Server]:
    """A market on a chain of its own; the buyer has money in the escrow."""
    with Devnet(block_seconds=0) as net:
        client, owner, buyer = net.client(), dev_account(0), dev_account(BUYER)
        deployment = deploy(client, owner, EscrowSettings(settle_window=60))
        deployment.save(folder)
        escrow, token = deployment.open(client)
        client.transact(owner, token.address, token.transfer(buyer.address, tokens * TOKEN))
        client.transact(buyer, token.address, token.approve(escrow.address, tokens * TOKEN))
        client.transact(buyer, escrow.address, escrow.calls.deposit(tokens * TOKEN))
        mine_every_second(client)
        made = Server(folder, net, deployment)
        made.start()
        try:
            made.login("provider", dev_account(PROVIDER))
            made.login("buyer", buyer)
            yield made
        finally:
            made.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path, 100) as made:
        yield made


def offer(server: Server) -> None:
    """A node with one simulated GPU and an ask at 2.50 an hour."""
    node = node_listing(1, [gpu("GPU-1")], cpu_milli=8_000, memory_mib=65_536, storage_mib=65_536)
    node_id = server.call("POST", "/nodes", "provider", json=node)["id"]
    draft = {"node_id": node_id, "meter": METER.address, "prices": {"gpu_hour": "2.50"}}
    message = server.call("POST", "/asks/prepare", "provider", json=draft)["ask"]
    signature = server.sign(Ask.from_message(message), dev_account(PROVIDER))
    server.call("POST", "/asks", "provider", json={"ask": message, "signature": signature})


def submit(server: Server) -> str:
    job = job_spec()
    draft = {"job": job, "witness": WITNESS.address}
    message = server.call("POST", "/bids/prepare", "buyer", json=draft)["bid"]
    signature = server.sign(Bid.from_message(message), dev_account(BUYER))
    body = {"job": job, "bid": message, "signature": signature}
    headers = {"Idempotency-Key": "job"}
    return str(server.call("POST", "/jobs", "buyer", json=body, headers=headers)["id"])


@dataclass(slots=True)
class Parties:
    """Meter and witness of one lease."""

    server: Server
    lease: dict[str, Any]
    ready: float = 0.0
    sequence: int = 0
    acknowledged_ms: int = 0

    @property
    def path(self) -> str:
        return f"/leases/{self.lease['id']}"

    @property
    def ids(self) -> tuple[str, str, bytes]:
        number = bytes.fromhex(self.lease["lease_no"][2:])
        return self.lease["buyer"], self.lease["provider"], number

    def statement(self, ms: int) -> UsageAttestation:
        now_ms = int(time.time() * 1000)
        return UsageAttestation(*self.ids, self.sequence, now_ms, ms, ms, 0, 0, 0, 0, 0, bytes(32))

    def attest(self, ms: int) -> tuple[dict[str, Any], UsageAttestation]:
        """The next statement of the meter, sent until the server has answered."""
        said = self.statement(ms)
        self.sequence += 1
        body = {"attestation": said.to_message(), "signature": self.server.sign(said, METER)}
        return self.server.call("POST", self.path + "/attestations", "provider", json=body), said

    def begin(self) -> None:
        self.attest(0)
        self.ready = time.time()

    def use(self) -> None:
        """One interval: attested and countersigned; the answer makes the voucher count."""
        row, said = self.attest(int((time.time() - self.ready) * 1000))
        voucher = voucher_for(said, metered=False)
        body = {"voucher": voucher.to_message(), "signature": self.server.sign(voucher, WITNESS)}
        self.server.call("POST", f"/attestations/{row['id']}/countersign", "buyer", json=body)
        self.acknowledged_ms = voucher.ms

    def finish(self) -> int:
        """Both halves of the Close at the last usage; returns its milliseconds."""
        ms = int((time.time() - self.ready) * 1000)
        said, close = self.statement(ms), Close(*self.ids, ms, 0, 0, False)
        half = {"message": close.to_message(), "signature": self.server.sign(close, METER)}
        report = {
            "outcome": "succeeded", "exit_code": 0, "reason": "", "outputs": None, "close": half,
            "attestation": said.to_message(), "signature": self.server.sign(said, METER),
        }  # fmt: skip
        self.server.call("POST", self.path + "/finish", "provider", json=report)
        half = {"signature": self.server.sign(close, WITNESS)}
        self.server.call("POST", self.path + "/close", "buyer", json=half)
        return ms


def started(server: Server, job_id: str) -> Parties:
    job = server.wait(f"/jobs/{job_id}", "buyer", lambda j: j["state"] == "starting")
    return Parties(server, server.call("GET", f"/leases/{job['lease_id']}", "provider"))


def job_on_offer(server: Server) -> tuple[str, Parties]:
    """A job whose lease is open on the one ask there is."""
    offer(server)
    job_id = submit(server)
    return job_id, started(server, job_id)


def chain_events(server: Server) -> list[Any]:
    client = server.net.client()
    escrow, _ = server.deployment.open(client)
    found = escrow.events(server.deployment.block, client.head().number)
    return [logged.event for logged in found]


def provider_balance(server: Server) -> int:
    escrow, _ = server.deployment.open(server.net.client())
    return escrow.balance_of(dev_account(PROVIDER).address)


RATE = 2_500_000_000_000


def test_the_operators_own_node_is_no_secret_that_the_api_tells(server: Server) -> None:
    assert server.call("GET", "/config")["rpc_url"] == ""


def test_a_job_lives_on_a_real_chain_from_ask_to_receipt(server: Server) -> None:
    job_id, parties = job_on_offer(server)
    parties.begin()
    for _ in range(3):
        time.sleep(0.7)
        parties.use()
    server.wait(parties.path, "buyer", lambda x: x["settled"]["ms"] == parties.acknowledged_ms)
    assert provider_balance(server) == cost(RATE, parties.acknowledged_ms)
    ms = parties.finish()
    server.wait(f"/jobs/{job_id}", "buyer", lambda j: j["state"] == "succeeded")
    assert provider_balance(server) == cost(RATE, ms)
    receipt = server.call("GET", f"/jobs/{job_id}/receipt", "buyer")
    assert receipt["conserved"] is True
    assert receipt["gross"]["atoms"] == str(cost(RATE, ms))
    account = server.call("GET", f"/accounts/{dev_account(BUYER).address}", "buyer")
    assert account["free"]["atoms"] == str(100 * TOKEN - cost(RATE, ms))


def test_a_server_killed_at_any_moment_loses_no_acknowledged_voucher_and_pays_nothing_twice(
    server: Server,
) -> None:
    """Kills after the submission, in the run, in settling and after the Close; seeded delays."""
    seed = int(os.environ.get("COULOMB_SEED", "7"))
    random_delay = random.Random(seed).uniform  # noqa: S311 - moments, not secrets
    offer(server)
    job_id = submit(server)

    def crash() -> None:
        time.sleep(random_delay(0.0, 0.6))
        server.kill()
        server.start()

    crash()
    assert submit_again(server) == job_id
    parties = started(server, job_id)
    crash()
    parties.begin()
    for _ in range(3):
        time.sleep(0.4)
        parties.use()
        crash()
        lease = server.call("GET", parties.path, "buyer")
        assert lease["countersigned"]["ms"] == parties.acknowledged_ms
    server.wait(parties.path, "buyer", lambda x: x["settled"]["ms"] == parties.acknowledged_ms)
    assert provider_balance(server) == cost(RATE, parties.acknowledged_ms)
    ms = parties.finish()
    crash()
    server.wait(f"/jobs/{job_id}", "buyer", lambda j: j["state"] == "succeeded")
    assert provider_balance(server) == cost(RATE, ms)
    happened = chain_events(server)
    assert sum(isinstance(event, Opened) for event in happened) == 1
    assert sum(isinstance(event, Closed) for event in happened) == 1
    paid = [entry.ms for e in happened if isinstance(e, Settled) for entry in e.entries]
    assert paid == sorted(set(paid))
    receipt = server.call("GET", f"/jobs/{job_id}/receipt", "buyer")
    assert receipt["conserved"] is True
    assert server.restarts == 6


def submit_again(server: Server) -> str:
    """The job's id as its key's stored answer says, without signing anything new."""
    return str(server.call("GET", "/jobs", "buyer")["data"][0]["id"])


def test_roles_run_in_processes_of_their_own_on_one_database(server: Server) -> None:
    """The API alone in one process, everything else in another that is killed and started again."""
    server.kill()
    server.start("api")
    others = ("matcher", "relayer", "indexer")
    program = server.spawn(*others)
    try:
        job_id, parties = job_on_offer(server)
        program.kill()
        parties.begin()
        time.sleep(0.5)
        parties.use()
        program.start()
        ms = parties.finish()
        server.wait(f"/jobs/{job_id}", "buyer", lambda j: j["state"] == "succeeded")
        assert provider_balance(server) == cost(RATE, ms)
    finally:
        program.stop()
    assert program.code == 0


def test_a_stop_by_the_witness_ends_the_lease_and_the_best_voucher_is_still_paid(
    server: Server,
) -> None:
    job_id, parties = job_on_offer(server)
    parties.begin()
    time.sleep(1.5)
    parties.use()
    deadline = server.net.client().timestamp() + STOP_SECONDS
    stop = Stop(*parties.ids, False, deadline)
    body = {"stop": stop.to_message(), "signature": server.sign(stop, WITNESS)}
    server.call("POST", parties.path + "/stop", "buyer", json=body)
    server.wait(parties.path, "buyer", lambda x: x["state"] == "stopped")
    server.wait(parties.path, "buyer", lambda x: x["settled"]["ms"] == parties.acknowledged_ms)
    escrow, _ = server.deployment.open(server.net.client())
    buyer, provider, number = parties.ids
    view = escrow.lease(LeaseRef(buyer, provider, WITNESS.address, number))
    assert (view.status, view.used_ms) == (LeaseStatus.STOPPED, parties.acknowledged_ms)
    client = server.net.client()
    client.rpc("evm_increaseTime", 120)
    client.rpc("evm_mine")
    server.wait(parties.path, "buyer", lambda x: x["state"] == "closed")
    assert provider_balance(server) == cost(RATE, parties.acknowledged_ms)
    job = server.call("GET", f"/jobs/{job_id}", "buyer")
    assert (job["state"], job["reason"]) == ("cancelled", "lease_stopped")


def test_contract_accounts_buy_and_sell_by_what_their_contracts_accept(server: Server) -> None:
    client, (owner, provider) = server.net.client(), (dev_account(BUYER), dev_account(PROVIDER))
    escrow, token = server.deployment.open(client)
    buying, selling = owned_wallet(client, owner), owned_wallet(client, provider)
    client.transact(dev_account(0), token.address, token.transfer(buying, 10 * TOKEN))
    execute(client, owner, buying, token.address, token.approve(escrow.address, 10 * TOKEN))
    execute(client, owner, buying, escrow.address, escrow.calls.deposit(10 * TOKEN))
    server.login("buyer", owner, buying)
    server.login("provider", provider, selling)
    job_id, parties = job_on_offer(server)
    assert parties.ids[:2] == (buying, selling)
    parties.begin()
    time.sleep(1.0)
    parties.use()
    ms = parties.finish()
    server.wait(f"/jobs/{job_id}", "buyer", lambda j: j["state"] == "succeeded")
    opened = [event for event in chain_events(server) if isinstance(event, Opened)]
    assert [(event.buyer, event.provider) for event in opened] == [(buying, selling)]
    assert escrow.balance_of(selling) == cost(RATE, ms)
    assert escrow.balance_of(buying) == 10 * TOKEN - cost(RATE, ms)
