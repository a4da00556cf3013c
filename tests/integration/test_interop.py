"""viem, cast and eth-account sign our typed data as we do, and the chain accepts it."""

import json
import subprocess
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from settlement.attestation import Close, MeteredUsage, Stop, Usage
from settlement.chain.calls import Match, SettlementEntry, as_tuple
from settlement.eip712 import Struct, checksum
from settlement.errors import CallReverted
from settlement.leases import LeaseStatus
from settlement.orders import (
    Ask,
    Bid,
    Cancel,
    Numbered,
    Prices,
    Quote,
    TierLimit,
    TopUp,
    Withdraw,
)
from settlement.signing import LocalSigner, sign
from tests.escrow_world import FAR, TOKEN, World
from tests.struct_strategies import STRUCTS

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / ".setup" / "bin" / "node"
CAST = ROOT / ".setup" / "bin" / "cast"
NOBODY = "0x" + "77" * 20


def output_of(command: list[str], given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def by_viem(document: dict[str, object], key: str) -> str:
    node = str(NODE) if NODE.exists() else "node"
    asked = json.dumps({"key": key, "document": document})
    return output_of([node, str(Path(__file__).with_name("viem_sign.mjs"))], asked)


def by_cast(document: dict[str, object], key: str) -> str:
    data = json.dumps(document)
    return output_of([str(CAST), "wallet", "sign", "--data", data, "--private-key", key])


def by_eth_account(document: dict[str, object], key: str) -> str:
    return "0x" + bytes(Account.sign_typed_data(key, full_message=document).signature).hex()


WALLETS = {"viem": by_viem, "cast": by_cast, "eth-account": by_eth_account}


def signed(world: World, wallet: str, struct: Struct, signer: LocalSigner) -> bytes:
    """A wallet's signature of the document that our API returns."""
    document = json.loads(json.dumps(struct.typed_data(world.escrow.domain())))
    return bytes.fromhex(WALLETS[wallet](document, "0x" + signer.secret().hex())[2:])


class Numbers:
    """Values for a struct's members: no two alike, or each the largest of its type."""

    def __init__(self, largest: bool) -> None:
        self._largest = largest
        self._next = count(1)

    def of(self, kind: type[Struct]) -> Struct:
        return kind(*(self._value(solidity, kind.members) for solidity, _ in kind.schema))

    def _value(self, solidity: str, members: dict[str, type[Struct]]) -> Any:
        if solidity.endswith("[]"):
            return tuple(self.of(members[solidity[:-2]]) for _ in range(2))
        if solidity in members:
            return self.of(members[solidity])
        if solidity == "bool":
            return True
        digits = int(solidity.strip("abdeinrstuy") or 160)  # of an address
        size = digits if solidity.startswith("bytes") else digits // 8
        number = (1 << 8 * size) - 1 if self._largest else next(self._next)
        if solidity == "address":
            return checksum(f"0x{number:040x}")
        return number.to_bytes(size, "big") if solidity.startswith("bytes") else number


SIGNED = [kind for kind in STRUCTS if kind not in (Prices, TierLimit)]  # parts of others


@pytest.mark.parametrize("largest", [False, True], ids=["all different", "the largest"])
@pytest.mark.parametrize("kind", SIGNED, ids=lambda kind: kind.primary)
@pytest.mark.parametrize("wallet", WALLETS)
def test_every_signed_type_is_signed_as_we_sign_it(
    deployed: World, wallet: str, kind: type[Struct], largest: bool
) -> None:
    """Signatures are deterministic, so that equal ones mean equal hashes."""
    struct, domain = Numbers(largest).of(kind), deployed.escrow.domain()
    assert signed(deployed, wallet, struct, deployed.buyer) == sign(struct, domain, deployed.buyer)


@pytest.mark.parametrize("largest", [False, True], ids=["all different", "the largest"])
@pytest.mark.parametrize("kind", [Ask, Bid, Quote, Prices], ids=lambda kind: kind.primary)
def test_the_contract_hashes_orders_as_we_do(
    deployed: World, kind: type[Struct], largest: bool
) -> None:
    struct = Numbers(largest).of(kind)
    assert deployed.escrow.read(f"hash{kind.primary}", as_tuple(struct)) == struct.struct_hash()


@pytest.mark.parametrize("wallet", WALLETS)
def test_a_lease_lives_by_signatures_of_others(world: World, wallet: str) -> None:
    ask, bid = world.ask(), world.metered_bid()
    by_provider = signed(world, wallet, ask, world.provider)
    by_buyer = signed(world, wallet, bid, world.buyer)
    lease = world.open(Match(ask, bid, by_provider, by_buyer))
    world.chain.warp(60)
    names = (world.buyer.address, world.provider.address, lease.number)
    time, counted = Usage(*names, 20_000), MeteredUsage(*names, 30_000, 5, 6)
    for usage in (time, counted):
        voucher = SettlementEntry(usage, signed(world, wallet, usage, world.witness))
        world.settle(voucher, sender=world.stranger)
        assert lease.view().used_ms == usage.ms
    close = Close(*names, 40_000, 5, 7, False)
    by_meter, by_witness = (signed(world, wallet, close, k) for k in (world.meter, world.witness))
    data = world.escrow.calls.close(close, lease.match.opened.terms_hash, by_meter, by_witness)
    world.send(world.stranger, data)
    assert lease.view().status is LeaseStatus.CLOSED
    assert lease.view().used_ms == 40_000


@pytest.mark.parametrize("wallet", WALLETS)
def test_signed_calls_of_others_are_sent_for_a_fee(world: World, wallet: str) -> None:
    escrow, relayer = world.escrow, world.stranger.address
    withdraw = Withdraw(world.buyer.address, NOBODY, TOKEN, 3, FAR, relayer, 7)
    by_buyer = signed(world, wallet, withdraw, world.buyer)
    world.send(world.stranger, escrow.calls.withdraw_by_signature(withdraw, by_buyer))
    assert world.token.balance_of(NOBODY) == TOKEN - 7
    lease = world.open()
    top_up = TopUp(*lease.ref.unwitnessed, 60, 4, FAR, relayer, 11)
    by_buyer = signed(world, wallet, top_up, world.buyer)
    data = escrow.calls.top_up_by_signature(lease.match.opened, top_up, by_buyer)
    world.send(world.stranger, data)
    assert lease.view().funded == lease.opened.funded + 60
    assert escrow.balance_of(relayer) == 18
    changed = replace(top_up, salt=5)
    data = escrow.calls.top_up_by_signature(lease.match.opened, changed, by_buyer)
    with pytest.raises(CallReverted, match="InvalidSignature"):
        world.send(world.stranger, data)


@pytest.mark.parametrize("wallet", WALLETS)
def test_stops_and_cancels_of_others_hold(world: World, wallet: str) -> None:
    escrow, lease = world.escrow, world.open()
    stop = Stop(*lease.ref.unwitnessed, True, FAR)
    by_witness = signed(world, wallet, stop, world.witness)
    terms = lease.match.opened.terms_hash
    world.send(world.stranger, escrow.calls.stop_by_signature(lease.ref, stop, terms, by_witness))
    assert (lease.view().status, lease.view().again) == (LeaseStatus.STOPPED, True)
    cancel = Cancel(world.buyer.address, Numbered.CALLS, 5, False)
    by_buyer = signed(world, wallet, cancel, world.buyer)
    world.send(world.stranger, escrow.calls.cancel(cancel, by_buyer))
    assert escrow.salt_state(world.buyer.address, 5, Numbered.CALLS).cancelled


@pytest.mark.parametrize("wallet", WALLETS)
def test_a_signature_of_other_data_is_refused(world: World, wallet: str) -> None:
    lease = world.open()
    world.chain.warp(60)
    usage = Usage(world.buyer.address, world.provider.address, lease.number, 20_000)
    voucher = SettlementEntry(
        replace(usage, ms=20_001), signed(world, wallet, usage, world.witness)
    )
    world.settle(voucher, sender=world.stranger)
    assert lease.view().used_ms == 0
