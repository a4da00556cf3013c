"""A buyer that has nothing of ours: HTTP, a JSON parser and `cast`. This is all a buyer needs."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.chain import cast, cast_number
from tests.e2e.world import World
from tests.programs import wait_for

CLOSE = (
    "address buyer,address provider,bytes16 leaseNo,uint64 ms,uint32 egressMib,uint32 units,"
    "bool again"
)
DOMAIN = "string name,string version,uint256 chainId,address verifyingContract"


@dataclass(slots=True)
class Key:
    """A keystore that cast made; only cast opens it."""

    file: Path
    password: Path
    address: str

    @classmethod
    def new(cls, folder: Path, name: str, password: Path) -> "Key":
        folder.mkdir(parents=True, exist_ok=True)
        cast("wallet", "new", str(folder), name, "--unsafe-password", password.read_text().strip())
        file = folder / name
        opened = ("--keystore", str(file), "--password-file", str(password))
        return cls(file, password, cast("wallet", "address", *opened))

    def opened(self) -> tuple[str, ...]:
        """How cast is told to use it."""
        return ("--keystore", str(self.file), "--password-file", str(self.password))

    def sign(self, typed_data: Any) -> str:
        file = self.file.with_suffix(".typed.json")
        file.write_text(json.dumps(typed_data))
        return cast("wallet", "sign", "--data", "--from-file", str(file), *self.opened())


@dataclass(slots=True)
class BareBuyer:
    """One buyer: an account, a witness key, and the API over plain HTTP."""

    world: World
    http: httpx.Client
    account: Key
    witness: Key
    config: dict[str, Any]

    @classmethod
    def of(cls, world: World, http: httpx.Client, folder: Path, password: Path) -> "BareBuyer":
        """Two keys, and what the market says of itself."""
        account, witness = (Key.new(folder, name, password) for name in ("account", "witness"))
        return cls(world, http, account, witness, _ok(http.get("/v1/config")))

    def deposit(self, atoms: int) -> None:
        """Approve, then deposit: two transactions by cast."""
        contracts = self.config["contracts"]
        token, escrow = contracts["ComputeToken"], contracts["ComputeEscrow"]
        self._send(token, "approve(address,uint256)", escrow, str(atoms))
        self._send(escrow, "deposit(uint256)", str(atoms))

    def _send(self, to: str, signature: str, *arguments: str) -> None:
        options = ("--json", "--rpc-url", self.config["rpc_url"], *self.account.opened())
        receipt = json.loads(cast("send", to, signature, *arguments, *options))
        assert int(receipt["status"], 16) == 1, receipt

    def log_in(self) -> None:
        """An API key for a signature."""
        draft = {"account": self.account.address, "name": "bare", "scopes": ["buyer"]}
        prepared = _ok(self.http.post("/v1/keys/prepare", json=draft))
        assert prepared["typed_data"]["message"]["account"] == self.account.address
        signature = self.account.sign(prepared["typed_data"])
        body = {"message": prepared["message"], "signature": signature}
        made = _ok(self.http.post("/v1/keys", json=body))
        self.http.headers["Authorization"] = f"Bearer {made['key']}"

    def buy(self, job: dict[str, Any]) -> str:
        """Have a bid written out, check that it buys this job, sign it, place it; the job's id."""
        draft = {"job": job, "witness": self.witness.address}
        prepared = _ok(self.http.post("/v1/bids/prepare", json=draft))
        spec = json.dumps(
            prepared["job"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        digest = hashlib.sha256(spec.encode()).hexdigest()
        assert prepared["typed_data"]["message"]["jobHash"] == f"0x{digest}"
        assert prepared["job"]["command"] == ["/bin/sh", "-c", job["command"]]
        signature = self.account.sign(prepared["typed_data"])
        body = {"job": prepared["job"], "bid": prepared["bid"], "signature": signature}
        answer = self.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "bare-1"})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"].endswith(answer.json()["id"])
        return str(answer.json()["id"])

    def close(self, job_id: str) -> dict[str, Any]:
        """Witness the end alone, by a Close over what the meter signed; the lease then."""
        item = wait_for("a Close to sign", lambda: self._asked_to_close(job_id))
        message = item["close"]["message"]
        typed = {
            "types": {"EIP712Domain": _members(DOMAIN), "Close": _members(CLOSE)},
            "primaryType": "Close",
            "domain": {
                "name": "Coulomb",
                "version": "1",
                "chainId": self.config["chain_id"],
                "verifyingContract": self.config["contracts"]["ComputeEscrow"],
            },
            "message": message,
        }
        path = f"/v1/leases/{item['lease']['id']}"
        _ok(self.http.post(f"{path}/close", json={"signature": self.witness.sign(typed)}))

        def closed() -> dict[str, Any] | None:
            lease: dict[str, Any] = _ok(self.http.get(path))
            return lease if lease["state"] == "closed" else None

        return wait_for("the lease is closed", closed)

    def _asked_to_close(self, job_id: str) -> dict[str, Any] | None:
        pending: list[dict[str, Any]] = _ok(self.http.get("/v1/witness/pending"))["data"]
        wanted = [x for x in pending if x["lease"]["job_id"] == job_id and x["close"]]
        return wanted[0] if wanted else None

    def get(self, path: str) -> dict[str, Any]:
        return dict(_ok(self.http.get(path)))

    def balance(self) -> int:
        """Free atoms in the escrow, read by cast."""
        escrow = self.config["contracts"]["ComputeEscrow"]
        return cast_number(self.world, escrow, "balanceOf(address)(uint256)", self.account.address)


def _members(text: str) -> list[dict[str, str]]:
    """EIP-712's list of members from `type name,type name`."""
    pairs = (member.split(" ") for member in text.split(","))
    return [{"name": name, "type": kind} for kind, name in pairs]


def _ok(answer: httpx.Response) -> Any:
    assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.text}"
    return answer.json()
