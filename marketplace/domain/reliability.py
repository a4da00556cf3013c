"""How reliable a provider has been, as a share of the leases that ended, in thousandths.

A newcomer counts as someone who kept 19 leases of 20: good enough for most jobs, and soon
outweighed by what it does itself.
"""

PRIOR_LEASES = 20
PRIOR_KEPT = 19


def reliability_milli(ended: int, broken: int) -> int:
    """The share of leases kept, rounded down, `broken` of `ended` having failed by its fault."""
    return (PRIOR_KEPT + ended - broken) * 1000 // (PRIOR_LEASES + ended)


NEWCOMER_MILLI = reliability_milli(0, 0)
