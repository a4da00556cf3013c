"""What the market decides, as pure functions of its inputs: no I/O, no clock, no randomness."""
