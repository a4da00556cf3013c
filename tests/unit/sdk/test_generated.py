"""The synchronous client is what the script writes from the asynchronous one, and no less."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from marketplace.sdk import AsyncCoulomb, AsyncJobHandle, Coulomb, JobHandle
from scripts.lib.unasync import SDK, written

PARTS = (
    "asks", "attestations", "blobs", "jobs", "keys", "leases", "market", "nodes", "orders",
    "top_ups", "wallet", "witness",
)  # fmt: skip


def test_the_synchronous_modules_are_those_that_the_script_writes() -> None:
    modules = written()
    assert {path.name for path in (SDK / "_sync").glob("*.py")} == set(modules)
    for name, text in modules.items():
        assert (SDK / "_sync" / name).read_text(encoding="utf-8") == text, (
            f"{name}: run python scripts/lib/unasync.py"
        )


@pytest.mark.parametrize("name", sorted(written()))
def test_nothing_asynchronous_is_left(name: str) -> None:
    text = written()[name].partition("\n")[2]
    assert not [word for word in ("async", "await", "Async", "aclos") if word in text]


def methods(kind: type) -> dict[str, Any]:
    return {n: m for n, m in vars(kind).items() if not n.startswith("_") and callable(m)}


@pytest.mark.parametrize("part", [*PARTS, "job"])
def test_both_clients_have_the_same_methods(part: str) -> None:
    if part == "job":
        plain, other = methods(JobHandle), methods(AsyncJobHandle)
    else:
        plain = methods(type(getattr(Coulomb("http://market"), part)))
        other = methods(type(getattr(AsyncCoulomb("http://market"), part)))
    assert list(plain) == list(other)
    assert plain
    for name, method in plain.items():
        given = inspect.signature(method).parameters
        assert list(given) == list(inspect.signature(other[name]).parameters), name
        assert method.__doc__
