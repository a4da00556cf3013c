"""Wrong words, addresses and amounts are told before anything is asked, signed or sent."""

import json
from pathlib import Path

import pytest

from marketplace.errors import ExitCode
from marketplace.sdk import Unit
from marketplace.sdk.onchain import Funds
from tests.market_world import H100
from tests.sdk_app import Served
from tests.unit.cli.conftest import BUYER, Run


def test_what_cannot_be_set_up_as_a_node_is_told_at_once(
    run: Run, market: Served, home: Path
) -> None:
    words = ("provider", "init", "--name", "n1", "--region", "eu")
    for wrong, said in (
        (("--tier", "H100"), "did you mean H100-80GB-SXM or H100-80GB-PCIE or H100-94GB-NVL?"),
        (("--tier", H100, "--simulated", "1xFOO"), "no tier has the GPU 'FOO'"),
        (("--tier", H100, "--simulated", "1xH100", "--region", "not one"), "/region: "),
    ):
        ran = run(*words, *wrong)
        assert ran.code == ExitCode.USAGE
        assert said in ran.err
    assert market.sent("POST keys") == []
    ran = run("ask", "create", "--gpu-hour", "2")
    assert "fix: run `coulomb provider init`" in ran.err
    assert run(*words, "--tier", H100, "--simulated", "1xH100").code == 0
    file = home / "config/coulomb/provider/agent.yaml"
    file.write_text(file.read_text().replace(H100, "H100"))
    file.with_name("api.key").unlink()  # so that doctor looks for no server at that address
    market.bend["GET config"] = lambda answer: answer.update(rpc_url="")
    found = {row["code"]: row for row in json.loads(run("-o", "json", "provider", "doctor").out)}
    assert "did you mean" in found["node"]["evidence"]
    ran = run(*words, "--tier", H100, "--simulated", "2xH100", "--replace")
    assert ran.code == 0, ran.err
    assert "key create" not in ran.err
    assert "2xH100" in file.read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("job", "list", "--state", "foo"), ("ask", "list", "--state", "foo"),
        ("job", "logs", "job_1", "--stream", "foo"), ("key", "create", "x", "--scope", "foo"),
    ],
)  # fmt: skip
def test_a_word_that_is_none_of_those_known_is_refused_with_them(
    run: Run, market: Served, words: tuple[str, ...]
) -> None:
    ran = run(*words)
    assert ran.code == ExitCode.USAGE
    assert "'foo' is not one of" in ran.err
    assert market.seen == []


def test_a_tier_that_is_none_is_told_where_nothing_is_found(run: Run) -> None:
    for words in (("book", "show", "--tier", "H100"), ("ask", "list", "--tier", "H100")):
        assert "'H100' is not a tier of this market; did you mean" in run(*words).err


BROKEN = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD".replace("d", "D")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("wallet", "withdraw", "1", "--to", BROKEN), "wrong EIP-55 checksum"),
        (("wallet", "withdraw", "1", "--to", "vitalik.eth"), "must be an address"),
        (("earnings", "withdraw", "--to", "0x" + "0" * 40), "zero address"),
        (("wallet", "show", "0x12"), "must be an address"),
        (("witness", "run", "--buyer", "0x12"), "must be an address"),
        (("job", "run", "job.yaml", "--witness", BROKEN), "wrong EIP-55 checksum"),
        (("ask", "create", "--gpu-hour", "2", "--meter", "0x1234"), "must be an address"),
        (("ask", "create", "--gpu-hour", "two"), "'two' is not a number of tokens"),
        (("key", "create", "x", "--spend-cap", "abc"), "'abc' is not a number of tokens"),
        (("wallet", "deposit", "abc"), "'abc' is not a number of tokens"),
        (("wallet", "withdraw", "abc"), "'abc' is not a number of tokens"),
        (("wallet", "withdraw", "0.0000000000000000001"), "more than 18 decimal places"),
        (("wallet", "withdraw", "0"), "nothing to move: 2 CMP are free in the escrow"),
        (("wallet", "withdraw", "3"), "3 CMP asked for, 2 CMP are free in the escrow"),
        (("wallet", "withdraw", "0.01", "--relayed"), "fee, 0.01 CMP, is not below 0.01 CMP"),
        (("wallet", "withdraw", "3", "--relayed"), "2 CMP are free in the escrow"),
        (("wallet", "deposit", "0"), "nothing to move"),
        (("wallet", "deposit", "9"), "9 CMP asked for, 1 CMP are at 0x"),
    ],
)  # fmt: skip
def test_a_wrong_address_or_amount_is_told_before_anything_is_asked_or_sent(
    run: Run, market: Served, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Funds(BUYER.address, tokens=10**18, free=2 * 10**18, wei=0)
    monkeypatch.setattr("marketplace.sdk.onchain.funds", lambda *_: held)
    monkeypatch.setattr("marketplace.sdk.onchain.unit", lambda *_: Unit("CMP", 18))
    ran = run(*words)
    assert ran.code in (ExitCode.USAGE, ExitCode.FUNDS)
    assert said in ran.err
    assert "say --yes" not in ran.err
    assert all(method == "GET" for method, _, _ in market.seen)
