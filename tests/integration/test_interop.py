"""Typed data signed by viem, by cast and by eth-account: the same signatures, accepted on chain."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account

from settlement.attestation import Close, MeteredUsage, Stop, Usage
from settlement.chain.calls import Match, SignedVoucher
from settlement.eip712 import Struct
from settlement.leases import LeaseStatus
from settlement.orders import Cancel
from settlement.signing import LocalSigner, sign
from tests.escrow_world import TOKEN, World, anvil, found

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / ".setup" / "bin" / "node"
CAST = ROOT / ".setup" / "bin" / "cast"
SIGNERS = ("viem", "cast", "eth-account")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with anvil() as chain:
        world = found(chain)
        world.fund(100 * TOKEN)
        world.fund(TOKEN, world.provider)
        yield world


def by_viem(document: dict[str, object], key: str) -> str:
    """By viem, in a Node of its own."""
    node = str(NODE) if NODE.exists() else "node"
    script = Path(__file__).with_name("viem_sign.mjs")
    asked = json.dumps({"key": key, "document": document})
    done = subprocess.run([node, script], input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_cast(document: dict[str, object], key: str) -> str:
    """By `cast wallet sign --data`."""
    words = ["wallet", "sign", "--data", json.dumps(document), "--private-key", key]
    done = subprocess.run([CAST, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def by_eth_account(document: dict[str, object], key: str) -> str:
    """By eth-account's own encoding, not by ours."""
    return "0x" + bytes(Account.sign_typed_data(key, full_message=document).signature).hex()


WAYS = {"viem": by_viem, "cast": by_cast, "eth-account": by_eth_account}


def signed(world: World, way: str, struct: Struct, signer: LocalSigner) -> bytes:
    """The signature that one of the three makes of what our API hands out."""
    document = json.loads(json.dumps(struct.typed_data(world.escrow.domain())))
    return bytes.fromhex(WAYS[way](document, "0x" + signer.secret().hex())[2:])


@pytest.mark.parametrize("way", SIGNERS)
def test_every_signed_type_is_signed_as_we_sign_it(world: World, way: str) -> None:
    names = (world.buyer.address, world.provider.address, b"\x07" * 16)
    structs: list[Struct] = [
        world.ask(), world.metered_bid(), Usage(*names, 2**40 - 1), Stop(*names),
        MeteredUsage(*names, 1, 2**32 - 1, 3), Close(*names, 9, 8, 7),
        Cancel(world.buyer.address, 2**64 - 1, True),
    ]  # fmt: skip
    domain = world.escrow.domain()
    for struct in structs:
        assert signed(world, way, struct, world.buyer) == sign(struct, domain, world.buyer)


@pytest.mark.parametrize("way", SIGNERS)
def test_a_lease_lives_by_signatures_of_others(world: World, way: str) -> None:
    ask, bid = world.ask(), world.metered_bid()
    match = Match(
        ask, bid, signed(world, way, ask, world.provider), signed(world, way, bid, world.buyer)
    )
    lease = world.open(match)
    world.chain.warp(60)
    names = (world.buyer.address, world.provider.address, lease.number)
    time, counted = Usage(*names, 20_000), MeteredUsage(*names, 30_000, 5, 6)
    for usage, metered in ((time, False), (counted, True)):
        voucher = SignedVoucher(usage, signed(world, way, usage, world.witness))
        calls = world.escrow.calls
        world.send(world.stranger, (calls.settle_metered if metered else calls.settle)([voucher]))
        assert lease.view().used_ms == usage.ms
    close = Close(*names, 40_000, 5, 7)
    by_meter, by_witness = (signed(world, way, close, k) for k in (world.meter, world.witness))
    world.send(
        world.stranger, world.escrow.calls.close(close, lease.orders_hash, by_meter, by_witness)
    )
    assert lease.view().status is LeaseStatus.CLOSED
    assert lease.view().used_ms == 40_000


@pytest.mark.parametrize("way", SIGNERS)
def test_a_signature_of_other_data_is_refused(world: World, way: str) -> None:
    lease = world.open()
    world.chain.warp(60)
    usage = Usage(world.buyer.address, world.provider.address, lease.number, 20_000)
    voucher = SignedVoucher(replace(usage, ms=20_001), signed(world, way, usage, world.witness))
    world.send(world.stranger, world.escrow.calls.settle([voucher]))
    assert lease.view().used_ms == 0
