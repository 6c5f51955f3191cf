"""Threshold shares of a 256-bit secret (Shamir 1979) over the prime 2^256 + 297.

The first prime above 2^256, so that every 32-byte secret is an element of the field; a share takes
33 bytes. Holder i (from 0) has the value of the polynomial at i + 1; at 0 is the secret.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from federation.errors import PrivacyError, ProtocolError
from federation.privacy.entropy import KEY_BYTES, Keystream

PRIME: Final = 2**256 + 297
SHARE_BYTES: Final = 33
_WORDS_PER_COEFFICIENT: Final = 6
"""384 bits modulo the prime: every element with the same probability to within 2^-127."""


def split(secret: bytes, *, threshold: int, holders: int, key: bytes) -> tuple[bytes, ...]:
    """Returns one share for each holder; any `threshold` of them give the secret, fewer nothing.

    Args:
        secret: 32 bytes.
        threshold: t, 2 to `holders`.
        holders: n >= 2.
        key: 32 fresh secret bytes, used for this call only: the polynomial is expanded from it.

    Raises:
        PrivacyError: the secret or the threshold is out of range.
    """
    if len(secret) != KEY_BYTES or not 2 <= threshold <= holders:
        raise PrivacyError(
            f"Expected a secret of 32 bytes and a threshold in [2, {holders}], got "
            f"{len(secret)} bytes and {threshold}."
        )
    words = Keystream(key).words(_WORDS_PER_COEFFICIENT * (threshold - 1)).tobytes()
    size = 8 * _WORDS_PER_COEFFICIENT
    highest_first = [
        int.from_bytes(words[start : start + size], "little") % PRIME
        for start in range(0, len(words), size)
    ]
    highest_first.append(int.from_bytes(secret, "little"))
    return tuple(_value_at(x, highest_first) for x in range(1, holders + 1))


def _value_at(x: int, highest_first: Sequence[int]) -> bytes:
    value = 0
    for coefficient in highest_first:
        value = value * x + coefficient  # x is small: to reduce once is faster than every time
    return (value % PRIME).to_bytes(SHARE_BYTES, "little")


@dataclass(frozen=True, slots=True)
class Basis:
    """The Lagrange weights at 0 of one set of holders: serves all secrets that they share.

    Attributes:
        holders: whose shares are taken, in this order.
        weights: one element of the field for each.
    """

    holders: tuple[int, ...]
    weights: tuple[int, ...]

    @classmethod
    def of(cls, holders: Sequence[int]) -> "Basis":
        """Returns the basis of distinct holders, each >= 0.

        Raises:
            ProtocolError: a holder is named twice, or none is named.
        """
        points = [holder + 1 for holder in holders]
        if not points or len(set(points)) != len(points) or min(points) < 1:
            raise ProtocolError("Shares are put together from distinct holders.")
        everything = prod(points)
        weights = []
        for x in points:
            below = x * prod(other - x for other in points if other != x)
            weights.append(everything * pow(below, -1, PRIME) % PRIME)
        return cls(tuple(holders), tuple(weights))

    def secret(self, shares: Sequence[bytes]) -> bytes:
        """Returns the secret, 32 bytes.

        Args:
            shares: one of each holder, in the order of `holders`.

        Raises:
            ProtocolError: a share is malformed, or together they are no shares of 32 bytes.
        """
        if len(shares) != len(self.weights):
            raise ProtocolError(f"Expected {len(self.weights)} shares, got {len(shares)}.")
        values = [element(share) for share in shares]
        found = sum(w * v for w, v in zip(self.weights, values, strict=True)) % PRIME
        if found >= 2**256:
            raise ProtocolError("These shares do not belong together.")
        return found.to_bytes(KEY_BYTES, "little")


def element(share: bytes) -> int:
    """Returns the number that a share is.

    Raises:
        ProtocolError: not 33 bytes below the prime.
    """
    value = int.from_bytes(share, "little")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise ProtocolError("A share is 33 bytes that are less than the prime.")
    return value
