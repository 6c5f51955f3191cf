"""Seeded entropy for experiments and tests, handed in by code: no setting reaches it."""

import hashlib


class SeededEntropy:
    """32 bytes a call: SHA-256(seed || counter), never the same twice.

    Attributes:
        calls: how many keys were handed out.
    """

    def __init__(self, seed: int | str) -> None:
        """Starts at counter 0; equal seeds give equal keys."""
        self._seed = f"fedscore seeded entropy {seed}".encode()
        self.calls = 0

    def __call__(self) -> bytes:
        """Returns the next key."""
        self.calls += 1
        return hashlib.sha256(self._seed + (self.calls - 1).to_bytes(8, "little")).digest()
