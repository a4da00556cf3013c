"""Both clients buy, sell and wait on a real market, and sign what their user said and nothing
else."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.data import load_tiers
from marketplace.domain.drafts import bid_problems
from marketplace.domain.job import parse_job
from marketplace.sdk import AsyncCoulomb, Coulomb, RetryPolicy
from marketplace.sdk.errors import (
    ConfigError,
    Conflict,
    InputError,
    ProtocolError,
    VerificationError,
    WaitTimeout,
)
from marketplace.sdk.profile import Profile, ProfileFile
from settlement.eip712 import ZERO_ADDRESS
from settlement.orders import Ask, Bid
from settlement.signing import verify
from tests.market_world import TOKEN, job_spec
from tests.sdk_app import ONCE, OPENER, Bend, Served, served

STRANGER = "0x" + "5" * 40


@pytest.fixture
def client(market: Served) -> Iterator[Coulomb]:
    with market.client() as opened:
        yield opened


def job_file(folder: Path) -> Path:
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "train.py").write_text("print('hello')\n")
    path = folder / "job.yaml"
    path.write_text(
        "name: train\nworkdir: ./train\ncommand: [python, train.py]\n"
        "resources: {gpu: 'H100:1', cpu: 1, memory: 1GB}\n"
        "pricing: {max_gpu_hour: 2.50}\nmax_duration: 1h\n"
    )
    return path


def signed_bid(market: Served) -> Bid:
    """The bid that was handed in, if its buyer signed it and it says what its job says."""
    (body,) = market.sent("POST jobs")
    bid = Bid.from_message(body["bid"])
    verify(bid, market.world.domain, bytes.fromhex(body["signature"][2:]), bid.buyer)
    spec = parse_job(body["job"], packed=True, tiers=load_tiers())
    assert bid_problems(bid, spec, load_tiers()) == []
    return bid


def test_job_file_is_packed_signed_and_placed(
    client: Coulomb, market: Served, tmp_path: Path
) -> None:
    market.world.ask(price="2.50")
    job = client.jobs.submit(job_file(tmp_path))
    assert job.state == "queued"
    assert [p.split("/0x")[0] for p in market.paths()] == [
        "POST blobs", "GET config", "GET accounts", "POST quotes", "POST jobs",
    ]  # fmt: skip
    assert client.blobs.get(job.job.spec["inputs"]["sha256"])
    assert market.headers[4]["idempotency-key"] == "job-" + signed_bid(market).struct_hash().hex()


def test_bid_has_the_users_words_and_the_markets_terms(client: Coulomb, market: Served) -> None:
    market.world.ask()
    order = client.jobs.prepare(job_spec())
    assert order.plan.max_cost.atoms == order.plan.matches[0].max_cost.atoms > 0
    assert (order.plan.balance.atoms, order.plan.shortfall.atoms) == (100 * TOKEN, 0)
    assert market.sent("POST jobs") == []
    client.jobs.place(order)
    bid, world = signed_bid(market), market.world
    assert bid == order.bid
    assert (bid.buyer, bid.witness) == (world.buyer.address, world.witness.address)
    assert (bid.opener, bid.max_fee_bps, bid.salt) == (OPENER, 0, 0)
    assert bid.budget == 5 * TOKEN
    assert bid.expiry == pytest.approx(world.clock() // 1000 + 600 + 600 + 3_600, abs=5)


def test_shortfall_is_what_the_balance_lacks(client: Coulomb, market: Served) -> None:
    market.world.ask()
    market.world.chain.balances[market.world.buyer.address] = 5
    plan = client.jobs.prepare(job_spec()).plan
    assert plan.shortfall.atoms == plan.max_cost.atoms - 5


def test_jobs_that_are_prepared_together_have_salts_of_their_own(client: Coulomb) -> None:
    orders = [client.jobs.prepare(job_spec(name=f"j{i}")) for i in range(3)]
    assert [order.bid.salt for order in orders] == [0, 1, 2]
    assert len({client.jobs.place(order).id for order in reversed(orders)}) == 3
    assert client.jobs.prepare(job_spec()).bid.salt == 3


def test_salt_that_another_client_took_is_a_conflict_and_nothing_is_signed_again(
    client: Coulomb, market: Served
) -> None:
    order = client.jobs.prepare(job_spec())
    with market.client() as other:
        other.jobs.submit(job_spec(name="other"))
    with pytest.raises(Conflict, match="/bid/salt"):
        client.jobs.place(order)
    assert len(market.sent("POST jobs")) == 2


def test_the_same_order_is_placed_once(client: Coulomb, market: Served) -> None:
    order = client.jobs.prepare(job_spec())
    assert client.jobs.place(order).id == client.jobs.place(order).id
    assert len(list(client.jobs.list())) == 1


def test_async_client_does_the_same(market: Served, tmp_path: Path) -> None:
    """Two jobs at once, over the application itself."""
    world = market.world
    world.ask()
    key = market.api.key(world.buyer, "buyer")

    async def main() -> list[str]:
        async with AsyncCoulomb(
            "http://market",
            key,
            session=market.session(world.buyer),
            transport=httpx.ASGITransport(market.api.app),
        ) as client:
            jobs = await asyncio.gather(
                *(client.jobs.submit(job_spec(name=name)) for name in ("a", "b"))
            )
            return [job.state for job in jobs] + [job.name async for job in client.jobs.list()]

    assert sorted(market.api.runner.run(main())) == ["a", "b", "queued", "queued"]


def set_opener(opener: str) -> Bend:
    return lambda answer: answer.update(opener=opener)


def test_bid_that_anyone_could_open_is_not_signed(client: Coulomb, market: Served) -> None:
    market.bend["GET config"] = set_opener(ZERO_ADDRESS)
    with pytest.raises(VerificationError, match="lets anyone open"):
        client.jobs.submit(job_spec())
    assert market.sent("POST jobs") == []


def test_server_of_another_contract_than_pinned_is_refused(market: Served) -> None:
    for pins in ({"chain_id": 1}, {"escrow": STRANGER}):
        pinned = market.session(market.world.buyer, **pins)
        with (
            market.client(session=pinned) as client,
            pytest.raises(VerificationError, match="pinned"),
        ):
            client.jobs.submit(job_spec())


def move_chain(answer: dict[str, Any]) -> None:
    answer["chain_id"] = 1


def test_market_is_pinned_at_first_sight(market: Served) -> None:
    pins: list[tuple[int, str, str]] = []
    first = market.session(market.world.buyer, on_pin=lambda *pin: pins.append(pin))
    with market.client(session=first) as client:
        client.market.config()
        domain = market.world.domain
        assert [(chain, escrow.lower()) for chain, escrow, _ in pins] == [
            (domain.chain_id, domain.verifying_contract.lower())
        ]
        market.bend["GET config"] = move_chain
        with pytest.raises(VerificationError):
            client.market.config()


def test_profile_keeps_the_pin(
    market: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("COULOMB_API_URL", "COULOMB_API_KEY", "COULOMB_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    ProfileFile().save(Profile(api_url="http://market", api_key="coul_k"))
    with Coulomb.from_profile(transport=market) as client:
        client.market.config()
    assert market.headers[0]["authorization"] == "Bearer coul_k"
    assert ProfileFile().get().chain_id == market.world.domain.chain_id
    market.bend["GET config"] = move_chain
    with Coulomb.from_profile(transport=market) as client, pytest.raises(VerificationError):
        client.market.config()


def test_signature_without_a_key_says_how_to_get_one(market: Served) -> None:
    with (
        Coulomb("http://market", transport=market, witness=market.world.witness) as client,
        pytest.raises(ConfigError, match="no key"),
    ):
        client.jobs.submit(job_spec())


def test_wrong_job_is_refused_before_anything_is_sent(
    client: Coulomb, market: Served, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="did you mean max_duration") as caught:
        client.jobs.submit({**job_spec(), "max_durations": "1h"})
    assert caught.value.pointer == "/max_durations"
    with pytest.raises(InputError, match="cannot be read"):
        client.jobs.submit(tmp_path / "none.yaml")
    assert market.seen == []


def test_job_is_waited_for_until_its_lease_is_closed(client: Coulomb, market: Served) -> None:
    market.world.ask()
    job_id, _ = market.world.run(5)
    job = client.jobs.get(job_id)
    job.witnessed = False
    assert job.wait().state == "succeeded"
    receipt = job.receipt()
    assert receipt.conserved
    assert (receipt.used_ms, receipt.lease_id) == (5_000, job.job.lease_id)
    assert str(receipt).startswith(f"Receipt {receipt.id} · job {job_id}")
    assert {event.type for event in job.events()} >= {"status", "cost", "receipt"}
    assert [row.id for row in client.jobs.receipts()] == [receipt.id]


def test_wait_ends_in_time(client: Coulomb) -> None:
    job = client.jobs.submit(job_spec())
    with pytest.raises(WaitTimeout):
        job.wait(timeout_seconds=0.3)


def test_wait_bears_with_a_server_that_is_away(market: Served) -> None:
    away = iter([False] * 2 + [True] * 3)

    def flaky(request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and "/jobs/" in str(request.url) and next(away, False):
            raise httpx.ConnectError("refused")
        return market.handle_request(request)

    world, key = market.world, market.api.key(market.world.buyer, "buyer")
    with Coulomb(
        "http://market",
        key,
        session=market.session(world.buyer),
        transport=httpx.MockTransport(flaky),
        retry=RetryPolicy(attempts=2, first=0.001),
    ) as client:
        job = client.jobs.submit(job_spec())
        job.refresh()
        job.cancel()
        world.match()
        assert job.wait(timeout_seconds=20).state == "cancelled"


def test_key_is_signed_for_with_the_users_words(market: Served) -> None:
    with Coulomb(
        "http://market", session=market.session(market.world.buyer), transport=market, retry=ONCE
    ) as client:
        made = client.keys.create("laptop", ["buyer"], spend_cap_atoms=3 * TOKEN)
    assert made.key.startswith("coul_")
    assert made.key not in repr(made)
    assert (made.account, made.name) == (market.world.buyer.address, "laptop")
    assert made.spend_cap is not None
    assert made.spend_cap.atoms == 3 * TOKEN
    assert market.paths() == ["GET config", "POST keys"]


def test_key_of_an_impossible_name_is_refused_before_anything_is_signed(client: Coulomb) -> None:
    with pytest.raises(InputError, match="/name"):
        client.keys.create("x" * 33)


def test_keys_are_listed_and_revoked(client: Coulomb) -> None:
    made = client.keys.create("laptop")
    assert made.id in [key.id for key in client.keys.list()]
    assert client.keys.revoke(made.id).revoked_at is not None


def test_ask_is_signed_for_with_the_providers_words(market: Served) -> None:
    world = market.world
    node_id = world.node(gpus=2)
    terms = {
        "meter": world.meter.address, "prices": {"gpu_hour": "2.50", "unit": "0.1"},
        "unit": "request", "max_duration": "6h", "start_limit": "30s", "expires_in": "1d",
    }  # fmt: skip
    with market.client(world.provider) as client:
        draft = client.asks.prepare(node_id, terms)
        assert market.sent("POST asks") == []
        made = client.asks.offer(node_id, terms)
    ask: Ask = made.ask
    assert (ask.provider, ask.meter) == (world.provider.address, world.meter.address)
    assert (ask.floor.gpu_hour, ask.floor.unit) == (2_500_000_000, 100_000_000)
    assert (ask.max_seconds, ask.start_limit_seconds, ask.gpu_milli) == (21_600, 30, 2_000)
    assert (ask.opener, ask.salt, draft.salt) == (OPENER, 1, 0)
    assert made.unit == "request"
    assert "POST asks/prepare" not in market.paths()


def test_ask_of_wrong_terms_lists_every_mistake(market: Served) -> None:
    node_id = market.world.node()
    terms = {"prices": {"gpu_hour": "free"}, "max_duration": "long"}
    with market.client(market.world.provider) as client, pytest.raises(InputError) as caught:
        client.asks.offer(node_id, terms)
    for pointer in ("/prices/gpu_hour", "/max_duration", "/meter"):
        assert pointer in str(caught.value)


def test_ask_for_the_node_of_another_is_not_signed(market: Served) -> None:
    node_id = market.world.node()

    def bend(answer: dict[str, Any]) -> None:
        answer["provider"] = market.world.stranger.address

    market.bend["GET nodes"] = bend
    terms = {"meter": market.world.meter.address, "prices": {"gpu_hour": "1"}}
    with (
        market.client(market.world.provider) as client,
        pytest.raises(InputError, match="is a node of"),
    ):
        client.asks.offer(node_id, terms)
    assert market.sent("POST asks") == []


def test_node_is_listed_drained_and_resumed(market: Served) -> None:
    node = {
        "number": 7, "name": "rack-7", "region": "eu", "tier": "H100-80GB-SXM", "cpu_milli": 1000,
        "gpus": [{"uuid": "GPU-7", "model": "H100", "memory_mib": 81_920, "simulated": True}],
        "memory_mib": 1024, "storage_mib": 1024, "runtime": "process", "shared": False,
    }  # fmt: skip
    with market.client(market.world.provider) as client:
        made = client.nodes.register(node)
        assert [n.id for n in client.nodes.list()] == [made.id]
        assert client.nodes.heartbeat(made.id).state == "active"
        assert client.nodes.drain(made.id).state == "draining"
        assert client.nodes.resume(made.id).state == "active"
        assert client.nodes.interrupt(made.id).state == "draining"
        assert client.nodes.resume(made.id).state == "active"
        assert client.nodes.leave(made.id).state == "away"
        with pytest.raises(InputError, match="/tier"):
            client.nodes.register({**node, "tier": 5})


def test_blob_that_is_not_what_its_name_says_is_refused(client: Coulomb, market: Served) -> None:
    blob = client.blobs.put(b"data")
    assert client.blobs.get(blob.sha256) == b"data"
    lie = httpx.MockTransport(lambda request: httpx.Response(200, content=b"other"))
    with Coulomb("http://market", transport=lie) as liar, pytest.raises(ProtocolError):
        liar.blobs.get(blob.sha256)
    market.bend["POST blobs"] = lambda answer: answer.update(sha256="0" * 64)
    with pytest.raises(ProtocolError):
        client.blobs.put(b"data")


def test_too_large_a_blob_is_not_sent(client: Coulomb, market: Served) -> None:
    with pytest.raises(InputError):
        client.blobs.put(bytes(64 * 1024 * 1024 + 1))
    assert market.seen == []


def test_anyone_sees_the_market(market: Served) -> None:
    market.world.ask()
    with Coulomb("http://market", transport=market) as client:
        assert client.market.health().status == "ok"
        assert "H100-80GB-SXM" in [tier.name for tier in client.market.tiers()]
        assert [row.tier for row in client.market.book().asks] == ["H100-80GB-SXM"]
        assert len(client.market.quote(job_spec()).matches) == 1
        assert client.market.quote(job_spec(resources={"gpu": "A100:1"})).no_match is not None
        assert [ask.state for ask in client.asks.list()] == ["open"]


def test_market_with_a_fee_is_signed_for_with_that_fee(tmp_path: Path) -> None:
    with served(tmp_path, fee_bps=100) as market, market.client() as client:
        assert client.jobs.prepare(job_spec()).bid.max_fee_bps == 100
