"""What every resource shares: send a request, read the answer."""

from __future__ import annotations

from typing import Any, TypeVar

from marketplace.sdk.decode import decode
from marketplace.sdk.flow import Flow, Request, Resource, Response, S
from marketplace.sdk.models import MarketConfig
from marketplace.sdk.transfer import json_of, send

T = TypeVar("T")

NO_CONTENT = 204


class ApiResource(Resource[S]):
    """A resource below the API's root."""

    def _send(self, request: Request) -> Flow[Response]:
        return (yield from send(request, self._shell.policy))

    def _json(self, request: Request) -> Flow[Any]:
        response = yield from self._send(request)
        return None if response.status == NO_CONTENT else json_of(response)

    def _read(self, kind: type[T], request: Request) -> Flow[T]:
        body = yield from self._json(request)
        return decode(kind, body)

    def _market(self, fresh: bool = False) -> Flow[MarketConfig]:
        """The market's config, fetched once and checked against the pins."""
        known = self._session.market
        if known is not None and not fresh:
            return known
        found = yield from self._read(MarketConfig, Request("GET", "/v1/config"))
        return self._session.accept(found)


def hex0x(data: bytes) -> str:
    """Bytes as the API writes them."""
    return "0x" + data.hex()
