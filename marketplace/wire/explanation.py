"""Why nothing matches a job, and what it could change."""

from pydantic import Field

from marketplace.wire.base import Answer, DecimalText, Many, Money


class ConstraintCount(Answer):
    """How many asks one constraint refuses: by itself, after those before it, and what is left."""

    reason: str = Field(examples=["rate_above_limit"])
    alone: int
    in_turn: int
    left: int


class JobChange(Answer):
    """One member of the job file to change, and to what."""

    reason: str = Field(examples=["rate_above_limit"])
    pointer: str = Field(examples=["/pricing/max_gpu_hour"], description="RFC 6901")
    value: str = Field(examples=["2.5"])


class Alternative(Answer):
    """Changes that together make one ask fit, and what the lease would then lock at most."""

    ask_id: str
    tier: str
    region: str
    changes: Many[JobChange]
    rate_per_hour: DecimalText = Field(description="tokens per hour, everything included")
    max_cost: Money
    text: str = Field(description="the same in one line")


class NoMatch(Answer):
    """Why none of the `considered` asks fits. `relaxations` come with the cheapest first."""

    considered: int
    eliminations: Many[ConstraintCount]
    relaxations: Many[Alternative]
    summary: str
