"""A deployed escrow and actors with keys and money, on an in-process chain or on Anvil."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from eth_hash.auto import keccak
from eth_tester import EthereumTester, PyEVMBackend  # type: ignore[import-untyped]
from eth_tester.exceptions import BlockNotFound, TransactionFailed, TransactionNotFound  # type: ignore[import-untyped]

from settlement.attestation import Close, MeteredUsage, Stop, Usage
from settlement.chain.calls import LeaseRef, Match, Previous, SettlementEntry
from settlement.chain.client import ChainClient, TransactionReceipt, transaction_fields
from settlement.chain.contracts import Escrow, Token
from settlement.chain.deploy import Deployment, EscrowSettings, deploy
from settlement.chain.devnet import DEV_MNEMONIC, Devnet, dev_account
from settlement.eip712 import ZERO_ADDRESS, text32
from settlement.events import ChainEvent, Opened
from settlement.fees import GWEI, TransactionFees
from settlement.orders import (
    Ask,
    Bid,
    Cancel,
    Numbered,
    Permit,
    Prices,
    TierLimit,
    TopUp,
    Withdraw,
    purse_of,
)
from settlement.signing import LocalSigner, sign
from tests.escrow_orders import EscrowOrders, replay_orders
from tests.factories import H100, make_ask, make_bid

TOKEN = 10**18
TIER = text32(H100)
FAR = 2**40 - 1
TESTER_CHAIN_ID = 131277322940537
SETTINGS = EscrowSettings(fee_bps=250, fee_recipient="0x" + "fe" * 20, settle_window=120)


class Chain(Protocol):
    """A chain whose clock a test can move."""

    client: ChainClient

    def warp(self, seconds: int) -> None:
        """Mine a block `seconds` after the newest."""

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Undo everything that the `with` block does to the chain."""
        yield


class _EvmNode:
    """py-evm's answers, in the form that nodes give."""

    def __init__(self, tester: EthereumTester) -> None:
        self._methods: dict[str, Callable[..., Any]] = {
            "eth_chainId": lambda: TESTER_CHAIN_ID,
            "eth_maxPriorityFeePerGas": lambda: GWEI,
            "eth_getBlockByNumber": lambda at, _full: tester.get_block_by_number(_at(at)),
            "eth_getBalance": tester.get_balance,
            "eth_getTransactionCount": lambda who, at: tester.get_nonce(who, _at(at)),
            "eth_getCode": tester.get_code,
            "eth_call": lambda call, at: tester.call(_call(call), _at(at)),
            "eth_estimateGas": lambda call, _at: tester.estimate_gas(_call(call)),
            "eth_sendRawTransaction": tester.send_raw_transaction,
            "eth_getTransactionByHash": tester.get_transaction_by_hash,
            "eth_getTransactionReceipt": tester.get_transaction_receipt,
            "eth_getLogs": lambda wanted: tester.get_logs(
                _at(wanted["fromBlock"]), _at(wanted["toBlock"]), wanted["address"]
            ),
        }

    def __call__(self, method: str, parameters: tuple[Any, ...]) -> dict[str, Any]:
        try:
            return {"result": _as_json(self._methods[method](*parameters))}
        except (BlockNotFound, TransactionNotFound):
            return {"result": None}
        except TransactionFailed as error:
            cause = error.args[0]
            cause = cause.args[0] if isinstance(cause, Exception) else cause
            data = cause if isinstance(cause, bytes) else b""
            return {"error": {"code": 3, "message": str(error), "data": "0x" + data.hex()}}


def _at(at: str) -> int | str:
    return int(at, 16) if at.startswith("0x") else at


def _call(call: dict[str, str]) -> dict[str, Any]:
    numbers = {name: int(call[name], 16) for name in ("value", "gas") if name in call}
    return {"from": dev_account(0).address, **call, **numbers}


def _as_json(value: Any) -> Any:
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, Mapping):
        return {_camel(name): _as_json(part) for name, part in value.items()}
    return [_as_json(part) for part in value] if isinstance(value, list | tuple) else value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


class EvmChain:
    """py-evm in this process, without a socket. Each transaction is mined at once."""

    def __init__(self) -> None:
        path = "m/44'/60'/0'/0"
        backend = PyEVMBackend.from_mnemonic(DEV_MNEMONIC, num_accounts=10, hd_path=path)
        self.tester = EthereumTester(backend)
        self.client = ChainClient("tester", TESTER_CHAIN_ID, transport=_EvmNode(self.tester))

    def warp(self, seconds: int) -> None:
        self.tester.time_travel(self.client.timestamp() + seconds)
        self.tester.mine_block()

    @contextmanager
    def put_back(self) -> Iterator[None]:
        snapshot = self.tester.take_snapshot()
        try:
            yield
        finally:
            self.tester.revert_to_snapshot(snapshot)


class AnvilChain:
    """Anvil, which mines each transaction at once unless told otherwise."""

    def __init__(self, net: Devnet) -> None:
        self.net = net
        self.client = net.client()

    def warp(self, seconds: int) -> None:
        at = self.client.timestamp() + seconds
        self.client.rpc("evm_setNextBlockTimestamp", at)
        self.client.rpc("evm_mine")

    @contextmanager
    def put_back(self) -> Iterator[None]:
        snapshot = self.client.rpc("evm_snapshot")
        try:
            yield
        finally:
            assert self.client.rpc("evm_revert", snapshot)


@contextmanager
def anvil(block_seconds: int = 0, *extra: str) -> Iterator[AnvilChain]:
    """An Anvil for the length of a `with` block."""
    with Devnet(block_seconds=block_seconds, extra=extra) as net:
        yield AnvilChain(net)


def mine_every_second(client: ChainClient) -> None:
    """Let an Anvil that mined each transaction at once mine a block every second from now on."""
    client.rpc("evm_setAutomine", False)
    client.rpc("evm_setIntervalMining", 1)


def key(name: str) -> LocalSigner:
    """The same signer for the same name, in every run."""
    return LocalSigner(keccak(f"coulomb test key {name}".encode()))


@dataclass(slots=True)
class World:
    """One deployment and its actors. `relayer` sends what anyone may send."""

    chain: Chain
    deployment: Deployment
    escrow: Escrow
    token: Token
    buyer: LocalSigner = field(default_factory=lambda: dev_account(1))
    provider: LocalSigner = field(default_factory=lambda: dev_account(2))
    relayer: LocalSigner = field(default_factory=lambda: dev_account(3))
    stranger: LocalSigner = field(default_factory=lambda: dev_account(4))
    meter: LocalSigner = field(default_factory=lambda: key("meter"))
    witness: LocalSigner = field(default_factory=lambda: key("witness"))
    _salts: Iterator[int] = field(default_factory=count)

    @property
    def client(self) -> ChainClient:
        return self.chain.client

    def send(
        self, signer: LocalSigner, data: bytes, to: str | None = None, gas: int | None = None
    ) -> TransactionReceipt:
        """Send a call of the escrow (or of `to`) and wait until it is mined."""
        return self.client.transact(signer, to or self.escrow.address, data, gas=gas)

    def broadcast(self, signer: LocalSigner, data: bytes, gas: int, gwei: int = 10) -> str:
        """Send a call of the escrow without simulating it; return its hash."""
        offer = TransactionFees(gwei * GWEI, gwei * GWEI // 2)
        fields = transaction_fields(
            self.client.chain_id, self.escrow.address, data, 0, gas, offer
        ) | {"nonce": self.client.nonce(signer.address)}
        raw, tx_hash = signer.sign_transaction(fields)
        self.client.send_raw(raw)
        return tx_hash

    def settle(self, *vouchers: SettlementEntry, sender: LocalSigner | None = None) -> None:
        """Settle vouchers of one kind, sent by the relayer unless told otherwise."""
        metered = isinstance(vouchers[0].voucher, MeteredUsage)
        self.send(sender or self.relayer, self.escrow.calls.settle(vouchers, metered))

    def events(self, first: int = 0) -> list[ChainEvent]:
        """The escrow's events from a block on."""
        head = self.client.head().number
        return [logged.event for logged in self.escrow.events(first, head)]

    def state(self) -> EscrowOrders:
        """The escrow's books, replayed from its events."""
        return replay_orders(self.events(), self.escrow.params())

    def give(self, amount: int) -> None:
        """Give the buyer tokens."""
        transfer = self.token.transfer(self.buyer.address, amount)
        self.send(dev_account(0), transfer, self.token.address)

    def fund(self, amount: int) -> None:
        """Give the buyer tokens and deposit them with an approval."""
        self.give(amount)
        self.send(self.buyer, self.token.approve(self.escrow.address, amount), self.token.address)
        self.send(self.buyer, self.escrow.calls.deposit(amount))

    def permit(self, amount: int, deadline: int = FAR) -> bytes:
        """The buyer's permit for a deposit of `amount`."""
        owner = self.buyer.address
        nonce = self.token.permit_nonce(owner)
        permit = Permit(owner, self.escrow.address, amount, nonce, deadline)
        return sign(permit, self.token.domain(), self.buyer)

    def ask(self, **changes: Any) -> Ask:
        """An ask for eight GPUs at 2.50 an hour each; `changes` replaces fields."""
        base = make_ask(
            provider=self.provider.address, meter=self.meter.address, gpu_milli=8_000,
            cpu_milli=64_000, memory_mib=1 << 20, storage_mib=1 << 20, floor=Prices(2_500_000_000),
            start_limit_seconds=0, unit="request", flags=1, expiry=FAR, salt=next(self._salts),
        )  # fmt: skip
        return replace(base, **changes)

    def bid(self, **changes: Any) -> Bid:
        """A bid for one GPU for an hour, with a new salt; `changes` replaces fields."""
        base = make_bid(
            buyer=self.buyer.address, witness=self.witness.address, job_hash=keccak(b"job"),
            limits=(TierLimit(TIER, 2**64 - 1, 2**64 - 1, 2**64 - 1),), cpu_milli=8_000,
            memory_mib=65_536, budget=1_000 * TOKEN, flags=1, expiry=FAR, salt=next(self._salts),
        )  # fmt: skip
        return replace(base, **changes)

    def metered_bid(self, **changes: Any) -> Bid:
        """A bid that also buys up to 10 GiB of egress and 1,000 requests."""
        return self.bid(egress_mib=10_240, units=1_000, unit=text32("request"), **changes)

    def match(self, ask: Ask | None = None, bid: Bid | None = None, **more: Any) -> Match:
        """An ask signed by the provider and a bid signed by the buyer."""
        ask, bid = ask or self.ask(), bid or self.bid()
        domain = self.escrow.domain()
        return Match(
            ask, bid, sign(ask, domain, self.provider), sign(bid, domain, self.buyer), **more
        )

    def cancel(
        self, salt: int, and_older: bool = False, signer: LocalSigner | None = None
    ) -> bytes:
        """Calldata of a Cancel signed by its account (by default the buyer)."""
        account = signer or self.buyer
        cancel = Cancel(account.address, Numbered.ORDERS, salt, and_older)
        return self.escrow.calls.cancel(cancel, sign(cancel, self.escrow.domain(), account))

    def withdrawal(
        self, amount: int, to: str, signer: LocalSigner | None = None, **relay: Any
    ) -> bytes:
        """Calldata of a withdrawal that its account (by default the buyer) signed."""
        account = signer or self.buyer
        call = Withdraw(account.address, to, amount, *self._relay(**relay))
        signature = sign(call, self.escrow.domain(), account)
        return self.escrow.calls.withdraw_by_signature(call, signature)

    def _relay(
        self, deadline: int = FAR, relayer: str = ZERO_ADDRESS, fee: int = 0
    ) -> tuple[int, int, str, int]:
        return next(self._salts), deadline, relayer, fee

    def purse(self, operator: LocalSigner, amount: int, expiry: int = FAR) -> str:
        """A purse of the buyer's, with so much of its balance."""
        salt = next(self._salts)
        calls, owner = self.escrow.calls, self.buyer.address
        self.send(self.buyer, calls.create_purse(operator.address, salt, expiry, amount))
        return purse_of(self.escrow.domain(), owner, operator.address, salt)

    def open(self, match: Match | None = None) -> "Lease":
        """Open a lease, sent by the relayer."""
        match = match or self.match()
        receipt = self.send(self.relayer, self.escrow.calls.open(match))
        events = [self.escrow.decode(log) for log in receipt.logs]
        (opened,) = (event for event in events if isinstance(event, Opened))
        return Lease(self, match, opened)


@dataclass(frozen=True, slots=True)
class Lease:
    """An open lease and what its keys can sign."""

    world: World
    match: Match
    opened: Opened

    @property
    def ref(self) -> LeaseRef:
        return self.match.ref

    @property
    def number(self) -> bytes:
        return self.ref.lease_no

    @property
    def previous(self) -> Previous:
        """How the bid's next lease names this one."""
        ask, prices = self.match.ask, self.match.prices
        return Previous(ask.provider, ask.struct_hash(), prices.struct_hash(), ask.meter)

    @property
    def _names(self) -> tuple[str, str, bytes]:
        return self.ref.buyer, self.ref.provider, self.number

    def voucher(self, ms: int, signer: LocalSigner | None = None) -> SettlementEntry:
        usage = Usage(*self._names, ms)
        domain = self.world.escrow.domain()
        return SettlementEntry(usage, sign(usage, domain, signer or self.world.witness))

    def metered(self, ms: int, egress_mib: int, units: int) -> SettlementEntry:
        usage = MeteredUsage(*self._names, ms, egress_mib, units)
        return SettlementEntry(usage, sign(usage, self.world.escrow.domain(), self.world.witness))

    def close(
        self, ms: int, egress_mib: int = 0, units: int = 0, again: bool = False, **signers: Any
    ) -> bytes:
        """Calldata of a close; `meter` and `witness` replace the signers."""
        close = Close(*self._names, ms, egress_mib, units, again)
        domain = self.world.escrow.domain()
        return self.world.escrow.calls.close(
            close,
            self.match.opened.terms_hash,
            sign(close, domain, signers.get("meter", self.world.meter)),
            sign(close, domain, signers.get("witness", self.world.witness)),
        )

    def stop(self, signer: LocalSigner, again: bool = False, deadline: int = FAR) -> bytes:
        """Calldata of a stop by signature."""
        stop = Stop(*self._names, again, deadline)
        signature = sign(stop, self.world.escrow.domain(), signer)
        calls, terms = self.world.escrow.calls, self.match.opened.terms_hash
        return calls.stop_by_signature(self.ref, stop, terms, signature)

    def top_up(self, seconds: int, signer: LocalSigner | None = None, **relay: Any) -> bytes:
        """Calldata of a top-up that its buyer, or another for a purse, signed."""
        call = TopUp(*self._names, seconds, *self.world._relay(**relay))
        signature = sign(call, self.world.escrow.domain(), signer or self.world.buyer)
        calls = self.world.escrow.calls
        return calls.top_up_by_signature(self.match.opened, call, signature)

    def view(self) -> Any:
        return self.world.escrow.lease(self.ref)


def found(chain: Chain, settings: EscrowSettings = SETTINGS) -> World:
    """Deploy on a fresh chain."""
    deployment = deploy(chain.client, dev_account(0), settings)
    return World(chain, deployment, *deployment.open(chain.client))


@contextmanager
def anvil_world(settings: EscrowSettings = SETTINGS) -> Iterator[World]:
    """A world on an Anvil of its own, with a funded buyer."""
    with anvil() as chain:
        world = found(chain, settings)
        world.fund(10_000_000 * TOKEN)
        yield world


def eventually(check: Any, seconds: float = 15.0) -> None:
    """Wait until `check()` holds; fail after `seconds`."""
    until = time.monotonic() + seconds
    while not check():
        if time.monotonic() > until:
            raise AssertionError(f"did not happen within {seconds:g} s")
        time.sleep(0.05)
