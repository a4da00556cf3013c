"""The shipped artifacts equal a build of the sources and the code that forge tests."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.lib import artifacts
from scripts.mutate_lib.lanes import make_lanes
from settlement.chain.abi import Abi, artifact

PROJECT = artifacts.Project(artifacts.ROOT)
FORGE = artifacts.ROOT / ".setup" / "bin" / "forge"
WARNS = """// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;
contract Warns {
    function f() external pure {
        uint256 unused = 1;
    }
}
"""


def entries(abi: list[dict[str, Any]]) -> list[str]:
    """An ABI's entries, sorted because forge orders them differently."""
    return sorted(map(entry_text, abi))


@pytest.fixture(scope="module")
def built() -> dict[str, dict[str, Any]]:
    return artifacts.build(PROJECT)


def test_artifacts_rebuilt_are_the_shipped_ones(built: dict[str, dict[str, Any]]) -> None:
    assert built, "no contracts under contracts/src"
    fix = "run `python -m scripts.lib.artifacts`"
    assert artifacts.differences(built, artifacts.ARTIFACTS) == [], fix


def test_contracts_fit_on_chain(built: dict[str, dict[str, Any]]) -> None:
    assert list(artifacts.too_large(built)) == []


def test_artifacts_are_the_code_that_forge_tests(
    built: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    lane = make_lanes(1, tmp_path)[0]
    for name, shipped in built.items():
        forged = json.loads((lane.folder / f"out/{name}.sol/{name}.json").read_text())
        assert forged["bytecode"]["object"] == shipped["bytecode"], name
        own = entries(forged["abi"])
        assert own == entries([e for e in shipped["abi"] if entry_text(e) in own]), name


def entry_text(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True)


def test_the_escrows_abi_has_every_function_of_its_interface(tmp_path: Path) -> None:
    where: list[str | Path] = ["--out", tmp_path / "out", "--cache-path", tmp_path / "cache"]
    interface = "src/interfaces/IComputeEscrow.sol"
    subprocess.run(
        [FORGE, "build", interface, *where], cwd=PROJECT.contracts, check=True, capture_output=True
    )
    forged = json.loads((tmp_path / "out/IComputeEscrow.sol/IComputeEscrow.json").read_text())
    shipped = Abi(artifact("ComputeEscrow").abi).selectors
    wanted = {bytes.fromhex(text) for text in forged["methodIdentifiers"].values()}
    assert len(wanted) > 30  # the file was parsed
    assert wanted <= shipped
    kinds = ("event", "error")
    declared = entries([e for e in forged["abi"] if e["type"] in kinds])
    assert set(declared) <= set(entries(list(artifact("ComputeEscrow").abi)))


def test_compile_contracts_treats_a_warning_as_an_error(tmp_path: Path) -> None:
    source = tmp_path / "contracts" / "src" / "Warns.sol"
    source.parent.mkdir(parents=True)
    source.write_text(WARNS)
    settings = (PROJECT.contracts / "foundry.toml").read_text()
    solc = str(artifacts.ROOT / "scripts/lib/solc")
    (tmp_path / "contracts/foundry.toml").write_text(settings.replace("../scripts/lib/solc", solc))
    with pytest.raises(artifacts.CompileError, match="Unused local variable"):
        artifacts.build(artifacts.Project(tmp_path))
