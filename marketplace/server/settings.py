"""What an operator chooses, from `COULOMB_…` variables; docs/operating.md lists them all."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from marketplace.api.limits import Limits
from marketplace.domain.pricing import DECIMALS, to_scaled
from marketplace.errors import InvalidInput
from marketplace.limits import EARLY_STOPS_MAX
from settlement.eip712 import checked_address

ROLES = ("api", "matcher", "relayer", "indexer")
DATABASES = ("sqlite:///", "postgresql://", "postgresql+psycopg://")
Words = Annotated[tuple[str, ...], NoDecode]
"""Several words in one variable, separated by commas."""


class Settings(BaseSettings):
    """Everything an operator chooses. Relative paths are relative to the working folder.

    An empty variable counts as unset. Raises ValidationError (a ValueError).
    """

    model_config = SettingsConfigDict(
        env_prefix="COULOMB_", env_ignore_empty=True, extra="ignore", frozen=True
    )

    database_url: str = Field(
        "sqlite:///coulomb.db", description="SQLAlchemy URL of the database: SQLite or PostgreSQL."
    )
    rpc_url: str = Field(
        validation_alias=AliasChoices("rpc_url", "ETH_RPC_URL"),
        description="JSON-RPC address of a node of the chain.",
    )
    public_rpc_url: str = Field(
        "", description="JSON-RPC address that clients are told of: one without a key in it."
    )
    chain_id: int = Field(description="The chain's id; the node must be on it.")
    deployments: Path = Field(
        Path("deployments"), description="Folder of <chain id>.json files, one per deployment."
    )
    blobs: Path = Field(Path("blobs"), description="Folder of uploaded files.")
    relayer_keystore: Path | None = Field(
        None, description="Keystore file of the relayer's key. The role relayer needs it."
    )
    relayer_password: Path | None = Field(
        None, description="File with the password of that keystore."
    )
    roles: Words = Field(ROLES, description="Roles of this process, separated by commas.")
    host: str = Field("127.0.0.1", description="Address at which the API listens.")
    port: int = Field(8420, ge=0, le=65_535, description="Port of the API; 0 picks a free one.")
    interval_ms: int = Field(
        10_000,
        ge=100,
        le=600_000,
        description="Milliseconds between a node's attestations, unless it says otherwise.",
    )
    settle_every_s: int = Field(
        300, ge=1, description="Seconds between two settlements of countersigned usage."
    )
    confirmations: int = Field(
        12, ge=0, description="Blocks on top of a block until it counts; 0 on a devnet."
    )
    poll_s: float = Field(1.0, gt=0, description="Seconds between two looks at the chain's head.")
    early_stops_max: int = Field(
        EARLY_STOPS_MAX,
        ge=0,
        description="Leases of one account that its side may stop before they are ready, in an "
        "hour, before its bids wait.",
    )
    opener: str | None = Field(
        None,
        description="Address that bids name as opener: the relayer's. Default: the keystore's.",
    )
    relay_fee: str | None = Field(
        None,
        description=(
            "Tokens that the relayer asks for sending a withdrawal or top-up that an account "
            "signed. Default: it sends none."
        ),
    )
    operators: Words = Field((), description="Accounts that may have the operator scope.")
    proxies: str = Field(
        "", description="Proxies, separated by commas, whose X-Forwarded-For is believed."
    )
    limits: Limits = Field(default_factory=Limits, exclude=True)

    @field_validator("roles", "operators", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(word for word in value.split(",") if word) if isinstance(value, str) else value

    @field_validator("roles")
    @classmethod
    def _are_known(cls, roles: tuple[str, ...]) -> tuple[str, ...]:
        unknown = set(roles) - set(ROLES)
        if unknown or not roles:
            raise ValueError(
                f"roles are {', '.join(ROLES)}; not {', '.join(sorted(unknown)) or 'none'}"
            )
        return roles

    @field_validator("opener", "operators")
    @classmethod
    def _are_addresses(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(checked_address(address, address) for address in value)
        return None if value is None else checked_address(value, value)

    @field_validator("relay_fee")
    @classmethod
    def _is_amount(cls, fee: str | None) -> str | None:
        try:
            if fee is not None:
                to_scaled(fee, DECIMALS)
        except InvalidInput:
            raise ValueError(f"must be a number of tokens, such as 0.01, not {fee!r}") from None
        return fee

    @field_validator("database_url")
    @classmethod
    def _is_database(cls, url: str) -> str:
        if not url.startswith(DATABASES):
            raise ValueError("use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")
        return url

    def but(self, **changes: Any) -> Self:
        """The same settings with some changed, and checked again."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(kept | changes))


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return "ETH_RPC_URL" if name in ("rpc_url", "ETH_RPC_URL") else f"COULOMB_{name.upper()}"
