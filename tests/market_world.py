"""A whole market for tests: services over a database, a fake chain, and parties with keys."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from eth_hash.auto import keccak
from sqlmodel import SQLModel

from marketplace.data import load_tiers
from marketplace.db.blob_files import BlobFolder
from marketplace.db.chain_events import SqlEventStore
from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from marketplace.db.tables import AttestationRow, JobRow, LeaseRow
from marketplace.domain.job import JobSpec
from marketplace.domain.life import Outcome, runs_again
from marketplace.limits import STOP_SECONDS
from marketplace.services.attestations import AttestationRefusal
from marketplace.services.catalog import Catalog
from marketplace.services.common import Principal
from marketplace.services.lives import retry_of
from marketplace.services.ports import Market
from marketplace.wire.base import Model
from marketplace.wire.jobs import JobOrder
from marketplace.wire.leases import (
    Countersignature,
    FinishReport,
    SignedAttestation,
    SignedClose,
    SignedStop,
)
from marketplace.wire.market import KeyDraft, NewNode, SignedKeyRequest
from marketplace.wire.orders import AskDraft, SignedAsk
from settlement.attestation import Close, Stop, UsageAttestation, voucher_for
from settlement.chain.calls import EscrowCalls
from settlement.eip712 import ZERO_ADDRESS, Domain, Struct
from settlement.orders import Bid
from settlement.signing import LocalSigner, sign
from tests.databases import empty_database, rows_of, sqlite_database
from tests.fakes import FakeChain, ManualClock

T = TypeVar("T")
M = TypeVar("M", bound=Model)
R = TypeVar("R", bound=SQLModel)
TOKEN = 10**18
RELAY_FEE = TOKEN // 100
H100 = "H100-80GB-SXM"


def key_of(name: str) -> LocalSigner:
    """The same signer for the same name in every run."""
    return LocalSigner(keccak(f"market test key {name}".encode()))


def market(**changes: Any) -> Market:
    """A market without fee on a chain nobody else has."""
    fields: dict[str, Any] = {
        "domain": Domain(31_337, "0x" + "ec" * 20), "token": "0x" + "cc" * 20, "currency": "CMP",
        "decimals": 18, "fee_bps": 0, "settle_window_s": 120, "opener": ZERO_ADDRESS,
        "interval_ms": 1_000, "confirmations": 0, "settle_every_s": 5, "operators": (),
        "rpc_url": "http://localhost:0", "relay_fee": RELAY_FEE,
    }  # fmt: skip
    return Market(**{**fields, **changes})


def key_draft(account: str, **changes: Any) -> KeyDraft:
    """What an account's API key for buying should allow."""
    fields = {"account": account, "name": "laptop", "scopes": ["buyer"]}
    return KeyDraft.model_validate({**fields, **changes})


def gpu(uuid: str, **changes: Any) -> dict[str, Any]:
    """A simulated H100, as a node lists it."""
    fields = {"uuid": uuid, "model": "H100", "memory_mib": 81_920, "simulated": True}
    return {**fields, **changes}


def node_listing(number: int, gpus: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A node as its provider lists it: 64 cores, 256 GiB, shares of its GPUs for sale."""
    return {
        "number": number, "name": f"n{number}", "region": "eu-west", "tier": H100, "gpus": gpus,
        "cpu_milli": 64_000, "memory_mib": 262_144, "storage_mib": 262_144, "runtime": "process",
        "shared": True, **changes,
    }  # fmt: skip


def job_spec(**changes: Any) -> dict[str, Any]:
    """One H100 for ten minutes at 3 an hour at most, 5 in all."""
    return {
        "name": "train",
        "command": ["python", "train.py"],
        "resources": {"gpu": "H100:1"},
        "pricing": {"max_gpu_hour": "3.00"},
        "max_duration": "10m",
        "budget": {"max_total": "5"},
        **changes,
    }


@dataclass(slots=True)
class World:
    """The services and who uses them."""

    catalog: Catalog
    database: Database
    chain: FakeChain
    clock: ManualClock
    folder: Path  # where its blobs are
    buyer: LocalSigner = field(default_factory=lambda: key_of("buyer"))
    provider: LocalSigner = field(default_factory=lambda: key_of("provider"))
    meter: LocalSigner = field(default_factory=lambda: key_of("meter"))
    witness: LocalSigner = field(default_factory=lambda: key_of("witness"))
    stranger: LocalSigner = field(default_factory=lambda: key_of("stranger"))
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def domain(self) -> Domain:
        return self.catalog.market.domain

    def caller(self, signer: LocalSigner, *scopes: str) -> Principal:
        return Principal(signer.address, scopes or ("buyer", "provider"), None)

    def log_in(self, account: str, signer: LocalSigner) -> Principal:
        """Make an API key of an account, signed by whoever speaks for it, and use it."""
        accounts = self.catalog.accounts
        request = accounts.prepare_key(key_draft(account))
        checked = accounts.check_key(self.signed(SignedKeyRequest, signer, message=request))
        with self.database.write() as store:
            return accounts.authenticate(store, accounts.create_key(store, checked)[1])

    # Supply and demand

    def node(self, provider: LocalSigner | None = None, gpus: int = 1, **changes: Any) -> str:
        """List a node; returns its id."""
        number = next(self._numbers)
        cards = [gpu(f"GPU-{number}-{i}") for i in range(gpus)]
        new = NewNode.model_validate(node_listing(number, cards, **changes))
        return self.do(self.catalog.nodes.register, provider or self.provider, new).id

    def ask(
        self,
        node_id: str | None = None,
        price: str = "2.50",
        provider: LocalSigner | None = None,
        **terms: Any,
    ) -> str:
        """Put an ask on the book; returns its id."""
        owner = provider or self.provider
        caller = self.caller(owner)
        node_id = node_id or self.node(owner)
        given = {
            "meter": self.meter.address,
            "prices": {"gpu_hour": price, **terms.pop("prices", {})},
            "start_limit": "60s",
            **terms,
        }
        with self.database.write() as store:
            node = self.catalog.nodes.get(store, caller, node_id)
            salt = self.catalog.accounts.salt(store, owner.address)
            draft = AskDraft.model_validate({"node_id": node_id, **given})
            ask = self.catalog.asks.prepare(node, draft, salt)
            signed = self.signed(SignedAsk, owner, ask=ask)
            ask_id = self.catalog.asks.create(store, caller, self.catalog.asks.check(signed)).id
        self.match()
        return ask_id

    def fund(self, tokens: int = 100, account: LocalSigner | None = None) -> None:
        """Put tokens into the escrow for an account."""
        address = (account or self.buyer).address
        self.chain.balances[address] = self.chain.balances.get(address, 0) + tokens * TOKEN

    def signed(self, kind: type[M], signer: LocalSigner, **member: Struct) -> M:
        """A struct with its signature, as it travels."""
        (struct,) = member.values()
        return kind(**member, signature=sign(struct, self.domain, signer))

    def order(self, salt: int, account: str | None = None, **changes: Any) -> tuple[JobSpec, Bid]:
        """A job and the bid for it."""
        spec = self.catalog.quotes.spec(job_spec(**changes))
        buyer = account or self.buyer.address
        return spec, self.catalog.quotes.draft(spec, buyer, self.witness.address, salt)

    def sign_order(self, spec: JobSpec, bid: Bid, signer: LocalSigner | None = None) -> JobOrder:
        """A job and its bid, signed by the buyer unless said."""
        signature = sign(bid, self.domain, signer or self.buyer)
        return JobOrder(job=spec.to_json(), bid=bid, signature=signature)

    def submit(self, buyer: LocalSigner | None = None, **changes: Any) -> str:
        """Submit a job; returns its id."""
        owner = buyer or self.buyer
        with self.database.write() as store:
            salt = self.catalog.accounts.salt(store, owner.address)
        signed = self.sign_order(*self.order(salt, owner.address, **changes), owner)
        order = self.catalog.jobs.check(self.caller(owner), signed)
        return self.do(self.catalog.jobs.submit, owner, order).id

    def offer(self, node_id: str | None = None, price: str = "2.50", **terms: Any) -> str:
        """Put an ask on the book and give its buyer money; returns the ask's id."""
        self.fund()
        return self.ask(node_id, price, **terms)

    def queue(self, buyer: LocalSigner | None = None, **changes: Any) -> str:
        """Submit a job and let the matcher see it; returns the job's id."""
        job_id = self.submit(buyer, **changes)
        self.match()
        return job_id

    def match(self) -> None:
        """Let the matcher do what there is to do."""
        while self.catalog.matcher.tick():
            continue

    def open(self, **changes: Any) -> tuple[str, str]:
        """Submit a job and let the chain open its lease: (job id, lease id)."""
        job_id = self.queue(**changes)
        self.chain.mine()
        lease_id = self.job(job_id).lease_id
        assert lease_id is not None
        return job_id, lease_id

    def start(self, **changes: Any) -> tuple[str, str]:
        """One ask, and a job whose lease is open on it: (job id, lease id)."""
        self.offer()
        return self.open(**changes)

    def refuse_opening(self, job_id: str, error: str) -> str:
        """Let the chain refuse the opening of a job's lease, and the market notice; the lease."""
        lease_id = self.job(job_id).lease_id or ""
        self.chain.refusals[f"open:{lease_id}"] = error
        self.chain.mine()
        self.catalog.settling.failed_opens()
        return lease_id

    def open_late(self, lease_id: str) -> None:
        """Another transaction opened a lease whose opening was refused; the chain tells of it."""
        with self.database.read() as store:
            intent = store.intent(f"open:{lease_id}")
        self.chain.direct += self.chain._run(intent, self.clock() // 1000)
        self.chain.mine()

    def keep_blob(self, body: bytes) -> str:
        """Store bytes that no row names yet; returns their SHA-256."""
        with self.catalog.blobs.files.receive() as upload:
            upload.write(body)
            return upload.keep()

    def do(self, action: Callable[..., T], who: LocalSigner, *arguments: Any) -> T:
        """Call a service as an account, in a transaction of its own."""
        with self.database.write() as store:
            return action(store, self.caller(who), *arguments)

    # Looking

    def row(self, table: str, key: str) -> Any:
        """A row by the table's name in the store."""
        with self.database.read() as store:
            return getattr(store, table).need(key)

    def rows(self, kind: type[R], /, **equal: Any) -> list[R]:
        """Every row of a table that has these values, in the order of its key."""
        with self.database.read() as store:
            return rows_of(store, kind, **equal)

    def job(self, job_id: str) -> JobRow:
        found: JobRow = self.row("jobs", job_id)
        return found

    def lease(self, lease_id: str) -> LeaseRow:
        found: LeaseRow = self.row("leases", lease_id)
        return found

    # Meter and witness

    def statement(self, lease_id: str, sequence: int, ms: int, **changes: Any) -> UsageAttestation:
        lease = self.lease(lease_id)
        fields: dict[str, Any] = {
            "buyer": lease.buyer, "provider": lease.provider, "lease_no": lease.lease_bytes,
            "sequence": sequence, "observed_at_ms": self.clock(), "ms": ms, "gpu_ms": ms,
            "cpu_core_ms": 0, "memory_mib_ms": 0, "storage_mib_ms": 0, "egress_mib": 0, "units": 0,
            "evidence": bytes(32),
        }  # fmt: skip
        return UsageAttestation(**{**fields, **changes})

    def attest(
        self,
        lease_id: str,
        sequence: int,
        ms: int,
        signer: LocalSigner | None = None,
        after: float = 0,
        **changes: Any,
    ) -> tuple[AttestationRow, AttestationRefusal | None]:
        """Hand in a meter's statement after so many seconds, signed by the meter unless said."""
        self.clock.advance(after)
        said = self.statement(lease_id, sequence, ms, **changes)
        signed = self.signed(SignedAttestation, signer or self.meter, attestation=said)
        return self.do(self.catalog.attestations.take, self.provider, lease_id, signed)

    def countersign(self, row: AttestationRow, signer: LocalSigner | None = None) -> None:
        """Let the witness answer an attestation."""
        lease = self.lease(row.lease_id)
        voucher = voucher_for(UsageAttestation.from_message(row.message), lease.metered)
        signed = self.signed(Countersignature, signer or self.witness, voucher=voucher)
        self.do(self.catalog.attestations.countersign, self.buyer, row.id, signed)

    def use(self, lease_id: str, sequence: int, ms: int, **changes: Any) -> None:
        """An accepted attestation and its countersignature."""
        row, refusal = self.attest(lease_id, sequence, ms, **changes)
        assert refusal is None, refusal
        self.countersign(row)

    def report(self, lease_id: str, sequence: int, ms: int, **changes: Any) -> FinishReport:
        """An agent's final report, whole and signed."""
        said = self.statement(lease_id, sequence, ms, **changes.pop("usage", {}))
        metered = self.lease(lease_id).metered
        counted = (said.egress_mib, said.units) if metered else (0, 0)
        job = self.job(self.lease(lease_id).job_id)
        again = runs_again(retry_of(job.spec).on, changes.get("outcome", Outcome.SUCCEEDED))
        close = Close(said.buyer, said.provider, said.lease_no, ms, *counted, again)
        fields: dict[str, Any] = {
            "outcome": "succeeded",
            "exit_code": 0,
            "reason": "",
            "outputs": None,
            "attestation": said,
            "signature": sign(said, self.domain, self.meter),
            "close": self.signed(SignedClose, self.meter, message=close),
        }
        return FinishReport.model_validate({**fields, **changes})

    def finish(
        self, lease_id: str, sequence: int, ms: int, after: float = 0, **changes: Any
    ) -> None:
        """The agent reports the end after so many seconds."""
        self.clock.advance(after)
        report = self.report(lease_id, sequence, ms, **changes)
        _, _, refusal = self.do(self.catalog.ends.finish, self.provider, lease_id, report)
        assert refusal is None, refusal

    def close(self, lease_id: str) -> None:
        """The witness signs the Close that the meter signed."""
        message = self.lease(lease_id).close
        signature = sign(Close.from_message(message), self.domain, self.witness)
        self.do(self.catalog.ends.close, self.buyer, lease_id, signature)

    def end(self, lease_id: str, sequence: int, ms: int, **changes: Any) -> None:
        """The agent reports the end, the witness signs the Close, the chain closes the lease."""
        self.finish(lease_id, sequence, ms, **changes)
        self.close(lease_id)
        self.chain.mine()

    def stop(self, lease_id: str, signer: LocalSigner | None = None, again: bool = False) -> None:
        """The witness (or another) signs a Stop."""
        lease = self.lease(lease_id)
        deadline = self.clock() // 1000 + STOP_SECONDS
        stop = Stop(lease.buyer, lease.provider, lease.lease_bytes, again, deadline)
        signed = self.signed(SignedStop, signer or self.witness, stop=stop)
        self.do(self.catalog.ends.stop, self.buyer, lease_id, signed)

    def halt(self, lease_id: str, signer: LocalSigner | None = None, again: bool = False) -> None:
        """A Stop is signed, and the chain takes it."""
        self.stop(lease_id, signer, again)
        self.chain.mine()

    def run(self, seconds: float, **changes: Any) -> tuple[str, str]:
        """A job that runs so long, succeeds and is closed on chain: (job id, lease id)."""
        job_id, lease_id = self.open(**changes)
        self.use(lease_id, 0, 0)
        self.clock.advance(seconds)
        self.end(lease_id, 1, int(seconds * 1000))
        return job_id, lease_id


@contextmanager
def new_world(**changes: Any) -> Iterator[World]:
    """A market over an empty database, for as long as it is held."""
    with sqlite_database() as database, TemporaryDirectory() as folder:
        yield world_on(database, Path(folder), **changes)


def sqlite_world(folder: Path, **changes: Any) -> World:
    """A market on SQLite in a folder; one that is there already is opened again."""
    path = folder / "market.db"
    if not path.exists():
        path.write_bytes(empty_database())
    return world_on(Database(f"sqlite:///{path}"), folder, **changes)


def world_on(database: Database, folder: Path, **changes: Any) -> World:
    """A market over a database that is there, with its blobs in a folder."""
    fixed, clock, outbox = market(**changes), ManualClock(), SqlOutbox(database)
    calls = EscrowCalls(fixed.domain.verifying_contract)
    chain = FakeChain(database, outbox, SqlEventStore(database), clock, calls)
    files = BlobFolder(folder / "blobs")
    catalog = Catalog(fixed, clock, load_tiers(), database, chain, files)
    chain.events = SqlEventStore(database, catalog.projection)
    return World(catalog, database, chain, clock, folder / "blobs")
