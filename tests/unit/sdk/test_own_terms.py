"""What an account sends or signs follows from what it signed itself, whatever the server says."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from marketplace.sdk import Coulomb, Moved, onchain
from marketplace.sdk.errors import CoulombError, InputError, VerificationError
from marketplace.witness.policy import WitnessRefusal
from settlement.attestation import Usage
from settlement.chain.calls import EscrowCalls
from settlement.orders import Ask, Bid, OpenedFrom
from settlement.signing import sign
from tests.market_world import job_spec
from tests.sdk_app import Served

Chain = list[bytes]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Chain:
    """What was sent to the escrow."""
    calls: Chain = []

    def send(session: Any, market: Any, who: Any, data: bytes) -> Moved:
        calls.append(data)
        return Moved("0x1", 2, 3)

    monkeypatch.setattr(onchain, "send", send)
    return calls


@pytest.fixture
def ids(market: Served) -> tuple[str, str]:
    """A job with an active lease: its id, and the lease's."""
    market.world.ask()
    return market.world.open()


@pytest.fixture
def client(market: Served, ids: tuple[str, str]) -> Iterator[Coulomb]:
    with market.client() as opened:
        yield opened


def opened_from(client: Coulomb, lease_id: str) -> OpenedFrom:
    lease = client.leases.get(lease_id)
    ask, bid = client.asks.get(lease.ask_id).ask, client.leases.bid(lease.bid_id).bid
    return OpenedFrom(ask, bid, ask.floor)


def test_a_top_up_is_written_by_the_client(
    client: Coulomb, market: Served, ids: tuple[str, str], sent: Chain
) -> None:
    job_id, lease_id = ids
    calls = EscrowCalls(market.world.domain.verifying_contract)
    own = calls.top_up(opened_from(client, lease_id), 1800)
    plan = client.top_ups.prepare(job_id, "30m")
    assert (plan.transaction.data, plan.transaction.to) == (own, calls.address)
    assert plan.lock.atoms == pytest.approx(5 * 10**18 // 4, rel=1e-6)  # half an hour at 2.50
    assert sent == []
    client.top_ups.create(job_id, "30m")
    assert sent == [own]
    assert not [path for path in market.paths() if path.endswith("prepare")]


@pytest.mark.parametrize(
    ("duration", "why"),
    [
        ("long", "must be a duration"), ("0s", "must be between 1 and"),
        ("1000d", "must be between 1 and"), ("2h", "the bid's budget has"),
    ],
)  # fmt: skip
def test_a_top_up_beyond_ask_or_budget_is_refused_before_it_is_sent(
    client: Coulomb, ids: tuple[str, str], sent: Chain, duration: str, why: str
) -> None:
    with pytest.raises(InputError, match=why) as caught:
        client.top_ups.create(ids[0], duration)
    assert caught.value.pointer == "/duration"
    assert sent == []


def resigned(market: Served, name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Makes the server show another order, signed by somebody else."""
    kind: Any = {"ask": Ask, "bid": Bid}[name]

    def bend(answer: dict[str, Any]) -> None:
        order = replace(kind.from_message(answer[name]), **changes)
        answer[name] = order.to_message()
        signature = sign(order, market.world.domain, market.world.stranger)
        answer["signature"] = "0x" + signature.hex()

    return bend


def other_lease(answer: dict[str, Any]) -> None:
    answer["lease_no"] = "0x" + "07" * 16


def other_price(answer: dict[str, Any]) -> None:
    prices = answer["terms"]["prices"]
    prices["gpuHour"] = str(int(prices["gpuHour"]) - 1)


def other_rate(answer: dict[str, Any]) -> None:
    answer["terms"]["rate"] = str(int(answer["terms"]["rate"]) - 1)


@pytest.mark.parametrize("lie", ["budget", "witness", "ask", "number", "price", "rate"])
def test_nothing_is_sent_for_orders_that_do_not_make_this_lease(
    client: Coulomb, market: Served, ids: tuple[str, str], sent: Chain, lie: str
) -> None:
    stranger = market.world.stranger.address
    where, bend = {
        "budget": ("GET bids", resigned(market, "bid", budget=10**30)),
        "witness": ("GET bids", resigned(market, "bid", witness=stranger)),
        "ask": ("GET asks", resigned(market, "ask", meter=stranger)),
        "number": ("GET leases", other_lease),
        "price": ("GET leases", other_price),
        "rate": ("GET leases", other_rate),
    }[lie]
    market.bend[where] = bend
    with pytest.raises(VerificationError):
        client.top_ups.create(ids[0], "30m")
    assert sent == []


def test_nothing_is_sent_for_a_bid_that_somebody_else_signed(
    client: Coulomb, market: Served, ids: tuple[str, str], sent: Chain
) -> None:
    """Its number follows from the order, so a signature is all that can be wrong with it."""
    market.bend["GET bids"] = resigned(market, "bid")
    with pytest.raises(VerificationError, match="did not sign the Bid"):
        client.top_ups.create(ids[0], "30m")
    assert sent == []


MADE_UP: dict[str, dict[str, Any]] = {
    "fee_bps": {"fee_bps": -1},
    "endless fee": {"fee_bps": 2**16},
    "opener": {"opener": "0x5"},
}


@pytest.mark.parametrize("name", MADE_UP)
def test_terms_that_no_order_can_have_are_refused(
    client: Coulomb, market: Served, name: str
) -> None:
    market.bend["GET config"] = lambda answer: answer.update(MADE_UP[name])
    with pytest.raises(CoulombError):
        client.jobs.submit(job_spec())
    assert market.sent("POST jobs") == []


def forged_vouchers(market: Served) -> Callable[[dict[str, Any]], None]:
    """Makes the server show vouchers as ours that somebody else signed."""

    def bend(answer: dict[str, Any]) -> None:
        for row in filter(lambda row: row["voucher"], answer["data"]):
            voucher = Usage.from_message(row["voucher"]["message"])
            signature = sign(voucher, market.world.domain, market.world.stranger)
            row["voucher"]["signature"] = "0x" + signature.hex()

    return bend


def test_a_witness_signs_nothing_more_if_a_voucher_shown_as_its_own_is_none(
    client: Coulomb, market: Served, ids: tuple[str, str]
) -> None:
    world, lease_id = market.world, ids[1]
    number = client.leases.get(lease_id).lease_no
    world.use(lease_id, 0, 0)
    world.clock.advance(3)
    world.use(lease_id, 1, 3_000)
    world.clock.advance(1)
    world.attest(lease_id, 2, 4_000)
    market.bend[f"GET leases/{lease_id}/attestations"] = forged_vouchers(market)
    for _ in range(2):
        (act,) = client.witness.tick()
        assert (act.kind, act.refusal) == ("admit", WitnessRefusal.BAD_SIGNATURE)
    assert not client.session.desk([]).knows(number)
    assert not [path for path in market.paths() if path.endswith("countersign")]


def test_a_witness_learns_its_own_vouchers_again(
    client: Coulomb, market: Served, ids: tuple[str, str]
) -> None:
    world, lease_id = market.world, ids[1]
    # The witness judges by its own, real clock: the usage is less than what it takes to get here.
    world.use(lease_id, 0, 0)
    world.clock.advance(3)
    world.use(lease_id, 1, 30)
    world.clock.advance(1)
    world.attest(lease_id, 2, 40)
    (act,) = client.witness.tick()
    assert (act.kind, act.ms, act.sequence) == ("countersign", 40, 2)
    assert (act.refusal, act.problem) == (None, None)
    assert client.leases.get(lease_id).countersigned.ms == 40
    assert client.session.desk([]).mark(client.leases.get(lease_id).lease_no).ms == 40


def test_a_witness_answers_only_for_its_own_key_and_buyers(
    market: Served, ids: tuple[str, str]
) -> None:
    market.world.attest(ids[1], 0, 0)
    with market.client() as client:
        (act,) = client.witness.tick([market.world.stranger.address])
        assert (act.kind, act.refusal) == ("admit", WitnessRefusal.UNKNOWN_JOB)
