"""The desk signs for its own leases only, remembers what it signed, and survives restarts."""

import shutil
from typing import Any
from unittest.mock import Mock

import pytest

from marketplace.domain.life import Outcome
from marketplace.limits import STOP_SECONDS
from marketplace.witness.policy import Mark, WitnessRefusal
from settlement.attestation import MeteredUsage
from settlement.consent import AccountReads
from settlement.errors import ChainUnavailable, WrongChain
from settlement.leases import LeaseStatus, LeaseView, Unlike
from settlement.signing import sign, verify
from tests.factories import shown_lease
from tests.unit.witness.conftest import (
    BUYER,
    DOMAIN,
    OPENED,
    PROVIDER,
    STRANGER,
    WITNESS,
    Lease,
    Stage,
    retried_on,
)

DONE = Outcome.SUCCEEDED
EVENTS = ((), ("interruption",), ("error",), ("interruption", "error"))
RETRIED_ON = {Outcome.LOST: "interruption", Outcome.FAILED: "error"}
AGAIN = [
    (events, outcome, RETRIED_ON.get(outcome or Outcome.LOST) in events)
    for events in EVENTS
    for outcome in (None, *Outcome)
]
"""For what a job is retried, what its agent reported (None: nothing), whether it goes on."""


def accepted(answer: Any) -> tuple[Any, bytes]:
    assert not isinstance(answer, WitnessRefusal), answer
    return answer


def test_voucher_is_signed_for_what_was_watched(stage: Stage) -> None:
    desk = stage.running()
    stage.time.go(5_000)
    voucher, signature = accepted(desk.countersign(*stage.lease.reading(1, 5_000), 5))
    assert voucher == stage.lease.voucher(5_000)[0]
    verify(voucher, DOMAIN, signature, WITNESS.address)
    assert desk.mark(stage.lease.number) == Mark(1, 5_000, 0, 0)


def test_metered_lease_gets_a_metered_voucher(stage: Stage) -> None:
    stage.lease = Lease(changes={"egress_mib": 9})
    bid = stage.lease.bid
    desk = stage.running()
    voucher, _ = accepted(desk.countersign(*stage.lease.reading(1, 0, egress_mib=3), 1))
    assert voucher == MeteredUsage(bid.buyer, stage.lease.ask.provider, stage.lease.number, 0, 3, 0)


def test_unknown_lease_is_not_signed_for(stage: Stage) -> None:
    desk = stage.desk()
    assert desk.countersign(*stage.lease.reading(0, 0), 0) is WitnessRefusal.UNKNOWN_JOB
    assert desk.sign_close(*stage.lease.closing(0), 0, DONE) is WitnessRefusal.UNKNOWN_JOB
    assert desk.sign_stop(stage.lease.number, "lost", None) is WitnessRefusal.UNKNOWN_JOB


def test_refused_lease_is_remembered_until_its_buyer_is_added(stage: Stage) -> None:
    stage.lease = Lease(changes={"buyer": STRANGER.address})
    papers = stage.lease.papers(bid_signature=sign(stage.lease.bid, DOMAIN, STRANGER))
    desk = stage.desk()
    assert desk.refused(stage.lease.number) is None
    assert desk.admit(papers) is WitnessRefusal.UNKNOWN_JOB
    assert desk.refused(stage.lease.number) is WitnessRefusal.UNKNOWN_JOB
    desk.witness_for([BUYER.address])
    assert desk.refused(stage.lease.number) is WitnessRefusal.UNKNOWN_JOB
    desk.witness_for([STRANGER.address.lower()])
    assert desk.refused(stage.lease.number) is None
    assert desk.admit(papers) is None


def test_bid_its_buyer_did_not_sign_is_not_admitted(stage: Stage) -> None:
    forged = sign(stage.lease.bid, DOMAIN, STRANGER)
    desk = stage.desk()
    assert desk.admit(stage.lease.papers(bid_signature=forged)) is WitnessRefusal.UNCHECKED_BUYER
    assert desk.refused(stage.lease.number) is WitnessRefusal.UNCHECKED_BUYER
    assert not desk.knows(stage.lease.number)


@pytest.mark.parametrize(
    ("says", "refusal"),
    [(True, None), (False, WitnessRefusal.BAD_SIGNATURE)],
    ids=["signed", "not"],
)
def test_bid_of_a_contract_is_admitted_where_it_says_that_it_signed(
    stage: Stage, says: bool, refusal: WitnessRefusal | None
) -> None:
    reads = Mock(spec=AccountReads)
    reads.accepts_signature.return_value = says
    reads.purse.return_value = None
    desk = stage.desk(reads=reads)
    assert desk.admit(stage.lease.papers(bid_signature=b"any bytes")) is refusal
    asked = (BUYER.address, stage.lease.bid.digest(DOMAIN), b"any bytes")
    reads.accepts_signature.assert_called_once_with(*asked)
    assert desk.knows(stage.lease.number) is says


def test_bid_of_a_contract_is_asked_for_again_when_the_chain_is_back(stage: Stage) -> None:
    reads = Mock(spec=AccountReads)
    reads.accepts_signature.side_effect = [ChainUnavailable("away"), True]
    desk = stage.desk(reads=reads)
    papers = stage.lease.papers(bid_signature=b"any bytes")
    assert desk.admit(papers) is WitnessRefusal.UNCHECKED_BUYER
    assert desk.refused(stage.lease.number) is None
    assert desk.admit(papers) is None


def test_a_lease_that_was_dismissed_is_signed_for_no_more(stage: Stage) -> None:
    desk = stage.running()
    desk.dismiss(stage.lease.number, WitnessRefusal.BAD_SIGNATURE)
    assert desk.refused(stage.lease.number) is WitnessRefusal.BAD_SIGNATURE
    assert desk.countersign(*stage.lease.reading(1, 1_000), 1) is WitnessRefusal.UNKNOWN_JOB


def test_lease_number_of_other_orders_is_not_admitted(stage: Stage) -> None:
    other = Lease(changes={"salt": 99})
    papers = stage.lease.papers(lease_no=other.number)
    assert stage.desk().admit(papers) is WitnessRefusal.OTHER_LEASE


def test_another_job_than_the_one_whose_hash_the_buyer_signed_is_not_admitted(
    stage: Stage,
) -> None:
    desk = stage.desk()
    retried = stage.lease.papers(spec=retried_on("error", "interruption"))
    assert desk.admit(retried) is WitnessRefusal.OTHER_JOB
    assert not desk.knows(stage.lease.number)
    assert desk.refused(stage.lease.number) is WitnessRefusal.OTHER_JOB


def test_reading_the_meter_did_not_sign_is_refused(stage: Stage) -> None:
    desk = stage.running()
    answer = desk.countersign(*stage.lease.reading(1, 10, meter=STRANGER), 1)
    assert answer is WitnessRefusal.BAD_SIGNATURE
    assert (
        desk.sign_close(*stage.lease.closing(0, meter=STRANGER), 1, DONE)
        is WitnessRefusal.BAD_SIGNATURE
    )


def test_reading_ahead_of_the_watch_is_refused_until_time_has_passed(stage: Stage) -> None:
    desk = stage.running()
    early = stage.lease.reading(1, 10_000)
    stage.time.go(5_000)
    assert desk.countersign(*early, 5) is WitnessRefusal.AHEAD_OF_CLOCK
    stage.time.go(5_000)
    accepted(desk.countersign(*early, 10))


def test_watch_that_starts_with_late_news_covers_the_time_it_was_under_way(stage: Stage) -> None:
    ready = stage.lease.reading(0, 0, observed_at_ms=stage.time.unix)
    stage.time.go(9_000)  # nothing came through for nine seconds, then everything at once
    desk = stage.admitted()
    accepted(desk.countersign(*ready, 1))
    accepted(desk.countersign(*stage.lease.reading(9, 9_000, observed_at_ms=stage.time.unix), 9))


def test_late_news_is_believed_for_no_longer_than_a_job_runs_unseen(stage: Stage) -> None:
    stage.time.go(3_600_000)
    desk = stage.admitted()
    accepted(desk.countersign(*stage.lease.reading(0, 0, observed_at_ms=OPENED * 1000), 1))
    answer = desk.countersign(*stage.lease.reading(1, 60_000, observed_at_ms=stage.time.unix), 2)
    assert answer is WitnessRefusal.AHEAD_OF_CLOCK


def test_silent_job_is_not_signed_for(stage: Stage) -> None:
    desk = stage.running()
    stage.time.go(10_000)
    desk.watch(stage.lease.number, 10)
    stage.time.go(60_000)
    assert desk.countersign(*stage.lease.reading(1, 70_000), 10) is WitnessRefusal.NO_HEARTBEAT
    accepted(desk.countersign(*stage.lease.reading(1, 70_000), 11))


def test_same_reading_again_gives_the_same_signature(stage: Stage) -> None:
    desk = stage.running()
    stage.time.go(1_000)
    first = accepted(desk.countersign(*stage.lease.reading(1, 1_000), 1))
    assert accepted(desk.countersign(*stage.lease.reading(1, 1_000), 1)) == first


def test_other_value_at_a_signed_sequence_is_refused(stage: Stage) -> None:
    desk = stage.running()
    stage.time.go(9_000)
    accepted(desk.countersign(*stage.lease.reading(1, 1_000), 9))
    assert desk.countersign(*stage.lease.reading(1, 2_000), 9) is WitnessRefusal.SEQUENCE_USED
    assert desk.countersign(*stage.lease.reading(0, 2_000), 9) is WitnessRefusal.SEQUENCE_USED


def test_close_is_signed_once(stage: Stage) -> None:
    desk = stage.running()
    stage.time.go(9_000)
    first = desk.sign_close(*stage.lease.closing(8_000), 9, DONE)
    assert isinstance(first, bytes)
    verify(stage.lease.closing(8_000)[0], DOMAIN, first, WITNESS.address)
    assert desk.sign_close(*stage.lease.closing(8_000), 9, DONE) == first
    assert desk.sign_close(*stage.lease.closing(9_000), 9, DONE) is WitnessRefusal.ALREADY_CLOSED
    assert desk.countersign(*stage.lease.reading(1, 9_000), 9) is WitnessRefusal.SEQUENCE_USED


@pytest.mark.parametrize(("events", "outcome", "goes_on"), AGAIN)
def test_close_says_again_as_the_jobs_terms_do_or_is_refused_before_the_journal_is_touched(
    stage: Stage, events: tuple[str, ...], outcome: Outcome | None, goes_on: bool
) -> None:
    stage.lease = Lease(retried_on(*events)) if events else Lease()
    desk = stage.running()
    stage.time.go(9_000)
    expected = goes_on and outcome is not None  # nothing reported: nothing that a Close could say
    wrong = stage.lease.closing(8_000, again=not expected)
    assert desk.sign_close(*wrong, 9, outcome) is WitnessRefusal.AGAIN_DIFFERS
    assert desk.mark(stage.lease.number) == Mark(0, 0, 0, 0)
    accepted(desk.countersign(*stage.lease.reading(1, 8_000), 9))
    close, of_meter = stage.lease.closing(8_000, again=expected)
    signature = desk.sign_close(close, of_meter, 9, outcome)
    assert isinstance(signature, bytes)
    verify(close, DOMAIN, signature, WITNESS.address)


def test_close_beyond_the_watch_is_refused(stage: Stage) -> None:
    desk = stage.running()
    stage.time.go(1_000)
    assert desk.sign_close(*stage.lease.closing(60_000), 1, DONE) is WitnessRefusal.AHEAD_OF_CLOCK


def test_stop_of_a_lost_lease_is_signed_at_once(stage: Stage) -> None:
    desk = stage.running()
    stop, signature = accepted(desk.sign_stop(stage.lease.number, "lost", None))
    assert stop.lease_no == stage.lease.number
    assert stop.deadline == stage.time.unix // 1000 + STOP_SECONDS
    verify(stop, DOMAIN, signature, WITNESS.address)


@pytest.mark.parametrize("events", EVENTS)
def test_stop_says_again_only_if_the_job_is_retried_after_such_an_end(
    stage: Stage, events: tuple[str, ...]
) -> None:
    stage.lease = Lease(retried_on(*events)) if events else Lease()
    desk, number = stage.admitted(), stage.lease.number
    for outcome, goes_on in ((at, on) for of, at, on in AGAIN if of == events):
        for reason in ("lost", "start_limit", "unwitnessed"):
            stop, _ = accepted(desk.sign_stop(number, reason, outcome))
            assert stop.again is goes_on
        answer = desk.sign_stop(number, "retry", outcome)
        if goes_on:
            stop, signature = accepted(answer)
            assert stop.again
            verify(stop, DOMAIN, signature, WITNESS.address)
        else:
            assert answer is WitnessRefusal.NOT_RETRIED


def test_after_a_close_that_ends_the_job_no_stop_says_again(stage: Stage) -> None:
    """Whatever a market says of the outcome later."""
    stage.lease = Lease(retried_on("error", "interruption"))
    desk, lease = stage.admitted(), stage.lease
    close, by_meter = lease.closing(0)
    assert isinstance(desk.sign_close(close, by_meter, 0, Outcome.SUCCEEDED), bytes)
    assert desk.sign_stop(lease.number, "retry", Outcome.FAILED) is WitnessRefusal.NOT_RETRIED
    stop, _ = accepted(desk.sign_stop(lease.number, "lost", None))
    assert not stop.again


def test_stop_of_a_cancelled_job_never_says_again(stage: Stage) -> None:
    stage.lease = Lease(retried_on("interruption", "error"))
    desk = stage.running()
    assert desk.sign_stop(stage.lease.number, "cancelled", None) is WitnessRefusal.NOT_YET
    stage.time.go(20_000)
    for outcome in (None, *Outcome):
        stop, _ = accepted(desk.sign_stop(stage.lease.number, "cancelled", outcome))
        assert not stop.again


def test_cancelled_job_is_given_time_to_close(stage: Stage) -> None:
    desk = stage.running()
    assert desk.sign_stop(stage.lease.number, "cancelled", None) is WitnessRefusal.NOT_YET
    stage.time.go(19_999)
    assert desk.sign_stop(stage.lease.number, "cancelled", None) is WitnessRefusal.NOT_YET
    stage.time.go(1)
    accepted(desk.sign_stop(stage.lease.number, "cancelled", None))


def test_restart_keeps_the_mark_and_the_watch(stage: Stage) -> None:
    desk = stage.running()
    stage.time.go(5_000)
    accepted(desk.countersign(*stage.lease.reading(1, 5_000), 5))
    stage.time.go(4_000)
    stage.time.monotonic = 77  # another process, another monotonic clock
    desk = stage.desk()
    assert desk.mark(stage.lease.number) == Mark(1, 5_000, 0, 0)
    assert desk.admit(stage.lease.papers()) is None
    assert desk.countersign(*stage.lease.reading(1, 6_000), 9) is WitnessRefusal.SEQUENCE_USED
    assert desk.countersign(*stage.lease.reading(2, 60_000), 9) is WitnessRefusal.AHEAD_OF_CLOCK
    accepted(desk.countersign(*stage.lease.reading(2, 9_000), 9))


def test_wall_clock_set_back_across_a_restart_gives_no_credit(stage: Stage) -> None:
    desk = stage.running()
    stage.time.go(5_000)
    accepted(desk.countersign(*stage.lease.reading(1, 5_000), 5))
    stage.time.unix = OPENED * 1000
    desk = stage.admitted()
    assert desk.countersign(*stage.lease.reading(2, 9_000), 9) is WitnessRefusal.AHEAD_OF_CLOCK


def test_witness_without_a_journal_believes_a_grace_only(stage: Stage) -> None:
    stage.time.go(600_000)
    desk = stage.admitted()
    assert desk.countersign(*stage.lease.reading(9, 600_000), 600) is WitnessRefusal.AHEAD_OF_CLOCK
    accepted(desk.countersign(*stage.lease.reading(9, 15_000), 601))


def test_restored_old_journal_learns_what_it_signed(stage: Stage) -> None:
    desk = stage.running()
    stage.time.go(5_000)
    voucher, signature = accepted(desk.countersign(*stage.lease.reading(1, 5_000), 5))
    restored = stage.desk("other.db")
    assert restored.mark(stage.lease.number) == Mark()
    assert restored.admit(stage.lease.papers()) is None
    assert restored.adopt(stage.lease.number, 1, voucher, signature) is None
    assert restored.mark(stage.lease.number) == Mark(1, 5_000, 0, 0)
    assert restored.countersign(*stage.lease.reading(1, 5_001), 5) is WitnessRefusal.SEQUENCE_USED
    assert restored.countersign(*stage.lease.reading(2, 4_000), 5) is WitnessRefusal.WENT_BACK


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"signer": STRANGER}, WitnessRefusal.BAD_SIGNATURE),
        ({"lease_no": bytes(15) + b"\1"}, WitnessRefusal.OTHER_LEASE),
        ({"buyer": STRANGER.address}, WitnessRefusal.OTHER_PARTIES),
        ({"provider": STRANGER.address}, WitnessRefusal.OTHER_PARTIES),
    ],
)
def test_voucher_of_another_key_or_lease_is_not_adopted(
    stage: Stage, changes: dict[str, Any], refusal: WitnessRefusal
) -> None:
    stage.time.go(3_600_000)
    desk, voucher = stage.desk(), stage.lease.voucher(3_600_000)
    assert desk.adopt(stage.lease.number, 1, *voucher) is WitnessRefusal.UNKNOWN_JOB
    assert desk.admit(stage.lease.papers()) is None
    wrong = stage.lease.voucher(3_600_000, **changes)
    assert desk.adopt(stage.lease.number, 1, *wrong) is refusal
    assert desk.mark(stage.lease.number) == Mark()
    assert desk.countersign(*stage.lease.reading(2, 3_600_000), 9) is WitnessRefusal.AHEAD_OF_CLOCK


def test_watch_after_an_adopted_voucher_is_no_longer_than_the_lease_is_open(stage: Stage) -> None:
    stage.time.go(10_000)
    desk = stage.admitted()
    assert desk.adopt(stage.lease.number, 1, *stage.lease.voucher(8_000)) is None
    assert desk.countersign(*stage.lease.reading(2, 20_000), 20) is WitnessRefusal.AHEAD_OF_CLOCK
    accepted(desk.countersign(*stage.lease.reading(2, 10_000), 21))


def test_watch_starts_with_the_first_reading_not_before(stage: Stage) -> None:
    desk = stage.admitted()
    desk.watch(stage.lease.number, 1)
    stage.time.go(300_000)
    desk.watch(stage.lease.number, 300)
    accepted(desk.countersign(*stage.lease.reading(0, 0), 300))
    assert desk.countersign(*stage.lease.reading(1, 300_000), 301) is WitnessRefusal.AHEAD_OF_CLOCK


def test_copied_journal_is_whole(stage: Stage) -> None:
    desk = stage.running()
    desk.close()
    shutil.copy(stage.folder / "journal.db", stage.folder / "copy.db")
    assert stage.desk("copy.db").mark(stage.lease.number) == Mark(0, 0, 0, 0)


class Node:
    """The witness's own node: it shows the lease, changed as a test says, or raises."""

    def __init__(self, stage: Stage, *answers: dict[str, Any] | Exception) -> None:
        self.opened = stage.lease.papers().opened
        self.answers = list(answers)
        self.asked: list[tuple[str, str, str, bytes]] = []

    def __call__(self, *names: Any) -> LeaseView:
        self.asked.append(names)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return shown_lease(self.opened, start=OPENED, **answer)


def test_a_lease_that_the_chain_shows_is_looked_up_once(stage: Stage) -> None:
    node = Node(stage, {})
    desk = stage.desk(shows=node)
    assert desk.admit(stage.lease.papers()) is None
    accepted(desk.countersign(*stage.lease.reading(0, 0), 0))
    stage.time.go(2_000)
    accepted(desk.countersign(*stage.lease.reading(1, 2_000), 2))
    assert node.asked == [(BUYER.address, PROVIDER.address, WITNESS.address, stage.lease.number)]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rate": 1}, "chain_rate_differs"),
        ({"paid_seconds": 10**7}, "chain_paid_time_differs"),
        ({"start_seconds": 9_999}, "chain_start_limit_differs"),
        ({"node": 77}, "chain_node_differs"),
        ({"gpu_milli": 1}, "chain_gpus_differ"),
        ({"metered": True}, "chain_counted_differs"),
    ],
)
def test_a_lease_that_the_chain_shows_otherwise_is_refused_for_good(
    stage: Stage, changes: dict[str, Any], code: str
) -> None:
    node = Node(stage, changes)
    desk = stage.desk(shows=node)
    assert desk.admit(stage.lease.papers()) == code
    assert desk.refused(stage.lease.number) == code
    assert desk.countersign(*stage.lease.reading(0, 0), 0) is WitnessRefusal.UNKNOWN_JOB
    assert desk.sign_close(*stage.lease.closing(0), 0, DONE) is WitnessRefusal.UNKNOWN_JOB
    assert desk.sign_stop(stage.lease.number, "lost", None) is WitnessRefusal.UNKNOWN_JOB
    assert desk.mark(stage.lease.number) == Mark()  # nothing is put down


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (ChainUnavailable("away"), "unchecked_lease"),
        (WrongChain("another"), "unchecked_lease"),
        ({"status": LeaseStatus.NONE}, "not_on_chain"),
    ],
    ids=["no answer", "wrong chain", "not there"],
)
def test_a_lease_that_the_chain_does_not_show_yet_is_looked_up_again(
    stage: Stage, first: Any, code: str
) -> None:
    desk = stage.desk(shows=Node(stage, first, {}))
    assert desk.admit(stage.lease.papers()) == code
    assert desk.refused(stage.lease.number) is None
    assert not desk.knows(stage.lease.number)
    assert desk.admit(stage.lease.papers()) is None


def test_papers_that_name_another_lease_ask_no_node(stage: Stage) -> None:
    node = Node(stage)
    desk = stage.desk(shows=node)
    assert desk.admit(stage.lease.papers(seat=1)) is WitnessRefusal.OTHER_LEASE
    assert node.asked == []


def test_when_a_lease_opened_is_the_chains_word(stage: Stage) -> None:
    said_early = stage.lease.papers(opened_unix=OPENED - 3_600)
    desk = stage.desk(shows=Node(stage, {}))
    assert desk.admit(said_early) is None
    reading = stage.lease.reading(0, 60_000)
    assert desk.countersign(*reading, 0) is WitnessRefusal.AHEAD_OF_CLOCK
    trusting = stage.desk("other.db")
    assert trusting.admit(said_early) is None
    assert trusting.countersign(*stage.lease.reading(0, 20_000), 0) is not None


def test_every_difference_has_a_refusal_of_its_own() -> None:
    assert {code.value for code in Unlike} <= {code.value for code in WitnessRefusal}
