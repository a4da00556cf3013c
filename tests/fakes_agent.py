"""A market as an agent meets it: the /v1 endpoints that it calls, over one dictionary of leases.

`FakeMarket.handle` answers a request; `transport` puts it behind the SDK within one process and
`serve` behind a real port for agents that run as processes of their own.
"""

import hashlib
import json
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx

from marketplace.agent.channel import SOCKET_NAME, JobChannel, JobLogs, Signs
from marketplace.agent.folders import make_folders
from marketplace.agent.inventory import Inventory, simulated_gpus
from marketplace.agent.journal import AgentJournal, LeaseEntry
from marketplace.agent.meters import Reading
from marketplace.agent.node import HeldLease, ThisNode
from marketplace.agent.run import Assignment, assign
from marketplace.domain.job import parse_job
from marketplace.sdk import NO_RETRIES, Coulomb
from marketplace.wire.leases import Attestation, Heartbeat, Lease, LeaseTerms, LogPosition, Measured
from marketplace.wire.market import MarketConfig, Node
from marketplace.wire.orders import AskInfo, BidInfo
from settlement.attestation import Close, Stop, UsageAttestation, voucher_for
from settlement.eip712 import Domain
from settlement.orders import Ask, Bid, OpenedFrom
from settlement.signing import LocalSigner, recover, sign, verify
from settlement.usage import UsageVector
from tests.factories import job_json, make_ask, make_bid
from tests.wire_samples import sample

DOMAIN = Domain(31337, "0x" + "e5" * 20)
NODE_ID = "node_1"
ONE_GPU = Inventory(simulated_gpus("1xH100", "o"), 8_000, 4_096, 4_096)
PATIENCE_S = 120.0  # only a machine that is far too busy takes so long
Answer = tuple[int, Any]
Rows = list[dict[str, Any]]


def until(condition: Callable[[], object], what: object = "") -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"did not come in {PATIENCE_S} s: {what}"
        time.sleep(0.01)


class FakeMarket:
    """A market with one node. Everything the meter signed is kept, also what came twice."""

    def __init__(self, meter: LocalSigner, interval_ms: int = 1_000) -> None:
        self.meter = meter
        self.interval_ms = interval_ms
        self.witness = LocalSigner(b"\5" * 32)
        self.leases: dict[str, dict[str, Any]] = {}
        self.asks: dict[str, Ask] = {}
        self.bids: dict[str, Bid] = {}
        self.blobs: dict[str, bytes] = {}
        self.attestations: dict[str, Rows] = defaultdict(list)
        self.signed: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.finished: dict[str, dict[str, Any]] = {}
        self.stops: dict[str, Stop] = {}
        self.logs: dict[tuple[str, str], bytearray] = defaultdict(bytearray)
        self.beats: dict[str, list[int]] = defaultdict(list)
        self.nodes: Rows = []
        self.node_beats = 0
        self.left: list[str] = []
        self.countersigning = self.closing = True
        self.down = self.unauthorized = self.refuse_stop = False
        self.refused_calls = 0
        self.refuse_with: str | None = None
        self.refuse_finish: dict[str, tuple[int, str]] = {}  # by outcome
        self._lock = threading.RLock()

    def open_lease(
        self, command: list[str] | str, *, lease_id: str | None = None, **changes: Any
    ) -> str:
        """Open a lease for a job; changes go to `terms`, `job`, `sizes`, `ask` or the lease."""
        with self._lock:
            number = len(self.leases) + 1
            spec = parse_job(job_json(command=command, **changes.pop("job", {})), packed=True)
            sizes = {"memory_mib": 512, "storage_mib": 64, **changes.pop("sizes", {})}
            gpu_milli, paid = changes.pop("gpu_milli", 1000), changes.pop("paid_seconds", 300)
            ask = make_ask(meter=self.meter.address, salt=number, **changes.pop("ask", {}))
            bid = make_bid(
                job_hash=spec.hash(), gpu_milli=gpu_milli, salt=number,
                witness=self.witness.address, units=changes.pop("units", 0), **sizes,
            )  # fmt: skip
            self.asks[f"ask_{number}"], self.bids[f"bid_{number}"] = ask, bid
            lease_id = lease_id or f"lease_{number}"
            terms = {
                "rate": "2000000000000", "prices": ask.floor.to_message(), "gpu_milli": gpu_milli,
                "paid_seconds": paid, "start": int(time.time()),
                "end": int(time.time()) + paid + 60, "start_limit_seconds": 60, "max_seconds": paid,
                "lock": {"amount": "1", "currency": "CMP", "atoms": "1000000000000000000"},
                "budget_limited": False, **changes.pop("terms", {}),
            }  # fmt: skip
            key = OpenedFrom(ask, bid, ask.floor).lease_no
            lease = {
                "lease_no": "0x" + key.hex(), "job_id": f"job_{number}", "ask_id": f"ask_{number}",
                "bid_id": f"bid_{number}", "node_id": NODE_ID, "buyer": bid.buyer,
                "provider": ask.provider, "witness": bid.witness, "meter": ask.meter,
                "state": "active", "interval_ms": self.interval_ms,
                "terms": sample(LeaseTerms, **terms),
                "job": {"id": f"job_{number}", "state": "starting", "spec": spec.to_json()},
                **changes,
            }  # fmt: skip
            self.leases[lease_id] = sample(Lease, id=lease_id, **lease)
            return lease_id

    def taken(self, lease_id: str) -> list[UsageAttestation]:
        """Every attestation taken in."""
        with self._lock:
            rows = list(self.attestations[lease_id])
        return [UsageAttestation.from_message(row["message"]) for row in rows]

    def text(self, lease_id: str, stream: str) -> str:
        """The output received so far."""
        with self._lock:
            return self.logs[lease_id, stream].decode()

    def handle(self, method: str, url: str, body: bytes) -> Answer:
        """Answer one request."""
        if self.down:
            self.refused_calls += 1
            return _problem(503, "unavailable")
        if self.unauthorized and method == "POST":
            return _problem(401, "unauthenticated")
        with self._lock:
            match (method, *urlsplit(url).path.strip("/").split("/")[1:]):
                case ("GET", "config"):
                    return 200, self._config()
                case ("POST", "nodes"):
                    self.nodes.append(json.loads(body))
                    ours = {"id": NODE_ID, "state": "active", "interval_ms": self.interval_ms}
                    return 201, sample(Node, **{**self.nodes[-1], **ours})
                case ("POST", "nodes", _, "heartbeat"):
                    self.node_beats += 1
                    return 200, sample(Node)
                case ("POST", "nodes", node_id, "leave"):
                    self.left.append(node_id)
                    return 200, sample(Node)
                case ("GET", "leases"):
                    rows = [lease for lease in self.leases.values() if lease["state"] == "active"]
                    return 200, {"data": rows, "has_more": False, "next_cursor": None}
                case ("GET", "leases", lease_id) if lease_id in self.leases:
                    return 200, self.leases[lease_id]
                case ("GET", "asks", ask_id):
                    ask = self.asks[ask_id].to_message()
                    return 200, sample(AskInfo, id=ask_id, ask=ask)
                case ("GET", "bids", bid_id):
                    bid = self.bids[bid_id].to_message()
                    return 200, sample(BidInfo, id=bid_id, bid=bid)
                case ("GET", "blobs", digest) if digest in self.blobs:
                    return 200, self.blobs[digest]
                case ("POST", "blobs"):
                    return 201, {"sha256": self.keep(body), "size": len(body)}
                case ("GET", "leases", lease_id, "attestations"):
                    return 200, {"data": self.attestations[lease_id], "has_more": False}
                case ("POST", "leases", lease_id, what) if lease_id in self.leases:
                    return self._post(lease_id, what, json.loads(body))
        return _problem(404, "not_found")

    def keep(self, content: bytes) -> str:
        """Store a blob."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def _post(self, lease_id: str, what: str, body: dict[str, Any]) -> Answer:
        lease = self.leases[lease_id]
        match what:
            case "attestations":
                return self._attest(lease_id, body)
            case "heartbeats":
                self.beats[lease_id].append(body["count"])
                return 200, sample(Heartbeat)
            case "logs":
                known = self.logs[lease_id, body["stream"]]
                if body["offset"] <= len(known):
                    known[body["offset"] :] = body["text"].encode()
                return 200, sample(LogPosition)
            case "finish":
                return self._finish(lease_id, body)
        if lease["state"] != "active":
            return _problem(409, "conflict")
        if self.refuse_stop:
            return _problem(422, "invalid_request")
        stop = Stop.from_message(body["stop"])
        verify(stop, DOMAIN, bytes.fromhex(body["signature"][2:]), self.meter.address)
        self.stops[lease_id] = stop
        lease["state"] = "stopped"
        return 200, lease

    def _attest(self, lease_id: str, body: dict[str, Any]) -> Answer:
        message, signature = body["attestation"], body["signature"]
        said = UsageAttestation.from_message(message)
        verify(said, DOMAIN, bytes.fromhex(signature[2:]), self.meter.address)
        self.signed[lease_id, said.sequence].add(json.dumps(message))
        if self.refuse_with is not None:
            return _problem(422, "attestation_refused", reason=self.refuse_with)
        rows = self.attestations[lease_id]
        known = next((row for row in rows if row["sequence"] == said.sequence), None)
        if known is None:
            names = {"id": f"att_{lease_id}_{said.sequence}", "sequence": said.sequence}
            known = sample(
                Attestation, **names, lease_id=lease_id, state="accepted", message=message,
                signature=signature,
            )  # fmt: skip
            rows.append(known)
            self.leases[lease_id]["used"] = sample(Measured, ms=said.ms, units=said.units)
            if self.countersigning:
                self.countersign(lease_id, said.sequence)
        return 201, {k: known[k] for k in ("id", "sequence", "state", "code")}

    def countersign(self, lease_id: str, sequence: int, key: LocalSigner | None = None) -> None:
        """Answer an attestation as the witness does, or with another key."""
        row = next(row for row in self.attestations[lease_id] if row["sequence"] == sequence)
        said = UsageAttestation.from_message(row["message"])
        bid = self.bids[self.leases[lease_id]["bid_id"]]
        voucher = voucher_for(said, bid.egress_mib > 0 or bid.units > 0)
        signature = sign(voucher, DOMAIN, key or self.witness)
        row["voucher"] = {"message": voucher.to_message(), "signature": "0x" + signature.hex()}
        counted = {"ms": said.ms, "egress_mib": 0, "units": said.units}
        self.leases[lease_id]["countersigned"] = counted

    def _finish(self, lease_id: str, body: dict[str, Any]) -> Answer:
        lease, signed = self.leases[lease_id], body["close"]
        close = Close.from_message(signed["message"])
        signature = bytes.fromhex(signed["signature"][2:])
        assert recover(close, DOMAIN, signature) == self.meter.address
        if lease["state"] not in ("active", "stopped"):
            return _problem(409, "conflict")
        if body["outcome"] in self.refuse_finish:
            return _problem(*self.refuse_finish[body["outcome"]])
        self._attest(lease_id, body)
        final = UsageAttestation.from_message(body["attestation"])
        assert (final.ms, final.units) == (close.ms, close.units)
        self.finished[lease_id] = body
        lease["final"] = {"message": signed["message"], "meter_signature": signed["signature"]}
        if self.closing:
            lease["state"] = "closed"
        return 200, lease

    def _config(self) -> dict[str, Any]:
        escrow, token = DOMAIN.verifying_contract, "0x" + "70" * 20
        return sample(
            MarketConfig, chain_id=DOMAIN.chain_id, confirmations=0, interval_ms=self.interval_ms,
            contracts={"ComputeEscrow": escrow, "ComputeToken": token},
        )  # fmt: skip

    def node(self, journal: AgentJournal, folder: Path, **changes: Any) -> ThisNode:
        """A node of this market, with one simulated GPU and no runtime."""
        client = {"retry": NO_RETRIES, "transport": self.transport()}
        parts: dict[str, Any] = {
            "api": Coulomb("http://market.test", "coul_test", **client),
            "runtime": SimpleNamespace(name="none"), "inventory": ONE_GPU, "poll_s": 0.05,
            **changes,
        }  # fmt: skip
        return ThisNode(
            journal=journal, signer=self.meter, domain=DOMAIN, jobs_folder=folder / "jobs",
            node_id=NODE_ID, **parts,
        )  # fmt: skip

    def assignment(self, node: ThisNode, lease_id: str) -> Assignment:
        """The job of a lease, as the node reads it."""
        lease = self.leases[lease_id]
        orders = self.asks[lease["ask_id"]], self.bids[lease["bid_id"]]
        return assign(node, Lease.model_validate(lease), *orders)

    def transport(self) -> httpx.MockTransport:
        """The market without a network."""

        def answer(request: httpx.Request) -> httpx.Response:
            if self.down:
                raise httpx.ConnectError("the market is down", request=request)
            status, body = self.handle(request.method, str(request.url), request.read())
            return httpx.Response(status, content=_raw(body))

        return httpx.MockTransport(answer)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """The market on a port of its own; its URL."""
        market = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, found = market.handle(self.command, self.path, body)
                raw = _raw(found)
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                return

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


class Desk:
    """One lease in hand on a node of its own, on a clock a test may turn."""

    def __init__(
        self, folder: Path, clock_s: Callable[[], float] = time.monotonic, **lease: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.market = FakeMarket(LocalSigner(b"\3" * 32))
        self.id = self.market.open_lease(["true"], **lease)
        self.journal = AgentJournal(folder / "journal.db")
        self.node = self.market.node(self.journal, folder)
        self.job = self.market.assignment(self.node, self.id)
        self.entry = replace(self.job.entry, outputs=("/out",))
        self.journal.begin(self.entry)
        self.clock_s = clock_s
        self.start()
        self.folders = self.lease.folders
        make_folders(self.folders)
        self.logs = self.lease.open_logs()

    def start(self) -> None:
        """Take the lease in hand, as an agent that has just started does."""
        self.lease = HeldLease(self.node, self.entry, self.clock_s, self.job.notice_s)
        self.pen = self.lease.attestor

    def attest(self, *ms: int, **usage: int) -> None:
        """Sign usage, reading by reading."""
        for at in ms:
            self.pen.attest(UsageVector(ms=at, **usage), Reading(at_ms=1))

    @property
    def now(self) -> LeaseEntry:
        """What the journal holds of the lease."""
        return self.lease.now

    @property
    def paid(self) -> tuple[int, int] | None:
        """The ms and units of the best voucher in the journal."""
        if self.now.voucher is None:
            return None
        voucher = self.now.voucher.voucher
        return voucher.ms, getattr(voucher, "units", 0)

    @property
    def shown(self) -> Lease:
        """The lease as the market shows it."""
        return Lease.model_validate(self.market.leases[self.id])

    def close(self) -> None:
        self.logs.close()
        self.journal.close()


class JobEnd:
    """The job's end of a channel: two pipes and a socket."""

    def __init__(self, tmp_path: Path, units_max: int = 100) -> None:
        self.folder = tmp_path / ("very-long-folder-name-" * 5) / "run"  # above 108 bytes
        self.folder.mkdir(parents=True)
        self.logs = JobLogs(tmp_path / "logs")
        self.channel = JobChannel(self.folder, self.logs, units_max)
        (out_r, out), (err_r, err) = os.pipe(), os.pipe()
        self.channel.start(out_r, err_r)
        self.out, self.err = os.fdopen(out, "wb", buffering=0), os.fdopen(err, "wb", buffering=0)
        self.open: list[Any] = [self.out, self.err]

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        folder = os.open(self.folder, os.O_PATH)
        connection.connect(f"/proc/self/fd/{folder}/{SOCKET_NAME}")
        os.close(folder)
        self.open.append(connection)
        return connection

    def say(self, *messages: object) -> None:
        lines = "".join(json.dumps(message) + "\n" for message in messages)
        self.connect().sendall(lines.encode())

    def until(self, condition: Callable[[Signs], bool]) -> Signs:
        until(lambda: condition(self.channel.signs))
        return self.channel.signs

    def end(self) -> Signs:
        while self.open:
            self.open.pop().close()
        self.channel.finish()
        return self.channel.signs


def statement(entry: LeaseEntry, sequence: int, ms: int, units: int = 0) -> UsageAttestation:
    """Usage as the meter may state it."""
    zeros = (0,) * 5
    return UsageAttestation(*entry.key, sequence, 1, ms, *zeros, units, evidence=bytes(32))


def _raw(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _problem(status: int, code: str, **extra: Any) -> Answer:
    return status, {"type": "about:blank", "title": code, "status": status, "code": code, **extra}
