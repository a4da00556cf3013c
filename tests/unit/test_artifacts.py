"""The compiler's input and the comparison of artifacts, without running a artifacts."""

from pathlib import Path
from typing import Any

import pytest

from scripts.lib import artifacts

FOUNDRY = """
[profile.default]
remappings = ["lib/=deps/lib/", "lib/special/=deps/special/"]
solc = "../solc"
evm_version = "prague"
optimizer = true
optimizer_runs = 200
via_ir = false
bytecode_hash = "none"
"""


@pytest.fixture
def project(tmp_path: Path) -> artifacts.Project:
    (tmp_path / "contracts/src").mkdir(parents=True)
    (tmp_path / "contracts/foundry.toml").write_text(FOUNDRY)
    return artifacts.Project(tmp_path)


def put(project: artifacts.Project, path: str, content: str) -> None:
    file = project.contracts / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def artifact(code: str = "0x60", name: str = "A") -> dict[str, Any]:
    return {"contractName": name, "deployedBytecode": code}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('import "./B.sol";', ["src/B.sol"]),
        ("import {X, Y as Z} from '../lib/C.sol';", ["lib/C.sol"]),
        ('import {\n  X,\n  Y\n} from "@org/D.sol";', ["@org/D.sol"]),
        ('import * as N from "./N.sol";', ["src/N.sol"]),
        ('// import "./No.sol";\n/* import "./No.sol"; */', []),
        ('import "./A.sol"; // why\nimport "./B.sol";', ["src/A.sol", "src/B.sol"]),
    ],
)
def test_imports_every_form_resolves_against_its_unit(source: str, expected: list[str]) -> None:
    assert artifacts.imports(source, "src/Main.sol") == expected


def test_standard_input_follows_imports_and_the_longest_remapping(
    project: artifacts.Project,
) -> None:
    put(project, "src/A.sol", 'import "lib/X.sol";\nimport "lib/special/Y.sol";')
    put(project, "deps/lib/X.sol", 'import "./Z.sol";')
    put(project, "deps/lib/Z.sol", "// z")
    put(project, "deps/special/Y.sol", 'import "lib/X.sol";')
    sources = artifacts.standard_input(project)["sources"]
    assert list(sources) == ["lib/X.sol", "lib/Z.sol", "lib/special/Y.sol", "src/A.sol"]
    assert sources["lib/Z.sol"] == {"content": "// z"}


def test_standard_input_with_a_dangling_import_names_it(project: artifacts.Project) -> None:
    put(project, "src/A.sol", 'import "./Gone.sol";')
    with pytest.raises(artifacts.CompileError, match=r"cannot read src/Gone\.sol"):
        artifacts.standard_input(project)


def test_standard_input_carries_foundrys_settings(project: artifacts.Project) -> None:
    settings = artifacts.standard_input(project)["settings"]
    assert settings["optimizer"] == {"enabled": True, "runs": 200}
    assert settings["evmVersion"] == "prague"
    assert settings["metadata"] == {"bytecodeHash": "none"}
    assert settings["viaIR"] is False


def test_names_leave_interfaces_and_libraries_out(project: artifacts.Project) -> None:
    for path in ("src/B.sol", "src/A.sol", "src/interfaces/IA.sol", "src/libraries/L.sol"):
        put(project, path, "")
    assert project.names == ["A", "B"]


@pytest.mark.parametrize("code", [None, "#!/bin/sh\necho no node >&2; exit 1\n"])
def test_a_compiler_that_does_not_run_is_named(
    project: artifacts.Project, code: str | None
) -> None:
    solc = project.contracts / "../solc"
    if code is not None:
        solc.write_text(code)
        solc.chmod(0o755)
    said = r"/solc (does not run|failed; run scripts/test)"
    with pytest.raises(artifacts.CompileError, match=said):
        artifacts.build(project)


def test_differences_name_missing_stale_and_orphaned_artifacts(tmp_path: Path) -> None:
    artifacts.write({"Stale": artifact(), "Orphan": artifact()}, tmp_path)
    built = {"Stale": artifact("0x61"), "Missing": artifact()}
    assert artifacts.differences(built, tmp_path) == [
        "Stale: its artifact is stale",
        "Missing: its artifact is missing",
        "Orphan: its contract is gone",
    ]


def test_write_replaces_stale_artifacts_and_removes_orphans(tmp_path: Path) -> None:
    artifacts.write({"Old": artifact()}, tmp_path)
    built = {"New": artifact()}
    artifacts.write(built, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["New.json"]
    assert artifacts.differences(built, tmp_path) == []


@pytest.mark.parametrize(("excess", "code"), [(0, 0), (1, 1)])
def test_main_code_over_the_limit_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    excess: int,
    code: int,
) -> None:
    built = {"A": artifact("0x" + "00" * (artifacts.CODE_BYTES_MAX + excess))}
    monkeypatch.setattr(artifacts, "ARTIFACTS", tmp_path)
    monkeypatch.setattr(artifacts, "build", lambda project: built)
    assert artifacts.main([]) == code
    assert artifacts.main(["--check"]) == code
    assert ("1 bytes over the limit of EIP-170" in capsys.readouterr().err) == bool(excess)


def test_abi_hash_ignores_key_order_and_sees_every_value() -> None:
    one = artifacts.abi_hash([{"type": "event", "name": "Opened"}])
    assert one == artifacts.abi_hash([{"name": "Opened", "type": "event"}])
    assert one != artifacts.abi_hash([{"name": "Closed", "type": "event"}])
