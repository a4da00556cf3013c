"""The countersigned usage is what the witness signed, whatever the server says it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marketplace.agent.errors import ApiDown
from marketplace.agent.journal import AgentJournal
from marketplace.agent.meters import Reading
from marketplace.agent.node import HeldLease
from marketplace.agent.vouchers import Vouchers
from marketplace.sdk import Lease, Used
from settlement.attestation import MeteredUsage, Usage
from settlement.signing import LocalSigner, sign
from settlement.usage import UsageVector
from tests.factories import address
from tests.fakes_agent import DOMAIN, FakeMarket
from tests.wire_samples import changed

READING = Reading(at_ms=1)
STRANGER = LocalSigner(b"\6" * 32)


class Bench:
    """One lease with readings at 0, 1000 and 2000 ms that no one has countersigned."""

    def __init__(self, folder: Path, units: int = 0) -> None:
        self.market = FakeMarket(LocalSigner(b"\3" * 32))
        self.market.countersigning = False
        self.id = self.market.open_lease(["true"], units=units)
        self.journal = AgentJournal(folder / "journal.db")
        node = self.market.node(self.journal, folder)
        entry = self.market.assignment(node, self.id).entry
        self.journal.begin(entry)
        self.successor = lambda: Vouchers(node.api, self.journal, entry)
        self.vouchers = self.successor()
        self.pen = HeldLease(node, entry).attestor
        self.hand_in = lambda: node.api.attest(self.id, *self.pen.final())
        for ms in (0, 1_000, 2_000):
            self.pen.attest(UsageVector(ms=ms), READING)
            self.hand_in()

    @property
    def lease(self) -> Lease:
        return Lease.model_validate(self.market.leases[self.id])

    def answer(self, sequence: int, **changes: Any) -> None:
        """Put a voucher of the witness for something else in the place of the right one."""
        self.market.countersign(self.id, sequence)
        row = self.market.attestations[self.id][sequence]
        voucher = replace(Usage.from_message(row["voucher"]["message"]), **changes)
        signature = sign(voucher, DOMAIN, self.market.witness)
        row["voucher"] = {"message": voucher.to_message(), "signature": "0x" + signature.hex()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.journal.close()


def used(ms: int) -> Used:
    return Used(ms=ms, egress_mib=0, units=0)


def test_a_number_without_a_voucher_counts_for_nothing(bench: Bench) -> None:
    assert bench.vouchers.learn(changed(bench.lease, countersigned=used(2_000))) == 0
    assert bench.journal.voucher(bench.id) is None


def test_a_voucher_of_the_witness_counts_and_is_kept(bench: Bench) -> None:
    bench.market.countersign(bench.id, 1)
    assert bench.vouchers.learn(bench.lease) == 1_000
    bench.market.countersign(bench.id, 2)
    assert bench.vouchers.learn(bench.lease) == 2_000
    held = bench.market.attestations[bench.id][2]["voucher"]
    kept = bench.journal.voucher(bench.id)
    assert kept == (Usage.from_message(held["message"]), bytes.fromhex(held["signature"][2:]))


def test_a_voucher_of_a_metered_lease_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, units=7)
    bench.market.countersign(bench.id, 2)
    assert bench.vouchers.learn(bench.lease) == 2_000
    bench.journal.close()


def test_more_units_in_the_same_time_make_a_better_voucher(tmp_path: Path) -> None:
    bench = Bench(tmp_path, units=7)
    bench.market.countersign(bench.id, 2)
    bench.vouchers.learn(bench.lease)
    bench.pen.attest(UsageVector(ms=2_000, units=5), READING)
    bench.hand_in()
    bench.market.countersign(bench.id, 3)
    assert bench.vouchers.learn(bench.lease) == 2_000
    kept = bench.journal.voucher(bench.id)
    assert kept is not None
    assert isinstance(kept[0], MeteredUsage)
    assert kept[0].units == 5
    bench.journal.close()


def test_an_agent_started_anew_goes_on_from_the_voucher_in_its_journal(bench: Bench) -> None:
    bench.market.countersign(bench.id, 1)
    bench.vouchers.learn(bench.lease)
    bench.vouchers = bench.successor()
    bench.market.down = True  # there is nothing to ask for
    assert bench.vouchers.learn(bench.lease) == 1_000
    bench.market.down = False
    bench.market.countersign(bench.id, 2)
    assert bench.vouchers.learn(bench.lease) == 2_000


def test_a_voucher_of_another_key_does_not_count(bench: Bench) -> None:
    bench.market.countersign(bench.id, 1)
    bench.market.countersign(bench.id, 2, STRANGER)
    assert bench.vouchers.learn(bench.lease) == 1_000


@pytest.mark.parametrize(
    "changes", [{"lease_no": b"\1" * 16}, {"buyer": address(9)}, {"provider": address(9)}]
)
def test_a_voucher_for_another_lease_does_not_count(bench: Bench, changes: dict[str, Any]) -> None:
    bench.answer(2, **changes)
    assert bench.vouchers.learn(bench.lease) == 0


def test_a_voucher_that_cannot_be_read_does_not_count(bench: Bench) -> None:
    bench.market.countersign(bench.id, 2)
    bench.market.attestations[bench.id][2]["voucher"]["message"] = {"ms": "many"}
    with pytest.raises(ApiDown, match="voucher"):
        bench.vouchers.learn(bench.lease)
    assert bench.journal.voucher(bench.id) is None


def test_the_server_is_asked_only_where_it_speaks_of_more(bench: Bench) -> None:
    bench.market.countersign(bench.id, 1)
    assert bench.vouchers.learn(bench.lease) == 1_000
    bench.market.down = True
    assert bench.vouchers.learn(changed(bench.lease, countersigned=used(1_000))) == 1_000
