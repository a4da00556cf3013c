"""Job specs on the wire: the normalised form, whose hash the bid signs, and the job file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from marketplace.domain.job import JobSpec
from marketplace.wire.base import Many, Model, Sha256, is_none

Duration = Annotated[str, Field(pattern=r"^[0-9]+(s|m|h|d)$", examples=["6h"])]
Size = Annotated[str, Field(examples=["64GB"])]
Price = Annotated[str, Field(examples=["2.50"], description="decimal text of the token")]


class JobMember(Model, extra="forbid"):
    """A part of a signed job spec: an unknown member would change its hash."""


class JobResources(JobMember):
    """What the job takes of a node. `gpu` is names, memory and count, joined by colons."""

    gpu: str = Field(examples=["A100,H100:80GB..:1"])
    cpu: str = Field(examples=["8"])
    memory: Size
    disk: Size


class JobPlacement(JobMember):
    """Where the job may run."""

    regions: Many[str] = Field(examples=[["eu"]])
    min_reliability: str = Field(examples=["0.98"])
    verified_only: bool


class JobPricing(JobMember):
    """The most that the job pays per GPU and hour, everything included."""

    max_gpu_hour: Price


class JobBudget(JobMember):
    """The most that the job costs in all, and what happens when that is reached."""

    max_total: Price
    on_exceed: Literal["stop", "checkpoint_then_stop"]


class JobInputs(JobMember):
    """The packed working folder: a blob."""

    sha256: Sha256
    size: int = Field(ge=0, description="bytes")


class JobRetry(JobMember):
    """When the job looks for another ask, and for how long."""

    on_events: Many[Literal["no-capacity", "interruption", "error"]]
    duration: Duration


class JobOutput(JobMember):
    """A folder or file that comes back."""

    path: str = Field(examples=["/out"])


class JobUnits(JobMember):
    """Counted units: their name, how many at most, the most that one may cost."""

    name: str
    max: int
    max_price: Price


class JobEgress(JobMember):
    """Outgoing traffic: how much at most, the most that a GiB may cost."""

    max: Size
    max_price: Price


class JobDocument(JobMember):
    """A job spec in its normalised form. The SHA-256 of its canonical JSON (sorted keys, no spaces)
    is `jobHash` in the bid. Members that say nothing are left out.
    """

    name: str
    command: Many[str] = Field(examples=[["python", "train.py"]])
    resources: JobResources
    placement: JobPlacement
    pricing: JobPricing
    budget: JobBudget
    max_duration: Duration
    start_deadline: Duration
    ready: Literal["start", "socket"] = Field(description="when the job counts as running")
    workdir: str | None = Field(default=None, exclude_if=is_none)
    inputs: JobInputs | None = Field(default=None, exclude_if=is_none)
    image: str | None = Field(default=None, exclude_if=is_none)
    env: dict[str, str] | None = Field(default=None, exclude_if=is_none)
    retry: JobRetry | None = Field(default=None, exclude_if=is_none)
    outputs: Many[JobOutput] | None = Field(default=None, exclude_if=is_none)
    tags: dict[str, str] | None = Field(default=None, exclude_if=is_none)
    units: JobUnits | None = Field(default=None, exclude_if=is_none)
    egress: JobEgress | None = Field(default=None, exclude_if=is_none)

    @classmethod
    def of(cls, spec: JobSpec) -> Self:
        """The normalised form of a spec."""
        return cls.model_validate(spec.to_json())


class JobFileForm:
    """Marks a job file's object. `domain.jobfile.parse_job` reads it and lists every mistake; this
    only writes its JSON schema: `JobDocument` with defaults and some shorter forms.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return handler(source)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        document = _inlined(JobDocument.model_json_schema())
        document |= {
            "title": "JobFile",
            "description": "A job file's object after packing: `inputs` names the packed folder.",
            "required": ["command", "pricing", "max_duration"],
        }
        members = document["properties"]
        del members["workdir"]
        members["command"] = {"anyOf": [{"type": "string"}, members["command"]]}
        for part in ("resources", "placement", "budget", "retry"):
            _drop_required(members[part])
        for name in ("gpu", "cpu"):
            loose = members["resources"]["properties"]
            loose[name] = {**loose[name], "type": ["string", "number"]}
        reliability = members["placement"]["properties"]
        reliability["min_reliability"] |= {"type": ["string", "number"]}
        return document


def _inlined(schema: JsonSchemaValue) -> JsonSchemaValue:
    """A schema without references: each is replaced by what it names."""
    definitions = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            found = {**definitions[name], **value} if name else value
            return {k: resolve(v) for k, v in found.items() if k != "$ref"}
        return [resolve(item) for item in value] if isinstance(value, list) else value

    resolved: JsonSchemaValue = resolve(schema)
    return resolved


def _drop_required(part: JsonSchemaValue) -> None:
    for choice in (part, *part.get("anyOf", [])):
        choice.pop("required", None)


JobFile = Annotated[dict[str, Any], JobFileForm()]
"""A job file's object, as it came; `parse_job` makes a `JobSpec` of it."""
