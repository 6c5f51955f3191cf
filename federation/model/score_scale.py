"""From log-odds to points: higher is safer, odds are good:bad."""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError
from federation.model.scorecard import LARGEST_WEIGHT


class ScoreScale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """points = offset + factor * ln(odds good:bad), factor = points_to_double / ln 2.

    The industry's convention (Siddiqi 2017, "Intelligent Credit Scoring", chapter on scaling).

    Attributes:
        points: the score at the reference odds, for example 660.
        odds: the reference odds good:bad, for example 30.
        points_to_double: points that double the odds (PDO), for example 40.
        least: the lowest shown score, for example 300.
        most: the highest shown score, for example 850.
    """

    points: int
    odds: float
    points_to_double: int
    least: int
    most: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.odds) and self.odds > 0 and 1 <= self.points_to_double <= 1000):
            raise ConfigurationError("scale: expected odds > 0 and points_to_double in [1, 1000].")
        if not 0 <= self.least < self.points < self.most <= 10_000:
            raise ConfigurationError("scale: expected 0 <= least < points < most <= 10000.")

    @property
    def factor(self) -> float:
        """Points per unit of log-odds."""
        return self.points_to_double / math.log(2)

    def points_at(self, log_odds_good: float) -> float:
        """Returns the unrounded score at ln(odds good:bad)."""
        return self.points + self.factor * (log_odds_good - math.log(self.odds))

    def bad_rate_at(self, points: float) -> float:
        """Returns the probability of bad that a score stands for, in [0, 1]."""
        log_odds_good = (points - self.points) / self.factor + math.log(self.odds)
        return 0.5 - 0.5 * math.tanh(log_odds_good / 2)  # the logistic curve, without overflow

    def shown(self, points: int) -> int:
        """Returns the score as it is shown: cut to [least, most]."""
        return min(max(points, self.least), self.most)

    def whole_points(self, log_odds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns int64[rows], log-odds of bad as whole points within +-LARGEST_WEIGHT.

        Args:
            log_odds: float64[rows].
        """
        unrounded = self.points_at(0.0) - self.factor * log_odds
        return np.rint(np.clip(unrounded, -LARGEST_WEIGHT, LARGEST_WEIGHT)).astype(np.int64)
