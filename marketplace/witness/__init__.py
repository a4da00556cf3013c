"""The buyer's witness: it checks a provider's usage against what it saw itself, then signs."""
