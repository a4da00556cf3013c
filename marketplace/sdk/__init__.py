"""The Coulomb SDK: `Coulomb` for plain code, `AsyncCoulomb` for asyncio, one source for both.

`_async` is the source; the build writes `_sync` from it (`scripts/lib/unasync.py`). The classes of
the API's answers are those of `marketplace.wire`.
"""

from marketplace.sdk._async.client import AsyncCoulomb
from marketplace.sdk._async.jobs import AsyncJobHandle
from marketplace.sdk._sync.client import Coulomb
from marketplace.sdk._sync.jobs import JobHandle
from marketplace.sdk.errors import *  # noqa: F403 - the tree is listed in errors.__all__
from marketplace.sdk.errors import __all__ as _errors
from marketplace.sdk.http import NO_RETRIES, RetryPolicy
from marketplace.sdk.jobfile import PreparedJob
from marketplace.sdk.onchain import Funds, Moved, Unit
from marketplace.sdk.onpurse import MadePurse, PurseInfo
from marketplace.sdk.session import Act, Session
from marketplace.sdk.waiting import PASSING
from marketplace.wire.base import Money
from marketplace.wire.jobs import (
    Blob,
    Cost,
    Job,
    JobEvent,
    JobReceipt,
    LogPiece,
    Receipt,
    TopUpPlan,
)
from marketplace.wire.leases import Attestation, Lease, LeaseTerms, SignedVoucher, Used
from marketplace.wire.market import (
    Account,
    ApiKey,
    BookAsk,
    BookView,
    Gpu,
    Health,
    MarketConfig,
    NewApiKey,
    NewNode,
    Node,
    TierInfo,
)
from marketplace.wire.orders import (
    AskInfo,
    BidInfo,
    CancelledOrders,
    MatchingAsk,
    Plan,
    QuoteAnswer,
    RelayedCall,
    Transaction,
)
from marketplace.wire.problems import NoMatch, ProblemDocument

__all__ = [
    "NO_RETRIES", "PASSING", "Account", "Act", "ApiKey", "AskInfo", "AsyncCoulomb",
    "AsyncJobHandle", "Attestation", "BidInfo", "Blob", "BookAsk", "BookView", "CancelledOrders",
    "Cost", "Coulomb", "Funds", "Gpu", "Health", "Job", "JobEvent", "JobHandle", "JobReceipt",
    "Lease", "LeaseTerms", "LogPiece", "MadePurse", "MarketConfig", "MatchingAsk", "Money", "Moved",
    "NewApiKey", "NewNode", "NoMatch", "Node", "PreparedJob", "Plan", "ProblemDocument",
    "PurseInfo", "QuoteAnswer", "Receipt", "RelayedCall", "RetryPolicy", "Session", "SignedVoucher",
    "TierInfo", "TopUpPlan", "Transaction", "Unit", "Used",
    *_errors,
]  # fmt: skip
