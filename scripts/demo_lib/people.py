"""The traders: providers with an agent each, and buyers with a witness each."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from pathlib import Path

from marketplace.agent.config import AgentConfig, NodeConfig, save_config
from marketplace.data import load_tiers
from marketplace.domain.pricing import from_nano
from marketplace.sdk import PASSING, Coulomb
from marketplace.sdk.session import Session
from marketplace.witness.policy import WitnessRefusal
from scripts.demo_lib.children import Child, environment, write_secret
from scripts.demo_lib.market import INTERVAL_MS, ONE, Market
from settlement import keystore
from settlement.chain.devnet import dev_account
from settlement.signing import LocalSigner

DEPOSIT = 5 * ONE
WITNESS_POLL_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Offer:
    """What a provider sells. The price per GPU and hour is its tier's median list price."""

    name: str
    account: int
    tier: str
    region: str
    gpus: int = 2
    shared: bool = False
    unit: str | None = None
    unit_price: str | None = None
    start_limit: str = "60s"

    @property
    def gpu_hour(self) -> str:
        """Tokens per GPU and hour; 1 CMP stands for 1 USD."""
        return from_nano(load_tiers().tiers[self.tier].median_nano_per_hour)


OFFERS = (
    # A lease must be funded for longer than its job may take to start; here little is enough.
    Offer("harbor", 1, "RTX4090-24GB", "eu-west", shared=True, start_limit="30s"),
    Offer("ridge", 2, "L40S-48GB", "us-east"),
    Offer("reef", 6, "RTX3080-10GB", "eu-south", gpus=1),  # its agent is killed midway
    Offer("summit", 3, "H100-80GB-SXM", "eu-north", unit="request", unit_price="0.000002"),
)
BUYERS = (("lab", 4), ("studio", 5))


@dataclass(slots=True)
class Provider:
    """A provider with a running agent and an ask on the book."""

    offer: Offer
    signer: LocalSigner
    agent: Child
    ask_id: str = ""


@dataclass(slots=True)
class Buyer:
    """A buyer with money in the escrow and its own witness. `address`: the account that pays."""

    name: str
    client: Coulomb
    address: str
    witness: WitnessThread
    deposit_tx: str = ""


class WitnessThread(threading.Thread):
    """A buyer's witness: it checks and countersigns usage with its own connection and key."""

    def __init__(self, client: Coulomb, buyer: str) -> None:
        super().__init__(name=f"witness of {buyer}", daemon=True)
        self._client = client
        self._buyer = buyer
        self._ended = threading.Event()
        self.countersigned = 0
        self.refusals: list[str] = []

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                for act in self._client.witness.tick((self._buyer,)):
                    why = act.refusal or act.problem
                    if why is WitnessRefusal.NOT_YET:
                        continue  # it asks again until it is time
                    if why:
                        self.refusals.append(f"{act.kind} {act.lease_id}: {why}")
                    else:
                        self.countersigned += act.kind == "countersign"
            except PASSING:
                pass  # the server may be down for a moment
            self._ended.wait(WITNESS_POLL_SECONDS)
        self._client.close()

    def stop(self) -> None:
        """End after the current check."""
        self._ended.set()
        if self.ident is not None:
            self.join(10)


def start_provider(market: Market, offer: Offer) -> Provider:
    """Make a provider's keys and start its agent; it is not ready yet."""
    signer, meter = dev_account(offer.account), LocalSigner.create()
    home = market.folder / offer.name
    with Coulomb(market.api_url, signer=signer) as client:
        api_key = client.keys.create(offer.name, ("provider",)).key or ""
    password = secrets.token_hex(32)
    config = AgentConfig(
        api_url=market.api_url,
        api_key_file=write_secret(home / "api.key", api_key),
        node=NodeConfig(
            number=1,
            name=offer.name,
            region=offer.region,
            tier=offer.tier,
            simulated=f"{offer.gpus}x{offer.tier}",
            shared=offer.shared,
        ),
        meter_keystore=home / "meter.json",
        meter_password_file=write_secret(home / "meter.password", password),
        state_dir=home / "state",
        interval_ms=INTERVAL_MS,
        poll_ms=300,
        stop_grace_ms=1_000,
    )
    keystore.create(home / "meter.json", password, meter, "pbkdf2", 1_000)
    save_config(config, home / "agent.yaml")
    words = ["provider", "start", "--config", str(home / "agent.yaml")]
    agent = market.children.start(f"agent-{offer.name}", words, environment(home))
    return Provider(offer, signer, agent)


def put_on_book(market: Market, provider: Provider) -> None:
    """Wait for a provider's agent, then sign its ask."""
    offer = provider.offer
    node_id = provider.agent.says(r'"node": "(node_[^"]+)"')
    meter = provider.agent.says(r'"meter": "(0x[^"]+)"')
    prices = {"gpu_hour": offer.gpu_hour}
    terms = {
        "meter": meter,
        "prices": prices,
        "start_limit": offer.start_limit,
        "max_duration": "1h",
    }
    if offer.unit and offer.unit_price:
        prices["unit"] = offer.unit_price
        terms["unit"] = offer.unit
    api_key = (market.folder / offer.name / "api.key").read_text(encoding="utf-8").strip()
    with Coulomb(market.api_url, api_key, signer=provider.signer) as client:
        provider.ask_id = client.asks.offer(node_id, terms).id


def make_buyer(market: Market, name: str, account: int) -> Buyer:
    """A buyer with an API key, tokens deposited by permit, and a witness that has begun."""
    signer = dev_account(account)
    market.give_tokens(signer.address, 2 * DEPOSIT)
    with Coulomb(market.api_url, signer=signer) as client:
        api_key = client.keys.create(name, ("buyer",)).key
        moved = client.wallet.deposit(DEPOSIT, permit=True)
    return _trading(market, name, api_key, signer, moved.tx_hash)


def make_operator(market: Market, name: str, purse: str, signer: LocalSigner) -> Buyer:
    """Somebody with neither tokens nor gas, who buys with what is in a purse."""
    with Coulomb(market.api_url, signer=signer, purse=purse) as client:
        api_key = client.keys.create(name, ("buyer",)).key
    return _trading(market, name, api_key, signer, purse=purse)


def _trading(
    market: Market,
    name: str,
    api_key: str,
    signer: LocalSigner,
    deposit_tx: str = "",
    purse: str | None = None,
) -> Buyer:
    """A buyer whose witness has begun. It pays with its own account, or with a purse."""
    witness = LocalSigner.create()
    client = Coulomb(market.api_url, api_key, signer=signer, witness=witness, purse=purse)
    keys = (lambda: signer), (lambda: witness)
    session = Session(*keys, state=_state(market.folder / name), purse=purse)
    payer = purse or signer.address
    watching = WitnessThread(Coulomb(market.api_url, api_key, session=session), payer)
    watching.start()
    return Buyer(name, client, payer, watching, deposit_tx)


def _state(home: Path) -> Path:
    folder = home / "state"
    folder.mkdir(mode=0o700, parents=True)
    return folder
