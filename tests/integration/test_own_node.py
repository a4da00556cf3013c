"""What a party's own node shows of a lease on a real chain, and how that catches a lying market.

The market of these tests hands out papers; the chain has what was really opened.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from marketplace.domain.job import parse_job
from marketplace.witness.desk import Desk
from marketplace.witness.journal import WitnessJournal
from marketplace.witness.policy import Mark, Papers, WitnessRefusal
from settlement.attestation import Close, UsageAttestation
from settlement.chain.contracts import OwnNode
from settlement.eip712 import Domain
from settlement.errors import ChainUnavailable, WrongChain
from settlement.leases import LeaseStatus, LeaseView, unlike
from settlement.orders import Prices
from settlement.signing import sign
from tests.escrow_world import Lease, World, key
from tests.factories import job_json

SPEC = parse_job(job_json(), packed=True)
Change = Callable[[Papers], Papers]


@pytest.fixture
def lease(world: World) -> Lease:
    return opened(world)


def opened(world: World) -> Lease:
    return world.open(world.match(bid=world.bid(job_hash=SPEC.hash())))


def node_of(world: World, confirmations: int = 0, chain_id: int = 0) -> OwnNode:
    domain = world.escrow.domain()
    known = Domain(chain_id or domain.chain_id, domain.verifying_contract)
    return OwnNode(world.client.rpc_url, known, confirmations)


def papers_of(lease: Lease) -> Papers:
    match, start = lease.match, lease.view().start
    signed = (match.bid, match.bid_signature, match.ask, match.prices, SPEC)
    return Papers(lease.number, *signed, interval_ms=1_000, opened_unix=start)


def desk_of(world: World, folder: Path) -> Desk:
    journal = WitnessJournal(folder / "witness.db")
    shows = node_of(world).lease
    return Desk(world.witness, world.escrow.domain(), journal, [world.buyer.address], shows=shows)


def look(world: World, lease: Lease, confirmations: int = 0) -> LeaseView:
    return node_of(world, confirmations).lease(*lease.ref)


def test_a_lease_is_shown_as_its_orders_open_it_through_its_whole_life(
    world: World, lease: Lease
) -> None:
    def alike() -> LeaseStatus:
        view = look(world, lease)
        assert unlike(view, lease.match.opened) is None
        return view.status

    assert alike() is LeaseStatus.ACTIVE
    world.send(world.buyer, world.escrow.calls.top_up(lease.match.opened, 600))
    assert look(world, lease).paid_seconds == lease.match.bid.max_seconds + 600
    assert alike() is LeaseStatus.ACTIVE
    world.send(world.relayer, lease.stop(world.witness))
    assert alike() is LeaseStatus.STOPPED
    world.send(world.relayer, lease.close(0))
    assert alike() is LeaseStatus.CLOSED


def test_an_honest_lease_is_signed_for(world: World, lease: Lease, tmp_path: Path) -> None:
    desk = desk_of(world, tmp_path)
    papers = papers_of(lease)
    assert desk.admit(papers) is None
    domain = world.escrow.domain()
    said = UsageAttestation(*lease.ref.unwitnessed, 0, 0, *(0,) * 7, bytes(32))
    assert not isinstance(desk.countersign(said, sign(said, domain, world.meter), 0), str)
    close = Close(*lease.ref.unwitnessed, 0, 0, 0, False)
    assert isinstance(desk.sign_close(close, sign(close, domain, world.meter), 0, None), bytes)
    desk.close()


LIES: dict[str, Change] = {
    "another ask": lambda p: replace(p, ask=replace(p.ask, node=9)),
    "another meter": lambda p: replace(p, ask=replace(p.ask, meter=key("other").address)),
    "dearer prices": lambda p: replace(p, prices=Prices(p.prices.gpu_hour + 1)),
    "cheaper prices": lambda p: replace(p, prices=Prices(1)),
    "another seat": lambda p: replace(p, seat=1),
    "another provider": lambda p: replace(p, ask=replace(p.ask, provider=key("x").address)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_papers_of_a_lease_that_never_opened_get_no_signature(
    world: World, lease: Lease, tmp_path: Path, lie: Change
) -> None:
    """The market makes the papers agree with each other; a witness without a node would sign."""
    lying = lie(papers_of(lease))
    lying = replace(lying, lease_no=lying.opened.lease_no)
    desk = desk_of(world, tmp_path)
    assert desk.admit(lying) is WitnessRefusal.NOT_ON_CHAIN
    names = (lying.bid.buyer, lying.ask.provider, lying.lease_no)
    said = UsageAttestation(*names, 0, 0, *(0,) * 7, bytes(32))
    signature = sign(said, world.escrow.domain(), world.meter)
    assert desk.countersign(said, signature, 0) is WitnessRefusal.UNKNOWN_JOB
    assert desk.mark(lying.lease_no) == Mark()
    desk.close()
    trusting = Desk(
        world.witness, world.escrow.domain(), WitnessJournal(tmp_path / "trusting.db"),
        [world.buyer.address],
    )  # fmt: skip
    assert trusting.admit(lying) is None
    trusting.close()


def test_a_lease_counts_only_below_so_many_blocks(world: World) -> None:
    lease = opened(world)
    assert look(world, lease, confirmations=3).status is LeaseStatus.NONE
    world.client.rpc("anvil_mine", "0x3")
    assert unlike(look(world, lease, confirmations=3), lease.match.opened) is None


def test_a_lease_that_a_reorg_takes_back_was_not_signed_for(world: World, tmp_path: Path) -> None:
    before = world.client.rpc("evm_snapshot")
    lease = opened(world)
    papers = papers_of(lease)
    shows = node_of(world, confirmations=2).lease
    journal = WitnessJournal(tmp_path / "witness.db")
    desk = Desk(world.witness, world.escrow.domain(), journal, [world.buyer.address], shows=shows)
    assert desk.admit(papers) is WitnessRefusal.NOT_ON_CHAIN
    assert world.client.rpc("evm_revert", before)
    world.client.rpc("anvil_mine", "0x4")
    assert desk.admit(papers) is WitnessRefusal.NOT_ON_CHAIN
    assert world.open(lease.match).number == lease.number  # the relayer sends the same bytes again
    world.client.rpc("anvil_mine", "0x2")
    assert desk.admit(papers) is None
    desk.close()


def test_a_node_of_another_chain_shows_nothing(world: World, lease: Lease) -> None:
    with pytest.raises(WrongChain):
        node_of(world, chain_id=1).lease(*lease.ref)


def test_a_node_that_is_away_is_not_waited_for_by_everyone(world: World, lease: Lease) -> None:
    node = OwnNode("http://127.0.0.1:9", world.escrow.domain(), 0)
    for _ in range(3):  # after the first failure, the next callers are turned away at once
        with pytest.raises(ChainUnavailable):
            node.lease(*lease.ref)
