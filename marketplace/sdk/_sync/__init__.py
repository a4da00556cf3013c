# Written by scripts/lib/unasync.py from the file of this name in _async: change that one.
"""The client."""
