"""What the store counts for operators, in memory as in SQLite."""

from __future__ import annotations

from tests.market_world import World
from tests.store_cases import add_up_an_account, count_a_small_market


def test_the_store_counts_what_operators_watch(world: World) -> None:
    count_a_small_market(world)


def test_the_store_adds_up_an_account(world: World) -> None:
    add_up_an_account(world)
