"""No private folder comes into a job by way of the Python its environment was made from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marketplace.agent.config import AgentConfig, NodeConfig
from marketplace.agent.errors import FoldersExposed, RuntimeUnavailable
from marketplace.agent.runtime.process import ProcessRuntime
from marketplace.agent.runtime.sandbox import bound_bases, refuse_exposed

OPTIONS = "--size --perms --json-status-fd --seccomp --args"
INSTALLED = "share/uv/python/cpython-3.12"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with an interpreter in ~/.local/share and a link to it in ~/.local/bin."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    own = _interpreter(home / ".local" / INSTALLED)
    shim = home / ".local/bin/python3.12"
    shim.parent.mkdir()
    shim.symlink_to(own)
    return home


def _interpreter(installation: Path) -> Path:
    python = installation / "bin" / "python3.12"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    return python


def made_from(python: Path) -> Path:
    """A virtual environment as `python -m venv` lays it out, beside the home folder."""
    prefix = Path.home().with_name("venv")
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").symlink_to(python)
    (prefix / "pyvenv.cfg").write_text(f"home = {python.parent}\nversion = 3.12.1\n")
    return prefix


def test_an_environment_made_from_a_link_in_local_is_refused_with_the_fix(home: Path) -> None:
    prefix = made_from(home / ".local/bin/python3.12")
    with pytest.raises(FoldersExposed) as refused:
        refuse_exposed(prefix, ())
    own = home / ".local" / INSTALLED / "bin/python3.12"
    assert str(refused.value).endswith(f"the interpreter's own path: {own} -m venv {prefix}")
    assert "\n" not in str(refused.value)


def test_an_environment_made_from_the_interpreters_own_path_is_not(home: Path) -> None:
    prefix = made_from(home / ".local" / INSTALLED / "bin/python3.12")
    assert bound_bases(prefix) == {home / ".local" / INSTALLED}
    refuse_exposed(prefix, ())


@pytest.mark.parametrize("place", ["home/bin", "bin", "home/.config/coulomb/bin"])
def test_no_base_is_or_contains_the_home_folder_or_the_programs_own(
    home: Path, tmp_path: Path, place: str
) -> None:
    link = tmp_path / place / "python3"
    link.parent.mkdir(parents=True)
    link.symlink_to(home / ".local" / INSTALLED / "bin/python3.12")
    with pytest.raises(FoldersExposed):
        refuse_exposed(made_from(link), ())


def test_a_home_folder_behind_a_link_is_the_same_folder(home: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(home)
    with pytest.raises(FoldersExposed):
        refuse_exposed(made_from(tmp_path / "alias/.local/bin/python3.12"), ())


@pytest.mark.parametrize(
    "member", ["state_dir", "api_key_file", "meter_keystore", "meter_password_file"]
)
@pytest.mark.usefixtures("home")
def test_no_base_contains_a_folder_of_the_agents_configuration(tmp_path: Path, member: str) -> None:
    tools = tmp_path / "tools"
    prefix = made_from(_interpreter(tools))
    away = tmp_path / "agent" / "file"
    node = NodeConfig(number=0, name="n", region="r", tier="t")
    config = AgentConfig("http://m", away, node, away, away, away)
    refuse_exposed(prefix, config.private_folders)
    changed: dict[str, Any] = {member: tools / "agent" / "file"}
    inside = replace(config, **changed)
    with pytest.raises(FoldersExposed, match="tools/agent"):
        refuse_exposed(prefix, inside.private_folders)


@pytest.mark.parametrize("allow_unsandboxed", [False, True])
def test_the_runtime_does_not_open_and_does_not_run_jobs_bare_instead(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_unsandboxed: bool
) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(f"#!/bin/sh\necho {OPTIONS}\n")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    prefix = made_from(home / ".local/bin/python3.12")
    with pytest.raises(RuntimeUnavailable, match="interpreter's own path"):
        ProcessRuntime.open(allow_unsandboxed, prefix)
