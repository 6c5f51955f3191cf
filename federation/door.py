"""The one door: everything about people that leaves an institution is made here.

    Contribution -> Clipped -> Gridded -> Noised -> Masked

Each stage is a type, and only the last has an encoder (`federation.messages`). Read from top to
bottom, this file is the privacy argument: a person's vector is bounded whatever the row holds, the
sum is over integers and so exact in any order, noise is added before anything else can see the sum.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.errors import PrivacyError
from federation.privacy.discrete_gaussian import sample
from federation.query import UNITS_PER_ONE, BoundedSum

MOST_ROWS = 2**20
"""Rows in one block, at most: keeps float64 sums of whole grid units exact (2^20 * 2^16 < 2^53)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What the rows of one block of people would bring, not yet bounded. Never leaves.

    Attributes:
        values: int64[rows], the number that a row puts in its cells, in grid units.
        cells: per column of the question, an unsigned integer array [rows]: the cell each row
            falls in. A cell number beyond the column means "nothing in this column".
        person_starts: int64[people], the first row of each person in increasing order, beginning
            with 0; None if every row is a person.
    """

    values: NDArray[np.int64]
    cells: tuple[NDArray[np.unsignedinteger], ...]
    person_starts: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipped:
    """A contribution whose every value lies within +-UNITS_PER_ONE, in the question's columns."""

    values: NDArray[np.int64]
    cells: tuple[NDArray[np.unsignedinteger], ...]
    person_starts: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gridded:
    """The exact integer sum over this institution's people, int64[length]. Never leaves."""

    total: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noised:
    """The sum with this institution's share of the national noise."""

    total: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """What may be sent: the noised sum after the masking stage."""

    total: NDArray[np.int64]


def answer(query: BoundedSum, people: Iterable[Contribution], *, noise_key: bytes) -> Masked:
    """Returns the one thing that may leave: clip, sum in integers, add noise, mask.

    Args:
        query: the question, already checked against plan, policy and ledger.
        people: blocks of people; a person lies in one block. May be empty: noise is sent all the
            same.
        noise_key: 32 fresh bytes of this institution's own entropy, used for this answer only.

    Raises:
        PrivacyError: a block does not have the question's columns, or the key is malformed. Never
            because of what a row holds.
    """
    total = Gridded(total=np.zeros(query.length, dtype=np.int64))
    for block in people:
        total = add(total, to_grid(clip(block, query), query))
    return without_mask(add_noise(total, query, noise_key=noise_key))


def clip(block: Contribution, query: BoundedSum) -> Clipped:
    """Returns the block with every value cut to +-UNITS_PER_ONE.

    Raises:
        PrivacyError: the block's shape is not the question's (a fault of the program, not of a
            row).
    """
    rows = len(block.values)
    if rows > MOST_ROWS or len(block.cells) != len(query.columns):
        raise PrivacyError("A block of people does not have the shape of the question.")
    if any(
        cells.shape != (rows,) or cells.dtype.kind != "u" or cells.dtype.itemsize > 4
        for cells in block.cells
    ):
        raise PrivacyError("A column of a block of people is not one unsigned cell for each row.")
    if block.values.dtype != np.int64 or block.values.shape != (rows,):
        raise PrivacyError("A block of people brings values that are not whole grid units.")
    if block.person_starts is not None and not _divides(block.person_starts, rows):
        raise PrivacyError("The starts of people do not divide a block's rows.")
    return Clipped(
        values=np.clip(block.values, -UNITS_PER_ONE, UNITS_PER_ONE),
        cells=block.cells,
        person_starts=block.person_starts,
    )


def _divides(starts: NDArray[np.int64], rows: int) -> bool:
    """Returns whether these are the first rows of people, in order, the first person's being 0."""
    if starts.dtype != np.int64 or starts.ndim != 1:
        return False
    if rows == 0 or len(starts) == 0:
        return rows == len(starts)
    return bool(starts[0] == 0 and starts[-1] < rows and np.all(np.diff(starts) > 0))


def to_grid(block: Clipped, query: BoundedSum) -> Gridded:
    """Returns the integer sum over the block's people.

    One row a person: its value in the cell of each column. Several rows: the mean of the rows'
    vectors, cell by cell truncated toward zero, which is no longer than the longest of them.
    """
    if block.person_starts is None:
        weights = block.values.astype(np.float64)
        sums = [
            _column_sum(cells, weights, size)
            for cells, size in zip(block.cells, query.columns, strict=True)
        ]
    else:
        sums = [
            _column_sum_of_means(cells, block.values, size, block.person_starts)
            for cells, size in zip(block.cells, query.columns, strict=True)
        ]
    return Gridded(total=np.concatenate(sums))


def _column_sum(
    cells: NDArray[np.unsignedinteger], weights: NDArray[np.float64], size: int
) -> NDArray[np.int64]:
    inside = np.minimum(cells, cells.dtype.type(size)) if _can_exceed(cells, size) else cells
    sums = np.bincount(inside, weights=weights, minlength=size + 1)
    return sums[:size].astype(np.int64)


def _column_sum_of_means(
    cells: NDArray[np.unsignedinteger],
    values: NDArray[np.int64],
    size: int,
    starts: NDArray[np.int64],
) -> NDArray[np.int64]:
    rows_of = np.diff(np.append(starts, len(values)))
    person = np.repeat(np.arange(len(starts)), rows_of)
    inside = np.minimum(cells.astype(np.int64), size)
    keys, place = np.unique(person * (size + 1) + inside, return_inverse=True)
    sums = np.bincount(place, weights=values, minlength=len(keys)).astype(np.int64)
    rows = rows_of[keys // (size + 1)]
    means = np.sign(sums) * (np.abs(sums) // rows)
    total = np.bincount(keys % (size + 1), weights=means, minlength=size + 1)
    return total[:size].astype(np.int64)


def _can_exceed(cells: NDArray[np.unsignedinteger], size: int) -> bool:
    return bool(np.iinfo(cells.dtype).max > size)


def add(first: Gridded, second: Gridded) -> Gridded:
    """Returns the exact sum of two integer sums."""
    return Gridded(total=first.total + second.total)


def add_noise(total: Gridded, query: BoundedSum, *, noise_key: bytes) -> Noised:
    """Returns the sum plus this institution's share of discrete Gaussian noise."""
    noise = sample(variance=query.share_variance, count=query.length, key=noise_key)
    return Noised(total=total.total + noise)


def without_mask(noised: Noised) -> Masked:
    """Returns the noised sum as it is: masks are not run in this version, and results say so."""
    return Masked(total=noised.total)
