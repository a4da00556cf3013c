import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketplace.agent.runtime import sandbox as bubblewrap
from marketplace.agent.runtime.process import ProcessRuntime
from tests.sandboxes import Bench, Sandbox


@pytest.fixture(scope="session")
def runtime() -> Iterator[ProcessRuntime]:
    """The sandbox of this machine; scripts/test installs bubblewrap where it is missing.

    Its jobs run as users that no other worker's jobs share: the kernel counts processes by user,
    so a fork bomb in one test would keep the jobs of the others from starting.
    """
    first = bubblewrap.JOB_UID_FIRST + os.getpid() * 1_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bubblewrap, "JOB_UID_FIRST", first)
        yield ProcessRuntime.open(allow_unsandboxed=False)


@pytest.fixture
def sandbox(runtime: ProcessRuntime, tmp_path: Path) -> Sandbox:
    return Sandbox(runtime, tmp_path)


@pytest.fixture
def bench(runtime: ProcessRuntime, tmp_path: Path) -> Iterator[Bench]:
    with Bench(runtime, tmp_path) as bench:
        yield bench
