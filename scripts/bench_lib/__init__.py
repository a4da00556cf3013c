"""Benchmarks that `scripts/bench` runs: each is one module with `rows()`."""
