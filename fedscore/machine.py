"""This machine's clock and entropy, which everything else is handed."""

import secrets
import time

from federation.privacy.entropy import KEY_BYTES


def system_entropy() -> bytes:
    """Returns 32 bytes of the operating system's generator."""
    return secrets.token_bytes(KEY_BYTES)


def system_clock() -> int:
    """Returns whole seconds since 1970."""
    return int(time.time())
