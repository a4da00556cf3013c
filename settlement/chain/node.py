"""The HTTP connection to a node. An oversized or malformed answer is an error, not a crash."""

from typing import cast

from eth_typing import URI
from web3 import HTTPProvider
from web3.types import RPCEndpoint, RPCResponse

from settlement.strict_json import JsonError, loads

ANSWER_BYTES_MAX = 64 * 1024 * 1024  # enough for the logs of a long range of blocks
_PIECE = 64 * 1024


class NodeProvider(HTTPProvider):
    """web3's provider without retries; it reads no more than ANSWER_BYTES_MAX of an answer."""

    def __init__(self, rpc_url: str, timeout_seconds: float) -> None:
        self._url = URI(rpc_url)
        super().__init__(
            self._url,
            request_kwargs={"timeout": timeout_seconds, "stream": True},
            exception_retry_configuration=None,
        )

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
