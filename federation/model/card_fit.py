"""A scorecard in the making: bins from noisy counts, then one step for each noisy sum.

The coordinator makes the national card with it, an institution its own card at home (noise zero):
the same code, so that the two can be compared.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError, PrivacyError
from federation.grid import Direction, FeatureGrid
from federation.model.binning import FeatureBins, choose_bins, merge, most_bins
from federation.model.fitting import FitSettings, FitState, advance, begin, finish, model_at
from federation.model.score_scale import ScoreScale
from federation.model.scorecard import LARGEST_WEIGHT, WEIGHTS_PER_LOG_ODDS, AdditiveCard

_SIGNS: Final = {Direction.NONE: 0, Direction.RISING: 1, Direction.FALLING: -1}

CLEARLY: Final = 5.0
"""A feature is taken to be held by fewer people than others only if its noisy total lies so many
standard deviations of the difference below the largest: by noise alone, once in three million."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFit:
    """Where a card's training stands; each transition returns a new one.

    Attributes:
        settings: bins, noisy counts, noise and rounds: all that a step depends on.
        state: weights so far.
    """

    settings: FitSettings
    state: FitState

    @staticmethod
    def begin(
        *,
        grids: tuple[FeatureGrid, ...],
        counts: Array,
        count_stddev: float,
        residual_stddev: float,
        rounds: int,
    ) -> "CardFit":
        """Returns the start of a training.

        Args:
            grids: of the scored features.
            counts: float64[sum of 2 x cells], the total of the question BINS in people: for each
                feature and cell the good, then the bad.
            count_stddev: of the noise in each count, people; 0 at home.
            residual_stddev: of the noise in each residual sum to come, people; 0 at home.
            rounds: how many steps will be taken.

        Raises:
            ConfigurationError: the counts do not fit the grids.
            PrivacyError: they say that there is nobody: the noise hides everybody.
        """
        split = np.cumsum([2 * len(grid.labels) for grid in grids])
        if counts.shape != (split[-1],):
            raise ConfigurationError("The counts do not fit the features' cells.")
        by_feature = [part.reshape(-1, 2) for part in np.split(counts, split[:-1])]
        # Everybody is counted once for each feature that their institution holds; the feature
        # with the largest noisy total is the best known number of people.
        people = max(float(part.sum()) for part in by_feature)
        if people < 1.0:
            raise PrivacyError("The noisy counts hold nobody: more people or less noise.")
        bins = tuple(
            _bins_of(grid, part, holders, count_stddev)
            for grid, part, holders in zip(
                grids, by_feature, _holders(by_feature, people, count_stddev), strict=True
            )
        )
        settings = FitSettings(
            rounds=rounds,
            residual_stddev=residual_stddev,
            count_stddev=count_stddev,
            people=people,
            bins=bins,
            good=_merged(bins, by_feature, 0),
            bad=_merged(bins, by_feature, 1),
            directions=tuple(_SIGNS[grid.direction] for grid in grids),
        )
        return CardFit(settings=settings, state=begin(settings))

    def to_ask(self) -> AdditiveCard:
        """Returns the card at which the next residuals are asked, log-odds of bad in 1/4096."""
        intercept, weights = model_at(self.state, self.settings)
        return self._card(WEIGHTS_PER_LOG_ODDS * intercept, WEIGHTS_PER_LOG_ODDS, weights)

    def after(self, sums: Array) -> "CardFit":
        """Returns the training one step further.

        Args:
            sums: float64[sum of bins + 1], the total of the question STEP in people.
        """
        ends = np.cumsum([bins.bins for bins in self.settings.bins])
        parts = np.split(sums[:-1], ends[:-1])
        state = advance(self.state, self.settings, tuple(parts), float(sums[-1]))
        return replace(self, state=state)

    def in_points(self, scale: ScoreScale) -> AdditiveCard:
        """Returns the finished card: whole points, higher is safer, not-held features neutral."""
        intercept, weights = finish(self.state, self.settings)
        return self._card(scale.points_at(-intercept), -scale.factor, weights)

    def _card(self, base: float, factor: float, weights: tuple[Array, ...]) -> AdditiveCard:
        return AdditiveCard(
            base=_whole(base),
            bin_of_cell=tuple(bins.bin_of_cell for bins in self.settings.bins),
            weights=tuple(tuple(_whole(factor * one) for one in part) for part in weights),
        )


def _holders(parts: list[Array], people: float, stddev: float) -> list[float]:
    """Returns for each feature how many people's institutions hold it, at least 1.

    Everybody, unless the feature's noisy total is clearly below the largest one: where everybody
    holds everything, noise in the totals changes no bin.
    """
    most_cells = max(len(part) for part in parts)
    holders = []
    for part in parts:
        doubt = CLEARLY * stddev * math.sqrt(2 * (len(part) + most_cells))
        own = float(part.sum())
        holders.append(people if own + doubt >= people else max(own, 1.0))
    return holders


def _bins_of(grid: FeatureGrid, part: Array, holders: float, stddev: float) -> FeatureBins:
    return choose_bins(
        ordered_cells=grid.ordered_cells,
        good=part[:, 0],
        bad=part[:, 1],
        stddev=stddev,
        people=holders,
        most=most_bins(stddev=stddev, people=holders),
    )


def _merged(bins: tuple[FeatureBins, ...], parts: list[Array], outcome: int) -> tuple[Array, ...]:
    return tuple(
        merge(own, np.ascontiguousarray(part[:, outcome]))
        for own, part in zip(bins, parts, strict=True)
    )


def _whole(number: float) -> int:
    return int(np.clip(np.rint(number), -LARGEST_WEIGHT, LARGEST_WEIGHT))
