"""The additive scorecard in whole numbers, and what a person contributes to binning.

All arithmetic on a person's row is on integers and tables, so that nobody's contribution depends
on who else is in the block: exact sensitivity, the same result everywhere.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation.door import Contribution, one_column_each
from federation.errors import ConfigurationError
from federation.grid import LARGEST_GRID, NOT_HELD
from federation.query import UNITS_PER_ONE

WEIGHTS_PER_LOG_ODDS: Final = 4096
"""Weight units for 1 unit of log-odds: a weight is known to 0.00012 log-odds."""

LARGEST_WEIGHT: Final = 8 * WEIGHTS_PER_LOG_ODDS
"""Public bound on every number of a card: 8 units of log-odds, odds of 3,000 to 1."""


class AdditiveCard(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="card"
):
    """score = base + sum over features of weights[feature][bin of the person's cell].

    A cell code beyond a feature's cells (a feature not held) adds nothing.

    Attributes:
        base: added for everybody, within +-LARGEST_WEIGHT.
        bin_of_cell: per scored feature, the bin of each fine cell.
        weights: per scored feature, one whole number a bin, within +-LARGEST_WEIGHT. In training:
            log-odds of bad in 1/4096. In a release: points, higher is safer.
    """

    base: int
    bin_of_cell: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.bin_of_cell) != len(self.weights) or not self.weights:
            raise ConfigurationError("A card needs bins and weights for the same features.")
        if abs(self.base) > LARGEST_WEIGHT:
            raise ConfigurationError("The base of a card is beyond the public bound.")
        for cells, weights in zip(self.bin_of_cell, self.weights, strict=True):
            if not 1 <= len(weights) <= len(cells) <= LARGEST_GRID:
                raise ConfigurationError(
                    "A card's feature needs 1 to 250 cells and at most as many bins."
                )
            if min(cells) < 0 or max(cells) >= len(weights):
                raise ConfigurationError("A card's cell falls in a bin that does not exist.")
            if max(abs(weight) for weight in weights) > LARGEST_WEIGHT:
                raise ConfigurationError("A card's weight is beyond the public bound.")

    @property
    def bins(self) -> tuple[int, ...]:
        """Bins of each feature."""
        return tuple(len(weights) for weights in self.weights)

    def require_cells(self, cells: tuple[int, ...]) -> None:
        """Returns only if the card has exactly these features' fine cells.

        Raises:
            ConfigurationError: the card was made for another schema.
        """
        if tuple(len(of_feature) for of_feature in self.bin_of_cell) != cells:
            raise ConfigurationError("This card does not fit the schema: other cells.")

    def scores(self, codes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Returns the score of each row.

        Args:
            codes: uint8[features, rows], fine cell codes of the scored features.
        """
        total = np.full(codes.shape[1], self.base, dtype=np.int32)
        for feature, weights in enumerate(self._weight_of_code()):
            total += weights[codes[feature]]
        return total.astype(np.int64)

    def _weight_of_code(self) -> tuple[NDArray[np.int32], ...]:
        tables = []
        for cells, weights in zip(self.bin_of_cell, self.weights, strict=True):
            table = np.zeros(NOT_HELD + 1, dtype=np.int32)
            table[: len(cells)] = np.array(weights, dtype=np.int32)[list(cells)]
            tables.append(table)
        return tuple(tables)


def count_contribution(
    codes: NDArray[np.uint8], bad: NDArray[np.uint8], person_starts: NDArray[np.int64] | None
) -> Contribution:
    """Returns what rows bring to the question BINS: a one in (feature, cell, outcome).

    Args:
        codes: uint8[features, rows], scored features.
        bad: uint8[rows], 1 = bad.
        person_starts: as in `Contribution`.
    """
    outcome = bad.astype(np.uint16) & np.uint16(1)
    return Contribution(
        values=np.full(len(bad), UNITS_PER_ONE, dtype=np.int64),
        cells=one_column_each(of_feature.astype(np.uint16) * 2 + outcome for of_feature in codes),
        person_starts=person_starts,
    )
