"""JSON-RPC to one node. Every failure is a ChainError, and no call is retried.

A circuit breaker keeps callers from waiting, each for its own time-out, for a node that is down.
Source: JSON-RPC 2.0; Ethereum JSON-RPC (execution-apis).
"""

import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import requests
from eth_typing import URI
from web3 import HTTPProvider
from web3.types import RPCEndpoint, RPCResponse

from settlement.chain.abi import Abi, artifact
from settlement.errors import CallReverted, ChainError, ChainUnavailable, WrongChain, host_of
from settlement.strict_json import JsonError, loads

Value = TypeVar("Value")
Transport = Callable[[Any, Any], Any]
"""Sends a method and its parameters; returns the node's whole answer."""

ANSWER_BYTES_MAX = 64 * 1024 * 1024  # enough for the logs of a long range of blocks
_PIECE = 64 * 1024
_TEXT_CHARS_MAX = 2_000  # of a node's message that an error repeats
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 15.0
_OVERLOAD_CODES = (-32005, 429)  # JSON-RPC "limit exceeded", and what some hosts send instead
_CALLS = ("eth_call", "eth_estimateGas")
# What reading an answer that breaks the specification raises.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
# How nodes report that contract code failed without a revert.
_CODE_FAILED = re.compile(
    r"out of ?gas|gas required|intrinsic gas|evm error|invalid (fe)?opcode|invalid jump"
    r"|stack (under|over)flow|stack limit|write protection|return ?data|bad instruction",
    re.IGNORECASE,
)


class NodeProvider(HTTPProvider):
    """web3's connection without retries. An answer above ANSWER_BYTES_MAX or that is not JSON
    raises JsonError."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._url = URI(url)
        keywords = {"timeout": timeout_seconds, "stream": True}
        super().__init__(self._url, request_kwargs=keywords, exception_retry_configuration=None)

    def _make_request(self, method: RPCEndpoint, request_data: bytes) -> bytes:
        body = bytearray()
        post = self._request_session_manager.get_response_from_post_request
        with post(self._url, data=request_data, **self.get_request_kwargs()) as response:
            response.raise_for_status()
            for piece in response.iter_content(_PIECE):
                body += piece
                if len(body) > ANSWER_BYTES_MAX:
                    raise JsonError(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
        return bytes(body)

    @staticmethod
    def decode_rpc_response(raw_response: bytes) -> RPCResponse:
        """The answer as JSON. Raises JsonError."""
        return cast(RPCResponse, loads(raw_response, ANSWER_BYTES_MAX))


class Breaker:
    """Opens after `failures_max` unanswered calls in a row: further calls fail at once.

    It stays open for half a second; each further failure doubles that, up to 15 seconds. Safe for
    many threads.
    """

    def __init__(self, clock: Callable[[], float], failures_max: int = 5) -> None:
        self._clock = clock
        self._failures_max = failures_max
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0

    def admit(self) -> None:
        """Raise ChainUnavailable while open. The first caller after the pause is let through."""
        with self._lock:
            if self._failures < self._failures_max:
                return
            left = self._open_until - self._clock()
            if left > 0:
                raise ChainUnavailable(
                    f"the node left {self._failures} calls in a row unanswered; "
                    f"next try in {left:.1f} s"
                )
            self._pause()

    def note(self, answered: bool) -> None:
        """Close if a call was answered, even with an error. Count it if it was not."""
        with self._lock:
            self._failures = 0 if answered else self._failures + 1
            if self._failures >= self._failures_max:
                self._pause()

    def _pause(self) -> None:
        doublings = min(self._failures - self._failures_max, 16)
        pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0**doublings)
        self._open_until = self._clock() + pause


class Rpc:
    """Calls of one node. Many threads may share one instance."""

    def __init__(self, url: str, transport: Transport, breaker: Breaker | None = None) -> None:
        self._url = url
        self._transport = transport
        self._breaker = breaker or Breaker(time.monotonic)
        self._errors = Abi((*artifact("ComputeEscrow").abi, *artifact("ComputeToken").abi))

    def ask(self, read: Callable[[Any], Value], method: str, *parameters: Any) -> Value:
        """The result of a method, as `read` understands it; `read` may raise on nonsense."""
        self._breaker.admit()
        try:
            value = read(self._result(method, self._transport(method, parameters)))
        except ChainUnavailable:
            self._breaker.note(answered=False)
            raise
        except ChainError:
            self._breaker.note(answered=True)
            raise
        except (OSError, *_MALFORMED) as error:
            self._breaker.note(answered=False)
            raise ChainUnavailable(
                f"the chain's node at {host_of(self._url)} {_why(error)}"
            ) from error
        self._breaker.note(answered=True)
        return value

    def _result(self, method: str, answer: Any) -> Any:
        if "error" not in answer:
            return answer["result"]
        error = answer["error"]
        text = str(error["message"])[:_TEXT_CHARS_MAX]
        data = error.get("data")
        if text == "transaction not found":
            return None
        if method in _CALLS and (reverted := self._reverted(text, error.get("code"), data)):
            raise reverted
        if error.get("code") in _OVERLOAD_CODES:
            raise ChainUnavailable(f"the node is overloaded: {text}")
        if "indexing is in progress" in text:
            raise ChainUnavailable(f"the node is not ready: {text}")
        raise ChainError(text)

    def _reverted(self, text: str, code: Any, data: Any) -> CallReverted | None:
        """The contract's error in a refused call; None if the node refused it by itself."""
        if isinstance(data, dict):  # Hardhat's
            data = data.get("data")
        if isinstance(data, str):
            data = data.removeprefix("Reverted ")  # Nethermind's
        if isinstance(data, str) and data.startswith("0x"):
            if len(data) >= 10 or code == 3 or "execution reverted" in text:
                return self._errors.reverted(bytes.fromhex(data[2:]))
        elif code == 3 or "execution reverted" in text:
            return CallReverted("unknown", (text,))
        return None


def _why(error: Exception) -> str:
    match error:
        case requests.Timeout() | TimeoutError():
            return "does not answer in time"
        case requests.HTTPError(response=requests.Response(status_code=status)):
            return f"answers with HTTP {status}"
        case requests.ConnectionError():
            return "cannot be reached"
        case requests.RequestException():  # its text has the whole address
            return f"cannot be asked: {type(error).__name__}"
    return f"gives no usable answer: {type(error).__name__}: {error}"


def code_failed(error: ChainError) -> bool:
    """Whether a node reports that contract code failed without a revert, e.g. ran out of gas."""
    answered = not isinstance(error, ChainUnavailable | WrongChain)
    return answered and _CODE_FAILED.search(str(error)) is not None
