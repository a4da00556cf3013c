import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marketplace.agent.courier import Courier
from marketplace.agent.errors import AgentJournalConflict
from marketplace.agent.journal import Ending, Phase
from marketplace.domain.life import Outcome
from marketplace.sdk import Attestation
from marketplace.sdk.errors import Conflict, TransportError
from settlement.attestation import Close, UsageAttestation
from settlement.signing import LocalSigner, sign
from tests.fakes_agent import DOMAIN, statement
from tests.fakes_agent import Desk as HeldDesk
from tests.wire_samples import sample

SILENT = Ending(Outcome.FAILED, "witness_silent", signs_stop=True)
DONE = Ending(Outcome.SUCCEEDED, "completed", 0)


class Desk(HeldDesk):
    """A lease in hand without a job: only its courier works."""

    def __init__(self, tmp_path: Path, **lease: Any) -> None:
        super().__init__(tmp_path, **lease)
        self.again()

    def again(self, recovered: bool = False) -> None:
        """Another courier, which has sent nothing yet."""
        self.courier = Courier(self.lease, recovered)

    def run(self) -> None:
        self.courier.run(lambda: False)

    @property
    def row(self) -> dict[str, Any]:
        """The lease on the market."""
        return self.market.leases[self.id]

    def reported(self) -> tuple[str, str]:
        """Outcome and reason as the market hears them in the end."""
        self.run()
        report = self.market.finished[self.id]
        return report["outcome"], report["reason"]


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    desk = Desk(tmp_path, **getattr(request, "param", {}))
    yield desk
    desk.close()


RETRIED = {"job": {"retry": {"on_events": ["error"], "duration": "1h"}}}
retried = pytest.mark.parametrize("desk", [{}, RETRIED], indirect=True, ids=["once", "retried"])


def closes_as_reported(desk: Desk) -> bool:
    """Whether the Close that the market has says again just if the reported end is retried."""
    report = desk.market.finished[desk.id]
    close = Close.from_message(report["close"]["message"])
    return close.again is ("error" in desk.entry.retry_on and report["outcome"] == "failed")


def test_what_is_journaled_arrives_in_order_and_once(desk: Desk) -> None:
    desk.attest(0, 10, 20)
    desk.logs.stdout.append(b"hello\n")
    desk.lease.beats = (3, 1.5)
    assert desk.courier.step() is False
    assert desk.courier.step() is False
    assert [a.ms for a in desk.market.taken(desk.id)] == [0, 10, 20]
    assert desk.market.text(desk.id, "stdout") == "hello\n"
    assert desk.market.beats[desk.id] == [3]


def test_a_server_that_is_away_gets_the_same_bytes_later(desk: Desk) -> None:
    desk.attest(0)
    signature = desk.pen.final()[1]
    desk.market.down = True
    with pytest.raises(TransportError):
        desk.courier.step()
    desk.market.down = False
    desk.courier.step()
    assert desk.market.attestations[desk.id][0]["signature"] == "0x" + signature.hex()


@pytest.mark.parametrize(
    ("reason", "stops"), [("ahead_of_clock", False), ("outside_lease", True), ("not_open", True)]
)
def test_only_a_hopeless_refusal_stops_the_job(desk: Desk, reason: str, stops: bool) -> None:
    desk.market.refuse_with = reason
    desk.attest(0)
    desk.courier.step()
    assert (desk.lease.halt is not None) is stops
    assert desk.journal.unsent(desk.id) == []
    desk.courier.step()
    assert f"attestation 0: {reason}" in desk.market.text(desk.id, "agent")


def test_an_end_is_reported_with_outputs_and_everything_is_cleared(desk: Desk) -> None:
    (desk.folders.out / "result").write_text("42")
    desk.logs.stdout.append(b"x" * 100_000)
    desk.attest(5)
    desk.pen.conclude(DONE)
    desk.run()
    report = desk.market.finished[desk.id]
    assert (report["outcome"], report["exit_code"]) == ("succeeded", 0)
    assert report["outputs"] in desk.market.blobs
    assert len(desk.market.text(desk.id, "stdout")) == 100_000
    assert desk.now.phase == "done"
    assert not desk.folders.root.exists()


def test_usage_that_comes_up_while_other_things_are_sent_goes_before_the_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole_job() -> None:
        monkeypatch.undo()
        desk.attest(0, 10)
        desk.pen.conclude(DONE)

    monkeypatch.setattr(desk.courier, "_send_beats", whole_job)
    assert desk.courier.step() is False
    assert desk.market.finished == {}
    assert desk.reported() == ("succeeded", "completed")
    assert [a.ms for a in desk.market.taken(desk.id)][:2] == [0, 10]


@retried
def test_outputs_too_large_to_keep_fail_the_job(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace.sdk.archive.PACKED_BYTES_MAX", 1000)
    (desk.folders.out / "noise").write_bytes(os.urandom(5000))
    desk.pen.conclude(DONE)
    assert desk.reported() == ("failed", "outputs_too_large")
    assert desk.market.finished[desk.id]["outputs"] is None
    assert closes_as_reported(desk)
    assert "outputs: the packed archive exceeds" in desk.market.text(desk.id, "agent")


@retried
def test_over_budget_that_the_server_does_not_see_is_a_failure(desk: Desk) -> None:
    desk.market.refuse_finish["over_budget"] = (422, "invalid_request")
    desk.attest(5)
    desk.pen.conclude(Ending(Outcome.OVER_BUDGET, "budget"))
    assert desk.reported() == ("failed", "budget")
    assert closes_as_reported(desk)


@pytest.mark.parametrize(
    "refusal", [(422, "invalid_request"), (422, "idempotency_mismatch"), (409, "conflict")]
)
def test_a_report_refused_for_good_is_left_to_the_server(
    desk: Desk, refusal: tuple[int, str]
) -> None:
    desk.market.refuse_finish["succeeded"] = refusal
    desk.pen.conclude(DONE)
    if refusal[0] == 409:  # a conflict with another final report, and not with the lease's state
        close, signature = desk.pen.close()
        other = {"message": close.to_message(), "meter_signature": "0x" + signature.hex()}
        desk.row["final"] = other
    desk.courier.step()
    assert desk.now.phase == "reported"
    desk.row["state"] = "stopped"
    assert desk.courier.step() is True
    assert desk.now.phase == "done"


def conflict_while_the_lease_reopens(desk: Desk) -> None:
    desk.row["state"] = "opening"
    for _ in range(2):
        with pytest.raises(Conflict):
            desk.courier.step()
    desk.row["state"] = "active"


def test_a_report_refused_while_the_lease_reopens_is_sent_again(desk: Desk) -> None:
    desk.pen.conclude(DONE)
    conflict_while_the_lease_reopens(desk)
    assert desk.now.phase == "ended"
    assert desk.reported() == ("succeeded", "completed")


def test_a_stop_follows_where_no_witness_is_and_is_sent_again_if_the_lease_reopens(
    desk: Desk,
) -> None:
    desk.market.closing = False
    desk.pen.conclude(SILENT)
    desk.courier.step()
    assert desk.market.stops.pop(desk.id) == desk.pen.stop()[0]
    desk.again()  # it has sent no Stop yet
    conflict_while_the_lease_reopens(desk)
    desk.run()
    assert desk.market.stops[desk.id] == desk.pen.stop()[0]


def test_a_stop_refused_for_good_is_sent_once(desk: Desk) -> None:
    desk.market.closing, desk.market.refuse_stop = False, True
    desk.pen.conclude(SILENT)
    desk.courier.step()
    desk.market.refuse_stop = False
    desk.courier.step()
    assert desk.market.stops == {}
    desk.row["state"] = "closed"
    assert desk.courier.step() is True


def test_a_lease_closed_before_anyone_looked_leaves_its_last_voucher(desk: Desk) -> None:
    desk.attest(0, 5)
    desk.pen.conclude(DONE)
    desk.run()
    assert desk.paid == (5, 0)


@pytest.mark.parametrize("then", ["countersigned", "closed"])
def test_a_stopped_lease_is_watched_until_its_last_usage_is(desk: Desk, then: str) -> None:
    desk.market.countersigning = desk.market.closing = False
    desk.attest(0, 5)
    desk.pen.conclude(DONE)
    desk.row["state"] = "stopped"
    assert desk.courier.step() is False
    if then == "countersigned":
        desk.market.countersign(desk.id, 1)
    else:
        desk.row["state"] = then
    assert desk.courier.step() is True
    assert desk.now.phase == "done"
    assert desk.paid == ((5, 0) if then == "countersigned" else None)


def test_a_lease_the_server_does_not_know_is_given_up(desk: Desk) -> None:
    desk.pen.conclude(DONE)
    desk.courier.step()
    desk.journal.set_phase(desk.id, Phase.REPORTED)
    del desk.market.leases[desk.id]
    desk.run()
    assert desk.now.phase == "done"


def hold(desk: Desk, message: UsageAttestation, signer: LocalSigner | None = None) -> None:
    """Have the server hold a statement that the journal does not know."""
    signature = sign(message, DOMAIN, signer or desk.market.meter)
    row = {"sequence": message.sequence, "message": message.to_message()}
    shown = sample(Attestation, signature="0x" + signature.hex(), **row)
    desk.market.attestations[desk.id].append(shown)


def test_an_old_journal_learns_from_the_server_before_it_ends_anything(desk: Desk) -> None:
    desk.attest(0)
    for message, _ in desk.journal.unsent(desk.id):
        hold(desk, message)
    hold(desk, statement(desk.entry, 1, 9_000))
    hold(desk, statement(desk.entry, 2, 10**9), LocalSigner(b"\4" * 32))  # not by our key
    hold(desk, replace(statement(desk.entry, 2, 10**9), lease_no=b"o" * 16))  # not for this lease
    desk.again(recovered=True)
    desk.run()
    assert desk.now.close is not None
    assert desk.pen.close()[0].ms == 9_000


def test_a_server_that_holds_another_value_ends_all_signing(desk: Desk) -> None:
    desk.attest(7)
    first, _ = desk.journal.unsent(desk.id)[0]
    hold(desk, replace(first, ms=8))
    desk.again(recovered=True)
    with pytest.raises(AgentJournalConflict, match="another signed value"):
        desk.courier.step()
    desk.run()
    assert desk.now.close is None
    assert desk.market.finished == {}


def test_a_close_the_journal_lost_is_taken_over_not_signed_again(desk: Desk) -> None:
    desk.attest(5)
    desk.pen.conclude(DONE)
    desk.market.closing = False
    desk.courier.step()
    close, signature = desk.pen.close()
    lost = Desk(desk.node.jobs_folder.parent / "elsewhere")
    lost.row.update(desk.row)
    lost.market.attestations = {lost.id: desk.market.attestations[desk.id]}
    lost.again(recovered=True)
    lost.courier.step()
    assert lost.now.close == (close, signature)
    assert lost.now.phase == "reported"
    assert lost.market.finished == {}
    lost.close()
