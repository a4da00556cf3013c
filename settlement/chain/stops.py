"""Who stopped a lease, read from the transaction that did.

A Stopped event does not say it. Whoever sends `stop` is a party, and a Stop tells its signer; only
a stop that reached the escrow through another contract needs a trace, which not every node gives.
"""

from collections.abc import Iterator
from typing import Any

from settlement.attestation import Stop
from settlement.chain.abi import abi
from settlement.chain.calls import LeaseRef
from settlement.chain.client import ChainClient
from settlement.eip712 import Domain, checksum
from settlement.errors import ChainError, ChainUnavailable, FieldError, SignatureError
from settlement.leases import Side
from settlement.signing import recover

_Call = tuple[str, bytes]
"""Who called, and the calldata."""


def who_stopped(
    client: ChainClient, domain: Domain, tx_hash: str, lease: LeaseRef, meter: str
) -> Side:
    """The side that a transaction which stopped the lease acted for. Raises ChainError."""
    escrow = domain.verifying_contract
    for sender, calls in _calls(client, escrow, tx_hash):
        for data in _unpacked(calls):
            side = _side(sender, data, domain, lease, meter)
            if side is not None:
                return side
    return Side.NOBODY


def _side(sender: str, data: bytes, domain: Domain, lease: LeaseRef, meter: str) -> Side | None:
    """Whose stop of this lease a call is; None if it is another call."""
    named = (*lease[:3], lease.lease_no)
    try:
        key, _again = abi("ComputeEscrow").arguments("stop", data)
        if _named(key) == named:
            return Side.PROVIDER if sender == lease.provider else Side.BUYER
    except FieldError:
        pass
    try:
        key, again, deadline, _, signature = abi("ComputeEscrow").arguments("stopBySignature", data)
    except FieldError:
        return None
    if _named(key) != named:
        return None
    try:
        signer = recover(Stop(*lease.unwitnessed, again, deadline), domain, signature)
    except SignatureError:  # a contract's, which is the buyer's: the other signers are keys
        return Side.BUYER
    return Side.PROVIDER if signer == meter else Side.BUYER


def _named(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*(checksum(party) for party in key[:3]), bytes(key[3]))


def _unpacked(data: bytes) -> Iterator[bytes]:
    """A call, or the calls in a `multicall`."""
    try:
        (calls,) = abi("ComputeEscrow").arguments("multicall", data)
    except FieldError:
        yield data
        return
    for inner in calls:
        yield from _unpacked(bytes(inner))


def _calls(client: ChainClient, escrow: str, tx_hash: str) -> list[_Call]:
    """The calls of the escrow that a transaction made, in order."""
    sent = client.rpc("eth_getTransactionByHash", tx_hash)
    try:
        if sent is None:
            raise ChainUnavailable(f"the node does not have the transaction {tx_hash}")
        if sent["to"] is not None and checksum(sent["to"]) == escrow:
            return [(checksum(sent["from"]), bytes.fromhex(sent["input"][2:]))]
        traced = client.rpc("debug_traceTransaction", tx_hash, {"tracer": "callTracer"})
        return list(_traced(traced, escrow))
    except ChainUnavailable:
        raise
    except ChainError:  # the node traces nothing
        return []
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ChainUnavailable("the node's answer on a transaction cannot be read") from error


def _traced(frame: dict[str, Any], escrow: str) -> Iterator[_Call]:
    if "error" in frame:
        return
    if frame["type"] == "CALL" and checksum(frame["to"]) == escrow:
        yield checksum(frame["from"]), bytes.fromhex(frame["input"][2:])
        return  # what it calls in turn are not calls of parties
    for inner in frame.get("calls", ()):
        yield from _traced(inner, escrow)
