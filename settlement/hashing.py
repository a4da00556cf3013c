"""Keccak-256 by pysha3, the fastest library. `eth_hash.auto` might choose a slower one."""

from eth_hash.backends.pysha3 import backend
from eth_hash.main import Keccak256

keccak = Keccak256(backend)
