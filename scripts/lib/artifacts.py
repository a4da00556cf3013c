"""Compiles contracts/src into settlement/artifacts: `python -m scripts.lib.artifacts [--check]`.

It uses foundry.toml's settings and compiler, so the shipped code is the code that the Solidity
tests ran. Source: solc's standard JSON interface; EIP-170 and EIP-3860 for the size limits.
"""

import argparse
import hashlib
import json
import posixpath
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from eth_utils.crypto import keccak
from solcx.exceptions import SolcError
from solcx.wrapper import solc_wrapper

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "settlement" / "artifacts"
CODE_BYTES_MAX = 24_576  # of deployed code. Source: EIP-170
INIT_CODE_BYTES_MAX = 49_152  # of code that creates a contract. Source: EIP-3860
# Contracts that pass unknown calls on to another contract's code: callers need both ABIs.
ANSWERED_BY = {"ComputeEscrow": "EscrowExtension"}
_CODE_SIZE_WARNING = "5574"  # ignored because this module measures and reports every size

_IMPORT = re.compile(r"""^\s*import\s(?:[^;"']*\sfrom\s*)?["']([^"']+)["']""", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


class CompileError(Exception):
    """The compiler does not run, a file is missing, or a contract does not compile."""


class Project:
    """The Foundry project in the folder `contracts` of a repository."""

    def __init__(self, root: Path) -> None:
        self.contracts = root / "contracts"

    @cached_property
    def profile(self) -> dict[str, Any]:
        config = tomllib.loads((self.contracts / "foundry.toml").read_text())
        profile: dict[str, Any] = config["profile"]["default"]
        return profile

    @property
    def names(self) -> list[str]:
        """The shipped contracts: one per file directly in src, named like its file."""
        return sorted(path.stem for path in (self.contracts / "src").glob("*.sol"))

    def solc(self, **options: Any) -> str:
        """Run the compiler that forge uses; options as of solcx. Raises CompileError."""
        solc = self.contracts / self.profile["solc"]
        try:
            return str(solc_wrapper(solc_binary=solc, **options)[0])
        except OSError as error:
            raise CompileError(f"{solc} does not run: {error}") from error
        except (CalledProcessError, SolcError) as error:
            raise CompileError(f"{solc} failed; run scripts/test once to install it") from error


def imports(source: str, unit: str) -> list[str]:
    """The source units that `source` imports, with relative paths resolved against `unit`."""
    folder = posixpath.dirname(unit)
    return [
        posixpath.normpath(posixpath.join(folder, path)) if path.startswith(".") else path
        for path in _IMPORT.findall(_COMMENT.sub("", source))
    ]


def standard_input(project: Project, units: Sequence[str] = ()) -> dict[str, Any]:
    """The compiler input with every imported file, so that it compiles on any machine.

    It covers the shipped contracts unless `units` names other source units. Raises CompileError if
    a file cannot be read.
    """
    profile = project.profile
    remappings = dict(line.split("=", 1) for line in profile["remappings"])
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
    settings = {
        "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
        "evmVersion": profile["evm_version"],
        "viaIR": profile["via_ir"],
        "metadata": {"bytecodeHash": profile["bytecode_hash"]},
        "outputSelection": {"*": {"*": ["abi", "evm.bytecode", "evm.deployedBytecode"]}},
    }
    return {"language": "Solidity", "sources": dict(sorted(sources.items())), "settings": settings}


def compiled(project: Project, request: Mapping[str, Any]) -> dict[str, Any]:
    """The compiler's contracts by source unit. Raises CompileError on any warning."""
    output = json.loads(project.solc(standard_json=True, stdin=json.dumps(request)))
    notices = [
        notice["formattedMessage"]
        for notice in output.get("errors", [])
        if notice["severity"] != "info" and notice.get("errorCode") != _CODE_SIZE_WARNING
    ]
    if notices:
        raise CompileError("\n".join(notices))
    contracts: dict[str, Any] = output["contracts"]
    return contracts


def build(project: Project) -> dict[str, dict[str, Any]]:
    """Artifacts by contract name, the same on every machine. Raises CompileError on any warning."""
    request = standard_input(project)
    version = re.search(r"\d+\.\d+\.\d+(-nightly\S*)?\+commit\.\w+", project.solc(version=True))
    if version is None:
        raise CompileError("the compiler does not say its version")
    contracts = compiled(project, request)
    built = {name: contracts[f"src/{name}.sol"][name] for name in project.names}
    common = {
        "compiler": version[0],
        "settingsHash": "0x" + hashlib.sha256(_canonical(request["settings"])).hexdigest(),
    }
    abis = {name: contract["abi"] for name, contract in built.items()}
    return {
        name: {"contractName": name, **common, **_artifact(contract["evm"], _abi(name, abis))}
        for name, contract in built.items()
    }


def _abi(name: str, abis: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The ABI at a contract's address: its own, then that of the contract in ANSWERED_BY."""
    own = list(abis[name])
    other = abis.get(ANSWERED_BY.get(name, ""), ())
    return own + [e for e in other if e["type"] != "constructor" and e not in own]


def _artifact(evm: Mapping[str, Any], abi: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    places = evm["deployedBytecode"].get("immutableReferences", {}).values()
    immutables = ({"start": p["start"], "length": p["length"]} for ps in places for p in ps)
    return {
        "abiHash": abi_hash(abi),
        "abi": list(abi),
        "bytecode": "0x" + evm["bytecode"]["object"],
        "deployedBytecode": "0x" + evm["deployedBytecode"]["object"],
        "immutables": sorted(immutables, key=lambda place: place["start"]),
    }


def abi_hash(abi: Sequence[Mapping[str, Any]]) -> str:
    """Keccak-256 of the ABI as compact JSON with sorted keys, 0x-prefixed."""
    return "0x" + keccak(_canonical(abi)).hex()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _bytes(artifact: Mapping[str, Any], code: str) -> int:
    return len(str(artifact.get(code, "0x")).removeprefix("0x")) // 2


def too_large(built: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Print each contract's size; yield a line for each limit of a chain that one exceeds."""
    for name, artifact in built.items():
        size, init_size = _bytes(artifact, "deployedBytecode"), _bytes(artifact, "bytecode")
        for entry in artifact.get("abi", ()):
            if entry["type"] == "constructor":  # each argument takes one word of the creating code
                init_size += 32 * sum(len(p.get("components", (p,))) for p in entry["inputs"])
        print(f"{name}: {size:,} of {CODE_BYTES_MAX:,} bytes ({size / CODE_BYTES_MAX:.1%})")
        if size > CODE_BYTES_MAX:
            yield f"{name}: {size - CODE_BYTES_MAX:,} bytes over the limit of EIP-170"
        if init_size > INIT_CODE_BYTES_MAX:
            extra = init_size - INIT_CODE_BYTES_MAX
            yield f"{name}: {extra:,} bytes of init code over the limit of EIP-3860"


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
    """Make the folder hold exactly these artifacts."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        if path.stem not in built:
            path.unlink()
    for name, artifact in built.items():
        (folder / f"{name}.json").write_text(render(artifact), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.lib.artifacts")
    parser.add_argument("--check", action="store_true", help="only compare with the artifacts")
    check: bool = parser.parse_args(arguments).check
    try:
        built = build(Project(ROOT))
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    failures = list(too_large(built))
    if check:
        failures += differences(built, ARTIFACTS)
    else:
        write(built, ARTIFACTS)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
