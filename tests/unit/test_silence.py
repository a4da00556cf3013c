"""How long parties wait for each other; everyone who waits asks the same two functions."""

from __future__ import annotations

import pytest

from settlement.silence import silence_ms, unseen_ms


@pytest.mark.parametrize(
    ("interval_ms", "unseen", "silence"),
    [
        (1_000, 20_000, 20_000),
        (7_000, 20_000, 21_000),
        (10_000, 20_000, 30_000),
        (60_000, 120_000, 180_000),
    ],
)
def test_waiting_is_some_intervals_and_never_too_short(
    interval_ms: int, unseen: int, silence: int
) -> None:
    assert (unseen_ms(interval_ms), silence_ms(interval_ms)) == (unseen, silence)
