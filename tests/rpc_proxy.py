"""A proxy in front of a node that can lose answers, refuse, stall or send garbage."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["none", "lose_answer", "drop_request", "slow", "429", "garbage", "wrong_chain"]


class RpcProxy(ThreadingHTTPServer):
    """Forwards to `upstream`; `faulty` makes it misbehave."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.fault: Fault = "none"
        self.method: str | None = None
        self.calls: Counter[str] = Counter()
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def faulty(self, fault: Fault, method: str | None = None) -> Iterator[None]:
        """Misbehave inside the `with` block, on one method or on all."""
        self.release.clear()
        self.fault, self.method = fault, method
        try:
            yield
        finally:
            self.fault, self.method = "none", None
            self.release.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RpcProxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        method = json.loads(body)["method"]
        self.server.calls[method] += 1
        fault = self.server.fault if self.server.method in (None, method) else "none"
        if fault == "drop_request":
            return self._hang_up()
        if fault == "slow":
            self.server.release.wait(10)
            return self._hang_up()
        if fault == "429":
            return self._answer(429, b"slow down")
        if fault == "garbage":
            return self._answer(200, b"<html>not JSON</html>")
        if fault == "wrong_chain":
            return self._answer(200, b'{"jsonrpc": "2.0", "id": 1, "result": "0x5"}')
        request = urllib.request.Request(  # noqa: S310 - our own node
            self.server.upstream, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:  # noqa: S310
            answer = response.read()
        if fault == "lose_answer":
            return self._hang_up()
        return self._answer(200, answer)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def rpc_proxy(upstream: str) -> Iterator[RpcProxy]:
    """A proxy on a free port that runs for the length of a `with` block."""
    with RpcProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.release.set()
            proxy.shutdown()
            thread.join()
