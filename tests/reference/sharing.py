"""Shamir's shares by Lagrange's formula, and the Merkle tree by recursion."""

import hashlib
from collections.abc import Mapping, Sequence

from tests.reference.primitives import keystream

PRIME = 2**256 + 297


def coefficients(key: bytes, count: int) -> list[int]:
    """Returns the coefficients that a key stands for, of the highest power first."""
    stream = keystream(key, 48 * count)
    return [int.from_bytes(stream[48 * i : 48 * i + 48], "little") % PRIME for i in range(count)]


def shares_of(secret: bytes, threshold: int, holders: int, key: bytes) -> list[bytes]:
    """Returns the value at 1, 2, ... of the polynomial whose value at 0 is the secret."""
    drawn = coefficients(key, threshold - 1)
    found = []
    for x in range(1, holders + 1):
        value = int.from_bytes(secret, "little")
        for power, coefficient in enumerate(reversed(drawn), 1):
            value += coefficient * x**power
        found.append((value % PRIME).to_bytes(33, "little"))
    return found


def value_at(x: int, points: Mapping[int, int]) -> int:
    """Returns the value at x of the one polynomial of least degree through these points."""
    total = 0
    for here, value in points.items():
        above = below = 1
        for other in points:
            if other != here:
                above = above * (x - other) % PRIME
                below = below * (here - other) % PRIME
        total += value * above * pow(below, PRIME - 2, PRIME)
    return total % PRIME


def secret_of(shares: Mapping[int, bytes]) -> bytes:
    """Returns the secret from shares by holder (from 0)."""
    points = {holder + 1: int.from_bytes(share, "little") for holder, share in shares.items()}
    return value_at(0, points).to_bytes(33, "little")[:32]


def root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, 2.1.1, the number of leaves filled up to a power of two by hashes of 0x02."""
    return _root([_sha(b"\x00" + leaf) for leaf in leaves], _filled(len(leaves)))


def path(leaves: Sequence[bytes], place: int) -> list[bytes]:
    """Returns the neighbours of a leaf, lowest first."""
    return _path([_sha(b"\x00" + leaf) for leaf in leaves], place, _filled(len(leaves)))


def _filled(count: int) -> int:
    size = 1
    while size < count:
        size *= 2
    return size


def _root(hashed: list[bytes], size: int) -> bytes:
    if size == 1:
        return hashed[0] if hashed else _sha(b"\x02")
    half = size // 2
    return _sha(b"\x01" + _root(hashed[:half], half) + _root(hashed[half:], half))


def _path(hashed: list[bytes], place: int, size: int) -> list[bytes]:
    if size == 1:
        return []
    half = size // 2
    if place < half:
        return [*_path(hashed[:half], place, half), _root(hashed[half:], half)]
    return [*_path(hashed[half:], place - half, half), _root(hashed[:half], half)]


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
