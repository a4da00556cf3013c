"""How long the parties of a lease wait for each other. Server, agent and witness agree on it."""

UNSEEN_INTERVALS, UNSEEN_MIN_MS = 2, 20_000
SILENCE_INTERVALS, SILENCE_MIN_MS = 3, 20_000


def unseen_ms(interval_ms: int) -> int:
    """How long a job may run without a countersignature: two intervals, at least 20 s."""
    return max(UNSEEN_INTERVALS * interval_ms, UNSEEN_MIN_MS)


def silence_ms(interval_ms: int) -> int:
    """How long a provider may be silent before it is lost: three intervals, at least 20 s."""
    return max(SILENCE_INTERVALS * interval_ms, SILENCE_MIN_MS)
