"""The devnet starts and stops; deployments are saved, loaded and checked."""

import json
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path

import psutil
import pytest

from settlement.chain import devnet
from settlement.chain.abi import abi, artifact
from settlement.chain.deploy import (
    Deployment,
    EscrowSettings,
    check_deployment,
    deploy,
    load_deployment,
)
from settlement.chain.devnet import DEV_CHAIN_ID, Devnet, dev_account
from settlement.errors import (
    CallReverted,
    ChainError,
    ChainUnavailable,
    DeploymentError,
    WrongChain,
)
from tests.escrow_world import SETTINGS, World, anvil, eventually, found

ANVIL_FIRST = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with anvil() as chain:
        yield found(chain, SETTINGS)


def test_devnet_picks_a_port_mines_and_leaves_nothing_behind() -> None:
    with Devnet(block_seconds=1) as net, Devnet(block_seconds=0) as other:
        assert net.rpc_url != other.rpc_url
        process = psutil.Process(net.process.pid)
        client = net.client()
        assert client.balance(dev_account(0).address) == 10_000 * 10**18
        head = client.head().number
        eventually(lambda: client.head().number > head)
    assert not process.is_running()
    with pytest.raises(ChainUnavailable):
        client.head()
    with pytest.raises(ChainError, match="not running"):
        _ = net.process
    net.stop()


def test_devnet_that_cannot_start_says_why() -> None:
    with pytest.raises(ChainError, match="no-such-option"):
        Devnet(extra=("--no-such-option",)).start()


def test_devnet_without_anvil_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(devnet, "_ROOT", Path("/nowhere"))
    with pytest.raises(ChainError, match="no anvil"):
        devnet.find_anvil()


def test_devnet_keeps_its_state_between_runs(tmp_path: Path) -> None:
    state = tmp_path / "chain.json"
    with Devnet(block_seconds=0, state=state) as net:
        deployment = deploy(net.client(), dev_account(0), SETTINGS)
    with Devnet(block_seconds=0, state=state) as net:
        check_deployment(net.client(), deployment)


def test_dev_accounts_are_anvils_own() -> None:
    assert dev_account(0).address == ANVIL_FIRST


def test_deploy_fixes_what_was_asked_for(world: World) -> None:
    config, deployment = world.escrow.config(), world.deployment
    assert config.token == deployment.token.address
    assert (config.fee_bps, config.settle_window) == (SETTINGS.fee_bps, SETTINGS.settle_window)
    assert world.token.read("totalSupply") == world.token.balance_of(dev_account(0).address)
    assert (world.token.symbol(), world.token.decimals()) == ("CMP", 18)
    assert deployment.block == 1
    assert deployment.escrow.abi_hash == artifact("ComputeEscrow").abi_hash
    receipt = world.client.receipt(deployment.escrow.tx_hash)
    assert receipt is not None
    assert receipt.contract == deployment.escrow.address


def test_deploy_uses_an_existing_token(world: World) -> None:
    token = world.token.address
    second = deploy(world.client, dev_account(0), EscrowSettings(), token=token)
    assert second.token.address == token
    assert second.escrow.address != world.escrow.address
    check_deployment(world.client, second)


def test_deploy_with_settings_out_of_bounds_is_refused_before_it_costs(world: World) -> None:
    before = world.client.nonce(dev_account(7).address)
    settings = EscrowSettings(fee_bps=1_001, fee_recipient=ANVIL_FIRST)
    with pytest.raises(CallReverted, match="FeeTooHigh"):
        deploy(world.client, dev_account(7), settings, token=world.token.address)
    assert world.client.nonce(dev_account(7).address) == before


def test_a_deployment_is_written_and_read_again(world: World, tmp_path: Path) -> None:
    path = world.deployment.save(tmp_path / "deployments")
    assert path.name == f"{DEV_CHAIN_ID}.json"
    assert load_deployment(path.parent, DEV_CHAIN_ID) == world.deployment
    document = json.loads(path.read_text())
    assert document["chainId"] == DEV_CHAIN_ID
    assert set(document["contracts"]) == {"ComputeToken", "ComputeEscrow"}
    assert set(document["contracts"]["ComputeEscrow"]) == {"address", "txHash", "abiHash"}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_missing_or_malformed_deployment_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="nothing is deployed on chain 5"):
        load_deployment(tmp_path, 5)
    for text in ("", "[]", '{"chainId": 5}', '{"chainId": 5, "block": 1, "contracts": {}}'):
        (tmp_path / "5.json").write_text(text)
        with pytest.raises(DeploymentError):
            load_deployment(tmp_path, 5)
    world.deployment.save(tmp_path).rename(tmp_path / "5.json")
    with pytest.raises(DeploymentError, match="describes chain 31337, not chain 5"):
        load_deployment(tmp_path, 5)


def test_check_refuses_what_is_not_the_shipped_escrow(world: World) -> None:
    good = world.deployment
    check_deployment(world.client, good)

    def expect(changed: Deployment, words: str) -> None:
        with pytest.raises(DeploymentError, match=words):
            check_deployment(world.client, changed)

    nowhere = replace(good.escrow, address="0x" + "77" * 20)
    expect(replace(good, escrow=nowhere), "there is no contract at")
    expect(replace(good, escrow=replace(good.escrow, abi_hash="0x00")), "another ABI")
    other = replace(good.escrow, address=good.token.address)
    expect(replace(good, escrow=other), "is not the shipped escrow")
    expect(replace(good, token=replace(good.token, address="0x" + "77" * 20)), "pays in")
    with pytest.raises(WrongChain):
        check_deployment(world.client, replace(good, chain_id=1))


def refused_with(world: World, place: str, code: bytes, words: str) -> None:
    """Check that the deployment is refused once this code is at a place."""
    with world.chain.put_back():
        world.client.rpc("anvil_setCode", place, "0x" + code.hex())
        with pytest.raises(DeploymentError, match=words):
            check_deployment(world.client, world.deployment)


def test_check_refuses_another_extension(world: World) -> None:
    client, place = world.client, world.escrow.read("extension")
    own = client.code(place)
    refused_with(world, place, b"\x00", "not the shipped extension")
    refused_with(world, place, own[:-1] + bytes([own[-1] ^ 1]), "not the shipped extension")
    for settings in (SETTINGS, replace(SETTINGS, settle_window=121), replace(SETTINGS, fee_bps=1)):
        other = deploy(client, dev_account(0), settings, token=world.token.address)
        foreign = client.code(other.open(client)[0].read("extension"))
        refused_with(world, place, foreign, "has other terms than the escrow")
    check_deployment(client, world.deployment)


def test_check_refuses_another_escrow_in_its_place(world: World) -> None:
    client, place = world.client, world.escrow.address
    own = client.code(place)
    refused_with(world, place, own[:-1] + bytes([own[-1] ^ 1]), "not the shipped escrow")
    other = deploy(client, dev_account(0), SETTINGS, token=world.token.address)
    foreign = client.code(other.escrow.address)
    refused_with(world, place, foreign, "holds other terms than it tells")


@pytest.mark.parametrize("name", ["ComputeEscrow", "EscrowExtension"])
def test_check_refuses_the_shipped_code_with_any_other_immutable(world: World, name: str) -> None:
    extension = world.escrow.read("extension")
    place = world.escrow.address if name == "ComputeEscrow" else extension
    own, shipped = world.client.code(place), artifact(name)
    values = shipped.immutable_words(own)
    assert len(values) >= 12
    for value in values:
        code = bytearray(own)
        for start, size in shipped.immutables:
            if int.from_bytes(own[start : start + size], "big") == value:
                code[start + size - 1] ^= 1
        refused_with(world, place, bytes(code), "terms|pays in|not the shipped extension")


def test_an_escrow_is_not_placed_on_an_extension_with_other_terms(world: World) -> None:
    client, shipped = world.client, artifact("ComputeEscrow")
    token, extension = world.token.address, world.escrow.read("extension")
    for place, settings in (
        (extension, replace(SETTINGS, fee_bps=SETTINGS.fee_bps + 1)),
        (extension, replace(SETTINGS, settle_window=SETTINGS.settle_window + 1)),
        (ANVIL_FIRST, SETTINGS),
    ):
        terms = (token, *astuple(settings))
        data = shipped.bytecode + abi("ComputeEscrow").constructor(terms, place)
        with pytest.raises(CallReverted, match="TermsDiffer"):
            client.transact(dev_account(0), None, data)
