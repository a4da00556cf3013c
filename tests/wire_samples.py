"""Whole documents of the API's classes, of which a test says only what matters to it."""

from __future__ import annotations

from typing import Any, TypeVar

from marketplace.wire.base import Model

M = TypeVar("M", bound=Model)


def sample(kind: type[Model], **members: Any) -> dict[str, Any]:
    """The JSON of a model: the members given, an example of each other one, null if it may be."""
    schema = kind.model_json_schema()
    parts = schema.get("$defs", {})

    def example(of: dict[str, Any]) -> Any:
        if "$ref" in of:
            of = {**parts[of["$ref"].rpartition("/")[2]], **of}
        if {"type": "null"} in of.get("anyOf", ()):
            return None
        for name in ("const", "examples", "enum", "anyOf"):
            if name in of:
                found = of[name] if name == "const" else of[name][0]
                return example(found) if name == "anyOf" else found
        if of["type"] == "object":
            needed = of.get("required", ())
            return {name: example(of["properties"][name]) for name in needed}
        empty: dict[str, Any] = {"array": [], "string": "x", "boolean": False}
        return empty.get(of["type"], of.get("minimum", 0))

    return {**example(schema), **members}


def changed(model: M, **members: Any) -> M:
    """A model with other members; they are taken as they are."""
    return model.model_copy(update=members)
