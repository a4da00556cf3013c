"""What a job looks like in JSON: its normalised form, whose hash the bid signs, and the job file.

Both travel as they are. `domain.job` reads them and lists every mistake; here are their schemas.
"""

from typing import Annotated, Any

from pydantic import WithJsonSchema
from pydantic.json_schema import JsonSchemaValue

from marketplace.domain.job import MEMBERS

_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_PRICE = {**_TEXT, "description": "decimal text of the token", "examples": ["2.50"]}
_DURATION = {**_TEXT, "pattern": "^[0-9]+(s|m|h|d)$", "examples": ["6h"]}
_SIZE = {**_TEXT, "examples": ["64GB"]}
_BYTES = {"type": "integer", "minimum": 0, "description": "bytes"}
_DIGEST = {**_TEXT, "pattern": "^[0-9a-f]{64}$", "examples": ["e3" * 32]}
_EVENT = {**_TEXT, "enum": ["no-capacity", "interruption", "error"]}


def _list(items: JsonSchemaValue, **more: Any) -> JsonSchemaValue:
    return {"type": "array", "items": items, **more}


def _object(title: str, about: str, members: dict[str, Any], **more: Any) -> JsonSchemaValue:
    """An object with members that it must have, and `more` that it may have."""
    properties = {**members, **more}
    out = {"type": "object", "title": title, "description": about, "properties": properties}
    return {**out, "required": list(members), "additionalProperties": False}


def _members(is_file: bool) -> dict[str, JsonSchemaValue]:
    """Members of the normalised form, or of a job file, which may leave more of them out."""

    def part(title: str, about: str, members: dict[str, Any], **more: Any) -> JsonSchemaValue:
        out = _object(title, about, members, **more)
        return {k: v for k, v in out.items() if not (is_file and k in ("title", "required"))}

    number = {"type": ["string", "number"]} if is_file else _TEXT
    command = _list(_TEXT, examples=[["python", "train.py"]])
    optional = {
        "inputs": _object("JobInputs", "The packed working folder: a blob.",
                          {"sha256": _DIGEST, "size": _BYTES}),
        "image": _TEXT,
        "env": _TEXTS,
        "retry": part("JobRetry", "When the job looks for another ask, and for how long.",
                      {"on_events": _list(_EVENT), "duration": _DURATION}),
        "outputs": _list(_object("JobOutput", "A folder or file that comes back.",
                                 {"path": {**_TEXT, "examples": ["/out"]}})),
        "tags": _TEXTS,
        "units": _object(
            "JobUnits", "Counted units: their name, how many at most, the most that one may cost.",
            {"name": _TEXT, "max": {"type": "integer"}, "max_price": _PRICE}),
        "egress": _object(
            "JobEgress", "Outgoing traffic: how much at most, the most that a GiB may cost.",
            {"max": _SIZE, "max_price": _PRICE}),
    }  # fmt: skip
    return {
        "name": _TEXT,
        "command": {"anyOf": [_TEXT, command]} if is_file else command,
        "resources": part(
            "JobResources",
            "What the job takes of a node. `gpu` is names, memory and count, joined by colons.",
            {"gpu": {**number, "examples": ["A100,H100:80GB..:1"]},
             "cpu": {**number, "examples": ["8"]}, "memory": _SIZE, "disk": _SIZE}),
        "placement": part(
            "JobPlacement", "Where the job may run.",
            {"regions": _list(_TEXT, examples=[["eu"]]),
             "min_reliability": {**number, "examples": ["0.98"]},
             "verified_only": {"type": "boolean"}},
            interruptible={"type": "boolean"}, min_notice=_DURATION),
        "pricing": _object(
            "JobPricing",
            "The most that the job pays, everything included: per GPU and hour, or per hour if it "
            "has no GPU. One of the two.",
            {}, max_gpu_hour=_PRICE, max_hour=_PRICE),
        "budget": part(
            "JobBudget",
            "The most that the job costs in all, and what happens when that is reached.",
            {"max_total": _PRICE,
             "on_exceed": {**_TEXT, "enum": ["stop", "checkpoint_then_stop"]}}),
        "max_duration": _DURATION,
        "start_deadline": _DURATION,
        "ready": {**_TEXT, "enum": ["start", "socket"],
                  "description": "when the job counts as running"},
        **({} if is_file else {"workdir": {"anyOf": [_TEXT, {"type": "null"}]}}),
        **{name: {"anyOf": [schema, {"type": "null"}]} for name, schema in optional.items()},
    }  # fmt: skip


_DOCUMENT = _object(
    "JobDocument",
    "A job spec in its normalised form. The SHA-256 of its canonical JSON (sorted keys, no spaces) "
    "is `jobHash` in the bid. Members that say nothing are left out.",
    _members(is_file=False),
)
_DOCUMENT["required"] = list(
    dict.fromkeys(
        key.path.partition("/")[0]
        for key in MEMBERS.values()
        if not key.optional or key.path.startswith("pricing/")
    )
)
_FILE = _object(
    "JobFile",
    "A job file's object after packing: `inputs` names the packed folder.",
    _members(is_file=True),
)
_FILE["required"] = ["command", "pricing", "max_duration"]
JobDocument = Annotated[dict[str, Any], WithJsonSchema(_DOCUMENT)]
JobFile = Annotated[dict[str, Any], WithJsonSchema(_FILE)]
