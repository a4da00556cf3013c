"""The module that jobs import, as a plain import and as a command, against the agent's channel."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from marketplace.agent.channel import SOCKET_NAME
from marketplace.agent.runtime.sandbox import HELPER_FILE
from marketplace.limits import UNITS_PER_LINE_MAX
from tests.fakes_agent import JobEnd


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobEnd]:
    """A job on whose socket an agent listens. Its log is at tmp_path/logs."""
    job = JobEnd(tmp_path, 10**9)
    monkeypatch.setenv("COULOMB_SOCKET", str(job.folder / SOCKET_NAME))
    monkeypatch.setenv("COULOMB_OUT", str(tmp_path / "out"))
    yield job
    job.end()
    job.logs.close()


@pytest.fixture
def helper() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("coulomb_job", HELPER_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    if module._connection is not None:
        module._connection.close()


def test_what_a_job_says_reaches_the_agent(
    job: JobEnd, helper: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    helper.ready()
    helper.heartbeat()
    helper.progress("half way")
    helper.count(3)
    helper.count(4)
    signs = job.end()
    assert (signs.ready, signs.heartbeats, signs.units, signs.ignored_lines) == (True, 5, 7, 0)
    assert (tmp_path / "logs" / "agent").read_text() == "progress: half way\n"
    assert capsys.readouterr().out == "half way\n"


def test_a_job_learns_of_the_notice_from_a_file_and_of_none_from_its_absence(
    helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert helper.notice() is None
    told = tmp_path / "notice"
    monkeypatch.setenv("COULOMB_NOTICE", str(told))
    assert helper.notice() is None
    told.write_text(f"{int(time.time()) + 60}\n")
    assert 58 < helper.notice() <= 60
    told.write_text("1\n")
    assert helper.notice() == 0


def test_more_units_than_fit_one_line_are_all_counted(job: JobEnd, helper: ModuleType) -> None:
    helper.count(2 * UNITS_PER_LINE_MAX + 1)
    helper.count(0)
    assert job.end().units == 2 * UNITS_PER_LINE_MAX + 1


def test_a_long_text_of_any_characters_is_one_line(
    job: JobEnd, helper: ModuleType, tmp_path: Path
) -> None:
    helper.progress("\N{GRINNING FACE}" * 5000)
    assert job.end().ignored_lines == 0
    assert (tmp_path / "logs" / "agent").read_text().count("\N{GRINNING FACE}") == 200


def test_units_cannot_be_taken_back(helper: ModuleType) -> None:
    with pytest.raises(ValueError, match="-1 units"):
        helper.count(-1)


def test_without_a_socket_or_an_agent_a_job_runs_all_the_same(
    helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COULOMB_SOCKET", raising=False)
    helper.ready()
    monkeypatch.setenv("COULOMB_SOCKET", str(tmp_path / "gone.sock"))
    helper.ready()
    assert helper._connection is None


def test_results_and_checkpoints_are_whole_files_among_the_outputs(
    job: JobEnd, helper: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "model").write_text("weights")
    assert helper.checkpoint(tmp_path / "model") == tmp_path / "out" / "model"
    (tmp_path / "model").write_text("better weights")
    helper.checkpoint(tmp_path / "model")
    helper.write_result("sub/pi.json", {"pi": 3})
    found = {path.name: path.read_text() for path in (tmp_path / "out").rglob("*.*")}
    assert found == {"pi.json": '{\n  "pi": 3\n}\n'}
    assert (tmp_path / "out" / "model").read_text() == "better weights"
    assert job.end().heartbeats == 2


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ([], 2, "usage:"),
        (["reddy"], 2, "usage:"),
        (["ready", "now"], 2, "usage:"),
        (["count"], 2, "usage:"),
        (["count", "many"], 1, "invalid literal"),
        (["checkpoint", "/nowhere/model"], 1, "No such file"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(words: list[str], code: int, complaint: str) -> None:
    command = [sys.executable, "-I", "-S", str(HELPER_FILE), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in done.stderr
