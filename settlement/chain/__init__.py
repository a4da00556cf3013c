"""Everything that touches a chain or a compiler: the adapters of settlement."""
