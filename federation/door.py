"""The one door: everything about people that leaves an institution is made here.

    Contribution | Products -> Clipped -> Gridded -> Noised -> Masked
                                                     Noised -> LocalRelease

A contribution is one number a row, in one cell of each column: counts and residuals. Products are
whole vectors: gradients of a network, as outer products of whole numbers, or an update. Each stage
is a type, and only the last ones have an encoder. Read from top to bottom, this file is the privacy
argument: a person's vector is bounded whatever the row holds, the sum is over integers and so exact
in any order, noise is added before anything else can see the sum.

There are two answers. `Masked` carries one institution's share of the noise, and nobody can read it
alone. `LocalRelease` (local mode) can be read, so each sum that it was computed from carries all of
the noise, and was paid for. What is computed from noised sums alone says no more than they do.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from federation.errors import PrivacyError
from federation.privacy.discrete_gaussian import sample
from federation.query import UNITS_PER_CLIP, UNITS_PER_ONE, BoundedSum, Question
from federation.secure_aggregation.words import Masks, Words, masked

_S = TypeVar("_S")

MOST_ROWS = 2**20
"""Rows in one block, at most: keeps float64 sums of whole grid units exact (2^20 * 2^16 < 2^53)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Where each row falls: one number a row, which names one place in each of some columns.

    A column of s cells has s + 1 places, the last of which is "nothing in this column". A number
    counts through the places of its columns as hours and minutes count through a day, the last
    column fastest; so it names exactly one place of each. A number beyond the last names "nothing"
    in each. With one column the number is simply the cell.

    Attributes:
        numbers: an unsigned integer array [rows].
        columns: the columns of the question that it stands for.
    """

    numbers: NDArray[np.unsignedinteger]
    columns: tuple[int, ...]


def one_column_each(cells: Iterable[NDArray[np.unsignedinteger]]) -> tuple[Cells, ...]:
    """Returns the cells of rows in column 0, column 1, ... of a question, each for itself."""
    return tuple(Cells(numbers=of, columns=(column,)) for column, of in enumerate(cells))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What the rows of one block of people would bring, not yet bounded. Never leaves.

    Attributes:
        values: int64[rows], the number that a row puts in its cells, in grid units.
        cells: where the rows fall; no column of the question occurs twice.
        left_out: the columns to which these rows bring nothing; all that `cells` do not have.
        person_starts: int64[people], the first row of each person in increasing order, beginning
            with 0; None if every row is a person.
    """

    values: NDArray[np.int64]
    cells: tuple[Cells, ...]
    left_out: frozenset[int] = frozenset()
    person_starts: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A part of rows' vectors: of each row, the outer product of two vectors of whole numbers.

    That is what a gradient in the matrix of a linear layer is: backward signals times inputs.

    Attributes:
        signals: float64[rows, outputs], whole numbers.
        inputs: float64[rows, inputs], whole numbers; ones where the signals are the vector itself.
    """

    signals: NDArray[np.float64]
    inputs: NDArray[np.float64]

    @property
    def length(self) -> int:
        """Cells of this part: a row's are signals[i] * inputs[j] in row-major order."""
        return int(self.signals.shape[1] * self.inputs.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """Vectors that the rows of one block would bring to a dense question. Never leaves.

    Attributes:
        layers: a row's vector is the concatenation of its parts, in grid units.
        rows_of_person: float64[rows], how many rows the row's person has; None if each has one. A
            person's vector is the sum over its rows, each of which may be that much shorter.
    """

    layers: tuple[Layer, ...]
    rows_of_person: NDArray[np.float64] | None


Brought = Contribution | Products
"""What a block of people would bring to a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipped:
    """A contribution whose every value lies within +-UNITS_PER_ONE, in the question's columns.

    So a row has at most one number, at most UNITS_PER_ONE large, in one cell of each column.
    """

    values: NDArray[np.int64]
    cells: tuple[Cells, ...]
    person_starts: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedProducts:
    """Vectors of whole numbers, each at most UNITS_PER_CLIP / (rows of its person) long."""

    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gridded:
    """The exact integer sum over this institution's people, int64[length]. Never leaves."""

    total: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noised:
    """The sum with this institution's share of the noise: in local mode, with all of it."""

    total: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """What may be sent: the noised sum under masks, in words."""

    words: Words


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRelease:
    """What may be sent without a mask: computed from this institution's own noised sums alone.

    Attributes:
        numbers: int64[length].
    """

    numbers: NDArray[np.int64]

    def encoded(self) -> bytes:
        """Returns the numbers, 8 little-endian bytes each."""
        return self.numbers.astype("<i8").tobytes()


def answer(
    query: BoundedSum, people: Iterable[Brought], *, noise_key: bytes, masks: Masks
) -> Masked:
    """Returns all that leaves under masks: clip, sum in integers, add noise, mask.

    Args:
        query: the question, already checked against plan, policy and ledger.
        people: blocks of people; a person lies in one block. May be empty: noise is sent all the
            same.
        noise_key: 32 fresh bytes of this institution's own entropy, used for this answer only.
        masks: of this attempt.

    Raises:
        PrivacyError: a block does not have the question's columns, there is no mask, or a key is
            malformed. Never because of what a row holds.
    """
    return mask(add_noise(sum_of(query, people), query, noise_key=noise_key), masks)


def release_one(query: BoundedSum, people: Iterable[Brought], *, noise_key: bytes) -> LocalRelease:
    """Returns one sum of a plan in local mode: a share of its noise is all of it.

    Arguments and errors are those of `answer`.
    """
    noised = add_noise(sum_of(query, people), query, noise_key=noise_key)
    return LocalRelease(numbers=noised.total)


def release_after(
    query: BoundedSum,
    start: _S,
    *,
    noise_keys: Iterable[bytes],
    people: Callable[[_S, bytes], Iterable[Brought]],
    after: Callable[[_S, Noised], _S],
    numbers: Callable[[_S], NDArray[np.int64]],
) -> LocalRelease:
    """Returns what follows from several noised sums, each asked about what followed from the last.

    The start is public, and noised sums are all that moves it, as many as there are keys.

    Args:
        query: as in `release_one`, the same for every sum.
        start: where the coordinator has it.
        noise_keys: 32 fresh bytes for each sum, none used twice.
        people: what people bring to the sum that is asked about a state; the key of its noise also
            decides who takes part.
        after: the state that follows from a state and a noised sum; sees nothing else.
        numbers: the last state as whole numbers, one for each cell of the question.

    Raises:
        PrivacyError: as `answer`.
    """
    state = start
    for noise_key in noise_keys:
        summed = sum_of(query, people(state, noise_key))
        state = after(state, add_noise(summed, query, noise_key=noise_key))
    return LocalRelease(numbers=numbers(state))


def sum_of(query: BoundedSum, people: Iterable[Brought]) -> Gridded:
    """Returns the exact sum over blocks of people, each of them clipped.

    Raises:
        PrivacyError: as `answer`.
    """
    total = Gridded(total=np.zeros(query.length, dtype=np.int64))
    for number, block in enumerate(people):
        if query.question is Question.UPDATE and number > 0:
            raise PrivacyError("An institution brings one update, not several.")
        if isinstance(block, Products):
            total = add(total, products_to_grid(clip_products(block, query)))
        else:
            total = add(total, to_grid(clip(block, query), query))
    return total


def clip(block: Contribution, query: BoundedSum) -> Clipped:
    """Returns the block with every value cut to +-UNITS_PER_ONE.

    Raises:
        PrivacyError: the block's shape is not the question's (a fault of the program, not of a
            row).
    """
    if query.question.is_dense:
        raise PrivacyError("A dense question takes whole vectors, not cells.")
    rows = len(block.values)
    named = [*block.left_out, *(column for cells in block.cells for column in cells.columns)]
    if rows > MOST_ROWS or sorted(named) != list(range(len(query.columns))):
        raise PrivacyError("A block of people does not have the shape of the question.")
    if any(
        cells.numbers.shape != (rows,)
        or cells.numbers.dtype.kind != "u"
        or cells.numbers.dtype.itemsize > 4
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


def clip_products(block: Products, query: BoundedSum) -> ClippedProducts:
    """Returns the block cut to whole numbers toward zero, vectors that are too long made zero.

    Exact: the squared length of a vector within the bound is a whole number below 2^53, and so is
    every number on the way to it; what is rounded is far beyond the bound.

    Raises:
        PrivacyError: the block's shape is not the question's (a fault of the program, not of a
            row).
    """
    rows = len(block.layers[0].signals) if block.layers else 0
    if query.question is Question.UPDATE and rows > 1:
        raise PrivacyError("An update is one vector of a whole institution.")
    if not query.question.is_dense or rows > MOST_ROWS or not block.layers:
        raise PrivacyError("Vectors are for a dense question, 2^20 rows at most at once.")
    if any(
        part.ndim != 2 or len(part) != rows or part.dtype != np.float64
        for layer in block.layers
        for part in (layer.signals, layer.inputs)
    ):
        raise PrivacyError("A part of a block's vectors is not one row of numbers for each row.")
    if sum(layer.length for layer in block.layers) != query.length:
        raise PrivacyError("A block's vectors do not have the length of the question.")
    rows_of_person = np.ones(rows) if block.rows_of_person is None else block.rows_of_person
    if rows_of_person.shape != (rows,) or not (rows_of_person >= 1).all():
        raise PrivacyError("A block does not say how many rows each row's person has.")
    layers = tuple(
        Layer(signals=np.trunc(layer.signals), inputs=np.trunc(layer.inputs))
        for layer in block.layers
    )
    with np.errstate(invalid="ignore", over="ignore"):
        squared = np.zeros(rows)
        for layer in layers:
            signals = np.vecdot(layer.signals, layer.signals)
            squared += signals * np.vecdot(layer.inputs, layer.inputs)
        fits = squared * rows_of_person**2 <= float(UNITS_PER_CLIP**2)
    if fits.all():
        return ClippedProducts(layers=layers)
    keeps = fits[:, np.newaxis]
    return ClippedProducts(
        layers=tuple(
            Layer(
                signals=np.where(keeps, layer.signals, 0.0),
                inputs=np.where(keeps, layer.inputs, 0.0),
            )
            for layer in layers
        )
    )


def products_to_grid(block: ClippedProducts) -> Gridded:
    """Returns the integer sum over the block's vectors.

    A product of matrices of whole numbers is exact in float64, in any order, as long as no partial
    sum can reach 2^53: here 2^20 rows times UNITS_PER_CLIP = 2^44.
    """
    sums = [(layer.signals.T @ layer.inputs).ravel() for layer in block.layers]
    return Gridded(total=np.concatenate(sums).astype(np.int64))


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
    sums = [np.zeros(size, dtype=np.int64) for size in query.columns]
    weights = block.values.astype(np.float64)
    for cells in block.cells:
        sizes = tuple(query.columns[column] for column in cells.columns)
        if block.person_starts is None:
            found = _sums(cells.numbers, weights, sizes)
        else:
            found = _sums_of_means(cells.numbers, block.values, sizes, block.person_starts)
        for column, of_column in zip(cells.columns, found, strict=True):
            sums[column] = of_column
    return Gridded(total=np.concatenate(sums))


def _sums(
    numbers: NDArray[np.unsignedinteger], weights: NDArray[np.float64], sizes: tuple[int, ...]
) -> list[NDArray[np.int64]]:
    """Returns the sum in each cell of each column.

    The rows are added up once, by number. What stands in a column's cell is then the sum over the
    numbers that name it: the same integers added in another order, so the same result exactly.
    """
    places = math.prod(size + 1 for size in sizes)
    inside = numbers if numbers.itemsize <= 2 else np.minimum(numbers, places)
    rest = np.bincount(inside, weights=weights, minlength=places)[:places]
    found = []
    for size in sizes:
        table = rest.reshape(size + 1, -1)
        found.append(table.sum(axis=1)[:size].astype(np.int64))
        rest = table.sum(axis=0)
    return found


def _sums_of_means(
    numbers: NDArray[np.unsignedinteger],
    values: NDArray[np.int64],
    sizes: tuple[int, ...],
    starts: NDArray[np.int64],
) -> list[NDArray[np.int64]]:
    places = tuple(size + 1 for size in sizes)
    inside = np.minimum(numbers.astype(np.int64), math.prod(places) - 1)
    return [
        _column_sum_of_means(cells, values, size, starts)
        for cells, size in zip(np.unravel_index(inside, places), sizes, strict=True)
    ]


def _column_sum_of_means(
    cells: NDArray[np.int64],
    values: NDArray[np.int64],
    size: int,
    starts: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Returns the sum over people of the mean of their rows in one column's cells 0 to size."""
    rows_of = np.diff(np.append(starts, len(values)))
    person = np.repeat(np.arange(len(starts)), rows_of)
    keys, place = np.unique(person * (size + 1) + cells, return_inverse=True)
    sums = np.bincount(place, weights=values, minlength=len(keys)).astype(np.int64)
    rows = rows_of[keys // (size + 1)]
    means = np.sign(sums) * (np.abs(sums) // rows)
    total = np.bincount(keys % (size + 1), weights=means, minlength=size + 1)
    return total[:size].astype(np.int64)


def add(first: Gridded, second: Gridded) -> Gridded:
    """Returns the exact sum of two integer sums."""
    return Gridded(total=first.total + second.total)


def add_noise(total: Gridded, query: BoundedSum, *, noise_key: bytes) -> Noised:
    """Returns the sum plus this institution's share of discrete Gaussian noise."""
    noise = sample(variance=query.share_variance, count=query.length, key=noise_key)
    return Noised(total=total.total + noise)


def mask(noised: Noised, masks: Masks) -> Masked:
    """Returns the noised sum under the masks of its attempt: uniform words to whoever lacks one."""
    return Masked(words=masked(noised.total, masks))
