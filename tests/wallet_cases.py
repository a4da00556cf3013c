"""What every reader of the chain must answer about contract accounts, the fake and the real one.

Subclass and provide a `wallets` fixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from marketplace.services.ports import EscrowReads
from settlement.errors import ChainUnavailable
from tests.market_world import key_of

OWNER = key_of("wallet owner")
DIGEST, OTHER = b"\x01" * 32, b"\x02" * 32
BAD = (
    "Reverts", "SaysNo", "SaysTrue", "AnswersShort", "AnswersNothing", "BurnsGas", "AnswersBomb",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wallets:
    """A reader, one whose node is down, a wallet that OWNER owns, and wallets that misbehave."""

    reads: EscrowReads
    away: EscrowReads
    owned: str
    bad: dict[str, str]


class WalletCases:
    """Tests of `EscrowReads.accepts_signature`."""

    def test_what_the_owner_signed_is_accepted(self, wallets: Wallets) -> None:
        signature = OWNER.sign_digest(DIGEST)
        assert wallets.reads.accepts_signature(wallets.owned, DIGEST, signature) is True

    def test_what_another_signed_or_signed_otherwise_is_not(self, wallets: Wallets) -> None:
        signature = OWNER.sign_digest(DIGEST)
        stranger = key_of("stranger").sign_digest(DIGEST)
        for digest, given in (
            (OTHER, signature), (DIGEST, stranger), (DIGEST, b""), (DIGEST, signature[:64]),
            (DIGEST, signature + b"\0"), (DIGEST, bytes(2_048)),
        ):  # fmt: skip
            assert wallets.reads.accepts_signature(wallets.owned, digest, given) is False

    @pytest.mark.parametrize("kind", BAD)
    def test_a_contract_that_answers_anything_else_is_not(
        self, wallets: Wallets, kind: str
    ) -> None:
        account, signature = wallets.bad[kind], OWNER.sign_digest(DIGEST)
        assert wallets.reads.accepts_signature(account, DIGEST, signature) is False

    @pytest.mark.parametrize("address", [OWNER.address, "0x" + "00" * 20, "0x" + "00" * 19 + "04"])
    def test_an_account_without_code_accepts_nothing(self, wallets: Wallets, address: str) -> None:
        signature = OWNER.sign_digest(DIGEST)
        assert wallets.reads.accepts_signature(address, DIGEST, signature) is False

    def test_a_node_that_is_down_raises(self, wallets: Wallets) -> None:
        with pytest.raises(ChainUnavailable):
            wallets.away.accepts_signature(wallets.owned, DIGEST, OWNER.sign_digest(DIGEST))
