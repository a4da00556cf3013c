"""The `coulomb` command over the SDK. `main` imports the module of the noun that is asked for."""
