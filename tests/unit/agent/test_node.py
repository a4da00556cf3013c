"""A lease in hand: why its job stops, and that only what the witness signed counts."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marketplace.agent.node import Halt
from marketplace.domain.life import Outcome
from marketplace.sdk import Used
from marketplace.sdk.errors import ProtocolError
from settlement.attestation import MeteredUsage, Usage
from settlement.signing import LocalSigner, sign
from tests.factories import address
from tests.fakes_agent import DOMAIN, Desk
from tests.wire_samples import changed

ESCROW_PAGE = Path(__file__).resolve().parents[3] / "docs" / "escrow.md"
EXIT_QUERY = ESCROW_PAGE.read_text().partition('sqlite3 journal.db "')[2].partition('"\n')[0]
STRANGER = LocalSigner(b"\6" * 32)
SILENT = Halt(Outcome.FAILED, "witness_silent")


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def desk(tmp_path: Path, now: list[float], request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A lease with readings at 0, 1000 and 2000 ms that no one has countersigned."""
    desk = Desk(tmp_path, lambda: now[0], units=getattr(request, "param", 0))
    desk.market.countersigning = False
    for ms in (0, 1_000, 2_000):
        hand_in(desk, ms)
    yield desk
    desk.close()


metered = pytest.mark.parametrize("desk", [7], indirect=True, ids=["7 units"])


def hand_in(desk: Desk, ms: int, **usage: int) -> None:
    desk.attest(ms, **usage)
    desk.node.api.leases.attest(desk.id, *desk.pen.final())


def learn(desk: Desk) -> int:
    return desk.lease.learn(desk.shown)


def used(ms: int) -> Used:
    return Used(ms=ms, egress_mib=0, units=0)


def test_countersignatures_renew_the_grace_only_when_they_grow(
    desk: Desk, now: list[float]
) -> None:
    desk.lease.start_covering()
    for now[0] in (10.0, 17.5):
        desk.lease.cover(1000)
    assert desk.lease.uncovered_ms(1_000) == 7_500
    assert desk.lease.uncovered_ms(9_000) == 8_000


@pytest.mark.parametrize(
    ("changes", "halt"),
    [
        ({"stop_requested": "cancelled"}, Halt(Outcome.CANCELLED, "cancelled")),
        ({"stop_requested": "lost"}, Halt(Outcome.FAILED, "lost")),
        ({"state": "stopped"}, Halt(Outcome.FAILED, "lease_stopped")),
        ({"state": "closed", "stop_requested": "cancelled"}, Halt(Outcome.CANCELLED, "cancelled")),
        ({"state": "active"}, None),
        ({"state": "opening"}, None),
    ],
)
def test_what_the_server_says_becomes_a_halt(
    desk: Desk, changes: dict[str, str], halt: Halt | None
) -> None:
    desk.market.leases[desk.id].update(changes)
    desk.lease.observe(desk.shown)
    assert desk.lease.halt == halt


def test_what_is_paid_for_is_read_at_every_look(desk: Desk) -> None:
    assert desk.lease.paid_ms == 0
    for seconds in (300, 420):
        desk.market.leases[desk.id]["terms"]["paid_seconds"] = seconds
        desk.lease.observe(desk.shown)
        assert desk.lease.paid_ms == seconds * 1_000
    desk.lease.observe(changed(desk.shown, terms=None))  # as while a lease reopens
    assert desk.lease.paid_ms == 420_000


def test_the_first_halt_stands_and_wakes(desk: Desk) -> None:
    desk.lease.stop(SILENT)
    desk.lease.observe(changed(desk.shown, stop_requested="cancelled"))
    desk.lease.wait_for_halt(60)
    assert desk.lease.halt == SILENT


def test_a_number_without_a_voucher_counts_for_nothing(desk: Desk) -> None:
    assert desk.lease.learn(changed(desk.shown, countersigned=used(2_000))) == 0
    assert desk.now.voucher is None


def test_a_voucher_of_the_witness_counts_and_is_kept(desk: Desk, tmp_path: Path) -> None:
    for sequence in (1, 2):
        desk.market.countersign(desk.id, sequence)
        assert learn(desk) == sequence * 1_000
    held = desk.market.attestations[desk.id][2]["voucher"]
    kept = desk.now.voucher
    assert kept is not None
    assert kept.voucher == Usage.from_message(held["message"])
    assert kept.signature == bytes.fromhex(held["signature"][2:])
    with sqlite3.connect(tmp_path / "journal.db") as journal:
        ((message, signature),) = journal.execute(EXIT_QUERY.replace("$LEASE", desk.id))
    journal.close()
    assert (json.loads(message), signature) == (held["message"], held["signature"])


@metered
def test_more_units_in_the_same_time_make_a_better_voucher(desk: Desk) -> None:
    desk.market.countersign(desk.id, 2)
    assert learn(desk) == 2_000
    hand_in(desk, 2_000, units=5)
    desk.market.countersign(desk.id, 3)
    assert learn(desk) == 2_000
    kept = desk.now.voucher
    assert kept is not None
    assert isinstance(kept.voucher, MeteredUsage)
    assert kept.voucher.units == 5


def test_an_agent_started_anew_goes_on_from_the_voucher_in_its_journal(desk: Desk) -> None:
    desk.market.countersign(desk.id, 1)
    learn(desk)
    desk.start()
    shown, desk.market.down = desk.shown, True  # there is nothing to ask for
    assert desk.lease.learn(shown) == 1_000
    desk.market.down = False
    desk.market.countersign(desk.id, 2)
    assert learn(desk) == 2_000


def test_a_voucher_of_another_key_does_not_count(desk: Desk) -> None:
    desk.market.countersign(desk.id, 1)
    desk.market.countersign(desk.id, 2, STRANGER)
    assert learn(desk) == 1_000


@pytest.mark.parametrize(
    "changes", [{"lease_no": b"\1" * 16}, {"buyer": address(9)}, {"provider": address(9)}]
)
def test_a_voucher_for_another_lease_does_not_count(desk: Desk, changes: dict[str, Any]) -> None:
    desk.market.countersign(desk.id, 2)
    row = desk.market.attestations[desk.id][2]
    voucher = replace(Usage.from_message(row["voucher"]["message"]), **changes)
    signature = sign(voucher, DOMAIN, desk.market.witness)
    row["voucher"] = {"message": voucher.to_message(), "signature": "0x" + signature.hex()}
    assert learn(desk) == 0


def test_a_voucher_that_cannot_be_read_does_not_count(desk: Desk) -> None:
    desk.market.countersign(desk.id, 2)
    desk.market.attestations[desk.id][2]["voucher"]["message"] = {"ms": "many"}
    with pytest.raises(ProtocolError, match="voucher"):
        learn(desk)
    assert desk.now.voucher is None


def test_the_server_is_asked_only_where_it_speaks_of_more(desk: Desk) -> None:
    desk.market.countersign(desk.id, 1)
    assert learn(desk) == 1_000
    desk.market.down = True
    assert desk.lease.learn(changed(desk.shown, countersigned=used(1_000))) == 1_000
