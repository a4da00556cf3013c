"""Both clients do the same thing, and neither signs what it did not ask for."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from marketplace.sdk import AsyncCoulomb, Coulomb, RetryPolicy
from marketplace.sdk.errors import (
    ConfigError,
    ConnectFailed,
    CoulombError,
    InputError,
    NotFound,
    ProtocolError,
    TimedOut,
    TransportError,
    VerificationError,
    WaitTimeout,
)
from marketplace.sdk.flow import Resource, listing, op, streaming
from marketplace.sdk.profile import Profile, ProfileFile
from marketplace.sdk.resources.blobs import Blobs
from marketplace.sdk.session import Session
from settlement.eip712 import ZERO_ADDRESS, Domain, text32
from settlement.signing import LocalSigner
from tests.factories import job_json
from tests.unit.sdk.market import BUYER, DOMAIN, METER, PROVIDER, WITNESS, FakeMarket

FAST = RetryPolicy(attempts=2, first=0.001)


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket()


@pytest.fixture
def client(market: FakeMarket, tmp_path: Path) -> Iterator[Coulomb]:
    with Coulomb("http://market", session=session(tmp_path), transport=on(market)) as opened:
        yield opened


def on(market: Callable[[httpx.Request], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(market)


def session(state: Path, signer: LocalSigner = BUYER, **pins: Any) -> Session:
    return Session(lambda: signer, lambda: WITNESS, state=state, **pins)


def job_file(folder: Path, **changes: Any) -> Path:
    (folder / "train").mkdir()
    (folder / "train" / "train.py").write_text("print('hello')\n")
    path = folder / "job.yaml"
    path.write_text(
        "name: train\nworkdir: ./train\ncommand: [python, train.py]\n"
        "resources: {gpu: 'H100:1', cpu: 1, memory: 1GB}\n"
        "pricing: {max_gpu_hour: 2.50}\nmax_duration: 1h\n"
    )
    return path


def test_job_file_is_packed_checked_signed_and_placed(
    client: Coulomb, market: FakeMarket, tmp_path: Path
) -> None:
    job = client.jobs.submit(job_file(tmp_path))
    assert job.id == "job_1"
    assert market.paths() == ["POST blobs", "GET config", "POST bids/prepare", "POST jobs"]
    assert list(market.blobs) == [job.job.spec["inputs"]["sha256"]]
    key = market.seen[-1][3]["idempotency-key"]
    assert key.startswith("job-")
    assert job.wait().state == "succeeded"


def test_async_client_does_the_same(market: FakeMarket, tmp_path: Path) -> None:
    async def main() -> str:
        async with AsyncCoulomb(
            "http://market", session=session(tmp_path), transport=on(market)
        ) as client:
            job = await client.jobs.submit(job_file(tmp_path))
            return (await job.wait()).state

    assert asyncio.run(main()) == "succeeded"
    assert market.paths()[:4] == ["POST blobs", "GET config", "POST bids/prepare", "POST jobs"]


def set_message(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def bend(answer: dict[str, Any]) -> None:
        answer["typed_data"]["message"].update(changes)

    return bend


def set_domain(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def bend(answer: dict[str, Any]) -> None:
        answer["typed_data"]["domain"].update(changes)

    return bend


def raise_limit(answer: dict[str, Any]) -> None:
    answer["typed_data"]["message"]["limits"][0]["rate"] = str(10**15)


def other_tier(answer: dict[str, Any]) -> None:
    answer["typed_data"]["message"]["limits"][0]["tier"] = "0x" + text32("OTHER").hex()


def other_type(answer: dict[str, Any]) -> None:
    answer["typed_data"]["types"]["Bid"][0]["type"] = "bytes32"


def other_primary(answer: dict[str, Any]) -> None:
    answer["typed_data"]["primaryType"] = "Permit"


STRANGER = "0x" + "5" * 40
BENT_BIDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "buyer": set_message(buyer=STRANGER),
    "witness": set_message(witness=STRANGER),
    "opener": set_message(opener=STRANGER),
    "anyone": set_message(opener=ZERO_ADDRESS),
    "jobHash": set_message(jobHash="0x" + "00" * 32),
    "gpuMilli": set_message(gpuMilli=2000),
    "cpuMilli": set_message(cpuMilli=2000),
    "memoryMib": set_message(memoryMib=1),
    "storageMib": set_message(storageMib=1),
    "egressMib": set_message(egressMib=1),
    "units": set_message(units=1),
    "unit": set_message(unit="0x" + text32("request").hex()),
    "maxSeconds": set_message(maxSeconds=7200),
    "budget": set_message(budget=str(10**30)),
    "nodes": set_message(nodes=2),
    "flags": set_message(flags=1),
    "expired": set_message(expiry=1),
    "endless": set_message(expiry=2**40 - 1),
    "rate": raise_limit,
    "tier": other_tier,
    "limits": set_message(limits=[]),
    "type": other_type,
    "primaryType": other_primary,
    "chain": set_domain(chainId=1),
    "contract": set_domain(verifyingContract=STRANGER),
    "name": set_domain(name="Other"),
    "version": set_domain(version="2"),
    "malformed": set_message(budget="-1"),
    "extra": set_message(evil=1),
}


@pytest.mark.parametrize("name", sorted(BENT_BIDS))
def test_bid_that_differs_from_the_job_is_not_signed(
    client: Coulomb, market: FakeMarket, name: str
) -> None:
    market.bend["POST bids/prepare"] = BENT_BIDS[name]
    with pytest.raises(VerificationError):
        client.jobs.submit(job_json())
    assert "POST jobs" not in market.paths()


def test_server_of_another_contract_than_pinned_is_refused(
    market: FakeMarket, tmp_path: Path
) -> None:
    for pins in ({"chain_id": 1}, {"escrow": STRANGER}):
        pinned = session(tmp_path, **pins)
        with (
            Coulomb("http://market", session=pinned, transport=on(market)) as client,
            pytest.raises(VerificationError, match="pinned"),
        ):
            client.jobs.submit(job_json())


def test_market_is_pinned_at_first_sight(market: FakeMarket, tmp_path: Path) -> None:
    pins: list[tuple[int, str, str]] = []
    first = session(tmp_path, on_pin=lambda *pin: pins.append(pin))
    with Coulomb("http://market", session=first, transport=on(market)) as client:
        client.market.config()
        assert [(chain, escrow.lower()) for chain, escrow, _ in pins] == [
            (31337, DOMAIN.verifying_contract)
        ]
        market.domain = Domain(1, DOMAIN.verifying_contract)
        with pytest.raises(VerificationError):
            client.market.config()


def test_profile_keeps_the_pin(
    market: FakeMarket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("COULOMB_API_URL", "COULOMB_API_KEY", "COULOMB_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    ProfileFile().save(Profile(api_url="http://market", api_key="coul_k"))
    with Coulomb.from_profile(transport=on(market)) as client:
        client.market.config()
    assert market.seen[0][3]["authorization"] == "Bearer coul_k"
    assert ProfileFile().get().chain_id == 31337
    market.domain = replace(DOMAIN, chain_id=5)
    with (
        Coulomb.from_profile(transport=on(market)) as client,
        pytest.raises(VerificationError),
    ):
        client.market.config()


def test_signature_without_a_key_says_how_to_get_one(market: FakeMarket) -> None:
    with (
        Coulomb("http://market", transport=on(market), witness=WITNESS) as client,
        pytest.raises(ConfigError, match="no key"),
    ):
        client.jobs.submit(job_json())


@pytest.mark.parametrize("url", ["", "market", "ftp://market"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Coulomb(url)


def test_wrong_job_is_refused_before_anything_is_sent(
    client: Coulomb, market: FakeMarket, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="did you mean max_duration") as caught:
        client.jobs.submit({**job_json(), "max_durations": "1h"})
    assert caught.value.pointer == "/max_durations"
    with pytest.raises(InputError, match="cannot be read"):
        client.jobs.submit(tmp_path / "none.yaml")
    assert market.seen == []


def test_wait_ends_in_time(client: Coulomb, market: FakeMarket) -> None:
    market.states = ["running"]
    job = client.jobs.submit(job_json())
    with pytest.raises(WaitTimeout):
        job.wait(timeout_seconds=0.3)


def test_wait_bears_with_a_server_that_is_away(market: FakeMarket, tmp_path: Path) -> None:
    market.states = ["running", "running", "succeeded"]
    away = iter([False] * 4 + [True] * 3)

    def flaky(request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and next(away, False):
            raise httpx.ConnectError("refused")
        return market(request)

    with Coulomb(
        "http://market", session=session(tmp_path), transport=on(flaky), retry=FAST
    ) as client:
        assert client.jobs.submit(job_json()).wait(timeout_seconds=20).state == "succeeded"


def test_key_is_signed_for(client: Coulomb) -> None:
    made = client.keys.create("laptop", ["buyer"])
    assert (made.key, made.account) == ("coul_secret", BUYER.address)
    assert "coul_secret" not in repr(made)


@pytest.mark.parametrize(
    "changes",
    [
        {"account": STRANGER},
        {"name": "0x" + text32("other").hex()},
        {"scopes": "0x" + text32("buyer,operator").hex()},
        {"issuedAt": 1},
        {"expiresAt": 2**40 - 1},
        {"spendCap": "5"},
    ],
)
def test_key_request_for_more_is_not_signed(
    client: Coulomb, market: FakeMarket, changes: dict[str, Any]
) -> None:
    market.bend["POST keys/prepare"] = set_message(**changes)
    with pytest.raises(VerificationError):
        client.keys.create("laptop", ["buyer"])
    assert "POST keys" not in market.paths()


TERMS = {"meter": METER.address, "prices": {"gpu_hour": "2.50"}}


def test_ask_is_signed_for(market: FakeMarket, tmp_path: Path) -> None:
    provider = session(tmp_path, PROVIDER)
    with Coulomb("http://market", session=provider, transport=on(market)) as client:
        assert client.asks.offer("node_1", TERMS).ask.floor.gpu_hour == 2_500_000_000


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": STRANGER},
        {"meter": STRANGER},
        {"floor": {"gpuHour": "1", "cpuHour": "0", "memoryGibHour": "0", "storageGibHour": "0",
                   "egressGib": "0", "unit": "0"}},
        {"expiry": 1},
    ],
)  # fmt: skip
def test_ask_that_differs_is_not_signed(
    market: FakeMarket, tmp_path: Path, changes: dict[str, Any]
) -> None:
    market.bend["POST asks/prepare"] = set_message(**changes)
    provider = session(tmp_path, PROVIDER)
    with (
        Coulomb("http://market", session=provider, transport=on(market)) as client,
        pytest.raises(VerificationError),
    ):
        client.asks.offer("node_1", TERMS)


def test_blob_that_is_not_what_its_name_says_is_refused(
    client: Coulomb, market: FakeMarket
) -> None:
    blob = client.blobs.put(b"data")
    assert client.blobs.get(blob.sha256) == b"data"
    market.blobs[blob.sha256] = b"other"
    with pytest.raises(ProtocolError):
        client.blobs.get(blob.sha256)
    market.bend["POST blobs"] = lambda answer: answer.update(sha256="0" * 64)
    with pytest.raises(ProtocolError):
        client.blobs.put(b"data")


def test_too_large_a_blob_is_not_sent(client: Coulomb, market: FakeMarket) -> None:
    with pytest.raises(InputError):
        client.blobs.put(bytes(64 * 1024 * 1024 + 1))
    assert market.seen == []


def pages(request: httpx.Request) -> httpx.Response:
    cursor = request.url.params.get("cursor")
    row = {"sha256": "a" if cursor is None else cursor, "size": 1}
    following = {None: "b", "b": "c"}.get(cursor)
    body = {"data": [row], "has_more": following is not None, "next_cursor": following}
    return httpx.Response(200, json=body)


def test_lists_run_over_every_page(client: Coulomb) -> None:
    from functools import partial

    from marketplace.sdk.decode import decode
    from marketplace.sdk.flow import Query
    from marketplace.sdk.models import Blob

    query = Query("/v1/x", partial(decode, Blob), {"limit": 1, "none": None})
    with Coulomb("http://market", transport=on(pages)) as paged:
        assert [b.sha256 for b in paged.blobs._shell.pages(query)] == ["a", "b", "c"]

    async def main() -> list[str]:
        async with AsyncCoulomb("http://market", transport=on(pages)) as paged:
            return [b.sha256 async for b in paged.blobs._shell.pages(query)]

    assert asyncio.run(main()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (httpx.ConnectError("x"), ConnectFailed),
        (httpx.ConnectTimeout("x"), ConnectFailed),
        (httpx.PoolTimeout("x"), ConnectFailed),
        (httpx.ReadTimeout("x"), TimedOut),
        (httpx.WriteTimeout("x"), TimedOut),
        (httpx.ReadError("x"), TransportError),
        (httpx.RemoteProtocolError("x"), TransportError),
    ],
)
def test_every_lost_connection_has_its_error(
    raised: httpx.TransportError, expected: type[TransportError]
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise raised

    with (
        Coulomb("http://market", transport=on(fail), retry=FAST) as client,
        pytest.raises(TransportError) as caught,
    ):
        client.market.config()
    assert type(caught.value) is expected


def test_refusal_reaches_the_caller_in_both_clients() -> None:
    problem = {"code": "not_found", "title": "Not found", "status": 404, "detail": "no such job"}
    refuse = on(lambda request: httpx.Response(404, json=problem))
    with (
        Coulomb("http://market", transport=refuse) as client,
        pytest.raises(NotFound, match="no such job"),
    ):
        client.jobs.get("job_x")

    async def main() -> None:
        async with AsyncCoulomb("http://market", transport=refuse) as other:
            await other.jobs.get("job_x")

    with pytest.raises(NotFound, match="no such job"):
        asyncio.run(main())


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
    transport = on(lambda _: httpx.Response(status, stream=httpx.ByteStream(body), headers=headers))
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


STREAM = (
    b'id: 1\nevent: status\ndata: {"state":"running"}\n\n',
    b'id: 2\nevent: log\ndata: {"text":"hi"}\n\nid: 3\nevent: status\ndata: {"state":"failed"}\n\n',
)


def streams() -> tuple[httpx.MockTransport, list[str | None]]:
    """Two connections: the first is cut after event 1, the second goes on from there."""
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, content=STREAM[len(asked) - 1], headers=headers)

    return on(answer), asked


def handle_of(client: Any) -> Any:
    from marketplace.sdk.purchases import Job
    from marketplace.sdk.resources.jobs import JobHandle

    return JobHandle(client.jobs, Job("job_1", "n", "running", "a", "b", "h", {}))


def test_events_resume_in_both_clients() -> None:
    transport, asked = streams()
    with Coulomb("http://market", transport=transport, retry=FAST) as client:
        assert [e.id for e in handle_of(client).events()] == ["1", "2", "3"]
    assert asked == [None, "1"]
    transport, asked = streams()

    async def main() -> list[str]:
        async with AsyncCoulomb("http://market", transport=transport, retry=FAST) as other:
            return [e.id async for e in handle_of(other).events()]

    assert asyncio.run(main()) == ["1", "2", "3"]
    assert asked == [None, "1"]


def test_every_public_method_of_a_resource_serves_both_clients() -> None:
    """Nothing sync-only or async-only: an operation is written once or is no I/O at all."""
    from marketplace.sdk.resources import blobs, jobs, keys, leases, market, provider, wallet
    from marketplace.sdk.resources import witnessing as witness

    modules = (blobs, jobs, keys, leases, market, provider, wallet, witness)
    found = [
        (kind, name, member)
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, Resource)
        for name, member in vars(kind).items()
        if not name.startswith("_")
    ]
    assert len(found) > 40
    assert [
        f"{kind.__name__}.{name}"
        for kind, name, member in found
        if not isinstance(member, op | listing | streaming | property)
    ] == []
    assert Blobs.put.__doc__
