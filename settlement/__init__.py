"""Settlement on chain: orders, signatures, contracts, the relayer and the indexer.

eth_account and web3 import py_ecc, which raises Python's recursion limit to 100,000. The C stack
overflows long before that and kills the process. So this package imports py_ecc first and restores
the limit; a later import does not raise it again.
"""

import sys

_before = sys.getrecursionlimit()

import py_ecc  # noqa: E402, F401

sys.setrecursionlimit(_before if _before < 100_000 else 1_000)
