"""What the market asks of its tables, by name: counts, sums and joins are the database's work."""
