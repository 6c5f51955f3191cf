"""Whole vectors at the door: exact whatever a row holds, bounded, in any order and any blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from federation import door
from federation.door import MOST_ROWS, Contribution, Layer, Products
from federation.errors import PrivacyError
from federation.privacy.events import LEAST_SHARE_VARIANCE
from federation.query import UNITS_PER_CLIP, BoundedSum, Question
from tests.unmasking import MASKS

CLIP = UNITS_PER_CLIP
HOSTILE = (
    *(math.nan, math.inf, -math.inf, 1e30, -1e30, 1e308, -0.0, 0.5, -1.5, CLIP - 0.5, 2.0**53),
    *(CLIP, -CLIP, CLIP + 1, CLIP - 1, 2**12, -(2**12), 2**12 + 1, 2**23, 11863283, 1, -1, 0),
)
"""What a program might bring by mistake, and whole numbers around the bound."""

Row = tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
"""Of each layer, signals and inputs of one row."""


def question(length: int, kind: Question = Question.GRADIENT) -> BoundedSum:
    return BoundedSum(question=kind, columns=(length,), share_variance=LEAST_SHARE_VARIANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """People with one or several rows each, all of them over the same layers."""

    sizes: tuple[tuple[int, int], ...]
    people: tuple[tuple[Row, ...], ...]

    @property
    def length(self) -> int:
        return sum(outputs * inputs for outputs, inputs in self.sizes)

    def block(self, places: Sequence[int], *, says_rows: bool) -> Products:
        rows = [row for place in places for row in self.people[place]]
        layers = tuple(
            Layer(
                signals=np.array([row[one][0] for row in rows]).reshape(len(rows), outputs),
                inputs=np.array([row[one][1] for row in rows]).reshape(len(rows), inputs),
            )
            for one, (outputs, inputs) in enumerate(self.sizes)
        )
        counts = [float(len(self.people[place])) for place in places for _ in self.people[place]]
        return Products(layers=layers, rows_of_person=np.array(counts) if says_rows else None)


def vector_of(row: Row, rows_of_person: int) -> list[int]:
    """Returns what a row may bring, in Python's own whole numbers without fractions, or nothing."""
    numbers = [number for layer in row for part in layer for number in part]
    length = sum(len(signals) * len(inputs) for signals, inputs in row)
    if not all(math.isfinite(number) for number in numbers):
        return [0] * length
    if any(abs(number) > 1e100 for number in numbers):  # their square is no float64
        return [0] * length
    found = [int(s) * int(i) for signals, inputs in row for s in signals for i in inputs]
    fits = sum(one**2 for one in found) * rows_of_person**2 <= CLIP**2
    return found if fits else [0] * length


def expected(crowd: People, places: Sequence[int]) -> list[int]:
    total = [0] * crowd.length
    for place in places:
        for row in crowd.people[place]:
            vector = vector_of(row, len(crowd.people[place]))
            total = [a + b for a, b in zip(total, vector, strict=True)]
    return total


numbers_ = st.one_of(
    st.sampled_from(HOSTILE).map(float),
    st.integers(-4097, 4097).map(float),
    st.integers(-CLIP, CLIP).map(float),
    st.sampled_from((0.0, 1.0, -1.0)),
)


@st.composite
def crowds(draw: st.DrawFn, *, most_rows: int) -> People:
    sizes = tuple(
        draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3))
    )
    row = st.tuples(
        *(
            st.tuples(st.tuples(*[numbers_] * outputs), st.tuples(*[numbers_] * inputs))
            for outputs, inputs in sizes
        )
    )
    person = st.lists(row, min_size=1, max_size=most_rows).map(tuple)
    return People(sizes=sizes, people=tuple(draw(st.lists(person, min_size=1, max_size=8))))


@given(crowds(most_rows=3), st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_sum_of_vectors_is_exact_in_any_order_and_any_blocks_and_a_person_moves_it_little(
    crowd: People, data: st.DataObject
) -> None:
    query = question(crowd.length)
    order = data.draw(st.permutations(range(len(crowd.people))))
    size = data.draw(st.integers(1, len(order)))
    says_rows = any(len(person) > 1 for person in crowd.people) or data.draw(st.booleans())

    def total(places: Sequence[int], size: int) -> list[int]:
        blocks = [places[start : start + size] for start in range(0, len(places), size)]
        found = door.sum_of(query, (crowd.block(one, says_rows=says_rows) for one in blocks))
        assert found.total.dtype == np.int64
        return found.total.tolist()

    everybody = total(order, size)
    assert everybody == expected(crowd, range(len(crowd.people)))
    for one in range(len(crowd.people)):
        others = [place for place in order if place != one]
        difference = [a - b for a, b in zip(everybody, total(others, size), strict=True)]
        assert sum(number**2 for number in difference) <= query.sensitivity_squared


def one_row(*numbers: float, rows_of_person: float = 1.0, inputs: float = 1.0) -> list[int]:
    """Returns what is left of one row of one layer."""
    block = Products(
        layers=(
            Layer(signals=np.array([numbers], dtype=float), inputs=np.array([[float(inputs)]])),
        ),
        rows_of_person=np.array([float(rows_of_person)]),
    )
    return door.sum_of(question(len(numbers)), [block]).total.tolist()


@given(st.integers(-CLIP - 2, CLIP + 2), st.integers(-CLIP - 2, CLIP + 2), st.integers(1, 9))
@settings(max_examples=200, deadline=None, derandomize=True)
@example(CLIP, 0, 1)
@example(CLIP, 1, 1)  # one unit beyond, in squares
@example(CLIP + 1, 0, 1)
@example(CLIP // 2, 0, 2)
@example(CLIP // 2 + 1, 0, 2)
@example(-CLIP, 0, 1)
@example(CLIP // 3, 1, 3)
def test_a_vector_is_kept_to_the_very_unit_of_the_bound(a: int, b: int, rows: int) -> None:
    fits = (a * a + b * b) * rows * rows <= CLIP**2
    assert one_row(a, b, rows_of_person=rows) == ([a, b] if fits else [0, 0])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e30, -1e308, CLIP + 1, 2.0**53])
def test_a_number_that_may_not_be_makes_the_whole_vector_zero_wherever_it_stands(
    number: float,
) -> None:
    assert one_row(number, 3.0) == [0, 0]
    assert one_row(3.0, number) == [0, 0]
    assert one_row(3.0, 4.0, inputs=number) == [0, 0]
    two = Products(
        layers=(
            Layer(signals=np.array([[3.0], [5.0]]), inputs=np.array([[1.0], [1.0]])),
            Layer(signals=np.array([[float(number)], [7.0]]), inputs=np.array([[1.0], [2.0]])),
        ),
        rows_of_person=None,
    )
    assert door.sum_of(question(2), [two]).total.tolist() == [5, 14]


@pytest.mark.parametrize(("number", "left"), [(0.5, 0), (-1.9, -1), (1e-300, 0), (2.999, 2)])
def test_a_fraction_is_cut_off_toward_zero(number: float, left: int) -> None:
    assert one_row(number, 3.0) == [left, 3]
    assert one_row(3.0, inputs=number) == [3 * left]


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e308])
def test_nothing_times_a_number_that_is_none_is_nothing(number: float) -> None:
    """0 times infinity is not a number, and would spoil the sums of all others."""
    for block in (([[0.0]], [[number]]), ([[number]], [[0.0]])):
        signals, inputs = (np.array(part) for part in block)
        products = Products(layers=(Layer(signals=signals, inputs=inputs),), rows_of_person=None)
        assert door.sum_of(question(1), [products]).total.tolist() == [0]


def test_many_full_vectors_are_summed_without_rounding() -> None:
    """Their partial sums reach 2^24 times the rows: here 2^36, in whole numbers of 24 bits."""
    generator = np.random.default_rng(7)
    rows, outputs, inputs = 2**12, 5, 7
    signals = generator.integers(-3500, 3501, (rows, outputs)).astype(np.float64)
    taken = generator.integers(-2500, 2501, (rows, inputs)).astype(np.float64)
    signals[::3, 0], taken[::3] = 0, 0
    signals[::3, 0], taken[::3, 0] = CLIP - 1, 1
    signals[::3, 1:] = 0
    lengths = (signals**2).sum(axis=1) * (taken**2).sum(axis=1)
    kept = lengths <= CLIP**2
    assert 0.4 < kept.mean() < 0.95
    whole = np.einsum("ri,rj->ij", signals[kept].astype(np.int64), taken[kept].astype(np.int64))
    query = question(outputs * inputs)
    for order in (np.arange(rows), generator.permutation(rows)):
        for size in (rows, 1000, 37):
            blocks = (
                Products(
                    layers=(Layer(signals=signals[some], inputs=taken[some]),), rows_of_person=None
                )
                for some in (order[start : start + size] for start in range(0, rows, size))
            )
            assert door.sum_of(query, blocks).total.tolist() == whole.ravel().tolist()


def test_nobody_brings_nothing() -> None:
    nobody = Layer(signals=np.zeros((0, 2)), inputs=np.zeros((0, 3)))
    block = Products(layers=(nobody,), rows_of_person=None)
    assert door.sum_of(question(6), [block]).total.tolist() == [0] * 6
    assert door.sum_of(question(6), []).total.tolist() == [0] * 6


# Shapes.

RIGHT = Products(
    layers=(
        Layer(signals=np.ones((4, 2)), inputs=np.ones((4, 3))),
        Layer(signals=np.ones((4, 1)), inputs=np.ones((4, 2))),
    ),
    rows_of_person=np.ones(4),
)


def with_part(**parts: NDArray[Any]) -> Products:
    return replace(RIGHT, layers=(RIGHT.layers[0], replace(RIGHT.layers[1], **parts)))


def with_rows(*rows_of_person: float) -> Products:
    return replace(RIGHT, rows_of_person=np.array(rows_of_person))


@pytest.mark.parametrize(
    "block",
    [
        replace(RIGHT, layers=()),
        replace(RIGHT, layers=RIGHT.layers[:1]),
        replace(RIGHT, layers=(*RIGHT.layers, RIGHT.layers[1])),
        with_part(signals=np.ones((3, 1))),
        with_part(signals=np.ones((5, 1)), inputs=np.ones((5, 2))),
        with_part(inputs=np.ones((4, 1))),
        with_part(inputs=np.ones((4, 3))),
        with_part(signals=np.ones(4)),
        with_part(inputs=np.ones((4, 2, 1))),
        with_part(signals=np.ones((4, 1), dtype=np.float32)),
        with_part(inputs=np.ones((4, 2), dtype=np.int64)),
        with_part(signals=np.ones((4, 1), dtype=np.complex128)),
        with_rows(),
        with_rows(1, 1, 1),
        with_rows(1, 1, 1, 1, 1),
        with_rows(1, 0, 1, 1),
        with_rows(1, 0.999, 1, 1),
        with_rows(1, -2, 1, 1),
        with_rows(1, math.nan, 1, 1),
        replace(RIGHT, rows_of_person=np.ones((4, 1))),
    ],
    ids=range(20),
)
def test_a_block_of_another_shape_is_a_fault_of_the_program_and_is_refused(
    block: Products,
) -> None:
    assert door.sum_of(question(8), [RIGHT]).total.tolist() == [4] * 8
    with pytest.raises(PrivacyError):
        door.sum_of(question(8), [block])
    with pytest.raises(PrivacyError):
        door.answer(question(8), [RIGHT, block], noise_key=bytes(32), masks=MASKS)


def test_more_rows_at_once_than_a_sum_is_exact_for_are_refused() -> None:
    def block(rows: int) -> Products:
        some = np.ones((rows, 1))
        return Products(layers=(Layer(signals=some, inputs=some),), rows_of_person=None)

    assert door.sum_of(question(1), [block(MOST_ROWS)]).total.tolist() == [MOST_ROWS]
    with pytest.raises(PrivacyError, match="at most"):
        door.sum_of(question(1), [block(MOST_ROWS + 1)])


def test_vectors_and_cells_are_not_mistaken_for_each_other() -> None:
    counted = BoundedSum(question=Question.STEP, columns=(8,), share_variance=LEAST_SHARE_VARIANCE)
    with pytest.raises(PrivacyError, match="dense"):
        door.sum_of(counted, [RIGHT])
    cells = Contribution(
        values=np.ones(1, dtype=np.int64), cells=(), left_out=(0,), person_starts=None
    )
    assert door.sum_of(counted, [cells]).total.tolist() == [0] * 8
    for kind in (Question.GRADIENT, Question.UPDATE):
        with pytest.raises(PrivacyError, match="whole vectors"):
            door.sum_of(question(8, kind), [cells])


# Updates.


def test_an_institution_brings_one_update_and_no_more() -> None:
    """Two that are as long as the bound each would be twice as long together."""
    query = question(2, Question.UPDATE)
    rows = [np.array([[CLIP, 0.0]]), np.array([[CLIP, 0.0], [CLIP, 0.0]])]
    one, two = (
        Products(layers=(Layer(signals=row, inputs=np.ones((len(row), 1))),), rows_of_person=None)
        for row in rows
    )
    assert door.sum_of(query, [one]).total.tolist() == [CLIP, 0]
    for blocks in ([two], [one, one]):
        with pytest.raises(PrivacyError, match="update"):
            door.sum_of(query, blocks)
        with pytest.raises(PrivacyError, match="update"):
            door.answer(query, blocks, noise_key=bytes(32), masks=MASKS)
