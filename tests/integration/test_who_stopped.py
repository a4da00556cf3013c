"""Who stopped a lease is read from the transaction that did, however it reached the escrow."""

from collections.abc import Callable
from typing import Any

import pytest

from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow
from settlement.chain.rpc import NodeProvider
from settlement.errors import ChainUnavailable
from settlement.leases import LeaseStatus, Side
from settlement.signing import LocalSigner
from tests.escrow_world import TOKEN, Lease, World
from tests.wallet_contracts import execute, owned_wallet

MONEY = 10 * TOKEN
Stop = Callable[[World, Lease], str]  # the hash of the transaction that stopped it


def sent(world: World, who: LocalSigner, data: bytes) -> str:
    return world.send(who, data).tx_hash


def side(world: World, lease: Lease, tx_hash: str) -> Side:
    assert lease.view().status is LeaseStatus.STOPPED
    return world.escrow.who_stopped(tx_hash, lease.ref, world.meter.address)


def stopped_by(name: str) -> Stop:
    """By a party's own transaction."""
    return lambda w, x: sent(w, getattr(w, name), w.escrow.calls.stop(x.ref))


def signed_by(name: str) -> Stop:
    """By what a party signed, which a stranger sends."""
    return lambda w, x: sent(w, w.stranger, x.stop(getattr(w, name)))


def among_others(name: str) -> Stop:
    """As one of several calls of a stranger, one of which stops another lease."""

    def stop(world: World, lease: Lease) -> str:
        other = world.open()
        calls = [other.stop(world.buyer), lease.stop(getattr(world, name))]
        return sent(world, world.stranger, world.escrow.calls.multicall(calls))

    return stop


BUYERS = [stopped_by("buyer"), stopped_by("witness"), signed_by("buyer"), signed_by("witness")]
PROVIDERS = [stopped_by("provider"), signed_by("meter"), among_others("meter")]


@pytest.mark.parametrize("stop", [*BUYERS, among_others("witness")])
def test_a_stop_of_buyer_or_witness_is_the_buyers_sides(world: World, stop: Stop) -> None:
    world.client.rpc("anvil_setBalance", world.witness.address, hex(10**18))
    lease = world.open()
    assert side(world, lease, stop(world, lease)) is Side.BUYER


@pytest.mark.parametrize("stop", PROVIDERS)
def test_a_stop_of_provider_or_meter_is_the_providers_side(world: World, stop: Stop) -> None:
    lease = world.open()
    assert side(world, lease, stop(world, lease)) is Side.PROVIDER


def test_a_lease_that_ran_out_was_stopped_by_nobody(world: World) -> None:
    lease = world.open()
    world.chain.warp(lease.match.bid.max_seconds + 1)
    freed = sent(world, world.stranger, world.escrow.calls.free([lease.ref]))
    assert side(world, lease, freed) is Side.NOBODY


def contract_buyer(world: World) -> tuple[str, Lease]:
    """A lease whose buyer is a contract account, of the usual buyer."""
    wallet = owned_wallet(world.client, world.buyer)
    calls = world.escrow.calls
    world.send(world.buyer, calls.withdraw(world.buyer.address, MONEY))
    world.send(world.buyer, world.token.approve(world.escrow.address, MONEY), world.token.address)
    world.send(world.buyer, calls.deposit_for(wallet, MONEY))
    return wallet, world.open(world.match(bid=world.bid(buyer=wallet, budget=MONEY)))


def contract_provider(world: World) -> tuple[str, Lease]:
    wallet = owned_wallet(world.client, world.provider)
    return wallet, world.open(world.match(world.ask(provider=wallet)))


def stopped_through(world: World, owner: LocalSigner, wallet: str, lease: Lease) -> str:
    before = world.client.head().number
    execute(world.client, owner, wallet, world.escrow.address, world.escrow.calls.stop(lease.ref))
    (logged,) = world.escrow.events(before + 1, world.client.head().number)
    return logged.tx_hash


def test_a_stop_through_a_contract_account_is_its_partys(world: World) -> None:
    wallet, lease = contract_buyer(world)
    assert side(world, lease, stopped_through(world, world.buyer, wallet, lease)) is Side.BUYER
    wallet, lease = contract_provider(world)
    tx_hash = stopped_through(world, world.provider, wallet, lease)
    assert side(world, lease, tx_hash) is Side.PROVIDER


@pytest.mark.parametrize(("signer", "expected"), [("buyer", Side.BUYER), ("meter", Side.PROVIDER)])
def test_a_stop_by_a_constructor_is_its_signers(world: World, signer: str, expected: Side) -> None:
    """A transaction that creates a contract names no receiver, and can call what it likes."""
    lease = world.open()
    data = lease.stop(getattr(world, signer))
    size, escrow = f"61{len(data):04x}", world.escrow.address[2:]
    copied = f"{size}6100{{:02x}}5f39"  # the calldata lies behind the code
    called = f"5f5f{size}5f5f73{escrow}5af100"
    code = copied.format((len(copied) - 4 + len(called)) // 2) + called
    made = world.client.transact(world.stranger, None, bytes.fromhex(code) + data, gas=1_000_000)
    assert side(world, lease, made.tx_hash) is expected


def test_without_a_trace_a_stop_through_a_contract_is_nobodys(world: World) -> None:
    """Rather let a buyer off than blame one for what a provider did."""
    wallet, lease = contract_buyer(world)
    tx_hash = stopped_through(world, world.buyer, wallet, lease)
    ask = NodeProvider(world.client.rpc_url, 10.0).make_request

    def untraced(method: Any, parameters: Any) -> Any:
        if method == "debug_traceTransaction":
            return {"error": {"code": -32601, "message": "the method does not exist"}}
        return ask(method, parameters)

    client = ChainClient(world.client.rpc_url, world.client.chain_id, transport=untraced)
    escrow = Escrow(client, world.escrow.address)
    assert escrow.who_stopped(tx_hash, lease.ref, world.meter.address) is Side.NOBODY


def test_a_stop_that_a_contract_signed_for_the_buyer_is_the_buyers_sides(world: World) -> None:
    _, lease = contract_buyer(world)
    assert side(world, lease, sent(world, world.stranger, lease.stop(world.buyer))) is Side.BUYER


def test_a_transaction_that_the_node_does_not_have_is_asked_for_again(world: World) -> None:
    with pytest.raises(ChainUnavailable):
        world.escrow.who_stopped("0x" + "11" * 32, world.open().ref, world.meter.address)
