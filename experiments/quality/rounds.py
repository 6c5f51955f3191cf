"""What fewer rounds cost, and what the noisy counts for bins should get of the budget.

Rounds are what a federation waits for: each is one exchange with every institution. The price of a
plan does not depend on how many there are (more rounds, more noise in each), nor on how it is
divided between bins and rounds, so both questions are about AUC alone. Split seed 0, ten
institutions, as in `comparison`.
"""

from typing import Final

import msgspec

from experiments.datasets import TAIWAN
from experiments.division import (
    EPSILONS,
    KNOWN,
    NOISE_SEEDS,
    ROUNDS,
    Divided,
    Score,
    divided,
    ours,
)
from experiments.experiment import Setting
from fedscore.planning import BINS_SHARE

COUNTS: Final[tuple[int, ...]] = (5, 10, 20, 40)
SHARES: Final[tuple[float, ...]] = (0.04, 0.08, BINS_SHARE, 0.2, 0.3)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Test AUC on one set of terms.

    Attributes:
        epsilon: of a trained person.
        rounds: of training.
        bins_share: the part of mu^2 that the counts for bins get.
        score: with each noise seed.
    """

    epsilon: float
    rounds: int
    bins_share: float
    score: Score


class OfSet(msgspec.Struct, frozen=True, kw_only=True):
    """All of one data set."""

    dataset: str
    trained: int
    cells: tuple[Cell, ...]

    @property
    def epsilons(self) -> tuple[float, ...]:
        """Those that were run, in order."""
        return tuple(dict.fromkeys(cell.epsilon for cell in self.cells))

    def of(self, epsilon: float, rounds: int, bins_share: float) -> Score:
        """Returns one cell of the tables."""
        return next(
            cell.score
            for cell in self.cells
            if (cell.epsilon, cell.rounds, cell.bins_share) == (epsilon, rounds, bins_share)
        )


class Rounds(msgspec.Struct, frozen=True, kw_only=True):
    """What `run rounds` found.

    Attributes:
        counts: numbers of rounds, all at the usual share.
        shares: for bins, all with the usual number of rounds.
        usual_count: the number of rounds that other experiments take.
        usual_share: that plans take.
        sets: one for each data set.
    """

    counts: tuple[int, ...]
    shares: tuple[float, ...]
    usual_count: int
    usual_share: float
    sets: tuple[OfSet, ...]

    def by_count(self, one: OfSet, epsilon: float) -> list[Score]:
        """Returns the scores of one data set for each number of rounds."""
        return [one.of(epsilon, count, self.usual_share) for count in self.counts]

    def by_share(self, one: OfSet, epsilon: float) -> list[Score]:
        """Returns the scores of one data set for each share for bins."""
        return [one.of(epsilon, self.usual_count, share) for share in self.shares]


def run_rounds(setting: Setting) -> Rounds:
    """Trains with different numbers of rounds and different shares for bins."""
    known, epsilons, counts, shares, seeds = KNOWN, EPSILONS, COUNTS, SHARES, NOISE_SEEDS
    usual = ROUNDS
    if setting.quick:
        known, epsilons, counts, shares, seeds = (TAIWAN,), (1.0,), (1, 2), (0.1, BINS_SHARE), 1
        usual = 2
    terms = [(count, BINS_SHARE) for count in counts]
    terms += [(usual, share) for share in shares if share != BINS_SHARE]
    setting.expect(len(known) * len(epsilons) * len(terms) * seeds)
    sets = []
    for dataset in known:
        with divided(dataset, 0) as data:
            sets.append(
                OfSet(
                    dataset=dataset.name,
                    trained=data.train.num_rows,
                    cells=_cells(setting, data, epsilons, terms, seeds),
                )
            )
    return Rounds(
        counts=counts,
        shares=shares,
        usual_count=usual,
        usual_share=BINS_SHARE,
        sets=tuple(sets),
    )


def _cells(
    setting: Setting,
    data: Divided,
    epsilons: tuple[float, ...],
    terms: list[tuple[int, float]],
    seeds: int,
) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            epsilon=epsilon,
            rounds=count,
            bins_share=share,
            score=ours(setting, data, data.terms(epsilon, count, share), range(seeds)),
        )
        for epsilon in epsilons
        for count, share in terms
    )
