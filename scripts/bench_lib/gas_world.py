"""An escrow on a real Anvil with many buyers that has been in use for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from eth_account import Account
from eth_hash.auto import keccak

from settlement.attestation import Close, MeteredUsage, Stop, Usage
from settlement.chain.calls import LeaseRef, Match, SettlementEntry
from settlement.chain.client import ChainClient
from settlement.chain.contracts import Escrow, Token
from settlement.chain.deploy import EscrowSettings, deploy
from settlement.chain.devnet import Devnet, dev_account
from settlement.eip712 import ZERO_ADDRESS, Domain, Struct, text32
from settlement.orders import Ask, Bid, Prices, TierLimit
from settlement.signing import LocalSigner, sign

ONE = 10**18
GAS_MAX = 16_777_216
"""Most that one transaction may use. Source: EIP-7825."""
TIER = text32("H100-80GB-SXM")
UNIT = text32("request")
FUNDS = 10_000 * ONE
NODE_GPU_MILLI = 100_000_000
PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3"
# Who deployed Permit2 everywhere, and with what salt: so its address proves the code (EIP-1014).
_DEPLOYER = "0x4e59b44847b379578588920cA78FbF26c0B4956C"
_PERMIT2_SALT = bytes.fromhex("0000000000000000000000000000000000000000d3af2663da51c10215000000")
_PERMIT2_CODE = Path(__file__).parents[2] / f"node_modules/hardhat-predeploy/bin/{PERMIT2}.bytecode"


@dataclass(frozen=True, slots=True)
class Lease:
    """An open lease and its signers."""

    buyer: LocalSigner
    match: Match

    @property
    def ref(self) -> LeaseRef:
        """What the escrow finds it by."""
        return self.match.ref

    @property
    def number(self) -> bytes:
        """Its number."""
        return self.ref.lease_no


@dataclass(slots=True)
class GasWorld:
    """An escrow and its parties; sends transactions and reads their gas."""

    client: ChainClient
    escrow: Escrow
    token: Token
    sender: LocalSigner = field(default_factory=lambda: dev_account(0))
    provider: LocalSigner = field(default_factory=lambda: dev_account(1))
    meter: LocalSigner = field(default_factory=lambda: _key("meter"))
    witness: LocalSigner = field(default_factory=lambda: _key("witness"))
    buyers: list[LocalSigner] = field(default_factory=list)
    _salt: int = 0

    @property
    def domain(self) -> Domain:
        """The EIP-712 domain of all signatures."""
        return self.escrow.domain()

    def gas(self, signer: LocalSigner, data: bytes, gas: int = GAS_MAX - 1) -> int:
        """Gas of one transaction to the escrow, from its receipt. Raises if it reverts."""
        return self.client.transact(signer, self.escrow.address, data, gas=gas).gas_used

    def approve(self, spender: str, amount: int) -> None:
        """The sender lets a spender move so many of its tokens."""
        data = self.token.approve(spender, amount)
        self.client.transact(self.sender, self.token.address, data)

    def later(self, seconds: int) -> None:
        """Let chain time pass."""
        self.client.rpc("evm_increaseTime", seconds)
        self.client.rpc("evm_mine")

    def signed(self, struct: Struct, signer: LocalSigner) -> bytes:
        """A signature under this escrow's domain."""
        return sign(struct, self.domain, signer)

    # -- people -----------------------------------------------------------------------------------

    def add_buyers(self, count: int) -> None:
        """More accounts with gas, tokens, an allowance and a deposit, each by its own calls."""
        new = [_key(f"buyer {len(self.buyers) + i}") for i in range(count)]
        approve = "0x" + self.token.approve(self.escrow.address, 2 * FUNDS).hex()
        deposit = "0x" + self.escrow.calls.deposit(FUNDS).hex()
        calls: list[tuple[str, list[object]]] = []
        for buyer in new:
            give = "0x" + self.token.transfer(buyer.address, 2 * FUNDS).hex()
            calls += [
                ("anvil_setBalance", [buyer.address, hex(ONE)]),
                ("anvil_impersonateAccount", [buyer.address]),
                _send(self.sender.address, self.token.address, give),
                _send(buyer.address, self.token.address, approve),
                _send(buyer.address, self.escrow.address, deposit),
            ]
        for method, parameters in calls:
            self.client.rpc(method, *parameters)
        self.buyers += new

    def deploy_permit2(self) -> None:
        """The real Permit2, by the deployer that Anvil has, as everywhere."""
        data = _PERMIT2_SALT + _PERMIT2_CODE.read_bytes()
        self.client.transact(self.sender, _DEPLOYER, data, gas=10_000_000)

    def permit2_transfer(self, owner: LocalSigner, amount: int, nonce: int, deadline: int) -> bytes:
        """The owner lets the escrow take tokens by Permit2."""
        types = {
            "EIP712Domain": "string name, uint256 chainId, address verifyingContract",
            "TokenPermissions": "address token, uint256 amount",
            "PermitTransferFrom": "TokenPermissions permitted, address spender, uint256 nonce, "
            "uint256 deadline",
        }
        domain = {
            "name": "Permit2", "chainId": self.client.chain_id, "verifyingContract": PERMIT2,
        }  # fmt: skip
        values = {
            "permitted": {"token": self.token.address, "amount": amount},
            "spender": self.escrow.address, "nonce": nonce, "deadline": deadline,
        }  # fmt: skip
        return _typed(owner, "PermitTransferFrom", types, domain, values)

    def authorization(self, owner: LocalSigner, amount: int, deadline: int, nonce: bytes) -> bytes:
        """The owner lets the escrow take tokens by EIP-3009."""
        token = self.token.domain()
        types = {
            "EIP712Domain": "string name, string version, uint256 chainId, "
            "address verifyingContract",
            "ReceiveWithAuthorization": "address from, address to, uint256 value, "
            "uint256 validAfter, uint256 validBefore, bytes32 nonce",
        }
        domain = {
            "name": token.name, "version": token.version, "chainId": token.chain_id,
            "verifyingContract": token.verifying_contract,
        }  # fmt: skip
        values = {
            "from": owner.address, "to": self.escrow.address, "value": amount, "validAfter": 0,
            "validBefore": deadline, "nonce": nonce,
        }  # fmt: skip
        return _typed(owner, "ReceiveWithAuthorization", types, domain, values)

    # -- orders -----------------------------------------------------------------------------------

    def ask(self, metered: bool = False) -> Ask:
        """An H100 at 2.50; if `metered`, also egress at 0.08 per GiB and requests at 0.001."""
        prices = Prices(2_500_000_000, egress_gib=80_000_000 * metered, unit=1_000_000 * metered)
        return Ask(
            provider=self.provider.address, meter=self.meter.address, opener=ZERO_ADDRESS,
            node=7, tier=TIER, gpu_milli=NODE_GPU_MILLI, cpu_milli=64_000,
            memory_mib=524_288, storage_mib=1_048_576, floor=prices, min_seconds=60,
            max_seconds=86_400, start_limit_seconds=600, notice_seconds=0,
            unit=UNIT if metered else bytes(32), starts_at=0, flags=0, max_fee_bps=500,
            expiry=2**40 - 1, salt=1,
        )  # fmt: skip

    def match(self, buyer: LocalSigner, salt: int, metered: bool = False) -> Match:
        """A signed pair of orders."""
        ask = self.ask(metered)
        bid = Bid(
            buyer=buyer.address, witness=self.witness.address, opener=ZERO_ADDRESS,
            job_hash=TIER, limits=(TierLimit(TIER, 10**13, 10**9, 10**9),),
            gpu_milli=1000, cpu_milli=8000, memory_mib=65_536, storage_mib=131_072,
            egress_mib=10_240 * metered, units=5_000 * metered,
            unit=UNIT if metered else bytes(32), max_seconds=3_600,
            max_start_seconds=600, min_notice_seconds=0, budget=100 * ONE, nodes=1, flags=0,
            max_fee_bps=500, expiry=2**40 - 1, salt=salt,
        )  # fmt: skip
        return Match(ask, bid, self.signed(ask, self.provider), self.signed(bid, buyer))

    def of_purse(self, purse: str, operator: LocalSigner, salt: int) -> Lease:
        """A signed pair of orders whose buyer is a purse."""
        match = self.match(operator, salt)
        bid = replace(match.bid, buyer=purse)
        return Lease(operator, replace(match, bid=bid, bid_signature=self.signed(bid, operator)))

    def matches(self, count: int, metered: bool = False) -> list[Lease]:
        """Signed pairs of orders of this many different buyers, not yet open."""
        self._salt += 1
        return [Lease(b, self.match(b, self._salt, metered)) for b in self.buyers[:count]]

    def open(self, leases: Sequence[Lease]) -> None:
        """Open them, fifty in a transaction."""
        for i in range(0, len(leases), 50):
            self.gas(
                self.sender,
                self.escrow.calls.open_batch([x.match for x in leases[i : i + 50]]),
            )

    # -- usage ------------------------------------------------------------------------------------

    def voucher(self, lease: Lease, ms: int) -> SettlementEntry:
        """A countersigned voucher for time."""
        usage = Usage(lease.buyer.address, self.provider.address, lease.number, ms)
        return SettlementEntry(usage, self.signed(usage, self.witness))

    def metered(self, lease: Lease, ms: int, egress_mib: int, units: int) -> SettlementEntry:
        """A countersigned voucher for time and counted resources."""
        parties = (lease.buyer.address, self.provider.address, lease.number)
        usage = MeteredUsage(*parties, ms, egress_mib, units)
        return SettlementEntry(usage, self.signed(usage, self.witness))

    def close_data(self, lease: Lease, ms: int) -> bytes:
        """A close that meter and witness signed."""
        close = Close(lease.buyer.address, self.provider.address, lease.number, ms, 0, 0, False)
        meter, witness = self.signed(close, self.meter), self.signed(close, self.witness)
        return self.escrow.calls.close(close, lease.match.opened.terms_hash, meter, witness)

    def stop_data(self, lease: Lease) -> bytes:
        """A stop that the meter signed."""
        parties = (lease.buyer.address, self.provider.address, lease.number)
        stop = Stop(*parties, again=False, deadline=self.client.timestamp() + 600)
        signature, terms = self.signed(stop, self.meter), lease.match.opened.terms_hash
        return self.escrow.calls.stop_by_signature(lease.ref, stop, terms, signature)


def _typed(
    signer: LocalSigner,
    kind: str,
    types: dict[str, str],
    domain: dict[str, object],
    values: dict[str, object],
) -> bytes:
    """A signature over a message of somebody else's contract. `types`: members of each struct."""
    listed = {
        name: [
            dict(zip(("type", "name"), member.split(" "), strict=True))
            for member in members.split(", ")
        ]
        for name, members in types.items()
    }
    message = {"types": listed, "primaryType": kind, "domain": domain, "message": values}
    return bytes(Account.sign_typed_data(signer.secret(), full_message=message).signature)


def _key(name: str) -> LocalSigner:
    """The same key for the same name, because gas depends on which bytes are zero."""
    return LocalSigner(keccak(f"coulomb bench key {name}".encode()))


def _send(sender: str, to: str, data: str) -> tuple[str, list[object]]:
    # Enough for any base fee: one that is too low would wait in the pool, and its sender with it.
    fees = {"maxFeePerGas": hex(10**12), "maxPriorityFeePerGas": "0x1"}
    call = {"from": sender, "to": to, "data": data, "gas": hex(200_000), **fees}
    return "eth_sendTransaction", [call]


@contextmanager
def gas_world() -> Iterator[GasWorld]:
    """A new chain with the rules of Osaka, and an escrow with a fee of 2.5 %."""
    with Devnet(block_seconds=0, hardfork="osaka") as chain:
        client = chain.client(timeout_seconds=60.0)
        operator = dev_account(0)
        settings = EscrowSettings(fee_bps=250, fee_recipient=operator.address)
        escrow, token = deploy(client, operator, settings).open(client)
        yield GasWorld(client, escrow, token)
