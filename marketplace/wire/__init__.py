"""What travels under /v1: one Pydantic model for each thing, for the API, the SDK and the CLI."""
