"""The `coulomb` command: one file per noun, over the SDK."""
