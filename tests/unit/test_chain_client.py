"""What a node may answer, and which of our errors it becomes. Without a node or a socket."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from eth_abi.abi import encode
from eth_hash.auto import keccak

from settlement.chain.abi import Abi, abi, artifact
from settlement.chain.client import ChainClient, transaction_fields, with_margin
from settlement.chain.rpc import Breaker
from settlement.errors import (
    CallReverted,
    ChainError,
    ChainUnavailable,
    FeeAboveCap,
    OutcomeUnknown,
    SendReason,
    SendRejected,
    WrongChain,
)
from settlement.fees import FeeAdvice, TransactionFees
from settlement.relayer import _decode
from settlement.signing import LocalSigner
from settlement.strict_json import JsonError

HASH = "0x" + "ab" * 32
ADDRESS = "0x" + "11" * 20
Reply = Callable[[str, Any], Any]


class Scripted:
    """Answers every request with what `reply` returns or raises."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[str] = []

    def __call__(self, method: Any, params: Any) -> Any:
        self.asked.append(method)
        return {"jsonrpc": "2.0", "id": 1} | self.reply(method, params)


def client(reply: Reply) -> ChainClient:
    return ChainClient("scripted", 31337, transport=Scripted(reply))


def result(value: Any) -> Reply:
    return lambda method, params: {"result": value}


def error(message: str, code: int = -32000, **more: Any) -> Reply:
    return lambda method, params: {"error": {"code": code, "message": message, **more}}


def raising(exception: Exception) -> Reply:
    def reply(method: str, params: Any) -> Any:
        raise exception

    return reply


READS: dict[str, Callable[[ChainClient], Any]] = {
    "check": lambda c: c.check(),
    "head": lambda c: c.head(),
    "balance": lambda c: c.balance(ADDRESS),
    "nonce": lambda c: c.nonce(ADDRESS),
    "call": lambda c: c.call(ADDRESS, b""),
    "estimate": lambda c: c.estimate_gas(ADDRESS, b"", ADDRESS),
    "fees": lambda c: c.fees(),
    "knows": lambda c: c.knows(HASH),
    "receipt": lambda c: c.receipt(HASH),
    "logs": lambda c: c.logs(ADDRESS, 0, 1),
    "send": lambda c: c.send_raw(b"\x02"),
}
BUSY = requests.Response()
BUSY.status_code = 429
TOO_MANY = requests.HTTPError("slow down", response=BUSY)
FAILURES: dict[str, Reply] = {
    "refused": raising(requests.ConnectionError("connection refused")),
    "slow": raising(requests.ReadTimeout("read timed out")),
    "http 429": raising(TOO_MANY),
    "not json": raising(JsonError("Expecting value")),
    "overload": error("limit exceeded", code=-32005),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("failure", FAILURES)
def test_no_answer_is_unavailable_for_every_call(read: str, failure: str) -> None:
    with pytest.raises(ChainUnavailable):
        READS[read](client(FAILURES[failure]))


@pytest.mark.parametrize("read", [name for name in READS if name != "send"])
def test_an_answer_of_the_wrong_form_is_unavailable(read: str) -> None:
    answers: tuple[Any, ...] = ("nonsense", 12.5, {"a": 1}, [{}])
    for nonsense in answers:
        with pytest.raises(ChainUnavailable):
            READS[read](client(result(nonsense)))


def test_another_chain_is_refused() -> None:
    with pytest.raises(WrongChain, match="expected chain 31337, but the node serves chain 5"):
        client(result("0x5")).check()
    client(result("0x7a69")).check()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("nonce too low", SendReason.NONCE_TOO_LOW),
        ("nonce too low: next nonce 5, tx nonce 4", SendReason.NONCE_TOO_LOW),
        ("replacement transaction underpriced", SendReason.UNDERPRICED),
        ("transaction underpriced", SendReason.UNDERPRICED),
        ("max fee per gas less than block base fee", SendReason.UNDERPRICED),
        ("Insufficient funds for gas * price + value", SendReason.INSUFFICIENT_FUNDS),
        ("exceeds block gas limit", SendReason.OTHER),
        ("tx fee (1.16 ether) exceeds the configured cap (1.00 ether)", SendReason.OTHER),
        ("txpool is full", SendReason.BUSY),
        ("nonce too high", SendReason.BUSY),
    ],
)
def test_a_refused_send_says_why(message: str, reason: SendReason) -> None:
    with pytest.raises(SendRejected) as caught:
        client(error(message)).send_raw(b"\x02")
    assert caught.value.reason is reason


@pytest.mark.parametrize("message", ["already known", "transaction already imported"])
def test_bytes_the_node_has_count_as_sent(message: str) -> None:
    client(error(message)).send_raw(b"\x02")


def test_a_send_is_tried_once() -> None:
    provider = Scripted(raising(requests.ConnectionError("reset")))
    with pytest.raises(ChainUnavailable):
        ChainClient("scripted", 1, transport=provider).send_raw(b"\x02")
    assert provider.asked == ["eth_sendRawTransaction"]


def test_a_refusal_by_the_node_is_an_error_and_not_an_outage() -> None:
    with pytest.raises(ChainError) as caught:
        client(error("method not supported", code=-32601)).balance(ADDRESS)
    assert not isinstance(caught.value, ChainUnavailable)


NO = "0x08c379a0" + encode(["string"], ["no"]).hex()


def custom_error(name: str, *arguments: int) -> str:
    entry = next(
        e for e in artifact("ComputeEscrow").abi if e["type"] == "error" and e["name"] == name
    )
    as_function = entry | {"type": "function", "outputs": []}
    return "0x" + Abi((as_function,)).call(name, *arguments).hex()


@pytest.mark.parametrize("read", ["call", "estimate"])
def test_a_custom_error_is_decoded(read: str) -> None:
    data = custom_error("RefundTooEarly", 100, 99)
    with pytest.raises(CallReverted) as caught:
        READS[read](client(error("execution reverted", code=3, data=data)))
    assert (caught.value.name, caught.value.arguments) == ("RefundTooEarly", (100, 99))
    assert str(caught.value) == "RefundTooEarly(100, 99)"


@pytest.mark.parametrize(
    ("data", "name", "arguments"),
    [
        ("0x", "unknown", ()),
        (None, "unknown", ("execution reverted",)),
        (NO, "Error", ("no",)),
        ("Reverted " + NO, "Error", ("no",)),
        ({"message": "reverted", "data": NO}, "Error", ("no",)),
    ],
)
def test_a_revert_keeps_its_message(data: Any, name: str, arguments: tuple[str, ...]) -> None:
    with pytest.raises(CallReverted) as caught:
        client(error("execution reverted", code=3, data=data)).call(ADDRESS, b"")
    assert (caught.value.name, caught.value.arguments) == (name, arguments)


def test_what_the_node_does_not_have_is_none() -> None:
    nothing = client(result(None))
    assert nothing.block(5) is None
    assert nothing.receipt(HASH) is None
    assert not nothing.knows(HASH)
    with pytest.raises(ChainUnavailable):
        nothing.head()


def test_a_transaction_that_the_node_calls_not_found_is_none() -> None:
    assert client(error("transaction not found")).receipt(HASH) is None
    with pytest.raises(ChainUnavailable):
        client(error("transaction indexing is in progress")).receipt(HASH)


def test_a_node_that_advises_no_tip_gets_one_gwei() -> None:
    def reply(method: str, params: Any) -> Any:
        known = method == "eth_getBlockByNumber"
        return (result({"baseFeePerGas": "0x7"}) if known else error("no such method"))(method, ())

    assert client(reply).fees() == FeeAdvice(7, 10**9)


def test_fields_never_offer_a_tip_above_the_maximum() -> None:
    fields = transaction_fields(1, ADDRESS, b"", 0, 21_000, TransactionFees(5, priority=9))
    assert fields["maxFeePerGas"] == 9
    assert "to" not in transaction_fields(1, None, b"", 0, 1, TransactionFees(1, 1))


@pytest.mark.parametrize(
    ("gas", "limit"),
    [(100_000, 125_000), (14_000_000, 2**24), (2**24, 2**24), (20_000_000, 20_000_000)],
)
def test_the_margin_stays_within_what_one_transaction_may_take(gas: int, limit: int) -> None:
    assert with_margin(gas) == limit


class Chain:
    """A node on which one person sends one transaction."""

    def __init__(self, base: int = 10**9) -> None:
        self.base, self.sent = base, list[str]()
        self.answers: list[Any] = []
        self.mined_after = 1

    def client(self) -> ChainClient:
        breaker = Breaker(time.monotonic, failures_max=1_000)
        return ChainClient("scripted", 31337, transport=Scripted(self.answer), breaker=breaker)

    def answer(self, method: str, params: Any) -> Any:
        block = {"number": hex(1), "hash": HASH, "baseFeePerGas": hex(self.base)}
        simple = {
            "eth_estimateGas": hex(50_000), "eth_maxPriorityFeePerGas": hex(10**9),
            "eth_getTransactionCount": "0x0", "eth_getBlockByNumber": block,
        }  # fmt: skip
        if method in simple:
            return {"result": simple[method]}
        if method == "eth_sendRawTransaction":
            self.sent.append(params[0])
            answer = self.answers.pop(0) if self.answers else HASH
            if isinstance(answer, Exception):
                raise answer
            return {"error": answer} if isinstance(answer, dict) else {"result": answer}
        if len(self.sent) < self.mined_after:
            return {"result": None}
        receipt = {
            "transactionHash": params[0], "blockNumber": "0x1", "blockHash": HASH, "status": "0x1",
            "gasUsed": "0x5208", "effectiveGasPrice": "0x1", "contractAddress": None, "logs": [],
        }  # fmt: skip
        return {"result": receipt}


LOST = requests.ReadTimeout("read timed out")
TOO_LOW = {"code": -32000, "message": "nonce too low"}
PERSON = LocalSigner(bytes.fromhex("01" * 32))


@pytest.mark.parametrize("then", [HASH, TOO_LOW])
def test_a_lost_answer_to_a_send_is_followed_by_the_same_bytes(then: Any) -> None:
    chain = Chain()
    chain.answers, chain.mined_after = [LOST, then], 2
    assert chain.client().transact(PERSON, ADDRESS, timeout_seconds=5).succeeded
    assert len(chain.sent) == 2
    assert len(set(chain.sent)) == 1


def test_a_refusal_of_the_first_send_is_told_at_once() -> None:
    chain = Chain()
    chain.answers = [TOO_LOW]
    with pytest.raises(SendRejected):
        chain.client().transact(PERSON, ADDRESS)
    assert len(chain.sent) == 1


@pytest.mark.parametrize("answers", [[], [LOST] * 9])
def test_a_transaction_not_seen_mined_has_an_unknown_outcome(answers: list[Any]) -> None:
    chain = Chain()
    chain.answers, chain.mined_after = answers, 99
    with pytest.raises(OutcomeUnknown, match="may still be mined: look it up") as caught:
        chain.client().transact(PERSON, ADDRESS, timeout_seconds=0.3)
    sent = "0x" + bytes(keccak(bytes.fromhex(chain.sent[0][2:]))).hex()
    assert caught.value.tx_hash == sent
    assert sent in str(caught.value)
    assert not isinstance(caught.value, ChainUnavailable)
    assert caught.value.code == "outcome_unknown"


def test_no_fee_above_the_cap_is_ever_offered() -> None:
    chain = Chain(base=201 * 10**9)
    with pytest.raises(FeeAboveCap, match="201 gwei per gas, above the cap of 200"):
        chain.client().transact(PERSON, ADDRESS)
    assert chain.sent == []
    chain.base = 150 * 10**9
    assert chain.client().transact(PERSON, ADDRESS).succeeded
    offer = _decode(bytes.fromhex(chain.sent[0][2:]))
    assert offer["maxFeePerGas"] == 200 * 10**9


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_breaker_opens_refuses_tries_and_closes() -> None:
    clock, down = Clock(), raising(requests.ConnectionError("refused"))
    provider = Scripted(down)
    chain = ChainClient("scripted", 1, transport=provider, breaker=Breaker(clock))

    def fail(times: int) -> None:
        for _ in range(times):
            with pytest.raises(ChainUnavailable):
                chain.balance(ADDRESS)

    fail(5)
    assert len(provider.asked) == 5
    fail(10)
    assert len(provider.asked) == 5  # no call waits for a node that is down
    clock.now += 0.51
    fail(3)
    assert len(provider.asked) == 6  # one trial
    clock.now += 0.51
    fail(1)
    assert len(provider.asked) == 6  # it failed: the pause has doubled
    for _ in range(20):
        clock.now += 15.01  # the longest pause
        fail(1)
    assert len(provider.asked) == 26
    provider.reply = result("0x7")
    clock.now += 15.01
    assert [chain.balance(ADDRESS) for _ in range(3)] == [7, 7, 7]


def test_refusals_keep_the_breaker_closed() -> None:
    provider = Scripted(error("execution reverted", code=3, data="0x"))
    chain = ChainClient("scripted", 1, transport=provider)
    for _ in range(20):
        with pytest.raises(CallReverted):
            chain.call(ADDRESS, b"")
    assert len(provider.asked) == 20


def test_a_trial_is_for_one_caller() -> None:
    clock = Clock()
    breaker = Breaker(clock, failures_max=1)
    breaker.note(answered=False)
    clock.now += 1
    breaker.admit()
    with pytest.raises(ChainUnavailable, match="next try in"):
        breaker.admit()
    breaker.note(answered=True)
    breaker.admit()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (requests.ConnectionError("refused"), "cannot be reached"),
        (requests.ReadTimeout("slow"), "does not answer in time"),
        (TOO_MANY, "answers with HTTP 429"),
        (ValueError("not JSON"), "gives no usable answer: ValueError: not JSON"),
    ],
)
def test_an_absent_node_is_named_without_the_key_in_its_url(failure: Exception, words: str) -> None:
    provider = Scripted(raising(failure))
    url = "https://user:secret@node.example:8545/v3/another-secret"
    with pytest.raises(ChainUnavailable) as refusal:
        ChainClient(url, 1, transport=provider).check()
    assert str(refusal.value) == f"the chain's node at https://node.example:8545 {words}"


WORDS = "{:064x}".format
HOSTILE = [
    "0x08c379a0" + WORDS(32) + WORDS(size) + word for size, word in ((2**255, "00"), (2, "ff" * 32))
]


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_revert_data_is_shown_raw(data: str) -> None:
    with pytest.raises(CallReverted, match=r"Error\(0x0000"):
        client(error("execution reverted", 3, data=data)).call(ADDRESS, b"")
    for told in (error("x" * 10**6), error("execution reverted", 3, data="0x" + "00" * 10**6)):
        with pytest.raises(ChainError) as caught:
            client(told).call(ADDRESS, b"")
        assert len(str(caught.value)) <= 2_000


def test_hostile_results_and_logs_are_no_usable_answer() -> None:
    for name, answer in (("symbol", HOSTILE[0][10:]), ("symbol", ""), ("decimals", "ff" * 32)):
        with pytest.raises(ChainUnavailable, match="cannot be read"):
            abi("ComputeToken").result(name, bytes.fromhex(answer))
    topic = keccak(b"Transfer(address,address,uint256)")
    with pytest.raises(ChainUnavailable, match="a log of Transfer"):
        abi("ComputeToken").event([topic], b"")


@pytest.mark.parametrize("url", ["htp://me:secret@node/secret", "node/secret"])
def test_a_mistyped_node_is_not_repeated_with_its_secret(url: str) -> None:
    with pytest.raises(ChainUnavailable) as caught:
        ChainClient(url, 31337).head()
    assert "secret" not in str(caught.value)
