"""An answer that no server of ours gives is an error in both clients, whatever it is."""

import asyncio
import gzip
import sys

import httpx
import pytest

from marketplace.sdk import AsyncCoulomb, Coulomb, RetryPolicy
from marketplace.sdk.errors import CoulombError

HOSTILE = {
    "nested": (200, b"[" * 1_000_000),
    "nested refusal": (400, b'{"a":' * 1_000_000),
    "long number": (200, b'{"id":' + b"9" * 100_000 + b"}"),
    "name twice": (200, b'{"id": "job_1", "id": "job_2"}'),
    "bomb": (200, gzip.compress(bytes(80 * 1024 * 1024), 1)),
    "broken gzip": (200, b"\x1f\x8b{}"),
}


@pytest.mark.parametrize("answer", HOSTILE)
def test_hostile_answer_is_an_error_in_both_clients(answer: str) -> None:
    status, body = HOSTILE[answer]
    headers = {"content-encoding": "gzip"} if body.startswith(b"\x1f\x8b") else {}
    transport = httpx.MockTransport(
        lambda _: httpx.Response(status, stream=httpx.ByteStream(body), headers=headers)
    )
    once = RetryPolicy(attempts=1)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # as a library may have left it
    try:
        with (
            Coulomb("http://market", transport=transport, retry=once) as client,
            pytest.raises(CoulombError),
        ):
            client.jobs.get("job_1")

        async def main() -> None:
            async with AsyncCoulomb("http://market", transport=transport, retry=once) as other:
                await other.jobs.get("job_1")

        with pytest.raises(CoulombError):
            asyncio.run(main())
    finally:
        sys.setrecursionlimit(before)
