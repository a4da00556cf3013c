"""The synchronous client is what the script writes from the asynchronous one, and no less."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from marketplace.sdk import AsyncCoulomb, AsyncJobHandle, Coulomb, JobHandle
from scripts.lib.unasync import SDK, write, written

PARTS = (
    "asks", "attestations", "blobs", "jobs", "keys", "leases", "market", "nodes", "orders",
    "top_ups", "wallet", "witness",
)  # fmt: skip


def test_the_synchronous_modules_are_those_that_the_script_writes() -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in (SDK / "_sync").glob("*.py")}
    assert found == written(), "run python scripts/lib/unasync.py"
    assert found.keys() == {path.name for path in (SDK / "_async").glob("*.py")}


def test_writing_removes_what_is_stale_and_leaves_what_is_right(tmp_path: Path) -> None:
    write(tmp_path)
    first = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert first.keys() == written().keys()
    (tmp_path / "gone.py").touch()
    (tmp_path / "jobs.py").write_text("edited by hand")
    write(tmp_path)
    second = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert second.keys() == first.keys()
    assert (tmp_path / "jobs.py").read_text(encoding="utf-8") == written()["jobs.py"]
    assert [name for name in first if first[name].st_ino != second[name].st_ino] == ["jobs.py"]


@pytest.mark.parametrize("name", sorted(written()))
def test_nothing_asynchronous_is_left(name: str) -> None:
    text = written()[name].partition("\n")[2]
    assert not [word for word in ("async", "await", "Async", "aclos") if word in text]
    ast.parse(text)


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
