"""How reliable a provider is said to be."""

import pytest

from marketplace.domain.reliability import NEWCOMER_MILLI, reliability_milli


@pytest.mark.parametrize(
    ("ended", "broken", "milli"),
    [
        (0, 0, 950),
        (1, 0, 952),
        (1, 1, 904),
        (20, 0, 975),
        (20, 1, 950),
        (200, 0, 995),
        (200, 200, 86),
    ],
)
def test_a_share_of_leases_kept_with_twenty_to_begin_with(
    ended: int, broken: int, milli: int
) -> None:
    assert reliability_milli(ended, broken) == milli


def test_newcomers_are_neither_perfect_nor_shut_out() -> None:
    assert NEWCOMER_MILLI == 950
