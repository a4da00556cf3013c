"""Leases and books folded from hand-written events."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement import units
from settlement.errors import FieldError
from settlement.events import (
    KINDS,
    Cancelled,
    ChainEvent,
    Closed,
    ClosedCounted,
    Deposited,
    FeesCollected,
    MarkedAgain,
    Opened,
    OpenedCounted,
    PurseCreated,
    PurseExpiryMoved,
    PurseFunded,
    PurseSwept,
    Relayed,
    Settled,
    SettledEntry,
    SettledMetered,
    Stopped,
    ToppedUp,
    Withdrawn,
    event_from_json,
    event_to_json,
    lease_numbers,
)
from settlement.leases import LeaseStatus, Params, fold
from settlement.orders import Numbered
from tests.escrow_orders import replay_orders

BUYER, PROVIDER, WITNESS, METER, BOSS = ("0x" + f"{i:02x}" * 20 for i in range(1, 6))
NUMBER, OTHER = b"\x0a" * 16, b"\x0b" * 16
RATE = 2_500_000_000_007
PARAMS = Params(18, 333)
OPENED = Opened(
    NUMBER, BUYER, PROVIDER, WITNESS, METER, b"\x01" * 32, b"\x02" * 32, b"\x03" * 32, RATE, 1_000,
    7, 0, 10_660, 660, 60, 42, units.time_lock(RATE, 600) + units.counted_lock(11, 13, 2_000, 50),
)  # fmt: skip
"""Ten minutes of paid time after at most a minute to start in."""
COUNTED = OpenedCounted(NUMBER, 11, 13, 2_000, 50)
USED = ClosedCounted(NUMBER, 3, 4)
DEPOSIT = Deposited(BUYER, 10**20)


def fold_one(*events: ChainEvent) -> Any:
    """The lease of these events, which must include its opening."""
    lease = fold(events)
    assert lease is not None
    return lease


def settled(ms: int, number: bytes = NUMBER) -> Settled:
    return Settled(PROVIDER, (SettledEntry(number, ms),))


def metered(ms: int, egress: int, count: int) -> SettledMetered:
    return SettledMetered(PROVIDER, (SettledEntry(NUMBER, ms, egress, count),))


def test_fold_without_an_opening_is_nothing() -> None:
    assert fold([settled(5)]) is None
    assert fold([]) is None


def test_fold_of_a_fresh_lease_has_its_terms() -> None:
    lease = fold_one(OPENED)
    assert (lease.start, lease.end, lease.funded) == (10_000, 10_660, 660)
    assert (lease.start_seconds, lease.paid_seconds, lease.again) == (60, 600, False)
    assert (lease.status, lease.used_ms, lease.metered) == (LeaseStatus.ACTIVE, 0, False)
    assert lease.locked(PARAMS) == units.time_lock(RATE, 600)
    assert lease.released(PARAMS) == 0


def test_fold_ignores_other_leases() -> None:
    lease = fold([OPENED, settled(5_000, OTHER), Stopped(OTHER, BUYER, PROVIDER, 10_001, 1)])
    assert lease == fold([OPENED])


def test_elapsed_counts_from_the_start() -> None:
    lease = fold_one(OPENED)
    assert [lease.elapsed_ms(now) for now in (9_999, 10_000, 10_001)] == [0, 0, 1_000]


def test_stop_moves_end_and_keeps_start() -> None:
    lease = fold_one(OPENED, settled(4_000), Stopped(NUMBER, BUYER, PROVIDER, 10_100, 5))
    assert (lease.status, lease.start, lease.funded) == (LeaseStatus.STOPPED, 10_000, 100)
    assert (lease.start_seconds, lease.paid_seconds) == (0, 100)
    assert lease.lock(PARAMS) == units.time_lock(RATE, 100)


@pytest.mark.parametrize(
    ("end", "start_seconds", "paid"),
    [(10_660, 60, 600), (10_659, 59, 600), (10_601, 1, 600), (10_600, 0, 600), (10_599, 0, 599),
     (10_000, 0, 0)],
)  # fmt: skip
def test_a_stop_cuts_the_time_for_a_late_start_first(
    end: int, start_seconds: int, paid: int
) -> None:
    lease = fold_one(OPENED, Stopped(NUMBER, BUYER, PROVIDER, end, 0))
    assert (lease.start_seconds, lease.paid_seconds) == (start_seconds, paid)
    assert lease.lock(PARAMS) == units.time_lock(RATE, paid)


@pytest.mark.parametrize(
    "ending",
    [
        [Stopped(NUMBER, BUYER, PROVIDER, 10_100, 5)],
        [Closed(NUMBER, BUYER, PROVIDER, 9_000, 1, 2)],
        [Stopped(NUMBER, BUYER, PROVIDER, 10_100, 5), Closed(NUMBER, BUYER, PROVIDER, 9, 1, 2)],
    ],
    ids=["stopped", "closed", "stopped and closed"],
)
def test_a_mark_changes_nothing_but_the_mark(ending: list[ChainEvent]) -> None:
    plain = fold_one(OPENED, *ending)
    other = fold_one(OPENED, *ending, MarkedAgain(OTHER, BUYER, PROVIDER))
    assert (plain.again, other) == (False, plain)
    marked = fold_one(OPENED, *ending, MarkedAgain(NUMBER, BUYER, PROVIDER))
    assert marked == replace(plain, again=True)


def test_a_closed_lease_holds_nothing() -> None:
    lease = fold_one(OPENED, COUNTED, USED, Closed(NUMBER, BUYER, PROVIDER, 9_000, 1, 2))
    assert (lease.status, lease.locked(PARAMS), lease.refunded) == (LeaseStatus.CLOSED, 0, 2)
    assert (lease.used_ms, lease.egress_mib, lease.units) == (9_000, 3, 4)


def life() -> list[ChainEvent]:
    """A deposit, then a metered lease that is settled, stopped and closed, with correct amounts."""
    gross = units.cost(RATE, 90_000) + units.counted_cost(11, 13, 30, 7)
    stopped_lock = units.time_lock(RATE, 100)
    counted_lock = units.counted_lock(11, 13, 2_000, 50)
    return [
        DEPOSIT,
        OPENED,
        COUNTED,
        metered(40_000, 20, 5),
        settled(50_000),
        Stopped(NUMBER, BUYER, PROVIDER, 10_100, units.time_lock(RATE, 600) - stopped_lock),
        metered(60_000, 25, 5),
        ClosedCounted(NUMBER, 30, 7),
        Closed(NUMBER, BUYER, PROVIDER, 90_000, gross, stopped_lock + counted_lock - gross),
    ]


def test_replay_keeps_the_sum_at_every_step() -> None:
    events = life()
    for i in (1, *range(3, len(events) + 1)):  # Opened and OpenedCounted come together
        state = replay_orders(events[:i], PARAMS)
        assert state.held() == DEPOSIT.amount
        assert all(amount >= 0 for amount in (*state.balances.values(), *state.fees.values()))


def test_replay_pays_net_and_holds_the_fee() -> None:
    state = replay_orders(life(), PARAMS)
    time, counted = units.cost(RATE, 90_000), units.counted_cost(11, 13, 30, 7)
    fee = units.fee_of(time, 333) + units.fee_of(counted, 333)
    assert state.balances[PROVIDER] == time + counted - fee
    assert state.fees[PROVIDER] == fee
    assert state.balances[BUYER] == DEPOSIT.amount - time - counted
    assert state.capacity == {(PROVIDER, 7): 0}
    assert state.used == {(BUYER, Numbered.ORDERS, 42)}
    assert state.seats == {(OPENED.bid_hash, 0): (NUMBER, 0)}


def test_replay_frees_the_node_once_when_the_lease_is_no_longer_active() -> None:
    events, node = life(), (PROVIDER, 7)
    in_use = [replay_orders(events[:i], PARAMS).capacity[node] for i in range(len(events) + 1)]
    assert in_use == [0, 0, 1_000, 1_000, 1_000, 1_000, 0, 0, 0, 0]
    closed_at_once = [DEPOSIT, OPENED, Closed(NUMBER, BUYER, PROVIDER, 0, 0, OPENED.locked)]
    assert replay_orders(closed_at_once, PARAMS).capacity[node] == 0


def test_replay_pays_who_relays_a_call_from_the_accounts_balance() -> None:
    state = replay_orders([DEPOSIT, Relayed(BUYER, BOSS, 7, 11)], PARAMS)
    assert state.balances == {BUYER: DEPOSIT.amount - 11, BOSS: 11}
    assert state.used == {(BUYER, Numbered.CALLS, 7)}
    assert state.held() == DEPOSIT.amount


def test_replay_moves_what_a_purse_gets_and_gives_back() -> None:
    purse = "0x" + "77" * 20
    made = [DEPOSIT, PurseCreated(purse, BUYER, METER, 3, 20_000), PurseFunded(purse, BUYER, 90)]
    state = replay_orders(made, PARAMS)
    assert state.balances == {BUYER: DEPOSIT.amount - 90, purse: 90}
    state.take(PurseExpiryMoved(purse, 10_000))
    state.take(PurseSwept(purse, BUYER, 40))
    assert state.balances == {BUYER: DEPOSIT.amount - 50, purse: 50}
    assert (state.held(), state.used) == (DEPOSIT.amount, set())


def test_replay_moves_collected_fees_and_withdrawals() -> None:
    state = replay_orders(life(), PARAMS)
    fee, income = state.fees[PROVIDER], state.balances[PROVIDER]
    state.take(FeesCollected(PROVIDER, BOSS, fee))
    state.take(Withdrawn(PROVIDER, METER, income))
    assert (state.fees[PROVIDER], state.balances[BOSS], state.balances[PROVIDER]) == (0, fee, 0)
    assert state.held() == DEPOSIT.amount - income


def test_replay_counts_what_earlier_leases_of_a_bid_may_cost() -> None:
    second = replace(OPENED, lease_no=OTHER, ask_hash=b"\x03" * 32, locked=10)
    third = replace(OPENED, lease_no=b"\x0c" * 16, ask_hash=b"\x04" * 32, locked=10)
    closed = Closed(OTHER, BUYER, PROVIDER, 40_000, units.cost(RATE, 40_000), 1)
    stop = Stopped(NUMBER, BUYER, PROVIDER, 10_100, 0)
    state = replay_orders([DEPOSIT, OPENED, stop, second], PARAMS)
    first_cost = units.time_lock(RATE, 100)
    assert state.seats == {(OPENED.bid_hash, 0): (OTHER, first_cost)}
    state = replay_orders([DEPOSIT, OPENED, stop, second, closed, third], PARAMS)
    spent = first_cost + units.cost(RATE, 40_000)
    assert state.seats == {(OPENED.bid_hash, 0): (third.lease_no, spent)}
    assert state.used == {(BUYER, Numbered.ORDERS, 42)}


def test_a_top_up_moves_the_end_and_locks_more() -> None:
    more = units.time_lock(RATE, 900) - units.time_lock(RATE, 600)
    state = replay_orders(
        [DEPOSIT, OPENED, ToppedUp(NUMBER, BUYER, PROVIDER, 10_960, more)], PARAMS
    )
    lease = state.leases[NUMBER]
    assert (lease.start, lease.end, lease.funded) == (10_000, 10_960, 960)
    assert (lease.start_seconds, lease.paid_seconds) == (60, 900)
    assert lease.locked(PARAMS) == units.time_lock(RATE, 900)
    assert state.balances[BUYER] == DEPOSIT.amount - OPENED.locked - more


BARE = replace(OPENED, locked=units.time_lock(RATE, 600))


def test_seats_of_one_bid_are_kept_apart() -> None:
    one = replace(BARE, lease_no=OTHER, seat=1)  # of the same ask
    again = replace(BARE, lease_no=b"\x0c" * 16, seat=1, ask_hash=b"\x04" * 32)
    opening: list[ChainEvent] = [DEPOSIT, one, BARE]
    state = replay_orders(opening, PARAMS)
    seats = {(OPENED.bid_hash, 0): (NUMBER, 0), (OPENED.bid_hash, 1): (OTHER, 0)}
    assert state.seats == seats
    assert state.leases[OTHER].seat == 1
    stopped = Stopped(OTHER, BUYER, PROVIDER, 10_100, 0)
    opening += [stopped, MarkedAgain(OTHER, BUYER, PROVIDER), again]
    state = replay_orders(opening, PARAMS)
    spent = units.time_lock(RATE, 100)
    assert state.seats == {**seats, (OPENED.bid_hash, 1): (again.lease_no, spent)}


def test_cancels_of_one_order_and_of_all_older_are_kept_apart() -> None:
    orders = Numbered.ORDERS
    events = [
        Cancelled(BUYER, orders, 3, False), Cancelled(BUYER, orders, 9, True),
        Cancelled(BUYER, orders, 5, True),
    ]  # fmt: skip
    state = replay_orders(events, PARAMS)
    assert (state.cancelled, state.lowest) == ({(BUYER, orders, 3)}, {(BUYER, orders): 10})


def test_cancels_of_orders_and_of_calls_are_kept_apart() -> None:
    events = [
        Cancelled(BUYER, Numbered.CALLS, 3, False), Cancelled(BUYER, Numbered.ORDERS, 9, True),
        Cancelled(BUYER, Numbered.CALLS, 5, True),
    ]  # fmt: skip
    state = replay_orders(events, PARAMS)
    assert state.cancelled == {(BUYER, Numbered.CALLS, 3)}
    assert state.lowest == {(BUYER, Numbered.ORDERS): 10, (BUYER, Numbered.CALLS): 6}


def test_lease_numbers_are_those_touched() -> None:
    batch = Settled(PROVIDER, (SettledEntry(NUMBER, 1), SettledEntry(OTHER, 2)))
    assert lease_numbers(batch) == (NUMBER, OTHER)
    assert lease_numbers(OPENED) == (NUMBER,)
    assert lease_numbers(DEPOSIT) == ()
    assert lease_numbers(Cancelled(BUYER, Numbered.ORDERS, 3, False)) == ()
    assert lease_numbers(MarkedAgain(NUMBER, BUYER, PROVIDER)) == (NUMBER,)


def any_value(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of an event's field, by the field's annotation."""
    if kind == tuple[SettledEntry, ...]:
        numbers = st.binary(min_size=16, max_size=16)
        entries = st.builds(SettledEntry, numbers, *[st.integers(0, 2**40 - 1)] * 3)
        return st.lists(entries, max_size=3).map(tuple)
    values: dict[Any, st.SearchStrategy[Any]] = {
        str: st.just(BUYER), bytes: st.binary(min_size=1, max_size=32),
        bool: st.booleans(), int: st.integers(0, 2**256 - 1),
    }  # fmt: skip
    return values[kind]


def any_event(kind: type[ChainEvent]) -> st.SearchStrategy[ChainEvent]:
    return st.builds(kind, *(any_value(field.type) for field in fields(kind)))


@given(event=st.sampled_from(list(KINDS.values())).flatmap(any_event))
def test_an_event_survives_json(event: ChainEvent) -> None:
    text = json.dumps(event_to_json(event))
    assert event_from_json(type(event).__name__, json.loads(text)) == event


def test_json_numbers_beyond_doubles_are_strings() -> None:
    assert event_to_json(Deposited(BUYER, 2**53))["amount"] == str(2**53)
    assert event_to_json(Deposited(BUYER, 2**53 - 1))["amount"] == 2**53 - 1


def test_unknown_events_and_missing_fields_are_refused() -> None:
    with pytest.raises(FieldError, match="not an event of the escrow"):
        event_from_json("Transfer", {})
    with pytest.raises(FieldError, match="/amount: missing"):
        event_from_json("Deposited", {"account": BUYER})
    assert len(KINDS) == 18
    assert set(KINDS) == {kind.__name__ for kind in KINDS.values()}
