"""The jobs: who buys them, and how each must end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from marketplace.domain.job import JobSpec
from marketplace.sdk.jobfile import load_job
from scripts.demo_lib.children import ROOT

EXAMPLES = ROOT / "examples"


@dataclass(frozen=True, slots=True)
class Case:
    """One job. `cancel_at_ms`: the buyer cancels it once this much usage is countersigned.
    `lose_at_ms`: then its node is lost, and the job goes on to another one."""

    name: str
    buyer: str
    file: str
    state: str = "succeeded"
    reason: str | None = None
    exit_code: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    cancel_at_ms: int | None = None
    lose_at_ms: int | None = None

    def spec(self) -> JobSpec:
        """The job file's spec under this case's name, with this case's variables."""
        spec, folder = load_job(EXAMPLES / self.file)
        workdir = None if spec.workdir is None else str((folder / Path(spec.workdir)).resolve())
        env = tuple(sorted({**dict(spec.env), **self.env}.items()))
        return replace(spec, name=self.name, workdir=workdir, env=env)


# First the job that fails only on its price, then the long ones; the others run next to them.
CASES = (
    Case("no-match", "lab", "endings/no-match/job.yaml", "no_match"),
    Case("moving", "studio", "endings/moving/job.yaml", lose_at_ms=2_000),
    Case("over-budget", "lab", "endings/search/over-budget.yaml", "over_budget", "budget"),
    Case("cancelled", "studio", "endings/search/cancelled.yaml", "cancelled", cancel_at_ms=3_000),
    Case("train", "lab", "train/job.yaml"),
    Case("inference", "studio", "inference/job.yaml"),
    Case("pi", "lab", "pi/job.yaml"),
    Case("failing", "studio", "endings/failing/job.yaml", "failed", "exit_code", 3),
    Case("pipeline", "studio", "pipeline/job.yaml"),
    Case("pi-again", "studio", "pi/job.yaml", env={"SEED": "2"}),
    Case("train-again", "lab", "train/job.yaml", env={"SEED": "2"}),
    Case("agents-own", "agent", "pi/job.yaml", env={"SEED": "3", "SAMPLES": "2000000"}),
    Case("inference-small", "lab", "inference/job.yaml", env={"REQUESTS": "5000"}),
)
