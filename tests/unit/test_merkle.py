"""A leaf belongs to a root at one place and by one path only."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.secure_aggregation import merkle
from tests.attempts import secret
from tests.reference import sharing

LEAVES = st.lists(st.binary(max_size=80), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(LEAVES)
def test_every_leaf_leads_to_the_root_and_to_that_of_the_reference(leaves: list[bytes]) -> None:
    tree, top = merkle.levels(leaves), merkle.root(leaves)
    assert top == sharing.root(leaves)
    assert tree[-1] == (top,)
    for place, leaf in enumerate(leaves):
        path = merkle.path(tree, place)
        assert path == b"".join(sharing.path(leaves, place))
        assert len(path) == merkle.path_bytes(len(leaves))
        assert merkle.root_of_path(leaf, place, path) == top


@pytest.mark.parametrize(
    ("leaves", "hashes"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (400, 9)]
)
def test_a_path_has_one_hash_for_each_doubling(leaves: int, hashes: int) -> None:
    assert merkle.path_bytes(leaves) == 32 * hashes


def test_another_leaf_place_or_path_leads_elsewhere() -> None:
    leaves = [secret("leaf", number) for number in range(5)]
    tree, top = merkle.levels(leaves), merkle.root(leaves)
    path = merkle.path(tree, 2)
    found = {
        merkle.root_of_path(leaves[3], 2, path),
        merkle.root_of_path(leaves[2], 3, path),
        merkle.root_of_path(leaves[2], 0, path),
        merkle.root_of_path(leaves[2] + b"\x00", 2, path),
        merkle.root_of_path(leaves[2], 2, path[:-32]),
        merkle.root_of_path(leaves[2], 2, path + bytes(32)),
        *(
            merkle.root_of_path(leaves[2], 2, path[:at] + bytes([path[at] ^ 1]) + path[at + 1 :])
            for at in range(len(path))
        ),
    }
    assert top not in found


def test_a_node_is_not_a_leaf_and_an_empty_place_is_neither() -> None:
    left, right = secret("left"), secret("right")
    pair = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in (left, right)]
    assert merkle.root([left, right]) != merkle.root([b"".join(pair)])
    assert merkle.root([left, right, left]) != merkle.root([left, right, left, b""])
    assert merkle.root([left, right, left]) != merkle.root([left, right, left, left])
    assert merkle.root([left]) == hashlib.sha256(b"\x00" + left).digest()


def test_other_leaves_another_order_or_number_give_another_root() -> None:
    leaves = [secret("leaf", number) for number in range(6)]
    others = [leaves[:5], [*leaves, b""], leaves[::-1], [*leaves[:5], secret("other")]]
    assert len({merkle.root(one) for one in (leaves, *others)}) == 5
