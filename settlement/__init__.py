"""Settlement on chain: orders, signatures, contracts, and the processes that keep them in step.

py_ecc, which eth_account and web3 import, lets Python recurse 100,000 levels deep: the C stack ends
long before, and the process with it. It is imported here first and the limit put back, so that no
later import raises it.
"""

import sys

_before = sys.getrecursionlimit()

import py_ecc  # noqa: E402, F401

sys.setrecursionlimit(_before if _before < 100_000 else 1_000)
