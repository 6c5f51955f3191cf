"""The question STEP from fine codes, packed as in the product and again from its definition."""

import numpy as np
from numpy.typing import NDArray

from federation.door import Contribution, one_column_each
from federation.model.scorecard import LARGEST_WEIGHT, WEIGHTS_PER_LOG_ODDS, AdditiveCard
from federation.model.step import Packing, Step
from federation.query import UNITS_PER_ONE

Codes = NDArray[np.uint8]
Starts = NDArray[np.int64] | None


def step_contribution(
    codes: Codes,
    bad: Codes,
    starts: Starts,
    card: AdditiveCard,
    not_held: frozenset[int] = frozenset(),
) -> Contribution:
    """Returns what rows bring: packed, as an institution does it."""
    packing = Packing.of(card, not_held)
    return Step.at(card, packing).contribution(packing.pack(codes), bad, starts)


def unpacked_contribution(
    codes: Codes, bad: Codes, starts: Starts, card: AdditiveCard
) -> Contribution:
    """Returns the same people from the definition: a column of cells for each feature."""
    rows = codes.shape[1]
    scores = [card.base] * rows
    columns = []
    for feature, (cells, weights) in enumerate(zip(card.bin_of_cell, card.weights, strict=True)):
        bins = [cells[code] if code < len(cells) else len(weights) for code in codes[feature]]
        scores = [
            score + (weights[one] if one < len(weights) else 0)
            for score, one in zip(scores, bins, strict=True)
        ]
        columns.append(np.array(bins, dtype=np.uint16))
    log_odds = np.clip(scores, -LARGEST_WEIGHT, LARGEST_WEIGHT) / WEIGHTS_PER_LOG_ODDS
    probability = np.rint(UNITS_PER_ONE / (1.0 + np.exp(-log_odds))).astype(np.int64)
    return Contribution(
        values=(bad & 1) * np.int64(UNITS_PER_ONE) - probability,
        cells=one_column_each([*columns, np.zeros(rows, dtype=np.uint8)]),
        person_starts=starts,
    )
