"""Purses through SDK and command line, on a real chain and with the market's server away."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marketplace.cli.main import main
from marketplace.sdk import NO_RETRIES, Coulomb
from marketplace.sdk.errors import InputError, NotEnough
from marketplace.sdk.profile import Profile, ProfileFile
from marketplace.sdk.session import Session
from settlement import keystore
from settlement.chain import client as chain_client
from settlement.consent import BIDS, OPENED_BIDS, require_consent
from settlement.errors import CallReverted, ChainError, ExpiredPurse, PurseRefused, SignatureError
from settlement.orders import purse_of
from settlement.signing import LocalSigner, sign
from tests.escrow_world import TOKEN, World, key
from tests.wallet_contracts import owned_wallet

OPERATOR = key("purse operator")
NOBODY = "http://127.0.0.1:9"  # no market listens there
Shell = Callable[..., tuple[int, str, str]]


def client(world: World, signer: LocalSigner, folder: Path) -> Coulomb:
    net = world.client
    known: dict[str, Any] = {"chain_id": net.chain_id, "escrow": world.escrow.address}
    session = Session(lambda: signer, rpc_url=net.rpc_url, state=folder, **known)
    return Coulomb(NOBODY, session=session, retry=NO_RETRIES)


def test_a_purse_is_made_funded_swept_and_expired_by_its_owner(
    world: World, tmp_path: Path
) -> None:
    owner = world.buyer
    free = world.escrow.balance_of(owner.address)
    with client(world, owner, tmp_path) as coulomb:
        made = coulomb.purses.create(OPERATOR.address, 3_600, 5 * TOKEN)
        second = coulomb.purses.create(OPERATOR.address, 60)
        coulomb.purses.fund(made.address, 2 * TOKEN)
        coulomb.purses.sweep(made.address, TOKEN)
        info = coulomb.purses.get(made.address)
        assert (info.owner, info.operator) == (owner.address, OPERATOR.address)
        assert info.free == 6 * TOKEN
        assert world.escrow.balance_of(owner.address) == free - 6 * TOKEN
        assert 3_500 < info.expiry - world.client.timestamp() <= 3_600
        coulomb.purses.expire(made.address)
        assert coulomb.purses.get(made.address).expiry < world.client.timestamp()
        names = [purse.address for purse in coulomb.purses.list()]
        assert names == [made.address, second.address]
        assert coulomb.purses.list(OPERATOR.address) == coulomb.purses.list()
        assert coulomb.purses.list(world.stranger.address) == ()


def test_what_would_fail_is_refused_before_anything_is_sent(world: World, tmp_path: Path) -> None:
    owner = world.buyer
    with client(world, owner, tmp_path) as coulomb:
        purse = coulomb.purses.create(OPERATOR.address, 60, TOKEN).address
        nonce = world.client.nonce(owner.address)
        free = world.escrow.balance_of(owner.address)
        for refused, error, why in (
            (lambda: coulomb.purses.create(OPERATOR.address, 60, free + 1), NotEnough, "asked for"),
            (lambda: coulomb.purses.create(OPERATOR.address, 0), InputError, "1 s to 10 years"),
            (lambda: coulomb.purses.create(OPERATOR.address, 60, -1), InputError, "0 or more"),
            (lambda: coulomb.purses.fund(purse, free + 1), NotEnough, "free in the escrow"),
            (lambda: coulomb.purses.fund(purse, 0), InputError, "nothing to move"),
            (lambda: coulomb.purses.fund(owner.address, 1), InputError, "is not a purse"),
            (lambda: coulomb.purses.sweep(purse, TOKEN + 1), NotEnough, "free in the purse"),
            (lambda: coulomb.purses.expire(purse, 120), InputError, "only brought forward"),
            (lambda: coulomb.purses.get(OPERATOR.address), InputError, "is not a purse"),
        ):
            with pytest.raises(error, match=why):
                refused()
        assert world.client.nonce(owner.address) == nonce
    with client(world, OPERATOR, tmp_path) as coulomb:
        for act in (
            lambda: coulomb.purses.fund(purse, 1),
            lambda: coulomb.purses.sweep(purse, 1),
            lambda: coulomb.purses.expire(purse),
        ):
            with pytest.raises(InputError, match=f"belongs to {owner.address}, not to"):
                act()
    assert world.escrow.balance_of(purse) == TOKEN


def test_purses_are_found_on_a_node_that_searches_few_blocks_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 20
    monkeypatch.setattr(chain_client, "RANGE_BLOCKS", most)
    purse = world.purse(OPERATOR, TOKEN)
    world.client.rpc("anvil_mine", hex(2 * most))
    later = world.purse(OPERATOR, TOKEN)
    ask = world.client._ask
    widths: list[int] = []

    def strict(read: Any, method: str, *parameters: Any) -> Any:
        if method == "eth_getLogs":
            first, last = (int(parameters[0][name], 16) for name in ("fromBlock", "toBlock"))
            widths.append(last - first + 1)
            if widths[-1] > most:
                raise ChainError("block range too large")
        return ask(read, method, *parameters)

    monkeypatch.setattr(world.client, "_ask", strict)
    found = world.escrow.purses_of(OPERATOR.address)
    assert [made.purse for made in found] == [purse, later]
    assert sorted(widths)[-3:] == [most, widths[0], widths[0]]  # one search for each role
    assert world.escrow.purses_of(OPERATOR.address, world.client.head().number)[0].purse == later


@pytest.fixture
def shell(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    """One whole invocation of the program, as the buyer, whose profile knows chain and escrow."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("COULOMB_API_URL", "COULOMB_API_KEY", "COULOMB_PROFILE", "ETH_RPC_URL"):
        monkeypatch.delenv(name, raising=False)
    keystore.create(tmp_path / "key", "pw", world.buyer, kdf="pbkdf2", iterations=1)
    (tmp_path / "pw").write_text("pw\n")
    profile = Profile(
        api_url=NOBODY,
        keystore=str(tmp_path / "key"),
        password_file=str(tmp_path / "pw"),
        rpc_url=world.client.rpc_url,
        chain_id=world.client.chain_id,
        escrow=world.escrow.address,
    )
    ProfileFile().save(profile)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_command_line_makes_shows_and_empties_a_purse(world: World, shell: Shell) -> None:
    def told(*words: str) -> Any:
        code, out, err = shell(*words, "-o", "json")
        assert code == 0, err
        return json.loads(out)

    made = told("purse", "create", OPERATOR.address, "--amount", "5", "--yes")
    purse = made["purse"]
    assert world.escrow.balance_of(purse) == 5 * TOKEN
    assert (made["free"], made["expired"]) == ("5 CMP", False)
    assert told("purse", "fund", purse, "1", "--yes")["amount"] == "1 CMP"
    assert [row["purse"] for row in told("purse", "list")] == [purse]
    assert told("purse", "list", OPERATOR.address)[0]["free_atoms"] == str(6 * TOKEN)
    assert told("purse", "sweep", purse, "--yes")["amount"] == "6 CMP"
    told("purse", "expire", purse, "--in", "1h", "--yes")
    told("purse", "expire", purse, "--yes")
    shown = told("purse", "show", purse)
    assert (shown["expired"], shown["free"], shown["owner"]) == (True, "0 CMP", world.buyer.address)


def test_the_command_line_shows_a_plan_and_moves_nothing_on_a_dry_run(
    world: World, shell: Shell
) -> None:
    purse = world.purse(OPERATOR, TOKEN)
    before = world.client.nonce(world.buyer.address)
    for words, said in (
        (("create", OPERATOR.address, "--amount", "1"), "make a purse for"),
        (("fund", purse, "1"), f"from which {OPERATOR.address} may spend"),
        (("sweep", purse), f"take 1 CMP out of {purse}"),
        (("expire", purse), "expire now"),
    ):
        code, out, err = shell("purse", *words, "--dry-run")
        assert (code, out) == (0, ""), err
        assert said in err
        code, _, err = shell("purse", *words)
        assert code == 2, err
        assert "no terminal to ask on" in err
    assert world.client.nonce(world.buyer.address) == before


@pytest.mark.parametrize(
    ("words", "why", "code"),
    [
        (("create", "0x12"), "must be an address", 2),
        (("create", OPERATOR.address, "--expires-in", "soon"), "must be a duration", 2),
        (("create", OPERATOR.address, "--amount", "99999999"), "are free in the escrow", 6),
        (("show", OPERATOR.address), "is not a purse", 2),
    ],
)
def test_a_wrong_word_is_named(shell: Shell, words: tuple[str, ...], why: str, code: int) -> None:
    found, _, err = shell("purse", *words, "--yes")
    assert (found, why in err) == (code, True), err


def test_a_profile_of_a_purse_neither_deposits_nor_withdraws(
    world: World, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    purse = world.purse(OPERATOR, TOKEN)
    monkeypatch.setenv("COULOMB_PURSE", purse)
    for verb in ("deposit", "withdraw"):
        code, _, err = shell("wallet", verb, "1", "--yes")
        assert (code, f"acts for the purse {purse}" in err) == (2, True), err
    code, out, _ = shell("wallet", "show", "-o", "json")
    assert (code, json.loads(out)["account"]) == (0, purse)
    assert world.escrow.balance_of(purse) == TOKEN


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("who", ["operator", "owner", "stranger", "contract"])
def test_a_bid_counts_here_exactly_if_the_escrow_takes_it(
    world: World, who: str, live: bool
) -> None:
    now = world.client.timestamp()
    world.client.rpc("anvil_setBalance", OPERATOR.address, hex(TOKEN))
    wallet = owned_wallet(world.client, OPERATOR)
    keys = {"operator": OPERATOR, "owner": world.buyer, "stranger": world.stranger}
    signer, operator = keys.get(who, OPERATOR), wallet if who == "contract" else OPERATOR.address
    calls, owner = world.escrow.calls, world.buyer.address
    expiry = now + 3_600
    world.send(world.buyer, calls.create_purse(operator, 0, expiry, 100 * TOKEN))
    purse = purse_of(world.escrow.domain(), owner, operator, 0)
    bid = world.bid(buyer=purse)
    signature = sign(bid, world.escrow.domain(), signer)
    if not live:
        world.chain.warp(3_601)
    match = replace(world.match(bid=bid), bid_signature=signature)
    try:
        world.client.call(world.escrow.address, calls.open(match), world.relayer.address)
        taken = None
    except CallReverted as error:
        taken = error.name
    names = (world.escrow.domain(), signature, purse, world.escrow)
    try:
        require_consent(bid, *names, BIDS, world.client.timestamp())
        counts = None
    except ExpiredPurse:
        counts = "PurseExpired"
    except SignatureError:
        counts = "InvalidSignature"
    # The escrow looks at the expiry first, whoever signed.
    wrong = who in ("owner", "stranger")
    assert taken == ("PurseExpired" if not live else "InvalidSignature" if wrong else None)
    assert counts == ("InvalidSignature" if wrong else None if live else "PurseExpired")
    with pytest.raises(PurseRefused) if wrong else nullcontext():
        require_consent(bid, *names, OPENED_BIDS, 0)
