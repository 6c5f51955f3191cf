"""A Merkle tree, leaves and nodes hashed apart (RFC 9162, section 2.1), filled to a power of 2."""

import hashlib
from collections.abc import Sequence
from typing import Final

HASH_BYTES: Final = 32
_EMPTY: Final = hashlib.sha256(b"\x02").digest()


def levels(leaves: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """Returns the tree from the hashed leaves up; the last level is the root alone.

    Args:
        leaves: at least one.
    """
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    level += [_EMPTY] * ((1 << (len(level) - 1).bit_length()) - len(level))
    tree = [tuple(level)]
    while len(level) > 1:
        level = [_node(*level[i : i + 2]) for i in range(0, len(level), 2)]
        tree.append(tuple(level))
    return tuple(tree)


def root(leaves: Sequence[bytes]) -> bytes:
    """Returns the root over the leaves."""
    return levels(leaves)[-1][0]


def path(tree: tuple[tuple[bytes, ...], ...], place: int) -> bytes:
    """Returns the neighbours on the way from a leaf to the root, joined, lowest first."""
    return b"".join(level[(place >> height) ^ 1] for height, level in enumerate(tree[:-1]))


def root_of_path(leaf: bytes, place: int, neighbours: bytes) -> bytes:
    """Returns the root to which a leaf at a place belongs if these are its neighbours."""
    node = hashlib.sha256(b"\x00" + leaf).digest()
    for start in range(0, len(neighbours), HASH_BYTES):
        neighbour = neighbours[start : start + HASH_BYTES]
        node = _node(neighbour, node) if place & 1 else _node(node, neighbour)
        place >>= 1
    return node


def path_bytes(leaves: int) -> int:
    """Returns the length of a path in a tree of so many leaves."""
    return HASH_BYTES * (leaves - 1).bit_length()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
