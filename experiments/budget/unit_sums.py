"""How far one change moves the sums that leave the door: measured in whole numbers, beside a claim.

The door adds up people of several institutions with and without a person, a row or a record; what
the total moves by, squared, in grid units, is compared with what the account of that unit says. The
people are drawn, and then made as bad as the questions allow: copies at every institution, rows of
opposite residuals, gradients of opposite outcomes.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients.network_gradients import NetworkGradients
from experiments.budget.priced_plans import SCHEMA, plan_of
from federation import door
from federation.door import Brought, Products
from federation.model.network import Activation, Network, Shape, inputs
from federation.model.scorecard import LARGEST_WEIGHT, AdditiveCard, count_contribution
from federation.model.step import Packing, Step
from federation.pricing import bins_sum, step_sum
from federation.query import BoundedSum, Question

OTHERS: Final = 20
_CLIP: Final = 0.05
"""Short, so that nearly every gradient is cut to the whole length that it may have."""

GRIDS: Final = SCHEMA.scored_grids
CELLS: Final = np.array([len(grid.labels) for grid in GRIDS])

Codes = NDArray[np.uint8]
Rows = tuple[Codes, Codes]
"""uint8[features, rows], fine cells, and uint8[rows], outcomes."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """The furthest that a change was seen to move a question's total.

    Attributes:
        change: in words.
        question: which.
        tries: how many people it was tried with.
        furthest: squared, in grid units, exact.
        claimed: the same at most, by the account of that unit.
    """

    change: str
    question: Question
    tries: int
    furthest: int
    claimed: int


class Asked:
    """A question, and what rows of people bring to it."""

    def __init__(self, question: Question) -> None:
        """Takes BINS, STEP or GRADIENT; a card or a network is made that lets people differ."""
        plan = plan_of("card", 1.0)
        self.question = question
        cells = tuple(tuple(range(size)) for size in CELLS)
        if question is Question.BINS:
            self.query = bins_sum(plan, SCHEMA)
            self._bring: Callable[..., Brought] = count_contribution
        elif question is Question.STEP:
            card = AdditiveCard(
                base=0,
                bin_of_cell=cells,
                weights=(
                    tuple(LARGEST_WEIGHT * (-1) ** cell for cell in range(CELLS[0])),
                    *((0,) * size for size in CELLS[1:]),
                ),
            )
            self.query = step_sum(plan, card)
            packing = Packing.of(card, frozenset())
            step = Step.at(card, packing)
            self._bring = lambda codes, bad, starts: step.contribution(
                packing.pack(codes), bad, starts
            )
        else:
            shape = Shape(
                bin_of_cell=cells,
                ordered_cells=tuple(grid.ordered_cells for grid in GRIDS),
                hidden=(4,),
                activation=Activation.TANH,
            )
            network = Network.of(shape, np.sin(np.arange(shape.parameters)))
            self.query = BoundedSum(
                question=Question.GRADIENT,
                columns=(shape.parameters,),
                share_variance=plan.noise.step,
            )
            self._bring = _gradients(network)

    def total(self, rows: Rows, starts: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Returns the exact sum over one institution's rows; starts None: each row is a person."""
        codes, bad = rows
        return door.sum_of(self.query, [self._bring(codes, bad, starts)]).total

    def bound(self) -> int:
        """Returns the squared sensitivity that the price counts for a person at one institution."""
        return self.query.sensitivity_squared


def _gradients(network: Network) -> Callable[..., Brought]:
    shape = network.shape
    at = NetworkGradients(
        network.vector,
        inputs=shape.inputs,
        hidden=shape.hidden,
        activation=shape.activation,
        clip_norm=_CLIP,
    )

    def bring(codes: Codes, bad: Codes, starts: NDArray[np.int64] | None) -> Brought:
        rows_of_person = None
        if starts is not None:
            counts = np.diff(np.append(starts, len(bad)))
            rows_of_person = np.repeat(counts, counts).astype(np.float64)
        layers = at.of(inputs(shape, codes), bad, rows_of_person)
        return Products(layers=layers, rows_of_person=rows_of_person)

    return bring


def drawn(generator: np.random.Generator, rows: int) -> Rows:
    """Returns rows with random cells and outcomes."""
    codes = (generator.random((len(CELLS), rows)) * CELLS[:, np.newaxis]).astype(np.uint8)
    return codes, generator.integers(0, 2, rows).astype(np.uint8)


def opposed(generator: np.random.Generator, rows: int) -> Rows:
    """Returns rows alike but for the first feature and the outcome, the first against the rest.

    The first is bad where the card says good, the rest are good where it says bad.
    """
    codes, _ = drawn(generator, 1)
    codes = np.repeat(codes, rows, axis=1)
    codes[0] = 0  # log-odds of bad +8
    codes[0, 0] = 1  # -8
    return codes, np.array([1, *[0] * (rows - 1)], dtype=np.uint8)


def _joined(*parts: Rows) -> Rows:
    return np.concatenate([one for one, _ in parts], axis=1), np.concatenate([b for _, b in parts])


def _squared(moved: NDArray[np.int64]) -> int:
    return int(moved @ moved)


def at_institutions(asked: Asked, places: int, tries: int, *, together: bool) -> Moved:
    """Returns how far a person known to several institutions moves their sums.

    Args:
        asked: the question.
        places: how many institutions know the person, each the same row.
        tries: people drawn.
        together: whether one total of all institutions is opened (joint mode), or each one's sum
            (local mode), whose squared changes add up.
    """
    generator = np.random.default_rng([5, places])

    def furthest() -> Iterator[int]:
        for attempt in range(tries):
            person = drawn(generator, 1) if attempt else opposed(generator, 1)
            moves = []
            for _ in range(places):
                others = drawn(generator, OTHERS)
                moves.append(asked.total(_joined(others, person)) - asked.total(others))
            yield _squared(np.sum(moves, axis=0)) if together else sum(map(_squared, moves))

    how = "one total opened" if together else "each sum opened"
    return Moved(
        change=f"a person at {places} institution{'s' * (places > 1)}, {how}",
        question=asked.question,
        tries=tries,
        furthest=max(furthest()),
        claimed=asked.bound() * (places**2 if together else places),
    )


def of_a_row(asked: Asked, rows: int, tries: int) -> Moved:
    """Returns how far one row of a person who has several moves an institution's sum."""
    generator = np.random.default_rng([6, rows])

    def furthest() -> Iterator[int]:
        for attempt in range(tries):
            person = (drawn if attempt else opposed)(generator, rows)
            codes, bad = person
            whole = asked.total(person, np.array([0]))
            rest = asked.total((codes[:, 1:], bad[1:]), np.array([0]))
            yield _squared(whole - rest)

    return Moved(
        change=f"one of a person's {rows} rows",
        question=asked.question,
        tries=tries,
        furthest=max(furthest()),
        claimed=row_bound(asked.query, rows),
    )


def row_bound(query: BoundedSum, rows: int) -> int:
    """Returns the squared change, at most, by one of a person's rows, truncation included.

    A person brings the mean of R rows' vectors. Without one row the mean moves by 1/R of the
    difference between that row and the mean of the others: two vectors of length U at most, in each
    column, apart by 2 U, or by sqrt(2) U where all numbers are counts of one sign. Truncation
    toward zero moves each of at most R cells of a column by less than one unit more.
    """
    if rows == 1:
        return query.sensitivity_squared
    unit = query.question.bound
    apart = 2.0 if query.question is Question.STEP else 2.0**0.5
    each = apart * unit / rows + rows**0.5
    return min(query.sensitivity_squared, int(len(query.columns) * each**2) + 1)


def of_a_record(asked: Asked, tries: int) -> Moved:
    """Returns how far a sum moves when a person's record becomes another one."""
    generator = np.random.default_rng(7)

    def furthest() -> Iterator[int]:
        for attempt in range(tries):
            codes, bad = (drawn if attempt else opposed)(generator, 2)
            first, second = (codes[:, :1], bad[:1]), (codes[:, 1:], bad[1:])
            yield _squared(asked.total(first) - asked.total(second))

    return Moved(
        change="a person's record replaced by another",
        question=asked.question,
        tries=tries,
        furthest=max(furthest()),
        claimed=asked.bound() * (2 if asked.question is Question.BINS else 4),
    )
