"""Seeded entropy, for tests only: no setting of the product reaches it."""

import hashlib
from collections.abc import Callable


class SeededEntropy:
    """32 bytes a call: SHA-256(seed || counter), never the same twice.

    Attributes:
        calls: how many keys were handed out.
    """

    def __init__(self, seed: int | str) -> None:
        """Starts at counter 0; equal seeds give equal keys."""
        self._seed = f"fedscore test entropy {seed}".encode()
        self.calls = 0

    def __call__(self) -> bytes:
        """Returns the next key."""
        self.calls += 1
        return hashlib.sha256(self._seed + (self.calls - 1).to_bytes(8, "little")).digest()


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
