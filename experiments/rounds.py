"""What fewer rounds cost, and what the noisy counts for bins should get of the budget.

Rounds are what a federation waits for: each is one exchange with every institution. The price of a
plan does not depend on how many there are (more rounds, more noise in each), so both questions are
about AUC alone. Split seed 0, ten institutions, as in `comparison`.
"""

from typing import Final

import msgspec

from experiments.comparison import (
    EPSILONS,
    KNOWN,
    NOISE_SEEDS,
    ROUNDS,
    Divided,
    Score,
    divided,
    ours,
)
from experiments.datasets import TAIWAN
from experiments.experiment import Setting

COUNTS: Final[tuple[int, ...]] = (5, 10, 20, 40)


class OfRounds(msgspec.Struct, frozen=True, kw_only=True):
    """Test AUC at one epsilon with one number of rounds."""

    epsilon: float
    rounds: int
    score: Score


class OfSet(msgspec.Struct, frozen=True, kw_only=True):
    """All of one data set."""

    dataset: str
    trained: int
    rows: tuple[OfRounds, ...]

    def of(self, epsilon: float, rounds: int) -> Score:
        """Returns one cell of the table."""
        return next(
            row.score for row in self.rows if (row.epsilon, row.rounds) == (epsilon, rounds)
        )


class Rounds(msgspec.Struct, frozen=True, kw_only=True):
    """What `run rounds` found.

    Attributes:
        counts: numbers of rounds.
        usual: the number that other experiments take.
        sets: one for each data set.
    """

    counts: tuple[int, ...]
    usual: int
    sets: tuple[OfSet, ...]


def run_rounds(setting: Setting) -> Rounds:
    """Trains with different numbers of rounds."""
    known, epsilons, counts, seeds = KNOWN, EPSILONS, COUNTS, NOISE_SEEDS
    if setting.quick:
        known, epsilons, counts, seeds = (TAIWAN,), (1.0,), (2, 4), 2
    setting.expect(len(known) * len(epsilons) * len(counts) * seeds)
    sets = []
    for dataset in known:
        with divided(dataset, 0) as data:
            sets.append(
                OfSet(
                    dataset=dataset.name,
                    trained=data.train.num_rows,
                    rows=_rows(setting, data, epsilons, counts, seeds),
                )
            )
    return Rounds(counts=counts, usual=counts[-1] if setting.quick else ROUNDS, sets=tuple(sets))


def _rows(
    setting: Setting,
    data: Divided,
    epsilons: tuple[float, ...],
    counts: tuple[int, ...],
    seeds: int,
) -> tuple[OfRounds, ...]:
    return tuple(
        OfRounds(
            epsilon=epsilon, rounds=count, score=ours(setting, data, epsilon, count, range(seeds))
        )
        for epsilon in epsilons
        for count in counts
    )
