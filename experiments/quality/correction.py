"""The national card, corrected by an institution on its own people, at home: nothing leaves.

A national card says what holds on average over the country. An institution whose customers differ
can train its own card *on top of it*: the same home training, with the same bins, shrinkage and
rounds, but the national log-odds are given and only what they leave unexplained is learnt. Few
people correct little, many correct all. A person's points are the sum of both cards. Members of a
federation have the released card anyhow, so this costs no privacy.

This is an experiment. What the product does (`clients.correction`) is a ridge on the bins of the
release, with a penalty that cross-validation at home chooses. Here bins are chosen at home too, so
that also columns which the card does not score can be learnt.
"""

import numpy as np
from numpy.typing import NDArray

from clients.home import ROUNDS_AT_HOME
from experiments.trial import People
from federation.grid import NOT_HELD
from federation.model.card_fit import CardFit
from federation.model.scorecard import WEIGHTS_PER_LOG_ODDS, AdditiveCard
from federation.schema import Schema
from fedscore.planning import STANDARD_SCALE


def correction(schema: Schema, national: AdditiveCard, people: People) -> AdditiveCard:
    """Returns the card, in points, that is to be added to the national one.

    Args:
        schema: of both.
        national: the released card, in points of the standard scale.
        people: the institution's own trained people, good and bad ones.
    """
    grids = schema.scored_grids
    ones = np.ones(len(people.bad))
    counts = [
        _sums(2 * codes.astype(np.int64) + people.bad, codes, ones, 2 * len(grid.labels))
        for grid, codes in zip(grids, people.codes, strict=True)
    ]
    fit = CardFit.begin(
        grids=grids,
        counts=np.concatenate(counts),
        count_stddev=0.0,
        residual_stddev=0.0,
        rounds=ROUNDS_AT_HOME,
    )
    points = national.scores(people.codes)
    given = (points.mean() - points) / STANDARD_SCALE.factor
    for _ in range(ROUNDS_AT_HOME):
        card = fit.to_ask()
        log_odds = given + card.scores(people.codes) / WEIGHTS_PER_LOG_ODDS
        residual = people.bad - 1 / (1 + np.exp(-log_odds))
        sums = [
            _sums(bins.astype(np.int64), bins, residual, size)
            for bins, size in zip(_bins(card, people.codes), card.bins, strict=True)
        ]
        fit = fit.after(np.concatenate([*sums, [residual.sum()]]))
    return fit.in_points(STANDARD_SCALE)


def _bins(card: AdditiveCard, codes: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Returns for each feature the bin of each row, NOT_HELD where there is none."""
    found = []
    for cells, of_feature in zip(card.bin_of_cell, codes, strict=True):
        table = np.full(NOT_HELD + 1, NOT_HELD, dtype=np.uint8)
        table[: len(cells)] = cells
        found.append(table[of_feature])
    return found


def _sums(
    places: NDArray[np.int64],
    codes: NDArray[np.uint8],
    values: NDArray[np.float64],
    size: int,
) -> NDArray[np.float64]:
    """Returns float64[size], the sum of values at each place; what is not held counts nowhere."""
    held = codes != NOT_HELD
    return np.bincount(places[held], weights=values[held], minlength=size).astype(np.float64)
