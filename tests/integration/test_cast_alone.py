"""With nothing but `cast`: it opens our keystores, signs what we sign, and every exit works."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_hash.auto import keccak

from settlement import keystore
from settlement.attestation import Close, Usage
from settlement.chain.abi import artifact, canonical
from settlement.chain.calls import LeaseRef, SettlementEntry, as_tuple, pack_entries
from settlement.chain.devnet import dev_account
from settlement.eip712 import ZERO_ADDRESS, Struct
from settlement.leases import LeaseStatus
from settlement.orders import Numbered, OpenedFrom, Prices, purse_of
from settlement.signing import LocalSigner, compact, sign
from settlement.units import cost
from tests.escrow_world import SETTINGS, TOKEN, World

ROOT = Path(__file__).resolve().parents[2]
CAST = ROOT / ".setup" / "bin" / "cast"
PAGE = (ROOT / "docs" / "escrow.md").read_text().partition("## Exits without us")[2]
PASSWORD = "for tests"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "password").write_text(PASSWORD)
    return tmp_path


def cast(*arguments: str) -> str:
    done = subprocess.run([CAST, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def store(keys: Path, signer: LocalSigner) -> list[str]:
    """The signer's keystore in cast's words."""
    path = keys / f"{signer.address}.json"
    if not path.exists():
        keystore.create(path, PASSWORD, signer, kdf="scrypt", iterations=2)
    return ["--keystore", str(path), "--password-file", str(keys / "password")]


def send(
    world: World, keys: Path, signer: LocalSigner, signature: str, *values: str, to: str = ""
) -> None:
    """One transaction to the escrow (or `to`), mined and successful."""
    answer = cast(
        "send", to or world.escrow.address, signature, *values,
        "--rpc-url", world.client.rpc_url, "--json", *store(keys, signer),
    )  # fmt: skip
    assert json.loads(answer)["status"] in ("0x1", 1)


def test_cast_opens_a_keystore_of_ours_and_we_open_one_of_casts(keys: Path) -> None:
    signer = LocalSigner.create()
    assert cast("wallet", "address", *store(keys, signer)) == signer.address
    cast("wallet", "new", str(keys), "theirs", "--unsafe-password", PASSWORD)
    (theirs,) = (path for path in keys.iterdir() if path.name.startswith("theirs"))
    address = cast("wallet", "address", "--keystore", str(theirs), "--password", PASSWORD)
    assert keystore.load(theirs, PASSWORD).address == address


def words(value: Any) -> str:
    """A value of the ABI as cast reads it: lists in square brackets, structs in round ones."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(words, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ",".join(map(words, value)) + ")"
    return str(value)


def kind(name: str) -> str:
    """A function's signature with its types in full, from the ABI that ships."""
    entry = next(e for e in artifact("ComputeEscrow").abi if e.get("name") == name)
    return f"{name}({','.join(canonical(p) for p in entry['inputs'])})"


def sign_by_cast(world: World, keys: Path, signer: LocalSigner, struct: Struct) -> bytes:
    """What cast signs of a document in our notation."""
    document = keys / "typed.json"
    document.write_text(json.dumps(struct.typed_data(world.escrow.domain())))
    words = ["wallet", "sign", "--data", "--from-file", str(document), *store(keys, signer)]
    return bytes.fromhex(cast(*words)[2:])


def deposit(world: World, keys: Path, signer: LocalSigner, atoms: int) -> None:
    """By approval, of tokens that the account is given here."""
    escrow, token = world.escrow.address, world.token
    world.send(dev_account(0), token.transfer(signer.address, atoms), token.address)
    approve = "approve(address,uint256)"
    send(world, keys, signer, approve, escrow, str(atoms), to=token.address)
    send(world, keys, signer, "deposit(uint256)", str(atoms))


def test_a_lease_opened_by_cast_is_closed_and_withdrawn_by_cast(world: World, keys: Path) -> None:
    free = world.escrow.balance_of(world.buyer.address)
    deposit(world, keys, world.buyer, 10 * TOKEN)
    ask, bid = world.ask(), world.bid()
    by_provider = sign_by_cast(world, keys, world.provider, ask)
    by_buyer = sign_by_cast(world, keys, world.buyer, bid)
    no_quote = (bytes(32), as_tuple(Prices(0)), 0)
    none_before = (ZERO_ADDRESS, bytes(32), bytes(32), ZERO_ADDRESS)
    signed = (by_provider, by_buyer, b"")
    match = words((as_tuple(ask), as_tuple(bid), no_quote, none_before, 0, *signed))
    send(world, keys, world.stranger, kind("open"), match)
    world.chain.warp(60)
    opened = OpenedFrom(ask, bid, ask.floor)
    ref = LeaseRef(bid.buyer, ask.provider, bid.witness, opened.lease_no)
    close = Close(*ref.unwitnessed, 50_000, 0, 0, False)
    data = words((*as_tuple(close), opened.terms_hash))
    halves = (
        compact(sign_by_cast(world, keys, who, close)) for who in (world.meter, world.witness)
    )
    split = [words(part) for half in halves for part in (half[:32], half[32:])]
    send(world, keys, world.stranger, kind("close"), data, *split)
    view = world.escrow.lease(ref)
    assert view.status is LeaseStatus.CLOSED
    paid = cost(view.rate, 50_000)
    assert view.released == paid
    fee = paid * SETTINGS.fee_bps // 10_000
    assert world.escrow.balance_of(world.buyer.address) == free + 10 * TOKEN - paid
    for signer, amount in ((world.buyer, 10 * TOKEN - paid), (world.provider, paid - fee)):
        send(world, keys, signer, "withdraw(address,uint256)", signer.address, str(amount))
        assert world.token.balance_of(signer.address) == amount > 0
    assert world.escrow.balance_of(world.provider.address) == 0


def test_an_order_is_cancelled_without_us(world: World, keys: Path) -> None:
    match = world.match()
    salt = str(match.bid.salt)
    named = (world.buyer.address, str(int(Numbered.ORDERS)), salt)
    send(world, keys, world.buyer, kind("cancel"), *named, "false", "0x")
    assert world.escrow.salt_state(world.buyer.address, match.bid.salt).cancelled


def test_stop_settle_refund_and_withdraw_without_us(world: World, keys: Path) -> None:
    lease = world.open()
    world.chain.warp(60)
    send(world, keys, world.buyer, kind("stop"), words(tuple(lease.ref)), "false")
    usage = Usage(world.buyer.address, world.provider.address, lease.number, 50_000)
    voucher = SettlementEntry(usage, sign_by_cast(world, keys, world.witness, usage))
    entries = pack_entries([voucher], metered=False)
    send(world, keys, world.stranger, "settle(bytes)", "0x" + entries.hex())
    assert lease.view().used_ms == 50_000
    world.chain.warp(SETTINGS.settle_window + 1)
    send(world, keys, world.stranger, kind("refund"), words(tuple(lease.ref)))
    assert lease.view().status is LeaseStatus.CLOSED
    for signer in (world.buyer, world.provider):
        amount = world.escrow.balance_of(signer.address)
        before = world.token.balance_of(signer.address)
        send(world, keys, signer, "withdraw(address,uint256)", signer.address, str(amount))
        assert world.token.balance_of(signer.address) == before + amount > before
    send(world, keys, world.stranger, "collectFees(address[])", f"[{world.provider.address}]")
    recipient = world.escrow.config().fee_recipient
    assert world.token.balance_of(world.escrow.address) == world.escrow.balance_of(recipient)


def test_a_purse_is_made_spent_and_swept_without_us(world: World, keys: Path) -> None:
    buyer, operator = world.buyer, world.stranger
    free = world.escrow.balance_of(buyer.address)
    made = (operator.address, "1", str(2**40 - 1), str(20 * TOKEN))
    send(world, keys, buyer, kind("createPurse"), *made)
    purse = purse_of(world.escrow.domain(), buyer.address, operator.address, 1)
    bid = world.bid(buyer=purse)
    match = replace(world.match(bid=bid), bid_signature=sign_by_cast(world, keys, operator, bid))
    lease = world.open(match)
    send(world, keys, operator, kind("stop"), words(tuple(lease.ref)), "true")
    assert lease.view().again
    world.send(world.relayer, lease.close(0))
    send(world, keys, buyer, kind("sweepPurse"), purse, str(20 * TOKEN))
    assert world.escrow.balance_of(buyer.address) == free


# The page docs/escrow.md: its commands, run as they stand there.


def commands(heading: str) -> list[str]:
    """The shell blocks under one of the page's headings."""
    part = PAGE.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)


def shell(world: World, signer: LocalSigner, code: str, **values: object) -> str:
    """Run a block of the page with the names that it explains; what it printed."""
    if shutil.which("jq") is None:
        pytest.skip("the page's commands need jq")
    names = {
        "RPC": world.client.rpc_url, "ESCROW": world.escrow.address, "TOKEN": world.token.address,
        "KEY": "0x" + signer.secret().hex(), "ACCOUNT": signer.address, "BLOCK": 0,
        "PATH": f"{CAST.parent}:{os.environ['PATH']}", **values,
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        env={name: str(value) for name, value in names.items()},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def located(world: World, signer: LocalSigner, lease: Any) -> dict[str, object]:
    """What names a lease, as the page finds it for one of its parties."""
    ref = lease.ref
    named = {"BUYER": ref.buyer, "PROVIDER": ref.provider, "WITNESS": ref.witness}
    (code,) = commands("Find your leases")
    printed = shell(world, signer, code, **named, LEASE_NO=words(ref.lease_no))
    *rows, state = printed.splitlines()
    assert state.startswith("(1,")
    row = next(r for r in map(json.loads, rows) if r["lease_no"] == words(ref.lease_no))
    assert {name: row[name.lower()] for name in named} == {k: v.lower() for k, v in named.items()}
    found = {name: row[name.lower()] for name in ("LEASE_NO", "BID_HASH", "OPENED_TX")}
    return {**named, **found}


def test_the_page_moves_tokens_in_and_out(world: World) -> None:
    world.send(dev_account(0), world.token.transfer(world.relayer.address, 5), world.token.address)
    (code,) = commands("Tokens in and out")
    shell(world, world.relayer, code, ATOMS=5)
    assert world.token.balance_of(world.relayer.address) == 5


def test_the_page_ends_a_lease_and_settles_it(world: World) -> None:
    lease = world.open()
    names = located(world, world.buyer, lease)
    world.chain.warp(60)
    stop, refund = commands("End a lease")
    shell(world, world.buyer, stop, **names)
    usage = Usage(world.buyer.address, world.provider.address, lease.number, 50_000)
    signature = words(sign(usage, world.escrow.domain(), world.witness))
    (settle,) = commands("Settle what was countersigned")
    shell(world, world.stranger, settle, **names, MS=50_000, SIGNATURE=signature)
    assert lease.view().used_ms == 50_000
    world.chain.warp(SETTINGS.settle_window + 1)
    shell(world, world.stranger, refund, **names)
    assert lease.view().status is LeaseStatus.CLOSED


def test_the_page_lists_every_selector() -> None:
    listed = dict(re.findall(r"`(\w+)` \| `(0x[0-9a-f]{8})`", PAGE))
    writing = [
        e["name"]
        for e in artifact("ComputeEscrow").abi
        if e["type"] == "function" and e["stateMutability"] == "nonpayable"
    ]
    assert listed == {name: words(keccak(kind(name).encode())[:4]) for name in writing}
