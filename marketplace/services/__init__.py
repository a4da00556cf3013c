"""What the market does, over its own ports: no store, no web framework, no chain library."""
