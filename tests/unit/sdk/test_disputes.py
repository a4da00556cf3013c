"""What a client sends in its own name is what it would have written itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from marketplace.sdk.resources.disputes import _claimed_ms, _require_ours

from marketplace.sdk.errors import VerificationError
from marketplace.sdk.models import Transaction
from settlement.attestation import Usage
from settlement.chain.calls import EscrowCalls, LeaseOrders, LeaseRef, SignedVoucher
from settlement.signing import LocalSigner
from tests.factories import BUYER, PROVIDER, WITNESS, address, make_ask

CALLS = EscrowCalls(address(0xE5))
REF = LeaseRef(BUYER, PROVIDER, WITNESS, b"\x07" * 16)
CONTEST = Transaction("contest", CALLS.address, CALLS.contest(REF), 300_000)
ORDERS = LeaseOrders(make_ask(), bytes(32), BUYER, WITNESS)


def test_what_is_ours_is_sent() -> None:
    _require_ours(CALLS, CONTEST, CONTEST.data)


@pytest.mark.parametrize(
    "changed",
    [
        replace(CONTEST, to=address(0xBAD)),
        replace(CONTEST, data=CALLS.withdraw(address(0xBAD), 10**18)),
        replace(CONTEST, data=CALLS.contest(replace(REF, lease_no=b"\x08" * 16))),
    ],
    ids=["another contract", "another call", "another lease"],
)
def test_what_is_not_ours_is_refused(changed: Transaction) -> None:
    with pytest.raises(VerificationError):
        _require_ours(CALLS, changed, CONTEST.data)


def test_before_our_own_call_come_settlements_alone() -> None:
    signature = LocalSigner(b"\x07" * 32).sign_digest(bytes(32))
    usage = Usage(BUYER, PROVIDER, b"\x07" * 16, 5)
    settle = CALLS.settle([SignedVoucher(usage, signature)])
    _require_ours(CALLS, replace(CONTEST, data=settle), None)
    for data in (CONTEST.data, CALLS.withdraw(address(0xBAD), 1), b""):
        with pytest.raises(VerificationError, match="settles nothing"):
            _require_ours(CALLS, replace(CONTEST, data=data), None)


def test_the_claimed_time_is_read_from_the_claim() -> None:
    claim = replace(CONTEST, data=CALLS.claim(ORDERS, 90_000))
    assert _claimed_ms(CALLS, claim) == 90_000
    with pytest.raises(VerificationError, match="is none"):
        _claimed_ms(CALLS, CONTEST)
