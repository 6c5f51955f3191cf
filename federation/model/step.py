"""What people contribute to the question STEP, from a few small numbers a row.

Between two steps only the weights change, never the bins. So a row's bins are looked up once and
kept as numbers, and several features share one number, as hours and minutes share a clock's: three
features of 16 bins need 17^3 = 4,913 numbers, "nothing in this feature" being a place too. One
look-up then scores three features and one count serves them; the door sums it out to each, exactly.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.door import Cells, Contribution
from federation.grid import NOT_HELD
from federation.model.scorecard import LARGEST_WEIGHT, WEIGHTS_PER_LOG_ODDS, AdditiveCard
from federation.query import UNITS_PER_ONE

MOST_PLACES: Final = 2**14
"""Numbers that columns which share one may need: so many weights and sums stay in a core's cache,
and summing a block's count out to the columns stays cheap against looking at its rows."""

_NUMBERS: Final = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Which columns of the question STEP share a number; follows from bins and features alone.

    Attributes:
        bin_of_cell: per scored feature, the bin of each fine cell.
        columns: the question's: the bins of each scored feature, then one cell for the intercept.
        packs: per number, the columns it stands for. A feature that is not held is in none.
    """

    bin_of_cell: tuple[tuple[int, ...], ...]
    columns: tuple[int, ...]
    packs: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(card: AdditiveCard, not_held: frozenset[int]) -> "Packing":
        """Returns the packing for a card's bins: first fit, columns of many bins first.

        Args:
            card: its weights do not matter.
            not_held: places of the scored features that this institution does not have.
        """
        columns = (*card.bins, 1)
        packs: list[tuple[int, ...]] = []
        for column in sorted(set(range(len(columns))) - not_held, key=lambda one: -columns[one]):
            for place, pack in enumerate(packs):
                if math.prod(_places(columns, (*pack, column))) <= MOST_PLACES:
                    packs[place] = (*pack, column)
                    break
            else:
                packs.append((column,))
        return Packing(bin_of_cell=card.bin_of_cell, columns=columns, packs=tuple(packs))

    @property
    def left_out(self) -> frozenset[int]:
        """The columns of features that are not held."""
        packed = {column for pack in self.packs for column in pack}
        return frozenset(range(len(self.columns))) - packed

    def pack(self, codes: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Returns uint16[packs, rows], the number of each row in each pack.

        A code that names no cell is "nothing" in its feature and leaves the other features alone.

        Args:
            codes: uint8[features, rows], fine cell codes of the scored features.
        """
        rows = codes.shape[1]
        numbers = np.zeros((len(self.packs), rows), dtype=np.uint16)
        part = np.empty(rows, dtype=np.uint16)
        for of_pack, tables in zip(numbers, _number_tables(self), strict=True):
            for feature, table in tables:
                np.take(table, codes[feature], out=part, mode="wrap")  # has every code: no wrap
                np.add(of_pack, part, out=of_pack)
        return numbers


def _places(columns: tuple[int, ...], pack: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(columns[column] + 1 for column in pack)


@lru_cache(maxsize=2)
def _number_tables(packing: Packing) -> tuple[tuple[tuple[int, NDArray[np.uint16]], ...], ...]:
    """Returns per pack, for each of its features, what each fine code adds to the number."""
    of_packs = []
    for pack in packing.packs:
        places = _places(packing.columns, pack)
        tables = []
        for position, column in enumerate(pack):
            if column == len(packing.bin_of_cell):
                continue  # the intercept: everybody is in its one cell, 0
            step = math.prod(places[position + 1 :])
            table = np.full(NOT_HELD + 1, packing.columns[column], dtype=np.int64)
            table[: len(packing.bin_of_cell[column])] = packing.bin_of_cell[column]
            tables.append((column, (table * step).astype(np.uint16)))
        of_packs.append(tuple(tables))
    return tuple(of_packs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The question STEP at one card: residuals, in each feature's bin and once for the intercept.

    The residual y - p of the logistic model is the gradient of the log-likelihood in each of the
    row's weights and in the intercept, which is the last column.

    Attributes:
        packing: of the card's bins.
        base: the card's.
        weights: per pack int32[65,536], what each number adds to the score.
    """

    packing: Packing
    base: int
    weights: tuple[NDArray[np.int32], ...]

    @staticmethod
    def at(card: AdditiveCard, packing: Packing) -> "Step":
        """Returns the question at a card whose bins the packing is for.

        Args:
            card: the model at which the gradient is asked, log-odds of bad in 1/4096.
            packing: `Packing.of` this card.
        """
        of_columns = (*card.weights, (0,))
        return Step(
            packing=packing,
            base=card.base,
            weights=tuple(
                _weight_table([of_columns[column] for column in pack]) for pack in packing.packs
            ),
        )

    def contribution(
        self,
        numbers: NDArray[np.uint16],
        bad: NDArray[np.uint8],
        person_starts: NDArray[np.int64] | None,
    ) -> Contribution:
        """Returns what rows bring.

        Args:
            numbers: uint16[packs, rows], of `Packing.pack`. Any bytes are legal: a number beyond a
                pack's is "nothing" in all its columns.
            bad: uint8[rows], 1 = bad; of any other byte the lowest bit counts.
            person_starts: as in `Contribution`.
        """
        return Contribution(
            values=residuals(self.scores(numbers), bad),
            cells=tuple(
                Cells(numbers=of_pack, columns=pack)
                for of_pack, pack in zip(numbers, self.packing.packs, strict=True)
            ),
            left_out=self.packing.left_out,
            person_starts=person_starts,
        )

    def scores(self, numbers: NDArray[np.uint16]) -> NDArray[np.int32]:
        """Returns int32[rows], the card's score of each row (`AdditiveCard.scores`)."""
        total = np.full(numbers.shape[1], self.base, dtype=np.int32)
        part = np.empty(numbers.shape[1], dtype=np.int32)
        for of_pack, table in zip(numbers, self.weights, strict=True):
            np.take(table, of_pack, out=part, mode="wrap")  # has every number: nothing wraps
            total += part
        return total


def residuals(scores: NDArray[np.int32], bad: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns int64[rows], y - p in grid units, within +-UNITS_PER_ONE.

    Args:
        scores: int32[rows], log-odds of bad in 1/4096; beyond +-LARGEST_WEIGHT as at that bound.
        bad: uint8[rows], the lowest bit counts.
    """
    found = np.take(_probability_table(), scores + LARGEST_WEIGHT, mode="clip")
    return (bad & np.uint8(1)) * np.int64(UNITS_PER_ONE) - found


def _weight_table(of_columns: list[tuple[int, ...]]) -> NDArray[np.int32]:
    """Returns what each number of a pack adds to a score; numbers beyond the pack's add nothing."""
    table = np.zeros(1, dtype=np.int32)
    for weights in of_columns:
        table = np.add.outer(table, np.array((*weights, 0), dtype=np.int32)).ravel()
    return np.concatenate((table, np.zeros(_NUMBERS - len(table), dtype=np.int32)))


@lru_cache(maxsize=1)
def _probability_table() -> NDArray[np.int32]:
    """Returns P(bad) in grid units at every whole score from -LARGEST_WEIGHT to LARGEST_WEIGHT."""
    log_odds = np.arange(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1) / WEIGHTS_PER_LOG_ODDS
    return np.rint(UNITS_PER_ONE / (1.0 + np.exp(-log_odds))).astype(np.int32)
