"""What an account sends follows from what it signed itself, whatever the server says of a lease."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.sdk import Coulomb, RetryPolicy
from marketplace.sdk.errors import VerificationError
from marketplace.sdk.resources.orders import TopUps
from marketplace.sdk.session import Session
from marketplace.witness.policy import Refusal
from settlement.attestation import Usage, UsageAttestation
from settlement.chain.calls import EscrowCalls, LeaseOrders, SignedVoucher
from settlement.orders import Ask, Bid
from settlement.signing import LocalSigner, sign
from tests.factories import address, make_ask, make_bid
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
    planned: dict[str, str] = field(default_factory=dict)  # over the top-up that is ours

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
        data = "0x" + CALLS.top_up(self.orders, self.bid, 1800).hex()
        step = {"call": "top_up", "to": CALLS.address, "data": data, "gas": 1, **self.planned}
        return 200, {"lease_id": "lease_1", "transaction": step, "lock": money(5)}

    def on_leases(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        if not rest[1:]:
            return 200, self._lease()
        rows = [self._attestation(i, ms) for i, ms in enumerate(self.voucher_ms)]
        return 200, {"data": rows, "has_more": False, "next_cursor": None}

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
    """What was sent to the escrow."""

    sent: list[bytes] = field(default_factory=list)


@pytest.fixture
def market() -> LeaseMarket:
    return LeaseMarket()


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Chain:
    made = Chain()
    monkeypatch.setattr(TopUps, "_chain", lambda self, market: (made, None))
    monkeypatch.setattr(TopUps, "_transact", lambda self, e, who, data: made.sent.append(data))
    return made


@pytest.fixture
def client(market: LeaseMarket, chain: Chain, tmp_path: Path) -> Iterator[Coulomb]:
    session = Session(lambda: BUYER, lambda: WITNESS, state=tmp_path)
    options = {"retry": RetryPolicy(attempts=1), "transport": httpx.MockTransport(market)}
    with Coulomb("http://market", session=session, **options) as opened:
        yield opened


def test_a_top_up_is_of_a_lease_of_an_own_bid(
    client: Coulomb, market: LeaseMarket, chain: Chain
) -> None:
    client.top_ups.create("job_1", "30m")
    assert chain.sent == [CALLS.top_up(market.orders, market.bid, 1800)]


@pytest.mark.parametrize(
    "planned",
    [
        {"to": address(0xBAD)},
        {"data": "0x" + CALLS.withdraw(address(0xBAD), 10**18).hex()},
        {"data": "0x" + CALLS.top_up(LeaseMarket().orders, LeaseMarket().bid, 1801).hex()},
    ],
    ids=["another contract", "another call", "another duration"],
)
def test_a_top_up_that_the_client_would_not_write_is_not_sent(
    client: Coulomb, market: LeaseMarket, chain: Chain, planned: dict[str, str]
) -> None:
    market.planned = planned
    with pytest.raises(VerificationError):
        client.top_ups.create("job_1", "30m")
    assert chain.sent == []


@pytest.mark.parametrize("made_up", ["budget", "witness"])
def test_nothing_is_sent_for_a_bid_that_the_account_did_not_sign(
    client: Coulomb, market: LeaseMarket, chain: Chain, made_up: str
) -> None:
    changes = {"budget": 10**30} if made_up == "budget" else {"witness": STRANGER.address}
    market.bid, market.bid_signer = replace(market.bid, **changes), STRANGER
    with pytest.raises(VerificationError, match="did not sign the Bid"):
        client.top_ups.create("job_1", "30m")
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
