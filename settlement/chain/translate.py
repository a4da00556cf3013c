"""Turns the errors of web3 and its transport into ChainErrors. Only this module knows them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from web3.exceptions import (
    ContractCustomError,
    ContractLogicError,
    ContractPanicError,
    Web3Exception,
    Web3RPCError,
)

from settlement.chain.abi import Abi, artifact
from settlement.errors import CallReverted, ChainError, ChainUnavailable, DeploymentError

_OVERLOAD_CODES = (-32005, 429)  # JSON-RPC "limit exceeded", and what some hosts send instead
# What the libraries raise while they read an answer that breaks the specification.
_MALFORMED_ANSWER = (ValueError, KeyError, TypeError, AttributeError)
# How nodes report that contract code failed without a revert.
_CODE_FAILED = re.compile(
    r"out of ?gas|gas required|intrinsic gas|evm error|invalid (fe)?opcode|invalid jump"
    r"|stack (under|over)flow|stack limit|write protection|return ?data|bad instruction",
    re.IGNORECASE,
)


@contextmanager
def as_chain_errors(errors: Abi, rpc_url: str) -> Iterator[None]:
    """Turn whatever the libraries raise inside the `with` block into a ChainError."""
    try:
        yield
    except (ContractCustomError, ContractLogicError, ContractPanicError) as error:
        raise _reverted(error, errors) from error
    except Web3RPCError as error:
        raise _refused(error) from error
    except Web3Exception as error:
        raise ChainUnavailable(f"{type(error).__name__}: {error}") from error
    except (OSError, *_MALFORMED_ANSWER) as error:  # requests' exceptions are OSErrors
        raise ChainUnavailable(f"the chain's node at {_host(rpc_url)} {_why(error)}") from error


def _host(rpc_url: str) -> str:
    """A node's host without path and user name, which may hold a customer's API key."""
    parts = urlsplit(rpc_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else repr(rpc_url)


def _why(error: Exception) -> str:
    if isinstance(error, requests.Timeout | TimeoutError):
        return "does not answer in time"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"answers with HTTP {error.response.status_code}"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    return f"gives no usable answer: {type(error).__name__}: {error}"


def _reverted(error: ContractLogicError, errors: Abi) -> CallReverted:
    data = error.data
    if isinstance(data, str) and data.startswith("0x"):
        return errors.reverted(bytes.fromhex(data[2:]))
    return CallReverted("unknown", (str(error),))


def code_failed(error: ChainError) -> bool:
    """Whether a node reports that contract code failed without a revert, e.g. ran out of gas."""
    return _CODE_FAILED.search(str(error)) is not None


def shipped_errors() -> Abi:
    """The errors of every shipped contract, or only Solidity's own if none is built yet."""
    try:
        entries = (*artifact("ComputeEscrow").abi, *artifact("ComputeToken").abi)
    except DeploymentError:
        return Abi(())
    return Abi(tuple(e for e in entries if e["type"] == "error"))


def _refused(error: Web3RPCError) -> ChainError:
    answer: Any = (error.rpc_response or {}).get("error")
    if not isinstance(answer, dict):
        return ChainError(str(error))
    code, text = answer.get("code"), answer.get("message", str(error))
    if code in _OVERLOAD_CODES:
        return ChainUnavailable(f"the node is overloaded: {text}")
    return ChainError(str(text))
