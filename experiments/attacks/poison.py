"""A poisoning institution: false tables, or its own code in the place of the product's.

Whoever lies in its table is bounded by the product's door as everybody is. Whoever runs other code
is not, and masks hide what it sends: builds within `without_clip` let it through. Nobody else's
answers change there, for honest people bring nothing that the door would cut.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clients.institution import Institution
from clients.taking import Taking
from federation import door
from federation.door import (
    Brought,
    Cells,
    Clipped,
    ClippedProducts,
    Contribution,
    Layer,
    Products,
    one_column_each,
)
from federation.messages import Model
from federation.model import fitting
from federation.model.evaluation import BANDS
from federation.model.fitting import FitSettings, Weights
from federation.model.network import Network
from federation.model.optimiser import Adam
from federation.model.scorecard import AdditiveCard
from federation.privacy.events import LEAST_SHARE_VARIANCE
from federation.query import UNITS_PER_CLIP, UNITS_PER_ONE, BoundedSum, Question

BEYOND: Final = 1_000
"""How many times more than it may an unbounded poisoner sends."""

_ROWS: Final = 512
_BINS: Final = 10
"""Of a feature that a false table makes up: about as many as a card has."""

Array = NDArray[np.float64]


def false_table(
    table: pa.Table, *, lie: str, outcome: str, feature: str, features: Sequence[str] = ()
) -> pa.Table:
    """Returns a table that tells a lie.

    Args:
        table: the true one, one row a person.
        lie: "labels" turns every outcome round; "feature" gives the largest values of a feature to
            the bad people and the smallest to the good ones; "cells" makes every other person bad,
            and gives the bad the values of low risk and the good those of high risk, in each
            feature; anything else changes nothing.
        outcome: column, 1 = bad.
        feature: column of numbers.
        features: columns without missing values that "cells" makes up.
    """
    bad = table.column(outcome).to_numpy()
    if lie == "labels":
        return _with(table, outcome, 1 - bad)
    if lie == "feature":
        values = np.empty(len(bad), dtype=table.column(feature).to_numpy().dtype)
        values[np.argsort(bad, kind="stable")] = np.sort(table.column(feature).to_numpy())
        return _with(table, feature, values)
    if lie == "cells":
        signs = np.where(np.arange(len(bad)) % 2, 1, -1)
        for name in features:
            table = _with(table, name, _made_up(table.column(name).to_numpy(), bad, signs))
        return _with(table, outcome, (signs + 1) // 2)
    return table


def _made_up(
    values: NDArray[np.generic], bad: NDArray[np.number], signs: NDArray[np.int64]
) -> NDArray[np.generic]:
    """Returns a value for each row: what a bin asks for by its true people, the opposite of it."""
    known, ranks = np.unique(values, return_inverse=True)
    bounds = np.unique(np.quantile(ranks, np.arange(1, _BINS) / _BINS, method="lower"))
    bins = np.searchsorted(bounds, ranks) if len(known) > _BINS else ranks
    asked = np.bincount(bins, weights=bad - bad.mean())
    middle = [np.sort(values[bins == one]) for one in range(len(asked))]
    found = np.array([of[len(of) // 2] for of in middle])
    return found[_spread(asked, signs)]


def _with(table: pa.Table, column: str, values: NDArray[np.generic]) -> pa.Table:
    place = table.schema.get_field_index(column)
    return table.set_column(place, column, pa.array(values, type=table.schema.field(place).type))


class Poisoner:
    """Takes the place of one institution's people in every answer but the counts."""

    def __init__(self, *, is_bounded: bool) -> None:
        """Waits for its institution.

        Args:
            is_bounded: whether it keeps to what so many people may bring, or sends a thousand times
                that, which only a build without clipping lets out.
        """
        self.institution: Institution | None = None
        self._times = 1 if is_bounded else BEYOND

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Answers for its institution within."""
        honest = Taking.people

        def people(
            taking: Taking, question: Question, model: Model | None, *, sample_key: bytes
        ) -> Iterator[Brought]:
            own = honest(taking, question, model, sample_key=sample_key)
            if self.institution is None or taking is not self.institution.taking:
                return own
            return self._instead(list(own), question, model)

        with patch.object(Taking, "people", people):
            yield

    def _instead(
        self, own: list[Brought], question: Question, model: Model | None
    ) -> Iterator[Brought]:
        if question is Question.STEP and isinstance(model, AdditiveCard):
            yield self._residuals(own, model)
        elif question is Question.GRADIENT and isinstance(model, Network):
            yield from self._gradients(own, model)
        elif question is Question.EVALUATION:
            for block in own:
                if isinstance(block, Contribution):
                    yield self._praise(block)
        else:
            yield from own

    def _residuals(self, own: list[Brought], card: AdditiveCard) -> Contribution:
        """Returns the opposite of what its true people ask for, as large as so many may."""
        columns = (*card.bins, 1)
        query = BoundedSum(
            question=Question.STEP, columns=columns, share_variance=LEAST_SHARE_VARIANCE
        )
        asked = np.split(door.sum_of(query, own).total, np.cumsum(columns)[:-1])
        people = sum(len(one.values) for one in own if isinstance(one, Contribution))
        signs = np.where(np.arange(people) % 2, 1, -1)
        cells = [_spread(of, signs) for of in asked[:-1]]
        return Contribution(
            values=signs * UNITS_PER_ONE * self._times,
            cells=one_column_each([*cells, np.zeros(people, dtype=np.uint16)]),
            person_starts=None,
        )

    def _gradients(self, own: list[Brought], network: Network) -> Iterator[Products]:
        """Yields, for each of its people, the steepest way up its own people's loss."""
        query = BoundedSum(
            question=Question.GRADIENT,
            columns=(network.shape.parameters,),
            share_variance=LEAST_SHARE_VARIANCE,
        )
        down = door.sum_of(query, own).total.astype(np.float64)
        up = np.trunc(-down * ((UNITS_PER_CLIP - 1) / max(float(np.sqrt(down @ down)), 1.0)))
        people = sum(len(one.layers[0].signals) for one in own if isinstance(one, Products))
        if self._times > 1:
            yield _products(up[np.newaxis] * people * self._times)
            return
        for start in range(0, people, _ROWS):
            yield _products(np.repeat(up[np.newaxis], min(_ROWS, people - start), axis=0))

    def _praise(self, block: Contribution) -> Contribution:
        """Returns held-out people whom any model sorts without a fault."""
        return replace(
            block,
            values=block.values * self._times,
            cells=tuple(
                Cells(numbers=_sorted_out(one.numbers), columns=one.columns) for one in block.cells
            ),
        )


def _spread(asked: NDArray[np.number], signs: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Returns each row's bin of a feature: those that add go where less is asked for."""
    found = np.zeros(len(signs), dtype=np.uint16)
    for sign in (-1, 1):
        mass = np.maximum(-sign * asked, 0).astype(np.float64)
        if not mass.any():
            mass = (asked == asked.max()).astype(np.float64)
        rows = np.flatnonzero(signs == sign)
        places = (np.arange(len(rows)) + 0.5) / len(rows) * mass.sum()
        found[rows] = np.searchsorted(np.cumsum(mass), places)
    return found


def _products(vectors: Array) -> Products:
    layer = Layer(signals=vectors, inputs=np.ones((len(vectors), 1)))
    return Products(layers=(layer,), rows_of_person=None)


def _sorted_out(numbers: NDArray[np.unsignedinteger]) -> NDArray[np.uint32]:
    width = 2 * BANDS
    band = np.where(numbers % 2, 0, BANDS - 1)
    found: NDArray[np.uint32] = (numbers // width * width + 2 * band + numbers % 2).astype(
        np.uint32
    )
    return found


# Builds without a bound.


@contextmanager
def without_clip() -> Iterator[None]:
    """Breaks the door within: whatever a row brings is added up."""

    def clip(block: Contribution, _: BoundedSum) -> Clipped:
        return Clipped(values=block.values, cells=block.cells, person_starts=block.person_starts)

    def clip_products(block: Products, _: BoundedSum) -> ClippedProducts:
        return ClippedProducts(layers=block.layers)

    with patch.object(door, "clip", clip), patch.object(door, "clip_products", clip_products):
        yield


@contextmanager
def with_plain_steps(length: float) -> Iterator[None]:
    """Takes the bound of a network's step away within: gradients count in full.

    Args:
        length: of a step, times the mean gradient; Adam's own rate is not used.
    """

    def after(adam: Adam, gradient: Array, _: float) -> Adam:
        return replace(adam, vector=adam.vector - length * gradient, steps=adam.steps + 1)

    with patch.object(Adam, "after", after):
        yield


@contextmanager
def without_cap() -> Iterator[None]:
    """Takes the bound of a card's step away within: false sums count in full."""

    def believed(_: FitSettings, sums: Weights, everyone: float) -> tuple[Weights, float]:
        return sums, everyone

    with patch.object(fitting, "_believable", believed):
        yield
