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
from marketplace.sdk.onchain import Funds, Moved, Unit
from marketplace.sdk.session import Session
from marketplace.sdk.values import Act, PreparedJob
from marketplace.sdk.waiting import PASSING
from marketplace.wire.asks import AskInfo
from marketplace.wire.base import Money
from marketplace.wire.bids import BidInfo, MatchingAsk, Plan, QuoteAnswer
from marketplace.wire.events import JobEvent, LogPiece
from marketplace.wire.explanation import NoMatch
from marketplace.wire.jobs import Cost, Job, TopUp
from marketplace.wire.keys import Account, ApiKey, NewApiKey
from marketplace.wire.leases import Lease, LeaseTerms
from marketplace.wire.market import BookAsk, BookView, Health, MarketConfig, TierInfo
from marketplace.wire.nodes import Gpu, NewNode, Node
from marketplace.wire.orders import Cancelled, Transaction
from marketplace.wire.problems import ProblemDocument
from marketplace.wire.receipts import Blob, JobReceipt, Receipt
from marketplace.wire.usage import Attestation, SignedVoucher, Used

__all__ = [
    "NO_RETRIES", "PASSING", "Account", "Act", "ApiKey", "AskInfo", "AsyncCoulomb",
    "AsyncJobHandle", "Attestation", "BidInfo", "Blob", "BookAsk", "BookView", "Cancelled", "Cost",
    "Coulomb", "Funds", "Gpu", "Health", "Job", "JobEvent", "JobHandle", "JobReceipt", "Lease",
    "LeaseTerms", "LogPiece", "MarketConfig", "MatchingAsk", "Money", "Moved", "NewApiKey",
    "NewNode", "NoMatch", "Node", "PreparedJob", "Plan", "ProblemDocument", "QuoteAnswer",
    "Receipt", "RetryPolicy", "Session", "SignedVoucher", "TierInfo", "TopUp", "Transaction",
    "Unit", "Used",
    *_errors,
]  # fmt: skip
