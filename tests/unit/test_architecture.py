"""The arrows between packages, read from the imports themselves.

Pure modules see nothing outside. The database sees pure modules. Services see both, of the database
only the store and its tables (docs/decisions/0014). The API sees services. Command line and agent
stand on the SDK. Only `server` sees all.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE_NAMES = "attestation eip712 hashing errors events leases orders units usage"
PURE_SETTLEMENT = tuple(f"settlement.{name}" for name in PURE_NAMES.split())
PURE_OURS = (*PURE_SETTLEMENT, "marketplace.domain", "marketplace.errors", "marketplace.limits")
DATA = "marketplace.data"  # tables that ship in the package
WIRE = "marketplace.wire"  # what travels
STORE = ("marketplace.db.store", "marketplace.db.tables", "marketplace.db.changes")
PURE_OUTSIDE = ("eth_hash",)
IMPURE_STDLIB = (
    "asyncio", "datetime.now", "http", "multiprocessing", "os", "pathlib", "random", "secrets",
    "socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "urllib",
)  # fmt: skip

# package → what of ours it may import (besides itself), and which outside packages it must not.
STORES = ("sqlalchemy", "sqlmodel", "alembic")
EDGES = ("fastapi", "starlette", "typer", "rich", "httpx", "uvicorn")
CHAIN = ("web3", "eth_tester")
SERVICES = (*PURE_OURS, *STORE, WIRE, DATA, "settlement")
CLIENTS = (*PURE_OURS, WIRE, DATA, "settlement", "marketplace.sdk")  # the SDK last
ABOVE_SDK = ("marketplace.witness", "marketplace.agent", "marketplace.server")
SERVERS = (*STORES, "fastapi")
RULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "marketplace.wire": (PURE_OURS, (*STORES, *EDGES, *CHAIN)),
    "marketplace.services": (SERVICES, (*STORES, *EDGES, *CHAIN)),
    "marketplace.db": ((*PURE_OURS, "settlement.ports"), (*EDGES, *CHAIN)),
    "marketplace.api": ((*SERVICES, "marketplace.services"), (*STORES, *CHAIN)),
    "marketplace.sdk": ((*CLIENTS, "marketplace.witness"), SERVERS),
    "marketplace.witness": (CLIENTS[:-1], (*SERVERS, "marketplace.sdk")),
    "marketplace.agent": (CLIENTS, SERVERS),
    "marketplace.cli": ((*CLIENTS, *ABOVE_SDK), SERVERS),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_under(package: str) -> list[Path]:
    base = ROOT / package.replace(".", "/")
    if base.with_suffix(".py").is_file():
        return [base.with_suffix(".py")]
    return sorted(base.rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Every imported name, `from a import b` as `a.b`, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def violations(package: str, ours: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    found = []
    for path in modules_under(package):
        for name in imports_of(path):
            if within(name, ("marketplace", "settlement")):
                wrong = not within(name, (package, *ours))
            else:
                wrong = within(name, forbidden)
            if wrong:
                found.append(f"{module_name(path)} imports {name}")
    return found


@pytest.mark.parametrize("package", sorted(RULES))
def test_package_imports_follow_the_arrows(package: str) -> None:
    assert modules_under(package), f"{package} is gone: remove its rule"
    assert violations(package, *RULES[package]) == []


@pytest.mark.parametrize("module", [*PURE_SETTLEMENT, "marketplace.domain", "marketplace.errors"])
def test_pure_module_imports_nothing_from_outside(module: str) -> None:
    assert modules_under(module), f"{module} is gone: remove its rule"
    wrong = []
    for path in modules_under(module):
        for name in imports_of(path):
            top = name.split(".")[0]
            allowed = (
                within(name, PURE_OURS)
                or top in PURE_OUTSIDE
                or (top in sys.stdlib_module_names and not within(name, IMPURE_STDLIB))
            )
            if not allowed:
                wrong.append(f"{module_name(path)} imports {name}")
    assert wrong == []


def test_settlement_knows_nothing_of_the_marketplace() -> None:
    paths = modules_under("settlement")
    assert paths
    wrong = [module_name(p) for p in paths for n in imports_of(p) if within(n, ("marketplace",))]
    assert wrong == []


def test_only_the_composition_root_sees_every_layer() -> None:
    layers = ("marketplace.services", "marketplace.db.outbox", "marketplace.api")
    seeing_all = [
        module_name(path)
        for path in modules_under("marketplace")
        if all(any(within(n, (layer,)) for n in imports_of(path)) for layer in layers)
    ]
    assert seeing_all == ["marketplace.server.roles"]


def test_a_planted_violation_is_seen(tmp_path: Path) -> None:
    planted = tmp_path / "bad.py"
    planted.write_text("def f():\n    from sqlalchemy import select\n    import web3\n")
    assert list(imports_of(planted)) == ["sqlalchemy.select", "web3"]
    assert within("sqlalchemy.select", STORES)
    assert not within("sqlalchemyx", STORES)
