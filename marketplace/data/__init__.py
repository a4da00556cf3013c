"""Tables that ship with the package, read from its own files."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from marketplace.domain.tier import TierRegistry


@cache
def load_tiers() -> TierRegistry:
    """The tiers that every market starts with, with real list prices and where they are from."""
    text = files(__name__).joinpath("tiers.json").read_text(encoding="utf-8")
    return TierRegistry.from_json(json.loads(text))
