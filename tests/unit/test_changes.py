"""Who waits for a change is told of it, once, and only of its topic."""

from marketplace.db.changes import EVERYTHING, ORDERS, OUTBOX, Changes, job_topic


def test_change_tells_those_who_wait_for_its_topic_once() -> None:
    changes, told = Changes(), []
    changes.subscribe(lambda: told.append("both"), ORDERS, OUTBOX)
    changes.subscribe(lambda: told.append("job"), job_topic("job_1"))
    changes.tell([ORDERS, OUTBOX])
    assert told == ["both"]
    changes.tell([job_topic("job_2")])
    assert told == ["both"]
    changes.tell([EVERYTHING])
    assert sorted(told) == ["both", "both", "job"]


def test_change_is_not_told_after_the_subscription_has_ended() -> None:
    changes, told = Changes(), []
    with changes.subscribed(lambda: told.append(1), ORDERS):
        changes.tell([ORDERS])
    changes.tell([ORDERS])
    assert told == [1]
