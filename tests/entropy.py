"""Entropy with faults or spies, for tests only: no setting of the product reaches it."""

from collections.abc import Callable

from experiments.entropy import SeededEntropy


class RepeatingEntropy:
    """The fault that tests must notice: the same keys again after `period` calls."""

    def __init__(self, seed: int | str, period: int = 1) -> None:
        """Draws `period` keys and hands them out in turn for ever."""
        seeded = SeededEntropy(seed)
        self._keys = [seeded() for _ in range(period)]
        self.calls = 0

    def __call__(self) -> bytes:
        """Returns the next key, which has been used before."""
        self.calls += 1
        return self._keys[(self.calls - 1) % len(self._keys)]


class SpyingEntropy:
    """Seeded entropy that calls `look` just before each key is handed out."""

    def __init__(self, seed: int | str, look: Callable[[], None]) -> None:
        """Keeps `look`, which may read a ledger, say."""
        self._seeded = SeededEntropy(seed)
        self._look = look

    def __call__(self) -> bytes:
        """Looks, then returns the next key."""
        self._look()
        return self._seeded()
