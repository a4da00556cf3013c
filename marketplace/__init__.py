"""The market: orders, matching, jobs, and the programs that buyers, providers and operators run."""
