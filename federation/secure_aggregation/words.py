"""Words and masks: whole numbers modulo 2^32 or 2^64, and AES-256-CTR keystreams added to them.

Which word a question takes follows from the plan's public figures, never from a setting: 32 bits
where no total can leave them, whatever the people and the noise are; else 64. The grid stays 2^16
units for the number 1 in both: a coarser one would let more plans have 32 bits, but what it saves
are some kilobytes a round, and it costs accuracy in every person's rounded residual.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from federation.errors import PrivacyError
from federation.privacy.entropy import KEY_BYTES
from federation.query import BoundedSum, Question

WORD_BITS: Final = (32, 64)
_CHUNK: Final = 2**18
"""Bytes that all masks are added to before the next ones: vector and keystream stay in cache."""
_ZEROS: Final = bytes(_CHUNK)
_DEVIATIONS: Final = 14
"""No draw of the sampler is farther out: its staircase ends at 12.5 and a step."""

Words = NDArray[np.unsignedinteger]


def word_bits(query: BoundedSum, *, most_people: int, institutions: int) -> int:
    """Returns 32 if every total of the question lies within 32-bit words, else 64.

    Args:
        query: the question.
        most_people: of one institution, the plan's public figure.
        institutions: n.

    Raises:
        PrivacyError: not even 64 bits hold it.
    """
    units = 1 if query.question is Question.UPDATE else most_people  # who is bounded
    most = units * query.question.bound + _DEVIATIONS * (isqrt(query.share_variance) + 1)
    for bits in WORD_BITS:
        if most * institutions < 2 ** (bits - 1):
            return bits
    raise PrivacyError("A total of this question may not fit 64-bit words: less noise or people.")


def word_type(bits: int) -> "np.dtype[np.unsignedinteger]":
    """Returns the little-endian word as numpy names it."""
    return np.dtype("<u4" if bits == WORD_BITS[0] else "<u8")


def to_words(total: NDArray[np.int64], bits: int) -> Words:
    """Returns whole numbers modulo 2^bits, a copy."""
    return total.astype(word_type(bits))


def from_words(words: Words) -> NDArray[np.int64]:
    """Returns the whole numbers in [-2^(bits-1), 2^(bits-1)) that words stand for."""
    signed = np.dtype("<i4" if words.itemsize * 8 == WORD_BITS[0] else "<i8")
    return words.view(signed).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """The keystreams to add to, and to subtract from, one vector; each key serves one vector.

    Attributes:
        bits: of a word.
        added: 32-byte keys.
        subtracted: 32-byte keys.
    """

    bits: int
    added: tuple[bytes, ...]
    subtracted: tuple[bytes, ...]

    def __repr__(self) -> str:
        """Says how many, never which."""
        return f"Masks({len(self.added)} added, {len(self.subtracted)} subtracted)"


def masked(total: NDArray[np.int64], masks: Masks) -> Words:
    """Returns the total as words with all masks on it.

    Args:
        total: int64[length].
        masks: at least one is added.

    Raises:
        PrivacyError: there is no mask to add, a key is malformed, or the word is unknown.
    """
    if not masks.added or masks.bits not in WORD_BITS:
        raise PrivacyError("A total leaves only in 32- or 64-bit words and under a mask.")
    words = to_words(total, masks.bits)
    apply_masks(words, added=masks.added, subtracted=masks.subtracted)
    return words


def apply_masks(words: Words, *, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
    """Adds and subtracts keystreams in place, modulo the word.

    Args:
        words: contiguous, 32 or 64 bits each, [length].
        added: 32-byte keys.
        subtracted: 32-byte keys.

    Raises:
        PrivacyError: a key does not have 32 bytes.
    """
    if any(len(key) != KEY_BYTES for key in (*added, *subtracted)):
        raise PrivacyError("A mask's key has 32 bytes.")
    streams = [
        (Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor(), operation)
        for keys, operation in ((added, np.add), (subtracted, np.subtract))
        for key in keys
    ]
    each = _CHUNK // words.itemsize
    buffer = bytearray(min(_CHUNK, words.nbytes))
    zeros = memoryview(_ZEROS)
    for start in range(0, len(words), each):
        chunk = words[start : start + each]
        mask = np.frombuffer(buffer, dtype=words.dtype, count=len(chunk))
        for stream, operation in streams:
            stream.update_into(zeros[: chunk.nbytes], buffer)
            operation(chunk, mask, out=chunk)
