"""The tools fail when they should: on a failing test, a failing stage or a wrong option."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.programs import wait_for

ROOT = Path(__file__).resolve().parents[2]
LIB = ROOT / "scripts" / "lib"
SOLIDITY_TEST = """// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

contract PlantedTest {
    function test_planted() public pure {
        assert(uint256(1) == VALUE);
    }
}
"""


@pytest.fixture
def foundry_project(tmp_path: Path) -> Path:
    """An empty project with our Foundry settings."""
    contracts = tmp_path / "contracts"
    (contracts / "src").mkdir(parents=True)
    (contracts / "test").mkdir()
    shutil.copy(ROOT / "contracts" / "foundry.toml", contracts)
    (contracts / "node_modules").symlink_to(ROOT / "node_modules")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    return contracts


def shell(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-uo", "pipefail", "-c", script, "bash", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("value", "code"), [("1", 0), ("2", 1)])
def test_stages_with_a_planted_solidity_test_follow_its_outcome(
    foundry_project: Path, value: str, code: int
) -> None:
    planted = SOLIDITY_TEST.replace("VALUE", value)
    (foundry_project / "test" / "Planted.t.sol").write_text(planted)
    result = shell(
        '. scripts/lib/stages.sh; stage "forge test" scripts/lib/forge-test "$1"; finish',
        foundry_project,
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert ("[PASS]" if code == 0 else "[FAIL") in result.stdout


def test_forge_test_without_any_tests_fails(foundry_project: Path) -> None:
    result = shell('scripts/lib/forge-test "$1"', foundry_project)
    assert result.returncode == 1
    assert "no *.t.sol" in result.stderr


def test_stages_after_a_failure_go_on_and_sum_up_on_stderr() -> None:
    result = shell(
        ". scripts/lib/stages.sh; stage one true; stage two false; stage three echo ran; finish"
    )
    assert result.returncode == 1
    assert result.stdout == "ran\n"
    summary = result.stderr.partition("== summary\n")[2].splitlines()
    verdicts = [re.split(r"\s{2,}", line)[-1] for line in summary]
    assert verdicts == ["ok", "FAILED (exit 1)", "ok"]


def test_scripts_test_runs_every_kind_of_check() -> None:
    script = (ROOT / "scripts" / "test").read_text()
    stages = re.findall(r"^ *stage .*?((?:scripts/|pytest|join)\S*)", script, re.MULTILINE)
    assert stages == [
        "scripts/lint", "scripts/audit", "scripts/prove",
        "scripts/lib/forge-test", "pytest", "pytest", "join",
    ]  # fmt: skip


@pytest.mark.parametrize(("end", "code"), [("true", 0), ("false", 1)])
def test_checks_in_the_background_count_as_one_stage(end: str, code: int) -> None:
    result = shell(
        f". scripts/lib/stages.sh; both() {{ stage a echo said; stage b {end}; finish; }}; "
        "beside both; stage first true; stage checks join; finish"
    )
    assert result.returncode == code
    assert "said" in result.stderr
    last = result.stderr.rpartition("== summary\n")[2].splitlines()
    assert [line.split()[0] for line in last] == ["first", "checks"]


def test_checks_in_the_background_end_with_the_script() -> None:
    result = shell('. scripts/lib/stages.sh; beside sleep 1000; echo "$beside_pid"')
    wait_for("the group is gone", lambda: not group_exists(int(result.stdout)), 10)


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_scripts_test_with_an_unknown_option_is_a_usage_error() -> None:
    result = shell("scripts/test --slowly")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: scripts/test")


@pytest.mark.parametrize("tool", ["forge", "anvil", "cast"])
def test_foundry_tools_are_native_binaries(tool: str) -> None:
    with (ROOT / ".setup" / "bin" / tool).open("rb") as binary:
        assert binary.read(2) != b"#!"


def test_solc_answers_version_as_native_solc_does() -> None:
    pinned = json.loads((ROOT / "package.json").read_text())["dependencies"]["solc"]
    result = shell("scripts/lib/solc --version")
    assert re.search(rf"^Version: {re.escape(pinned)}\+commit\.\w+", result.stdout, re.MULTILINE)


def test_solc_standard_json_prints_only_json() -> None:
    source = "// SPDX-License-Identifier: MIT\npragma solidity ^0.8.0;\ncontract C {}"
    settings = {"outputSelection": {"*": {"*": ["evm.bytecode.object"]}}}
    sources = {"C.sol": {"content": source}}
    request = json.dumps({"language": "Solidity", "sources": sources, "settings": settings})
    solc = [LIB / "solc", "--standard-json", "--base-path", "/"]
    result = subprocess.run(solc, input=request, capture_output=True, text=True, check=True)
    contract = json.loads(result.stdout)["contracts"]["C.sol"]["C"]
    assert re.fullmatch("[0-9a-f]{20,}", contract["evm"]["bytecode"]["object"])


def test_solc_asked_anything_else_fails() -> None:
    result = shell("scripts/lib/solc --bin")
    assert (result.returncode, result.stdout) == (1, "")


def test_python_requirements_have_lower_bounds_only_and_are_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    versions = {package["name"]: package["version"] for package in locked}
    groups = [project["project"]["dependencies"], project["dependency-groups"]["dev"]]
    groups += project["project"]["optional-dependencies"].values()
    for requirement in (line for group in groups for line in group):
        name, bound = re.sub(r"\[.*?\]", "", requirement).split(">=")
        assert re.fullmatch(r"[0-9a-z.]+", bound), f"{requirement}: no upper bounds, no exact pins"
        assert _numbers(versions[name.lower()]) >= _numbers(bound), requirement


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def test_locks_name_public_registries_only() -> None:
    uv = (ROOT / "uv.lock").read_text()
    node = json.loads((ROOT / "package-lock.json").read_text())
    hosts = set(re.findall(r"https?://([^/\"]+)", uv))
    hosts |= set(re.findall(r'"resolved": "https?://([^/"]+)', json.dumps(node)))
    assert hosts <= {"pypi.org", "files.pythonhosted.org", "registry.npmjs.org"}
    assert "file:" not in uv
    assert "file:" not in json.dumps(node)


def test_node_pins_are_exact_and_locked() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    locked = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    pins = package["dependencies"] | package["devDependencies"] | package["optionalDependencies"]
    for name, version in pins.items():
        assert locked[f"node_modules/{name}"]["version"] == version, name
        assert locked[f"node_modules/{name}"]["integrity"].startswith("sha512-"), name
