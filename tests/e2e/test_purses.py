"""A purse on real processes and a real chain: its operator buys, its owner risks what is in it."""

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace as Seen
from typing import Any

import pytest

from marketplace.sdk import Coulomb, Lease
from marketplace.sdk.errors import InvalidSignature
from marketplace.sdk.profile import ProfileFile
from settlement.events import Opened
from tests.e2e.chain import assert_books_balance, assert_receipt_adds_up, events, on_chain
from tests.e2e.jobs import COUNTING, until_countersigned, until_running
from tests.e2e.world import FEE_BPS, ONE, Party, World, job_of
from tests.programs import PATIENCE_S

DEPOSIT, IN_PURSE, FEE = 50 * ONE, 2 * ONE, ONE // 100
INVALID, CONFLICT, FUNDS = 1, 5, 6  # exit codes


class Keyholder:
    """Somebody with a key and a shell, but with neither tokens nor gas."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.party = world, world.newcomer(name)
        self.env = {
            "COULOMB_API_URL": world.api_url,
            "ETH_RPC_URL": world.chain.rpc_url,
            "COULOMB_PASSWORD_FILE": str(self.party.password_file),
        }

    def run(self, *words: str, code: int = 0) -> Any:
        return self.world.cli(self.party, *words, code=code, env=self.env)

    def buy(self, name: str, command: str, *words: str, code: int = 0, **more: Any) -> Any:
        path = self.world.folder / f"{name}.json"
        path.write_text(json.dumps(job_of(command, **more)))
        return self.run("job", "run", str(path), "--yes", *words, code=code)

    def keep_key(self) -> Party:
        """Its party, with the API key of its profile."""
        file = ProfileFile(self.party.home / "config" / "coulomb" / "config.yaml")
        self.party.api_key = file.get(env={}).api_key or ""
        return self.party


@pytest.fixture(scope="module")
def story(world: World) -> Seen:
    """A purse from its making to its sweeping; what is refused on the way leaves no trace."""
    world.provider("north")
    owner = world.buyer("ada", DEPOSIT)
    bot, thief = Keyholder(world, "bot"), Keyholder(world, "thief")
    made = world.cli(owner, "purse", "create", bot.party.address, "--amount", "2", "--yes")
    purse = made["purse"]
    thief.run("key", "create", "x", "--purse", purse, "--account", "thief", code=INVALID)
    bot.run("key", "create", "bot", "--purse", purse, "--account", "bot")
    listed = bot.run("purse", "list"), world.cli(owner, "purse", "list")
    first = bot.buy("first", "sleep 2")
    bot.buy("dear", "sleep 1", max_duration="1h", resources={"gpu": "H100:2"}, code=FUNDS)
    gas = world.chain_client.balance(bot.party.address), world.chain_client.nonce(bot.party.address)
    budget = {"max_total": "1.5"}
    placed = bot.buy("second", COUNTING, "--detach", max_duration="10m", budget=budget)
    with world.client(bot.keep_key()) as client:
        client.session.purse = purse
        handle = client.jobs.get(placed["id"])
        lease = until_running(world, handle)
        longer = _top_ups(world, owner, bot.party, client, lease)
        # From here on its time is over: nothing new opens, and what runs goes on.
        world.cli(owner, "purse", "expire", purse, "--yes")
        bot.buy("third", "sleep 1", code=CONFLICT)
        bot.run("key", "create", "late", code=CONFLICT)
        world.wait_for("a witnessed tick", lambda: any(client.witness.tick()))
        until_countersigned(world, client, lease.id, 1)
        handle.cancel()
        ended = handle.wait(PATIENCE_S)
        second = handle.receipt()
    left = world.escrow.balance_of(purse)
    swept = world.cli(owner, "purse", "sweep", purse, "--yes")
    return Seen(
        owner=owner, bot=bot, purse=purse, listed=listed, first=first, second=second, ended=ended,
        left=left, swept=swept, gas=gas, longer=longer,
    )  # fmt: skip


def _top_ups(
    world: World, owner: Party, bot: Party, client: Coulomb, lease: Lease
) -> tuple[int, ...]:
    """Seconds that the operator's top-up adds, then the owner's, which the relayer sends."""
    funded = [on_chain(world, lease).funded]
    with pytest.raises(InvalidSignature, match="not its operator"):
        client.top_ups.relay(lease.job_id, "1m")  # its fee would be the purse's
    world.chain_client.rpc("anvil_setBalance", bot.address, hex(ONE))
    client.top_ups.create(lease.job_id, "1m")
    funded.append(on_chain(world, lease).funded)
    with world.client(replace(owner, api_key=bot.api_key)) as of_owner:
        of_owner.session.purse = client.session.purse
        of_owner.top_ups.relay(lease.job_id, "2m")
    funded.append(on_chain(world, lease).funded)
    return tuple(after - before for before, after in pairwise(funded))


def test_leases_of_a_purse_are_topped_up_by_its_operator_and_for_a_fee_by_its_owner(
    story: Seen,
) -> None:
    assert story.longer == (60, 120)
    kinds = [line.kind for line in story.second.transactions]
    assert kinds.count("ToppedUp") == 2


def test_the_operator_buys_with_the_purse_and_needs_neither_tokens_nor_gas(
    world: World, story: Seen
) -> None:
    assert (story.first["buyer"], story.first["conserved"]) == (story.purse, True)
    operator = story.bot.party.address
    assert story.gas == (0, 0)
    assert world.escrow.balance_of(operator) == world.token.balance_of(operator) == 0
    for rows in story.listed:
        assert [(row["purse"], row["operator"]) for row in rows] == [(story.purse, operator)]


def test_after_its_expiry_nothing_new_opens_and_what_runs_is_still_ended(
    world: World, story: Seen
) -> None:
    opened = [event for event in events(world) if isinstance(event, Opened)]
    assert [event.buyer for event in opened] == [story.purse, story.purse]
    assert (story.ended.state, story.ended.reason) == ("cancelled", "cancelled")
    assert story.second.released.atoms > 0
    assert_receipt_adds_up(story.second, FEE_BPS)


def test_the_owner_loses_what_was_used_of_the_purse_and_not_an_atom_more(
    world: World, story: Seen
) -> None:
    used = int(story.first["gross"]["atoms"]) + story.second.gross.atoms + FEE
    assert 0 < used < IN_PURSE
    assert story.left == IN_PURSE - used
    assert world.escrow.balance_of(story.owner.address) == DEPOSIT - used
    assert world.escrow.balance_of(story.purse) == 0
    assert_books_balance(world)
