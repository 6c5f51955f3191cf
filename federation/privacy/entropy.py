"""Random words from a fresh 32-byte key, expanded by AES-256-CTR.

The key comes from outside: the operating system's generator in an institution, a seeded source
that only tests and experiments contain. Nothing in fedscore reads a global generator.
"""

from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from federation.errors import PrivacyError

KEY_BYTES = 32

Entropy = Callable[[], bytes]
"""Returns 32 fresh, secret, uniform bytes on every call; never the same twice."""


class Keystream:
    """The AES-256-CTR keystream of one one-time key (zero initial counter)."""

    __slots__ = ("_encryptor",)

    def __init__(self, key: bytes) -> None:
        """Starts the stream.

        Args:
            key: 32 secret bytes, used for one stream only.

        Raises:
            PrivacyError: the key does not have 32 bytes.
        """
        if len(key) != KEY_BYTES:
            raise PrivacyError(f"Expected a key of {KEY_BYTES} bytes, got {len(key)}.")
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """Returns the next `count` uniform 64-bit words of the stream."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8")
