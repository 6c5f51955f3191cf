"""The federation's public, unchanging division of people into trained and held-out ones.

Who is held out follows from the person key and a public salt alone, so the same person is held
out in every plan, at every institution and after every change of the table's order. Trained and
held-out people are therefore disjoint for good, and their privacy totals do not add.
"""

import hashlib
import math
import string
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from federation.canonical import Digest, canonical_json, digest
from federation.errors import ConfigurationError

_SALT_DIGITS = 64
_LARGEST_HELD_OUT_FRACTION = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The public division. Salt and fraction belong to a federation and never change.

    Attributes:
        salt: 32 bytes as 64 lower-case hexadecimal digits. Public: it hides nothing.
        held_out_fraction: the share of people who are held out, in [0, 0.5].
    """

    salt: str
    held_out_fraction: float

    def __post_init__(self) -> None:
        if len(self.salt) != _SALT_DIGITS or set(self.salt) - set(string.hexdigits.lower()):
            raise ConfigurationError(
                "Expected the split's salt as 64 lower-case hexadecimal digits."
            )
        if not 0 <= self.held_out_fraction <= _LARGEST_HELD_OUT_FRACTION:
            raise ConfigurationError(
                f"Expected held_out_fraction={self.held_out_fraction!r} in "
                f"[0, {_LARGEST_HELD_OUT_FRACTION}]."
            )

    @property
    def digest(self) -> Digest:
        """SHA-256 over salt and fraction."""
        fraction = float(self.held_out_fraction)
        content = canonical_json({"salt": self.salt, "held_out_fraction": fraction})
        return digest("fedscore/split/1", content)

    @property
    def threshold(self) -> int:
        """Hashes below it are held out: the fraction of 2^64, exactly, rounded up."""
        return math.ceil(Fraction(self.held_out_fraction) * 2**64)


def key_hashes(split: Split, keys: Iterable[str | int]) -> NDArray[np.uint64]:
    """Returns the first 8 bytes, little-endian, of SHA-256(salt || UTF-8 of str(key)).

    Args:
        split: whose salt is used.
        keys: person keys; an integer and its decimal text are the same person.

    Returns:
        uint64[keys]. Two people share one with probability 2^-64: good enough to divide people,
        and to find candidates for a second row of a person, which must then be compared.
    """
    salt, sha256 = bytes.fromhex(split.salt), hashlib.sha256
    hashes = b"".join([sha256(salt + str(key).encode()).digest() for key in keys])
    return np.frombuffer(hashes, dtype="<u8")[::4].astype(np.uint64)


def held_out_hashes(split: Split, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Returns bool[hashes], true for people who are held out, given their `key_hashes`."""
    held_out: NDArray[np.bool_] = hashes < np.uint64(split.threshold)
    return held_out


def held_out(split: Split, keys: Iterable[str | int]) -> NDArray[np.bool_]:
    """Returns bool[keys], true for people who are held out."""
    return held_out_hashes(split, key_hashes(split, keys))
