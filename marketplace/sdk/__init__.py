"""The Coulomb SDK: `Coulomb` for plain code, `AsyncCoulomb` for asyncio, one core under both."""

from marketplace.sdk.client import AsyncCoulomb, Coulomb
from marketplace.sdk.errors import *  # noqa: F403 - the tree is listed in errors.__all__
from marketplace.sdk.errors import __all__ as _errors
from marketplace.sdk.transfer import NO_RETRIES, RetryPolicy

__all__ = ["NO_RETRIES", "AsyncCoulomb", "Coulomb", "RetryPolicy", *_errors]
