"""The HTTP edge under /v1: it authenticates, parses, calls one service and writes the answer."""
