"""Keccak-256 by the fastest library at hand; `eth_hash.auto` would take a slower one if present."""

from __future__ import annotations

from eth_hash.backends.pysha3 import backend
from eth_hash.main import Keccak256

keccak = Keccak256(backend)
