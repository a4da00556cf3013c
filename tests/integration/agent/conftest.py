from collections.abc import Iterator
from pathlib import Path

import pytest

from marketplace.agent.runtime.process import ProcessRuntime
from tests.sandboxes import Bench, Sandbox


@pytest.fixture(scope="session")
def runtime() -> ProcessRuntime:
    """The sandbox of this machine; scripts/test installs bubblewrap where it is missing."""
    return ProcessRuntime.open(allow_unsandboxed=False)


@pytest.fixture
def sandbox(runtime: ProcessRuntime, tmp_path: Path) -> Sandbox:
    return Sandbox(runtime, tmp_path)


@pytest.fixture
def bench(runtime: ProcessRuntime, tmp_path: Path) -> Iterator[Bench]:
    with Bench(runtime, tmp_path) as bench:
        yield bench
