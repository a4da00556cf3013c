"""Hypothesis strategies for signed structs, derived from their schemas."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from settlement.attestation import Close, MeteredUsage, Stop, Usage, UsageAttestation
from settlement.eip712 import Domain, Struct, checksum
from settlement.orders import Ask, Bid, Cancel, Permit, Prices, Quote, TierLimit, TopUp, Withdraw

STRUCTS: tuple[type[Struct], ...] = (
    Ask, Bid, Quote, Prices, TierLimit, Cancel, Withdraw, TopUp,
    Usage, MeteredUsage, UsageAttestation, Stop, Close, Permit,
)  # fmt: skip

addresses = st.binary(min_size=20, max_size=20).map(lambda raw: checksum("0x" + raw.hex()))
domains = st.builds(Domain, st.integers(1, 2**63 - 1), addresses)


def values(kind: str, members: dict[str, type[Struct]]) -> st.SearchStrategy[Any]:
    """Any value of a Solidity type; the ends of integer ranges come up often."""
    if kind.startswith("uint"):
        most = 2 ** int(kind[4:]) - 1
        return st.sampled_from((0, 1, most - 1, most)) | st.integers(0, most)
    if kind == "address":
        return addresses
    if kind == "bool":
        return st.booleans()
    if kind.startswith("bytes"):
        return st.binary(min_size=int(kind[5:]), max_size=int(kind[5:]))
    if kind.endswith("[]"):
        return st.lists(structs_of(members[kind[:-2]]), max_size=3).map(tuple)
    return structs_of(members[kind])


def structs_of(kind: type[Struct]) -> st.SearchStrategy[Any]:
    """Any struct of one type."""
    return st.builds(kind, *(values(k, kind.members) for k, _ in kind.schema))


def any_struct() -> st.SearchStrategy[Struct]:
    """Any struct of any signed type."""
    return st.sampled_from(STRUCTS).flatmap(structs_of)
