"""Compiles contracts/src into the shipped artifacts: `python -m settlement.chain.compile`.

It runs in a checkout with its tools installed. It uses foundry.toml's settings, so the shipped code
is the code that the Solidity tests ran. Source: solc's standard JSON interface; EIP-170 for the
size limit.
"""

import argparse
import hashlib
import json
import posixpath
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import requests
import solcx
from eth_utils.crypto import keccak
from solcx.exceptions import SolcError, SolcInstallationError

from settlement.errors import CompileError

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "settlement" / "artifacts"
CODE_BYTES_MAX = 24_576
"""The largest deployed code that a chain accepts. Source: EIP-170."""
INIT_CODE_BYTES_MAX = 49_152
"""The largest code that may create a contract. Source: EIP-3860."""
ANSWERED_BY = {"ComputeEscrow": "EscrowExtension"}
"""Contracts that pass unknown calls on to another contract's code: callers need both ABIs."""
_CODE_SIZE_WARNING = "5574"  # ignored because this module measures and reports every size

_IMPORT = re.compile(r"""^\s*import\s(?:[^;"']*\sfrom\s*)?["']([^"']+)["']""", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


@dataclass(frozen=True)
class Project:
    """A Foundry project in the folder contracts of a repository that pins solc in package.json."""

    root: Path

    @property
    def contracts(self) -> Path:
        return self.root / "contracts"

    @cached_property
    def profile(self) -> dict[str, Any]:
        config = tomllib.loads((self.contracts / "foundry.toml").read_text())
        profile: dict[str, Any] = config["profile"]["default"]
        return profile

    @property
    def solc_version(self) -> str:
        pins = json.loads((self.root / "package.json").read_text())
        return str(pins["dependencies"]["solc"])

    @property
    def wasm_solc(self) -> Path:
        """The executable that forge compiles with. It needs Node and node_modules."""
        return self.contracts / str(self.profile["solc"])

    @property
    def names(self) -> list[str]:
        """The shipped contracts: one per file directly in src, named like its file."""
        return sorted(path.stem for path in (self.contracts / "src").glob("*.sol"))


def compiler_settings(profile: Mapping[str, Any]) -> dict[str, Any]:
    """foundry.toml's profile as solc settings."""
    return {
        "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
        "evmVersion": profile["evm_version"],
        "viaIR": profile["via_ir"],
        "metadata": {"bytecodeHash": profile["bytecode_hash"]},
        "outputSelection": {"*": {"*": ["abi", "evm.bytecode", "evm.deployedBytecode"]}},
    }


def imports(source: str, unit: str) -> list[str]:
    """The source units that `source` imports, with relative paths resolved against `unit`."""
    found = _IMPORT.findall(_COMMENT.sub("", source))
    return [
        posixpath.normpath(posixpath.join(posixpath.dirname(unit), path))
        if path.startswith(".")
        else path
        for path in found
    ]


def standard_input(project: Project, units: Sequence[str] = ()) -> dict[str, Any]:
    """The compiler input with every imported file, so that it compiles on any machine.

    It covers the shipped contracts unless `units` names other source units. Raises CompileError if
    a file cannot be read.
    """
    remappings = dict(line.split("=", 1) for line in project.profile["remappings"])
    sources: dict[str, dict[str, str]] = {}
    waiting = list(units) or [f"src/{name}.sol" for name in project.names]
    while waiting:
        unit = waiting.pop()
        if unit in sources:
            continue
        prefix = max((p for p in remappings if unit.startswith(p)), key=len, default="")
        path = project.contracts / (remappings.get(prefix, "") + unit.removeprefix(prefix))
        try:
            content = path.read_text(encoding="utf-8")
        except OSError as error:
            raise CompileError(f"cannot read {unit}: {error}") from error
        sources[unit] = {"content": content}
        waiting.extend(imports(content, unit))
    return {
        "language": "Solidity",
        "sources": dict(sorted(sources.items())),
        "settings": compiler_settings(project.profile),
    }


def find_compiler(project: Project) -> Path:
    """The pinned native compiler if py-solc-x has it, else node_modules' one, else a download.

    The download comes last so that an installed checkout needs no network. Raises CompileError.
    """
    version = project.solc_version
    if version in {str(installed) for installed in solcx.get_installed_solc_versions()}:
        return solcx.install.get_executable(version)
    if (project.root / "node_modules" / "solc").is_dir():
        return project.wasm_solc
    try:
        solcx.install_solc(version)
    except (SolcInstallationError, requests.RequestException) as error:
        fix = "run scripts/test once to install the tools, or connect to the network"
        raise CompileError(f"solc {version} is not installed ({error}): {fix}") from error
    return solcx.install.get_executable(version)


def compile_contracts(project: Project, solc: Path) -> dict[str, dict[str, Any]]:
    """Artifacts by contract name, the same on every machine. Raises CompileError on any warning."""
    request = standard_input(project)
    try:
        version = solcx.wrapper.get_version_str_from_solc_binary(solc)
        output = solcx.compile_standard(request, solc_binary=solc)
    except SolcError as error:
        raise CompileError(f"{error.message}\n{error.stderr_data or ''}".strip()) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise CompileError(f"{solc} does not run: {error}") from error
    notices = [
        notice
        for notice in output.get("errors", [])
        if notice["severity"] != "info" and notice.get("errorCode") != _CODE_SIZE_WARNING
    ]
    if notices:
        raise CompileError("\n".join(notice["formattedMessage"] for notice in notices))
    settings_hash = _sha256(request["settings"])
    built = {name: output["contracts"][f"src/{name}.sol"][name] for name in project.names}
    abis = {name: contract["abi"] for name, contract in built.items()}
    return {
        name: _artifact(name, contract["evm"], callable_abi(name, abis), version, settings_hash)
        for name, contract in built.items()
    }


def callable_abi(name: str, abis: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The ABI at a contract's address: its own, then that of the contract in ANSWERED_BY."""
    own = list(abis[name])
    other = abis.get(ANSWERED_BY.get(name, ""), ())
    return own + [e for e in other if e["type"] != "constructor" and e not in own]


def _artifact(
    name: str,
    evm: Mapping[str, Any],
    abi: Sequence[Mapping[str, Any]],
    compiler: str,
    settings_hash: str,
) -> dict[str, Any]:
    places = evm["deployedBytecode"].get("immutableReferences", {}).values()
    return {
        "contractName": name,
        "compiler": compiler,
        "settingsHash": settings_hash,
        "abiHash": abi_hash(abi),
        "abi": list(abi),
        "bytecode": "0x" + evm["bytecode"]["object"],
        "deployedBytecode": "0x" + evm["deployedBytecode"]["object"],
        "immutables": sorted(
            ({"start": p["start"], "length": p["length"]} for ps in places for p in ps),
            key=lambda place: place["start"],
        ),
    }


def abi_hash(abi: Sequence[Mapping[str, Any]]) -> str:
    """Keccak-256 of the ABI as compact JSON with sorted keys, 0x-prefixed."""
    return "0x" + keccak(text=_canonical(abi)).hex()


def code_bytes(artifact: Mapping[str, Any]) -> int:
    """The size of the deployed code in bytes."""
    return len(str(artifact["deployedBytecode"]).removeprefix("0x")) // 2


def init_code_bytes(artifact: Mapping[str, Any]) -> int:
    """The size in bytes of the creating code with its arguments, each of one word."""
    words = sum(
        len(parameter.get("components", (parameter,)))
        for entry in artifact.get("abi", ())
        if entry["type"] == "constructor"
        for parameter in entry["inputs"]
    )
    return len(str(artifact.get("bytecode", "0x")).removeprefix("0x")) // 2 + 32 * words


def render(artifact: Mapping[str, Any]) -> str:
    return json.dumps(artifact, indent=1) + "\n"


def differences(built: Mapping[str, Mapping[str, Any]], folder: Path) -> list[str]:
    """One line per shipped artifact that is missing, stale or belongs to no contract."""
    lines = []
    for name, artifact in built.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            lines.append(f"{name}: its artifact is missing")
        elif path.read_text(encoding="utf-8") != render(artifact):
            lines.append(f"{name}: its artifact is stale")
    extra = {path.stem for path in folder.glob("*.json")} - set(built)
    return lines + [f"{name}: its contract is gone" for name in sorted(extra)]


def write(built: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        if path.stem not in built:
            path.unlink()
    for name, artifact in built.items():
        (folder / f"{name}.json").write_text(render(artifact), encoding="utf-8")


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sha256(value: object) -> str:
    return "0x" + hashlib.sha256(_canonical(value).encode()).hexdigest()


def _report(built: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Print each contract's size; return a line for each limit of a chain that one exceeds."""
    over = []
    for name, artifact in built.items():
        size, made_with = code_bytes(artifact), init_code_bytes(artifact)
        print(f"{name}: {size:,} of {CODE_BYTES_MAX:,} bytes ({size / CODE_BYTES_MAX:.1%})")
        if size > CODE_BYTES_MAX:
            over.append(f"{name}: {size - CODE_BYTES_MAX:,} bytes over the limit of EIP-170")
        if made_with > INIT_CODE_BYTES_MAX:
            extra = made_with - INIT_CODE_BYTES_MAX
            over.append(f"{name}: {extra:,} bytes of init code over the limit of EIP-3860")
    return over


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m settlement.chain.compile")
    parser.add_argument("--check", action="store_true", help="only compare with the artifacts")
    check: bool = parser.parse_args(arguments).check
    project = Project(ROOT)
    try:
        solc = find_compiler(project)
        built = compile_contracts(project, solc)
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    failures = _report(built)
    if check:
        failures += differences(built, ARTIFACTS)
    else:
        write(built, ARTIFACTS)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
