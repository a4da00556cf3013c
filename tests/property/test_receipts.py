"""Receipts add up to what the chain pays, whatever was used and however it was split."""

from hypothesis import given
from hypothesis import strategies as st

from marketplace.domain.receipt import ReceiptInput, charges_of, split
from settlement.orders import Prices
from settlement.units import Sizes, cost, counted_cost, fee_of
from settlement.usage import UsageVector

price = st.integers(0, 10**11)
prices = st.builds(Prices, price, price, price, price, price, price)
sizes = st.builds(
    Sizes,
    st.integers(0, 64_000),
    st.integers(0, 256_000),
    st.integers(0, 2**21),
    st.integers(0, 2**23),
)
usage = st.builds(
    UsageVector,
    ms=st.integers(0, 10**9),
    egress_mib=st.integers(0, 2**32 - 1),
    units=st.integers(0, 2**32 - 1),
)


@given(
    prices=prices,
    sizes=sizes,
    used=usage,
    fee_bps=st.integers(0, 1000),
    decimals=st.sampled_from((6, 18)),
)
def test_lines_fee_and_net_add_up_to_the_gross_the_chain_pays(
    prices: Prices, sizes: Sizes, used: UsageVector, fee_bps: int, decimals: int
) -> None:
    rate = prices.rate(sizes)
    time = cost(rate, used.ms, decimals)
    counted = counted_cost(prices.egress_gib, prices.unit, used.egress_mib, used.units, decimals)
    source = ReceiptInput(
        prices, sizes, "request", used, time + counted + 5, time + counted, 5, fee_bps, decimals
    )  # fmt: skip
    receipt = charges_of(source)
    assert receipt.gross == time + counted == sum(line.atoms for line in receipt.lines)
    assert receipt.fee == fee_of(time, fee_bps) + fee_of(counted, fee_bps)
    assert receipt.fee + receipt.net == receipt.gross
    assert receipt.conserved
    assert all(line.atoms >= 0 for line in receipt.lines)


@given(total=st.integers(0, 10**30), weights=st.lists(st.integers(0, 10**25), min_size=1))
def test_parts_add_up_and_are_within_one_of_their_share(total: int, weights: list[int]) -> None:
    whole = sum(weights)
    if whole == 0:
        total = 0
    parts = split(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * whole - total * weight) < max(1, whole)
