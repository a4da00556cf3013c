"""The examples' job files can be bought, and what they ship is what their scripts make."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from marketplace.agent.runtime.sandbox import HELPER_FILE
from marketplace.sdk.jobfile import load_job
from scripts.demo_lib.cases import CASES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
JOB_FILES = sorted(EXAMPLES.rglob("*.yaml"))


def test_there_are_examples() -> None:
    assert len(JOB_FILES) >= 8


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_a_job_file_is_valid_and_its_program_is_there(path: Path) -> None:
    spec, folder = load_job(path)
    assert folder == path.parent
    if spec.workdir is not None:
        assert (folder / spec.workdir / spec.command[-1]).is_file()


def test_an_example_runs_by_hand_outside_of_any_market(tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(HELPER_FILE.parent), "SAMPLES": "1000000"}
    program = [sys.executable, str(EXAMPLES / "pi" / "pi.py")]
    subprocess.run(program, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert json.loads((tmp_path / "out" / "pi.json").read_text())["points"] == 1_000_000


def test_the_readings_are_what_their_script_makes(tmp_path: Path) -> None:
    script = EXAMPLES / "pipeline" / "make_readings.py"
    spec = importlib.util.spec_from_file_location("make_readings", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(tmp_path / "readings.csv")
    shipped = (script.parent / "readings.csv").read_bytes()
    assert (tmp_path / "readings.csv").read_bytes() == shipped


def test_the_demonstration_buys_jobs_that_end_in_every_way() -> None:
    states = [case.state for case in CASES]
    assert states.count("succeeded") >= 6
    assert {"failed", "cancelled", "over_budget", "no_match"} <= set(states)
    for case in CASES:
        spec = case.spec()
        assert spec.name == case.name
        assert spec.workdir is None or Path(spec.workdir).is_dir()
