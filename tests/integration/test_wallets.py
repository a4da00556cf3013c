"""Contract accounts on a real chain: whose signatures count, and what a bad contract cannot do."""

import pytest

from settlement.chain.client import ChainClient
from settlement.chain.contracts import MAGIC, SIGNATURE_GAS_MAX, Escrow
from settlement.chain.devnet import dev_account
from tests.escrow_world import World
from tests.wallet_cases import BAD, DIGEST, OWNER, WalletCases, Wallets
from tests.wallet_contracts import bad_wallet, owned_wallet

NOWHERE = "http://127.0.0.1:9"
ESCROW = "0x" + "ec" * 20


@pytest.fixture(scope="module")
def wallets(deployed: World) -> Wallets:
    client, payer = deployed.client, dev_account(0)
    client.rpc("anvil_setBalance", OWNER.address, hex(10**18))
    away = ChainClient(NOWHERE, client.chain_id, 1.0)
    return Wallets(
        reads=Escrow(client, ESCROW),
        away=Escrow(away, ESCROW),
        owned=owned_wallet(client, OWNER),
        bad={kind: bad_wallet(client, payer, kind) for kind in BAD},
    )


class TestRealWallets(WalletCases):
    """The chain's own answers."""


@pytest.mark.parametrize(
    ("code", "accepted"),
    [
        ("63 1626ba7e 60e0 1b 5f 52 6020 5f f3", True),
        ("63 1626ba7e 60e0 1b 6001 17 5f 52 6020 5f f3", False),  # not only the magic value
        ("63 1626ba7e 60e0 1b 5f 52 6040 5f f3", False),  # a word too many
        ("63 1626ba7e 60e0 1b 5f 52 601f 5f f3", False),  # a byte too few
        ("63 1626ba7e 5f 52 6020 5f f3", False),  # aligned right
        ("fe", False),
        ("00", False),
        ("01", False),  # the stack runs empty
        ("5f 56", False),  # a jump to nowhere
        ("5f 5f 55", False),  # a write in what must only read
        ("5b 5f 56", False),  # no end
    ],
)
def test_only_the_magic_value_in_one_word_passes(world: World, code: str, accepted: bool) -> None:
    account = "0x" + "c0" * 20
    world.client.rpc("anvil_setCode", account, "0x" + code.replace(" ", ""))
    reads = Escrow(world.client, ESCROW)
    assert reads.accepts_signature(account, DIGEST, bytes(65)) is accepted


def test_an_answer_that_needs_more_gas_than_agreed_is_refused(world: World) -> None:
    """A contract answers well only with more gas than an opening leaves for a signature."""
    account = "0x" + "c1" * 20
    enough = SIGNATURE_GAS_MAX.to_bytes(3, "big").hex()
    yes = f"63{MAGIC.hex()}60e01b5f5260205ff3"
    world.client.rpc("anvil_setCode", account, f"0x62{enough}5a11600c575f5ffd5b{yes}")
    reads = Escrow(world.client, ESCROW)
    assert reads.accepts_signature(account, DIGEST, bytes(65)) is False
    assert world.client.call(account, b"", gas=3 * SIGNATURE_GAS_MAX) == MAGIC.ljust(32, b"\0")
