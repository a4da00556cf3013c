"""Nodes, asks, the book and quotes."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from marketplace.db.tables import AskRow, GpuRow, NodeRow, OrderEntryRow
from marketplace.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    InvalidOrder,
    InvalidSignature,
    NotFound,
)
from marketplace.wire.market import NewNode
from marketplace.wire.orders import AskDraft, SignedAsk
from settlement.eip712 import Domain, text32
from settlement.orders import FLAG_INTERRUPTIBLE, FLAG_NO_GPU, Ask
from settlement.signing import LocalSigner, sign
from tests.databases import rows_of
from tests.market_world import H100, World, gpu, job_spec, node_listing


def drafted(world: World, node_id: str, **terms: Any) -> Ask:
    given = {"meter": world.meter.address, "prices": {"gpu_hour": "2.50"}, **terms}
    with world.database.write() as store:
        node = world.catalog.nodes.get(store, world.caller(world.provider), node_id)
        salt = world.catalog.accounts.salt(store, node.provider)
    draft = AskDraft.model_validate({"node_id": node_id, **given})
    return world.catalog.asks.prepare(node, draft, salt)


def create(world: World, ask: Ask, signature: bytes | None = None) -> str:
    signature = signature or sign(ask, world.domain, world.provider)
    checked = world.catalog.asks.check(SignedAsk(ask=ask, signature=signature))
    return world.do(world.catalog.asks.create, world.provider, checked).id


def test_an_ask_names_the_key_of_its_nodes_agent(world: World) -> None:
    """Any other opens leases that the agent cannot serve: their buyers would wait for nothing."""
    node_id = world.node(meter=world.meter.address)
    other = drafted(world, node_id, meter=world.buyer.address)
    with pytest.raises(InvalidOrder, match=r"must be .* the key that the node's agent signs"):
        create(world, other)
    create(world, drafted(world, node_id))
    unsaid = world.node()  # by a client that does not tell
    create(world, drafted(world, unsaid, meter=world.buyer.address))


def test_a_gpu_is_listed_once_in_the_whole_market(world: World) -> None:
    first = world.node()
    with world.database.read() as store:
        taken = rows_of(store, GpuRow, node_id=first)[0].uuid
    new, clash = (gpu(uuid, simulated=False) for uuid in ("GPU-new", taken))
    with pytest.raises(AlreadyExists) as refusal:
        _register(world, (new, clash))
    assert refusal.value.problems[0].pointer == "/gpus/1/uuid"
    with world.database.read() as store:
        assert store.gpus.get("GPU-new") is None
        assert rows_of(store, NodeRow, number=77) == []


CPU_NODE: dict[str, Any] = {
    "tier": "CPU", "shared": False, "cpu_milli": 8_000, "memory_mib": 16_384, "storage_mib": 20_480,
}  # fmt: skip
CPU_TERMS: dict[str, Any] = {"price": "0", "prices": {"cpu_hour": "0.05"}}
CPU_JOB: dict[str, Any] = {
    "resources": {"gpu": 0, "cpu": 4, "memory": "4GB", "disk": "1GB"},
    "pricing": {"max_hour": "0.40"},
}


def test_a_node_without_gpus_sells_what_it_has_in_the_tier_cpu(world: World) -> None:
    world.fund()
    node = world.node(gpus=0, **CPU_NODE)
    ask = Ask.from_message(world.row("asks", world.ask(node, **CPU_TERMS)).message)
    assert (ask.gpu_milli, ask.flags, ask.tier_name) == (0, FLAG_NO_GPU, "CPU")
    first, second, third = (world.queue(**CPU_JOB) for _ in range(3))
    assert [world.job(job).state for job in (first, second, third)] == [
        "matched", "matched", "no_match",
    ]  # fmt: skip
    assert "no_capacity: 1" in (world.job(third).detail or "")
    world.queue()
    assert world.job(world.queue()).state == "no_match"  # a job with a GPU never lands there


def test_a_node_with_gpus_sells_its_other_parts_without_them(world: World) -> None:
    world.fund()
    node = world.node(gpus=1, cpu_milli=8_000)
    world.ask(node, no_gpu=True, **CPU_TERMS)
    world.ask(node, "2.50")
    whole = {"gpu": "H100:1", "cpu": 5}
    jobs = [world.queue(**CPU_JOB), world.queue(resources=whole), world.queue(resources={"gpu": 1})]
    states = [world.job(job).state for job in jobs]
    assert states == ["matched", "no_match", "no_match"]  # 4 of 8 cores are taken
    small = world.queue(resources={"gpu": 1, "cpu": 4, "memory": "8GB", "disk": "8GB"})
    assert world.job(small).state == "matched"


def test_jobs_that_leave_sizes_open_take_their_share_of_the_node(world: World) -> None:
    world.fund()
    world.ask(world.node(gpus=2, memory_mib=8_192))
    half = world.queue()
    greedy = world.queue(resources={"gpu": 1, "memory": "5GB"})
    assert [world.job(job).state for job in (half, greedy)] == ["matched", "no_match"]
    modest = world.queue(resources={"gpu": 1, "memory": "4GB"})
    assert world.job(modest).state == "matched"


def test_a_node_that_has_less_than_it_offered_is_sold_for_what_it_has(world: World) -> None:
    world.fund()
    new = NewNode.model_validate(node_listing(5, [], **CPU_NODE))
    register = partial(world.do, world.catalog.nodes.register, world.provider)
    world.ask(register(new).id, **CPU_TERMS)
    register(new.model_copy(update={"memory_mib": 4_000}))
    job = world.queue(**CPU_JOB)
    assert world.job(job).state == "no_match"
    assert "too_little_memory" in (world.job(job).detail or "")
    register(new)
    assert world.job(world.queue(**CPU_JOB)).state == "matched"


@pytest.mark.parametrize(
    ("gpus", "changes", "pointer"),
    [
        (0, {}, "/gpus"),
        (1, {"tier": "CPU", "shared": False}, "/gpus"),
        (0, {"tier": "CPU", "shared": True}, "/shared"),
    ],
)
def test_a_node_has_gpus_or_the_tier_cpu(
    world: World, gpus: int, changes: dict[str, Any], pointer: str
) -> None:
    cards = tuple(gpu(f"GPU-{number}") for number in range(gpus))
    with pytest.raises(InvalidInput) as refusal:
        _register(world, cards, **changes)
    assert pointer in [problem.pointer for problem in refusal.value.problems]


@pytest.mark.parametrize(
    ("terms", "pointer", "said"),
    [
        ({"no_gpu": True}, "/prices/gpu_hour", "no GPU is sold"),
        ({"interruptible": True}, "/notice", "missing"),
        ({"notice": "5m"}, "/notice", "interruptible: true"),
        ({"interruptible": True, "notice": "65536s"}, "/notice", "at most 65535s"),
        ({"interruptible": True, "notice": "soon"}, "/notice", "must be a duration"),
    ],
)
def test_terms_that_contradict_each_other_are_refused(
    world: World, terms: dict[str, Any], pointer: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        drafted(world, world.node(), **terms)
    assert said in {p.pointer: p.detail for p in refusal.value.problems}[pointer]


def test_an_interruptible_ask_says_its_notice_and_gets_jobs_that_accept_it(world: World) -> None:
    world.fund()
    ask_id = world.ask(interruptible=True, notice="5m")
    ask = Ask.from_message(world.row("asks", ask_id).message)
    assert (ask.flags & FLAG_INTERRUPTIBLE, ask.notice_seconds) == (FLAG_INTERRUPTIBLE, 300)
    plain = world.job(world.queue())
    assert plain.state == "no_match"
    assert "interruption_not_accepted: 1" in (plain.detail or "")
    assert "placement.interruptible to true" in (plain.detail or "")
    picky = world.job(world.queue(placement={"interruptible": True, "min_notice": "301s"}))
    assert "change placement.min_notice to 5m" in (picky.detail or "")
    fits = world.queue(placement={"interruptible": True, "min_notice": "5m"})
    assert world.job(fits).state == "matched"


def _register(
    world: World, gpus: tuple[dict[str, Any], ...], by: LocalSigner | None = None, **changes: Any
) -> Any:
    sizes = {"cpu_milli": 1, "memory_mib": 1, "storage_mib": 1, "shared": False}
    new = NewNode.model_validate(node_listing(77, list(gpus), **{**sizes, **changes}))
    return world.do(world.catalog.nodes.register, by or world.stranger, new)


def _provide(world: World) -> Any:
    """The provider's node, listed for the first time or again."""
    sizes = {"cpu_milli": 64_000, "memory_mib": 262_144, "storage_mib": 262_144}
    return _register(world, (gpu("GPU-x"),), world.provider, **sizes)


def test_a_node_listed_again_with_its_gpus_is_brought_up_to_date(world: World) -> None:
    gpus = (gpu("GPU-x"),)
    first = _register(world, gpus)
    again = _register(world, gpus, region="us-east", cpu_milli=5)
    assert (again.id, again.region, again.cpu_milli) == (first.id, "us-east", 5)
    with pytest.raises(AlreadyExists) as refusal:
        _register(world, (gpu("GPU-y"),))
    assert refusal.value.problems[0].pointer == "/number"


def test_a_node_of_an_unknown_tier_is_refused_with_a_hint(world: World) -> None:
    with pytest.raises(InvalidInput, match="H100"):
        _register(world, (gpu("GPU-x", memory_mib=1),), tier="H10-80GB-SXM")
    with pytest.raises(InvalidInput, match="twice"):
        _register(world, (gpu("GPU-x"), gpu("GPU-x")))


def test_draining_takes_a_nodes_asks_off_the_book(world: World) -> None:
    node = world.node(gpus=2)
    ask = world.offer(node)
    _, lease_id = world.open()
    world.do(world.catalog.nodes.drain, world.provider, node)
    job_id = world.queue()
    assert world.job(job_id).state == "no_match"
    assert world.lease(lease_id).state == "active"
    with world.database.read() as store:
        assert (store.asks.get(ask).state, store.asks.get(ask).reason) == (
            "cancelled",
            "node_draining",
        )
    with pytest.raises(Conflict):
        world.ask(node)


def test_a_node_whose_agent_left_matches_nothing_until_it_is_back(world: World) -> None:
    node = _provide(world).id
    before = world.offer(node)
    assert world.do(world.catalog.nodes.leave, world.provider, node).state == "away"
    meanwhile = world.ask(node)
    job_id = world.queue()
    assert world.job(job_id).state == "no_match"
    with world.database.read() as store:
        for ask in (before, meanwhile):
            row = store.asks.get(ask)
            assert (row.state, row.reason) == ("suspended", "node_away")
    assert _provide(world).state == "active"
    job_id = world.queue()
    assert world.job(job_id).state == "matched"
    with world.database.read() as store:
        assert {store.asks.get(ask).state for ask in (before, meanwhile)} == {"open"}


def test_a_silent_node_matches_nothing_until_it_is_heard_of_again(world: World) -> None:
    node = world.node()
    ask = world.offer(node)
    world.clock.advance(20)
    assert world.catalog.watchdog.rest_silent() == 0
    world.clock.advance(1)
    assert world.catalog.watchdog.rest_silent() == 1
    assert world.catalog.watchdog.rest_silent() == 0
    job_id = world.queue()
    assert world.job(job_id).state == "no_match"
    row = world.row("asks", ask)
    assert (row.state, row.reason) == ("suspended", "node_away")
    assert world.do(world.catalog.nodes.heartbeat, world.provider, node).state == "active"
    job_id = world.queue()
    assert world.job(job_id).state == "matched"


def test_a_node_that_says_it_lives_keeps_its_asks_and_a_drained_one_stays_drained(
    world: World,
) -> None:
    node, drained, nodes = world.node(), world.node(), world.catalog.nodes
    ask = world.ask(node)
    world.do(nodes.drain, world.provider, drained)
    for _ in range(3):
        world.clock.advance(20)
        world.do(nodes.heartbeat, world.provider, node)
        assert world.do(nodes.heartbeat, world.provider, drained).state == "draining"
        assert world.catalog.watchdog.rest_silent() == 0
    assert world.row("asks", ask).state == "open"


def test_a_market_that_was_away_calls_no_node_silent_for_that(world: World) -> None:
    world.node()
    world.clock.advance(3600)
    back = replace(world.catalog.watchdog, since_ms=world.clock())
    assert back.rest_silent() == 0


def test_draining_a_node_that_is_away_cancels_the_asks_that_rest(world: World) -> None:
    node, caller = _provide(world).id, world.caller(world.provider)
    ask = world.ask(node)
    with world.database.write() as store:
        world.catalog.nodes.leave(store, caller, node)
        assert world.catalog.nodes.resume(store, caller, node).state == "away"
        world.catalog.nodes.drain(store, caller, node)
        assert world.catalog.nodes.leave(store, caller, node).state == "draining"
        assert store.asks.get(ask).state == "cancelled"
    assert _provide(world).state == "draining"


def test_a_drained_node_listed_again_stays_drained_until_it_is_resumed(world: World) -> None:
    gpus = (gpu("GPU-x"),)
    node = _register(world, gpus)
    world.do(world.catalog.nodes.drain, world.stranger, node.id)
    assert _register(world, gpus).state == "draining"
    assert world.do(world.catalog.nodes.resume, world.stranger, node.id).state == "active"
    assert _register(world, gpus).state == "active"


def test_a_resumed_node_takes_asks_again(world: World) -> None:
    node, nodes = world.node(), world.catalog.nodes
    world.do(nodes.drain, world.provider, node)
    with pytest.raises(NotFound):
        world.do(nodes.resume, world.stranger, node)
    world.do(nodes.resume, world.provider, node)
    assert world.ask(node)


def test_a_cancelled_ask_takes_no_new_fills(world: World) -> None:
    ask = world.ask()
    with pytest.raises(NotFound):
        world.do(world.catalog.asks.cancel, world.stranger, ask)
    for _ in range(2):
        world.do(world.catalog.asks.cancel, world.provider, ask)
    world.fund()
    job_id = world.queue()
    assert world.job(job_id).state == "no_match"


def test_an_ask_that_expires_leaves_the_book_and_says_so(world: World) -> None:
    ask = world.ask(expires_in="60s")
    world.match()
    world.clock.advance(62)
    world.match()
    assert world.row("asks", ask).state == "expired"


@pytest.mark.parametrize(
    ("changes", "member"),
    [
        ({"provider": "0x" + "77" * 20}, "provider"), ({"meter": "0x" + "00" * 20}, "meter"),
        ({"opener": "0x" + "77" * 20}, "opener"), ({"node": 999}, "node"),
        ({"tier": text32("A100-80GB-SXM")}, "tier"), ({"gpu_milli": 2_000}, "gpuMilli"),
        ({"gpu_milli": 500}, "gpuMilli"), ({"gpu_milli": 0}, "gpuMilli"),
        ({"cpu_milli": 64_001}, "cpuMilli"), ({"memory_mib": 2**32 - 1}, "memoryMib"),
        ({"storage_mib": 2**32 - 1}, "storageMib"), ({"flags": 8}, "flags"),
        ({"flags": 2}, "gpuMilli"), ({"flags": 2, "gpu_milli": 0}, "tier"),
        ({"flags": 2, "gpu_milli": 0, "tier": text32("CPU")}, "floor/gpuHour"),
        ({"flags": 3, "gpu_milli": 0, "tier": text32("CPU")}, "flags"),
        ({"flags": 2, "gpu_milli": 0, "tier": text32("CPU"), "cpu_milli": 0}, "cpuMilli"),
        ({"tier": text32("CPU")}, "tier"), ({"notice_seconds": 60}, "noticeSeconds"),
        ({"start_limit_seconds": 0}, "startLimitSeconds"), ({"expiry": 1}, "expiry"),
        ({"min_seconds": 10, "max_seconds": 9}, "maxSeconds"),
        ({"expiry": 2**40 - 1}, "expiry"), ({"unit": b"\xff" * 32}, "unit"),
    ],
)  # fmt: skip
def test_an_ask_that_contradicts_its_node_or_market_is_refused(
    world: World, changes: dict[str, Any], member: str
) -> None:
    ask = replace(drafted(world, world.node()), **changes)
    with pytest.raises(InvalidOrder) as refusal:
        create(world, ask)
    assert f"/ask/{member}" in [p.pointer for p in refusal.value.problems]
    with world.database.read() as store:
        assert rows_of(store, AskRow) == []
        assert rows_of(store, OrderEntryRow) == []


def test_an_ask_signed_by_another_or_for_another_contract_is_refused(world: World) -> None:
    ask = drafted(world, world.node())
    elsewhere = Domain(world.domain.chain_id, "0x" + "ed" * 20)
    for signature in (
        sign(ask, world.domain, world.meter),
        sign(ask, elsewhere, world.provider),
        b"\x00" * 65,
        b"",
    ):
        with pytest.raises(InvalidSignature):
            create(world, ask, signature or b"\x01")


def test_an_ask_goes_on_the_book_once(world: World) -> None:
    ask = drafted(world, world.node())
    create(world, ask)
    with pytest.raises(AlreadyExists):
        create(world, ask)


@pytest.mark.parametrize(
    ("terms", "pointer"),
    [
        ({"max_duration": "forever"}, "/max_duration"),
        ({"expires_in": "500d"}, "/expires_in"),
        ({"max_fee_bps": 1_001}, "/max_fee_bps"),
        ({"meter": "0x12"}, "/meter"),
        ({"unit": "a request"}, "/unit"),
    ],
)
def test_terms_of_a_draft_are_checked_with_pointers(
    world: World, terms: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        drafted(world, world.node(), **terms)
    assert pointer in [p.pointer for p in refusal.value.problems]


def test_the_book_is_shown_best_price_first_with_what_is_free(world: World) -> None:
    dear, cheap = world.offer(price="2.80"), world.ask(world.node(gpus=2), price="1.90")
    world.open()
    book = world.catalog.quotes.book(None)
    assert world.catalog.quotes.book("A100-80GB-SXM").asks == ()
    assert [row.ask_id for row in book.asks] == [cheap, dear]
    assert [row.free_gpu_milli for row in book.asks] == [1_000, 1_000]
    assert book.depth == {H100: 2_000}


def test_a_quote_lists_what_fits_and_changes_nothing(world: World) -> None:
    world.ask(price="2.80")
    cheap = world.ask(price="1.90")
    with world.database.read() as store:
        quote = world.catalog.quotes.quote(store, job_spec())
        again = world.catalog.quotes.quote(store, job_spec())
    assert quote == again
    assert (len(quote.matches), quote.matches[0].ask_id) == (2, cheap)
    assert quote.matches[0].max_cost.atoms == 600 * 19 * 10**17 // 3_600 + 1
    assert (quote.matches[0].paid_seconds, quote.matches[0].start_limit_seconds) == (600, 60)
    with world.database.read() as store:
        none = world.catalog.quotes.quote(store, job_spec(pricing={"max_gpu_hour": "1"}))
    assert none.matches == ()
    assert none.no_match is not None
    assert none.no_match.considered == 2
