"""Checks that an answer is what the market's OpenAPI document says."""

import re
from functools import cached_property
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

DOCUMENT = "urn:openapi"
STREAMED = ("text/event-stream", "application/octet-stream")


class OpenApi:
    """One document, and what was seen of it: `seen` has (operation id, status) of each answer."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.seen: set[tuple[str, int]] = set()
        self._validators: dict[str, Draft202012Validator] = {}

    @cached_property
    def _registry(self) -> Registry[Any]:
        resource = Resource.from_contents(self.document, default_specification=DRAFT202012)
        return Registry().with_resource(DOCUMENT, resource)

    @cached_property
    def _paths(self) -> list[tuple[re.Pattern[str], str]]:
        """Paths as patterns, those without parameters first."""
        paths = sorted(self.document["paths"], key=lambda path: path.count("{"))
        return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in paths]

    def check(self, method: str, url: httpx.URL, response: httpx.Response) -> None:
        """Raise AssertionError if the answer's status, type or JSON is not documented."""
        path = next((path for pattern, path in self._paths if pattern.fullmatch(url.path)), None)
        operation = self.document["paths"].get(path, {}).get(method.lower())
        if operation is None:
            undocumented = url.path.startswith("/v1/") and url.path != "/v1/openapi.json"
            assert response.status_code >= 400 or not undocumented, f"{method} {url.path}"
            return
        name, status = operation["operationId"], str(response.status_code)
        assert status in operation["responses"], f"{name} answers {status}: {response.text:.300}"
        kind = response.headers.get("content-type", "").partition(";")[0]
        content = operation["responses"][status]["content"]
        assert kind in content, f"{name} answers {status} as {kind!r}"
        self.seen.add((name, response.status_code))
        if kind not in STREAMED:
            where = ("paths", path, method.lower(), "responses", status, "content", kind, "schema")
            mistake = self.mistake(where, response.json())
            assert mistake is None, f"{name} answers {status}: {mistake}"

    def mistake(self, where: tuple[str, ...], value: Any) -> str | None:
        """What is wrong with a value, by the schema at a place in the document."""
        error = best_match(self._validator(where).iter_errors(value))
        return None if error is None else f"{error.json_path}: {error.message:.300}"

    def _validator(self, where: tuple[str, ...]) -> Draft202012Validator:
        steps = (step.replace("~", "~0").replace("/", "~1") for step in where)
        pointer = f"{DOCUMENT}#/" + "/".join(steps)
        if pointer not in self._validators:
            found = Draft202012Validator({"$ref": pointer}, registry=self._registry)
            self._validators[pointer] = found
        return self._validators[pointer]


class CheckedTransport(httpx.HTTPTransport):
    """Holds every JSON answer of a running market against the document that it serves itself."""

    def __init__(self) -> None:
        super().__init__()
        self._api: OpenApi | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        kind = response.headers.get("content-type", "").partition(";")[0]
        if kind not in STREAMED:
            response.read()
            if self._api is None:
                document = super().handle_request(
                    httpx.Request("GET", request.url.copy_with(raw_path=b"/v1/openapi.json"))
                )
                document.read()
                self._api = OpenApi(document.json())
            self._api.check(request.method, request.url, response)
        return response
