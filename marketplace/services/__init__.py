"""What the market does, over the store and a view of the chain: no web framework, no SQL."""
