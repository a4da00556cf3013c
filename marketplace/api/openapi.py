"""What FastAPI's OpenAPI document still lacks: media types, names, and an example of everything."""

from typing import Any

from marketplace.api.problems import MEDIA_TYPE

JSON = "application/json"
EVENTS = "text/event-stream"
SAMPLES: dict[str, Any] = {"string": "text", "integer": 1, "number": 1, "boolean": True}


def finished(document: dict[str, Any]) -> dict[str, Any]:
    """The document with each schema under the type it is sent as, each struct once, by name, and an
    example of each body and each answer."""
    schemas = document["components"]["schemas"]
    operations = [o for item in document["paths"].values() for o in item.values()]
    for operation in operations:
        for response in operation["responses"].values():
            _place(response.get("content", {}))
    for name in list(schemas):
        schemas[name] = _named(schemas[name], schemas, top=True)
    for operation in operations:
        for part in (operation.get("requestBody", {}), *operation["responses"].values()):
            found = part.get("content", {}).get(JSON)
            if found is not None:
                found["example"] = example_of(found["schema"], schemas)
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


def example_of(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """A value of a schema: its first example, else one made of its parts."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "const" in schema:
        return schema["const"]
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], schemas)
    if "properties" in schema:
        needed = schema["properties"].items()
        return {name: example_of(member, schemas) for name, member in needed if _told(name, schema)}
    kind = schema.get("type", "object")
    if kind == "array":
        return [example_of(schema["items"], schemas)]
    if kind == "integer":
        return max(1, int(schema.get("minimum", 1)))
    return SAMPLES.get(kind, {}) if isinstance(kind, str) else SAMPLES[kind[0]]


def _told(name: str, schema: dict[str, Any]) -> bool:
    """Whether an example has this member: what must be there, and what has an example."""
    return name in schema.get("required", ()) or "examples" in schema["properties"][name]
