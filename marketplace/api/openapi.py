"""What FastAPI's OpenAPI document still lacks: problems and events by their media types, names."""

from __future__ import annotations

from typing import Any

from marketplace.api.problems import MEDIA_TYPE

EVENTS = "text/event-stream"


def finished(document: dict[str, Any]) -> dict[str, Any]:
    """The document with each schema under the type it is sent as, and each struct once, by name."""
    for item in document["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                _place(response.get("content", {}))
    schemas = document["components"]["schemas"]
    for name in list(schemas):
        schemas[name] = _named(schemas[name], schemas, top=True)
    return document


def _place(content: dict[str, Any]) -> None:
    """FastAPI puts a problem's schema under the type of successes, and calls a stream a text."""
    if MEDIA_TYPE in content:
        for other in set(content) - {MEDIA_TYPE}:
            content[MEDIA_TYPE] |= content.pop(other)
    if EVENTS in content:
        content[EVENTS]["schema"].pop("type", None)


def _named(schema: Any, schemas: dict[str, Any], top: bool = False) -> Any:
    """The schema with references in place of objects that have names of their own."""
    if isinstance(schema, list):
        return [_named(item, schemas) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _named(value, schemas) for key, value in schema.items()}
    name = found.get("title")
    if top or not isinstance(name, str) or not isinstance(found.get("properties"), dict):
        return found
    if schemas.setdefault(name, found) != found:
        return found  # another form of it, such as what a request may leave out
    return {"$ref": f"#/components/schemas/{name}"}
