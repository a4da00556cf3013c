"""The Coulomb SDK: `Coulomb` for plain code, `AsyncCoulomb` for asyncio, one source for both.

`_async` is the source; `scripts/lib/unasync.py` writes `_sync` from it. What the API answers with
is in `marketplace.wire`.
"""

from marketplace.sdk._async.client import AsyncCoulomb
from marketplace.sdk._async.jobs import AsyncJobHandle
from marketplace.sdk._sync.client import Coulomb
from marketplace.sdk._sync.jobs import JobHandle
from marketplace.sdk.errors import *  # noqa: F403 - the tree is listed in errors.__all__
from marketplace.sdk.errors import __all__ as _errors
from marketplace.sdk.http import NO_RETRIES, RetryPolicy
from marketplace.sdk.patience import PASSING
from marketplace.sdk.session import Session
from marketplace.sdk.values import Act, Funds, Moved, Order, Unit

__all__ = [
    "NO_RETRIES",
    "PASSING",
    "Act",
    "AsyncCoulomb",
    "AsyncJobHandle",
    "Coulomb",
    "Funds",
    "JobHandle",
    "Moved",
    "Order",
    "RetryPolicy",
    "Session",
    "Unit",
    *_errors,
]
