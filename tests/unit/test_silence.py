"""How long the parties of a lease wait for each other."""

import pytest

from settlement.silence import silence_ms, unseen_ms


@pytest.mark.parametrize(
    ("interval_s", "unseen_s", "silence_s"),
    [(1, 20, 20), (7, 20, 21), (10, 20, 30), (60, 120, 180)],
)
def test_parties_wait_for_some_intervals_and_at_least_20_seconds(
    interval_s: int, unseen_s: int, silence_s: int
) -> None:
    assert unseen_ms(interval_s * 1000) == unseen_s * 1000
    assert silence_ms(interval_s * 1000) == silence_s * 1000
