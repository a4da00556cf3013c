"""The pages of the job file and of the agent's file name every member, with its default."""

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from marketplace.agent.config import AgentConfig, NodeConfig
from marketplace.domain.job import MEMBERS
from marketplace.sdk.jobfile import OUTPUTS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def rows(page: str) -> dict[str, str]:
    """Each member's default, as the page has it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `([a-z_/]+)` \| .+ \| (.+) \|$", text, re.MULTILINE))


def value(cell: str) -> Any:
    return yaml.safe_load(cell.strip("`"))


def test_the_job_files_page_is_the_job_spec() -> None:
    told = rows("job-file.md")
    assert told.keys() == {member.path for member in MEMBERS.values()}
    assert value(told.pop("outputs")) == [{"path": OUTPUTS}]
    assert "max_duration" in told.pop("budget/max_total")
    assert "1h" in told.pop("retry/duration")
    assert "if the job has GPUs" in told.pop("pricing/max_gpu_hour")
    assert "if the job has no GPU" in told.pop("pricing/max_hour")
    for member in MEMBERS.values():
        if member.path in told:
            cell = told[member.path]
            if member.needed or member.optional:
                assert cell == ("needed" if member.needed else "none")
            else:
                assert value(cell) == yaml.safe_load(str(member.write(member.default)))


def test_the_agent_files_page_is_its_configuration() -> None:
    told = rows("agent-file.md")
    known = {field.name: field for field in fields(AgentConfig) if field.name != "node"}
    known |= {f"node/{field.name}": field for field in fields(NodeConfig)}
    assert told.keys() == known.keys()
    for name, field in known.items():
        assert (told[name] == "needed") is (field.default is MISSING)
        if told[name].startswith("`"):
            assert value(told[name]) == field.default
