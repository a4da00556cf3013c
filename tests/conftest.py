"""How hard the tests search: a little by default, a lot at night (scripts/test --nightly)."""

from __future__ import annotations

import os

import pytest
import structlog
from hypothesis import Phase, settings

NIGHTLY = os.environ.get("COULOMB_NIGHTLY") == "1"

# Explaining a failure runs the test many more times: after minutes it tells less than the example.
PHASES = tuple(phase for phase in Phase if phase is not Phase.explain)

settings.register_profile("default", deadline=None, phases=PHASES, max_examples=100)
settings.register_profile("nightly", deadline=None, phases=PHASES, max_examples=2_000)
settings.load_profile("nightly" if NIGHTLY else "default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves tests marked `nightly` out by day."""
    if NIGHTLY:
        return
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if nightly:
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]


# Without this, a fault in a server under test is drawn with all its locals, which takes minutes.
structlog.configure(
    processors=[
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)
