"""Part of every build (wheel, sdist, editable): writes the synchronous client, see `unasync`."""

import runpy
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SynchronousClient(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        runpy.run_path(f"{self.root}/scripts/lib/unasync.py", run_name="__main__")
