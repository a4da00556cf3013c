"""What a client knows besides its connection: who signs, who witnesses, for which contracts."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from marketplace.domain.pricing import DECIMALS
from marketplace.limits import SALT_MAX
from marketplace.sdk.errors import ConfigError, VerificationError
from marketplace.sdk.keyring import unlock, witness_key
from marketplace.sdk.profile import Profile, ProfileFile, state_dir
from marketplace.wire.market import MarketConfig
from marketplace.witness.desk import Desk
from marketplace.witness.journal import WitnessJournal
from marketplace.witness.policy import WitnessRefusal
from settlement.consent import AccountReads
from settlement.eip712 import Domain, checksum
from settlement.leases import Shows
from settlement.signing import Signer

SignerSource = Callable[[], Signer]
Pin = Callable[[int, str, str], None]


@dataclass(frozen=True, slots=True)
class Act:
    """One thing a witness did, or why it did not: for logs and people."""

    lease_id: str
    kind: str
    ms: int = 0
    sequence: int | None = None
    refusal: WitnessRefusal | None = None
    problem: str | None = None


class Session:
    """Signers, found when first needed, and the contracts that are signed for.

    `chain_id` and `escrow` pin the contracts; without them the first answer of the server is pinned
    for as long as this session lives, and handed to `on_pin`. With a `purse`, the signer is its
    operator, and everything is bought for the purse.
    """

    def __init__(
        self,
        signer: SignerSource | None = None,
        witness: SignerSource | None = None,
        *,
        chain_id: int | None = None,
        escrow: str | None = None,
        on_pin: Pin | None = None,
        rpc_url: str | None = None,
        purse: str | None = None,
        state: Path | None = None,
    ) -> None:
        self.rpc_url = rpc_url
        self.purse = checksum(purse) if purse else None
        self.market: MarketConfig | None = None
        self._signer_source = signer
        self._signer: Signer | None = None
        self._address: str | None = None
        self._witness_folder = (state or state_dir()) / "witness"
        self._witness_source = witness or partial(witness_key, self._witness_folder)
        self._witness: Signer | None = None
        self._chain_id = chain_id
        self._escrow = checksum(escrow) if escrow else None
        self._on_pin = on_pin
        self._desk: Desk | None = None
        self._salts: dict[str, int] = {}
        self._salts_lock = threading.Lock()

    @classmethod
    def of(cls, signer: Signer | None, witness: Signer | None, purse: str | None = None) -> Self:
        """A session of keys that are at hand."""
        session = cls(purse=purse)
        session._signer, session._witness = signer, witness
        return session

    def signer(self) -> Signer:
        """Who signs orders. Raises ConfigError if no key is set up."""
        if self._signer is None:
            if self._signer_source is None:
                raise ConfigError(
                    "this needs a signature and no key is set up",
                    fix="pass signer=…, or name a keystore in the profile",
                )
            self._signer = self._signer_source()
        return self._signer

    def sign_as(self, signer: Signer | None, address: str) -> None:
        """Act with a key, or (None) only as far as its account's address is enough."""
        self._signer = signer
        self._address = checksum(address)

    def own_address(self) -> str:
        """The signer's own account. Raises ConfigError if none is known."""
        return self._address or self.signer().address

    def address(self) -> str:
        """The account acted for: the purse, if there is one. Raises ConfigError."""
        return self.purse or self.own_address()

    def account_of(self, signer: Signer) -> str:
        """The account that a signer acts for in this session."""
        return self.purse or signer.address

    def take_salt(self, account: str, stated: int) -> int:
        """The salt of the account's next order: what the market states, or the first that this
        session has not taken yet. Two orders of one salt exclude each other.

        Raises VerificationError for one so large that the account would run out of them.
        """
        if stated > SALT_MAX:
            raise VerificationError(f"the server states the salt {stated}, above {SALT_MAX}")
        with self._salts_lock:
            salt = max(stated, self._salts.get(account, 0))
            self._salts[account] = salt + 1
            return salt

    def witness(self) -> Signer:
        """Who countersigns usage; the machine's own hot key unless another was given."""
        if self._witness is None:
            self._witness = self._witness_source()
        return self._witness

    def accept(self, market: MarketConfig) -> MarketConfig:
        """Take the server's word for a market once; never for another one afterwards.

        Raises VerificationError if chain or contract differ from what is pinned.
        """
        escrow, token = checksum(market.contracts.escrow), checksum(market.contracts.token)
        if market.decimals != DECIMALS:  # budgets in job files are read with these
            raise VerificationError(
                f"the market's token has {market.decimals} decimals, not {DECIMALS}"
            )
        for what, pinned, stated in (
            ("chain", self._chain_id, market.chain_id),
            ("escrow contract", self._escrow, escrow),
        ):
            if pinned is not None and pinned != stated:
                raise VerificationError(
                    f"the server is on {what} {stated}, this profile is pinned to {pinned}",
                    fix="use another profile, or remove chain_id and escrow from this one",
                )
        if not self.knows_contracts:
            self._chain_id, self._escrow = market.chain_id, escrow
            if self._on_pin is not None:
                self._on_pin(market.chain_id, escrow, token)
        self.market = market
        return market

    @property
    def knows_contracts(self) -> bool:
        """Whether chain and escrow are pinned, so that no server need be asked for them."""
        return self._chain_id is not None and self._escrow is not None

    def domain(self) -> Domain:
        """What signatures are bound to; known once a market was accepted or pinned."""
        if self._chain_id is None or self._escrow is None:
            raise ConfigError("no market is known yet", fix="ask the server for its config first")
        return Domain(self._chain_id, self._escrow)

    def desk(self, buyers: Iterable[str]) -> Desk:
        """The witness's desk with its durable journal, opened once."""
        if self._desk is None:
            signer = self.witness()
            domain = self.domain()
            escrow = domain.verifying_contract.lower()
            name = f"{domain.chain_id}-{escrow}-{signer.address.lower()}.db"
            journal = WitnessJournal(self._witness_folder / name)
            reads, shows = self.account_reads(), self._own_node()
            self._desk = Desk(signer, domain, journal, (), reads=reads, shows=shows)
        self._desk.witness_for(buyers)
        return self._desk

    def chain_url(self, market: MarketConfig | None) -> str | None:
        """A node of the chain: the caller's own, else the market's; None if neither is known."""
        return self.rpc_url or (market.rpc_url if market else None)

    def account_reads(self) -> AccountReads | None:
        """What the chain says of accounts that have no key; None if no chain is known."""
        url = self.chain_url(self.market)
        if not url:
            return None
        from settlement.chain.client import ChainClient
        from settlement.chain.contracts import Escrow

        domain = self.domain()
        return Escrow(ChainClient(url, domain.chain_id), domain.verifying_contract)

    def purse_reads(self) -> AccountReads | None:
        """What tells who signed own orders: the chain for a purse; else our key, so None."""
        return self.account_reads() if self.purse else None

    def _own_node(self) -> Shows | None:
        """Shows leases on the caller's own node. One that the market names would prove nothing."""
        if not self.rpc_url:
            return None
        from settlement.chain.contracts import OwnNode

        confirmations = self.market.confirmations if self.market else 0
        return OwnNode(self.rpc_url, self.domain(), confirmations).lease

    def close(self) -> None:
        """Close the journal, if one was opened."""
        if self._desk is not None:
            self._desk.close()
            self._desk = None


def session_of(profile: Profile, file: ProfileFile | None = None) -> Session:
    """A session that finds its keys where the profile says, and pins the market it first meets."""

    def key(keystore: str | None, password_file: str | None) -> SignerSource | None:
        return None if keystore is None else partial(unlock, keystore, password_file)

    def pin(chain_id: int, escrow: str, token: str) -> None:
        if file is not None and profile.name in file.names():
            file.update(profile.name, chain_id=chain_id, escrow=escrow, token=token)

    return Session(
        key(profile.keystore, profile.password_file),
        key(profile.witness_keystore, profile.witness_password_file or profile.password_file),
        chain_id=profile.chain_id,
        escrow=profile.escrow,
        on_pin=pin,
        rpc_url=profile.rpc_url,
        purse=profile.purse,
    )
