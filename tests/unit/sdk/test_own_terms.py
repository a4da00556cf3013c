"""What an account sends follows from what it signed itself, whatever the server says of a lease."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from marketplace.sdk.resources.disputes import Sending

from marketplace.sdk import Coulomb, RetryPolicy
from marketplace.sdk.errors import VerificationError
from marketplace.sdk.session import Session
from marketplace.witness.policy import Refusal
from settlement.attestation import Usage, UsageAttestation
from settlement.chain.calls import EscrowCalls, LeaseOrders, SignedVoucher
from settlement.orders import Ask, Bid
from settlement.signing import LocalSigner, sign
from tests.factories import make_ask, make_bid
from tests.unit.sdk.market import BUYER, DOMAIN, METER, PROVIDER, WITNESS, FakeMarket, money

CALLS = EscrowCalls(DOMAIN.verifying_contract)
STRANGER = LocalSigner(b"\x15" * 32)


@dataclass
class LeaseMarket(FakeMarket):
    """One lease, and what a test makes the server say of it. `voucher_ms`: each one signed."""

    ask: Ask = field(
        default_factory=lambda: make_ask(provider=PROVIDER.address, meter=METER.address)
    )
    bid: Bid = field(default_factory=lambda: make_bid(buyer=BUYER.address, witness=WITNESS.address))
    ask_signer: LocalSigner = PROVIDER
    bid_signer: LocalSigner = BUYER
    voucher_ms: tuple[int, ...] = ()
    voucher_signer: LocalSigner = WITNESS
    countersigned_ms: int = 0
    settles: SignedVoucher | None = None

    @property
    def orders(self) -> LeaseOrders:
        return LeaseOrders(self.ask, self.bid.struct_hash(), self.bid.buyer, self.bid.witness)

    def voucher(self, ms: int) -> SignedVoucher:
        ref = self.orders.ref
        usage = Usage(ref.buyer, ref.provider, ref.lease_no, ms)
        return SignedVoucher(usage, sign(usage, DOMAIN, self.voucher_signer))

    def on_asks(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        signed = {"ask": self.ask.to_message(), "node_id": "node_1", "state": "open"}
        return 200, signed | self._signed("ask_1", self.ask, self.ask_signer)

    def on_bids(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        signed = {"bid": self.bid.to_message(), "job_id": "job_1"}
        return 200, signed | self._signed("bid_1", self.bid, self.bid_signer)

    def _signed(self, name: str, order: Ask | Bid, signer: LocalSigner) -> dict[str, Any]:
        signature = "0x" + sign(order, DOMAIN, signer).hex()
        return {"id": name, "signature": signature, "hash": "0x" + order.struct_hash().hex()}

    def on_witness(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        terms = {
            "rate": "1", "prices": self.ask.floor.to_message(), "funded_seconds": 60, "end": 100,
            "gpu_milli": 1000, "lock": money(5),
        }  # fmt: skip
        return 200, {"data": [{"lease": {**self._lease(), "terms": terms}}]}

    def on_jobs(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        data = CALLS.top_up(self.orders, self.bid, 1800)
        return 200, {**self._steps(("top_up", data)), "lock": money(5)}

    def on_leases(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        ref = self.orders.ref
        match rest[1:]:
            case []:
                return 200, self._lease()
            case ["claim"]:
                return 200, self._claim()
            case ["attestations"]:
                rows = [self._attestation(i, ms) for i, ms in enumerate(self.voucher_ms)]
                return 200, {"data": rows, "has_more": False, "next_cursor": None}
            case ["claim", "contest", "prepare"]:
                return 200, self._steps(("contest", CALLS.contest(ref)))
        settles = [("settle", CALLS.settle([self.settles]))] if self.settles else []
        return 200, self._steps(*settles, ("claim", CALLS.claim(self.orders, 9_000)))

    def _steps(self, *steps: tuple[str, bytes]) -> dict[str, Any]:
        rows = [
            {"call": name, "to": CALLS.address, "data": "0x" + data.hex(), "gas": 1}
            for name, data in steps
        ]
        return {"lease_id": "lease_1", "transactions": rows}

    def _lease(self) -> dict[str, Any]:
        ref = self.orders.ref
        ids = {name: f"{name[:-3]}_1" for name in ("job_id", "ask_id", "bid_id", "node_id")}
        parties = {"buyer": ref.buyer, "provider": ref.provider, "witness": ref.witness}
        usage = {"egress_mib": 0, "units": 0}
        return {
            "id": "lease_1", "lease_no": "0x" + ref.lease_no.hex(), **ids, **parties,
            "meter": self.ask.meter, "state": "active", "used": {"ms": 9_000, **usage},
            "countersigned": {"ms": self.countersigned_ms, **usage},
        }  # fmt: skip

    def _claim(self) -> dict[str, Any]:
        return {
            "lease_id": "lease_1", "job_id": "job_1", "buyer": self.bid.buyer,
            "provider": self.ask.provider, "arbiter": self.bid.arbiter, "state": "claimed",
            "ms": 9_000, "settled_ms": 0, "amount": money(5), "bond": money(5),
            "contested": False, "until": "2026-01-01T00:00:00Z",
        }  # fmt: skip

    def _attestation(self, sequence: int, ms: int) -> dict[str, Any]:
        ref, signed = self.orders.ref, self.voucher(ms)
        said = UsageAttestation(
            ref.buyer, ref.provider, ref.lease_no, sequence, 0, ms, 0, 0, 0, 0, 0, 0, bytes(32)
        )
        voucher = {
            "message": signed.voucher.to_message(),
            "signature": "0x" + signed.signature.hex(),
        }
        return {
            "id": f"att_{sequence}", "lease_id": "lease_1", "sequence": sequence,
            "state": "countersigned", "message": said.to_message(),
            "signature": "0x" + sign(said, DOMAIN, METER).hex(), "voucher": voucher,
        }  # fmt: skip


@dataclass
class Chain:
    """What the escrow says, and what was sent to it."""

    claimed: int = 5
    paid_ms: int = 0
    sent: list[bytes] = field(default_factory=list)

    def claim_of(self, ref: Any) -> Any:
        return SimpleNamespace(amount=self.claimed)

    def simulate_settle(self, vouchers: Any, *rest: Any) -> Any:
        paid = [signed for signed in vouchers if signed.voucher.ms > self.paid_ms]
        return paid, [signed for signed in vouchers if signed not in paid]


@pytest.fixture
def market() -> LeaseMarket:
    return LeaseMarket()


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Chain:
    made = Chain()
    monkeypatch.setattr(Sending, "_chain", lambda self, market: (made, None))
    monkeypatch.setattr(Sending, "_transact", lambda self, e, who, data: made.sent.append(data))
    return made


@pytest.fixture
def client(market: LeaseMarket, chain: Chain, tmp_path: Path) -> Iterator[Coulomb]:
    session = Session(lambda: BUYER, lambda: WITNESS, state=tmp_path)
    options = {"retry": RetryPolicy(attempts=1), "transport": httpx.MockTransport(market)}
    with Coulomb("http://market", session=session, **options) as opened:
        yield opened


def test_contest_and_top_up_are_of_a_lease_of_an_own_bid(
    client: Coulomb, market: LeaseMarket, chain: Chain
) -> None:
    client.claims.contest("lease_1")
    client.top_ups.create("job_1", "30m")
    assert chain.sent == [
        CALLS.contest(market.orders.ref),
        CALLS.top_up(market.orders, market.bid, 1800),
    ]


@pytest.mark.parametrize("made_up", ["budget", "witness"])
def test_nothing_is_sent_for_a_bid_that_the_account_did_not_sign(
    client: Coulomb, market: LeaseMarket, chain: Chain, made_up: str
) -> None:
    changes = {"budget": 10**30} if made_up == "budget" else {"witness": STRANGER.address}
    market.bid, market.bid_signer = replace(market.bid, **changes), STRANGER
    for act in (
        lambda: client.claims.contest("lease_1"),
        lambda: client.top_ups.create("job_1", "30m"),
    ):
        with pytest.raises(VerificationError, match="did not sign the Bid"):
            act()
    assert chain.sent == []


def test_a_claim_that_is_another_on_chain_is_not_contested(client: Coulomb, chain: Chain) -> None:
    chain.claimed = 6
    with pytest.raises(VerificationError, match="another than the server says"):
        client.claims.contest("lease_1")
    assert chain.sent == []


def test_a_claim_settles_the_best_voucher_first(
    client: Coulomb, market: LeaseMarket, chain: Chain
) -> None:
    market.voucher_ms, market.countersigned_ms = (1_000, 3_000), 3_000
    market.settles = market.voucher(3_000)
    client.claims.create("lease_1", signer=PROVIDER)
    settle = CALLS.settle([market.settles])
    assert chain.sent == [settle, CALLS.claim(market.orders, 9_000)]


@pytest.mark.parametrize("settled_ms", [None, 1_000])
def test_a_claim_that_leaves_a_voucher_unpaid_is_refused(
    client: Coulomb, market: LeaseMarket, chain: Chain, settled_ms: int | None
) -> None:
    market.voucher_ms, market.countersigned_ms = (1_000, 3_000), 3_000
    market.settles = market.voucher(settled_ms) if settled_ms else None
    with pytest.raises(VerificationError, match="3000 ms unpaid"):
        client.claims.create("lease_1", signer=PROVIDER)
    assert chain.sent == []
    chain.paid_ms = 3_000
    client.claims.create("lease_1", signer=PROVIDER)
    assert chain.sent[-1] == CALLS.claim(market.orders, 9_000)


def test_countersigned_time_without_its_voucher_is_no_ground_for_a_claim(
    client: Coulomb, market: LeaseMarket, chain: Chain
) -> None:
    market.voucher_ms, market.countersigned_ms = (3_000,), 3_000
    market.voucher_signer = STRANGER
    with pytest.raises(VerificationError, match="no voucher"):
        client.claims.create("lease_1", signer=PROVIDER)
    assert chain.sent == []


def test_a_claim_on_an_ask_of_somebody_else_is_refused(
    client: Coulomb, market: LeaseMarket, chain: Chain
) -> None:
    with pytest.raises(VerificationError, match="did not sign the Ask"):
        client.claims.create("lease_1", signer=STRANGER)
    market.ask_signer = STRANGER
    with pytest.raises(VerificationError, match="did not sign the Ask"):
        client.claims.create("lease_1", signer=PROVIDER)
    assert chain.sent == []


def test_a_witness_signs_nothing_more_where_a_voucher_shown_as_its_own_is_none(
    client: Coulomb, market: LeaseMarket
) -> None:
    market.voucher_ms, market.countersigned_ms = (3_000,), 3_000
    market.voucher_signer = STRANGER
    for _ in range(2):
        (act,) = client.witness.tick()
        assert (act.kind, act.refusal) == ("admit", Refusal.BAD_SIGNATURE)
    assert not client.session.desk([]).knows(market.orders.ref.lease_no)


def test_a_witness_learns_its_own_vouchers_again(client: Coulomb, market: LeaseMarket) -> None:
    market.voucher_ms, market.countersigned_ms = (1_000, 3_000), 3_000
    assert client.witness.tick() == ()
    assert client.session.desk([]).mark(market.orders.ref.lease_no).ms == 3_000
