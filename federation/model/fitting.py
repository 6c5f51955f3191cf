"""Fitting a scorecard from noisy sums of residuals: the coordinator's side, or all of it at home.

The model is additive: log-odds of bad = intercept + sum over features of weights[feature][bin].
Each round the people send, through the door, the sum of (outcome - probability) over each bin and
over everyone; noise of known size is in it. What happens here is post-processing of those sums and
of one noisy histogram. The same code fits an institution's own card without noise.

A round is one step of gradient ascent on the penalised log-likelihood, with a step that knows how
much of a sum is signal and how much is noise:

1. Prior. Neighbouring bins have similar weights: correlation exp(-|i - j| / ordered bins), a
   Gaussian process (Rasmussen and Williams 2006, section 4.2.1; Ornstein-Uhlenbeck), so a rare
   bin leans on its neighbours. Unordered bins are independent. Variance falls with the square root
   of a bin's share of people: rare values (three missed payments) tell more about a person.
2. Step. Were a feature alone, the best linear estimate of its weights from the mean of all rounds'
   sums would be K C (C K C + V)^-1 times that mean: K the prior covariance, C = people * p (1 - p)
   the curvature of each bin, V = C + stddev^2 / rounds the variance of that mean from sampling
   people and from privacy noise (the Wiener filter; ibid. equation 2.25). Without noise this is
   Newton's step, (C + K^-1)^-1; where noise rules, it hardly moves.
3. All features step at once and may all say the same thing, so each takes step / features of its
   own: F correlated blocks of unit curvature have no eigenvalue above F, and a step below 2 is
   stable. That few short steps are taken is itself a regularisation: what many features agree
   on is learnt first (Yao, Rosasco and Caponnetto 2007, "On early stopping in gradient descent").
4. The card is the mean over the second half of the rounds (Polyak and Juditsky 1992): averaging
   removes noise that a last step keeps.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError
from federation.model.binning import FeatureBins

Array = NDArray[np.float64]
Weights = tuple[Array, ...]

# The prior variance of the whole score among people, in log-odds squared, shared equally by the
# features. Scores of two normal groups d apart have AUC Phi(d / sqrt 2) and variance d^2 within a
# group; 0.75 means an AUC of 0.73, a modest credit score. A larger one would follow the noise.
SCORE_VARIANCE = 0.75
# Under noise, all rounds together make this many full steps of one feature: a first that learns,
# and a second that corrects it for what the others have learnt. More would follow the noise.
FULL_STEPS = 2.0
# The longest step of all features together; 2 is the limit of stability. So features * 2 / 1.8
# rounds, about one a feature, are enough; further rounds are shorter.
LONGEST_STEP = 1.8
# Standard deviations of noise beyond which no sum of honest answers lies, one in 10^9 excepted, if
# nobody answers a step who was not counted.
DOUBT = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """All that fitting depends on besides the residual sums: public quantities and noisy counts.

    Attributes:
        rounds: Number of rounds, 1 or more. About one a feature is enough; 40 at home.
        residual_stddev: Standard deviation of the noise in each coordinate of one round's sum,
            people; 0 at home.
        count_stddev: Standard deviation of the noise in one fine cell's good and in its bad count,
            people; 0 at home.
        people: Number of people, a public figure or a noisy count; above 0.
        bins: Each feature's bins.
        good: Noisy counts of good people per bin, one array of shape (bins,) a feature; may be
            negative. A feature that some institutions do not hold has a smaller total.
        bad: The same for bad people.
        directions: Per feature -1, 0 or +1; +1 means that the log-odds of bad must not fall as
            the value rises, over ordered bins.

    Raises:
        ConfigurationError: A number is out of range or not finite, or shapes do not fit together.
    """

    rounds: int
    residual_stddev: float
    count_stddev: float
    people: float
    bins: tuple[FeatureBins, ...]
    good: Weights
    bad: Weights
    directions: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.bins:
            raise ConfigurationError(
                f"Expected rounds={self.rounds} and features={len(self.bins)} of at least 1."
            )
        stddevs = (self.residual_stddev, self.count_stddev)
        if not all(0 <= value < math.inf for value in stddevs) or not 0 < self.people < math.inf:
            raise ConfigurationError(
                f"Expected finite stddevs {stddevs} of 0 or more and people={self.people} above 0."
            )
        if len(self.directions) != len(self.bins) or not set(self.directions) <= {-1, 0, 1}:
            raise ConfigurationError(
                f"Expected {len(self.bins)} directions, each -1, 0 or 1, got {self.directions}."
            )
        _check(self.good, self.bins, "good")
        _check(self.bad, self.bins, "bad")

    @property
    def base_rate(self) -> float:
        """The share of bad people, in [0.001, 0.999].

        From all features' noisy totals, each weighted by 1 / cells: that is its noise variance.
        """
        cells = [len(bins.bin_of_cell) for bins in self.bins]
        bad = sum(float(own.sum()) / number for own, number in zip(self.bad, cells, strict=True))
        good = sum(float(own.sum()) / number for own, number in zip(self.good, cells, strict=True))
        return float(np.clip(bad / max(good + bad, 1.0), 0.001, 0.999))

    def counts(self, feature: int) -> Array:
        """Noisy people per bin, shape (bins,): 0 without evidence, else 1 or more.

        At least the bin's noise, for they divide.
        """
        bins = self.bins[feature]
        least = np.maximum(self.count_stddev * np.sqrt(2 * bins.cells_per_bin), 1.0)
        return np.where(bins.evident, np.maximum(self.good[feature] + self.bad[feature], least), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitState:
    """Where a fit stands: numbers and arrays only, so that it can be the coordinator's checkpoint.

    Attributes:
        round: Rounds done, 0 or more.
        intercept: Log-odds of bad of a person with neutral bins.
        weights: Log-odds per bin, one array of shape (bins,) a feature.
        intercept_sum: Sum of the intercepts of the rounds that count for the average.
        weight_sums: The same for the weights.

    Raises:
        ConfigurationError: A number is not finite, or weights and sums are not as many.
    """

    round: int
    intercept: float
    weights: Weights
    intercept_sum: float
    weight_sums: Weights

    def __post_init__(self) -> None:
        arrays = (*self.weights, *self.weight_sums)
        numbers = (self.intercept, self.intercept_sum)
        if not all(map(math.isfinite, numbers)) or not all(
            np.isfinite(one).all() for one in arrays
        ):
            raise ConfigurationError("Expected a fit's state to be finite.")
        if self.round < 0 or len(self.weights) != len(self.weight_sums):
            raise ConfigurationError(
                f"Expected round={self.round} >= 0 and as many sums as weights."
            )


def begin(settings: FitSettings) -> FitState:
    """The neutral scorecard: every weight 0, the intercept at the noisy base rate."""
    rate = settings.base_rate
    neutral = tuple(np.zeros(bins.bins) for bins in settings.bins)
    return FitState(
        round=0,
        intercept=math.log(rate / (1 - rate)),
        weights=neutral,
        intercept_sum=0.0,
        weight_sums=neutral,
    )


def model_at(state: FitState, settings: FitSettings) -> tuple[float, Weights]:
    """The model at which the next round's residuals are asked: intercept and weights, log-odds.

    Raises:
        ConfigurationError: The state is of another fit's shape.
    """
    _check(state.weights, settings.bins, "weights")
    return state.intercept, state.weights


def advance(
    state: FitState, settings: FitSettings, residual_sums: Weights, intercept_sum: float
) -> FitState:
    """The state after one round.

    Args:
        state: The state whose `model_at` the residuals are of.
        settings: The fit's settings, the same in every round.
        residual_sums: Noisy sums over people of (outcome - probability) per bin, one array of
            shape (bins,) a feature; a person without the feature is in none of its sums.
        intercept_sum: The same over everyone.

    Raises:
        ConfigurationError: A sum is not finite or of another shape, or all rounds are done.
    """
    _check(residual_sums, settings.bins, "residual_sums")
    residual_sums, intercept_sum = _believable(settings, residual_sums, intercept_sum)
    if not math.isfinite(intercept_sum) or state.round >= settings.rounds:
        raise ConfigurationError(
            f"Expected a finite sum, and round {state.round} of {settings.rounds} not to be past."
        )
    step, rate = _step(settings), settings.base_rate
    weights = tuple(
        _centred(old + step * _move(settings, feature, rate, sums, old), settings.counts(feature))
        for feature, (old, sums) in enumerate(zip(state.weights, residual_sums, strict=True))
    )
    # The intercept's own filtered Newton step; its prior variance of 1 is a base rate known to a
    # factor of e.
    information = settings.people * rate * (1 - rate)
    variance = information + settings.residual_stddev**2 / settings.rounds
    intercept = state.intercept + intercept_sum * information / (information**2 + variance)
    state = replace(state, round=state.round + 1, intercept=intercept, weights=weights)
    if state.round <= settings.rounds // 2:
        return state
    return replace(
        state,
        intercept_sum=state.intercept_sum + intercept,
        weight_sums=tuple(
            total + new for total, new in zip(state.weight_sums, weights, strict=True)
        ),
    )


def _believable(
    settings: FitSettings, residual_sums: Weights, intercept_sum: float
) -> tuple[Weights, float]:
    """Cuts sums to what the people counted could bring: a cap on what a false answer does.

    A good person's residual lies in [-1, 0] and a bad one's in [0, 1], so that a sum lies between
    minus the good and plus the bad people, but for DOUBT standard deviations of the noise in both.
    """
    sums = []
    for bins, good, bad, of_feature in zip(
        settings.bins, settings.good, settings.bad, residual_sums, strict=True
    ):
        noise = np.hypot(
            settings.residual_stddev, settings.count_stddev * np.sqrt(bins.cells_per_bin)
        )
        low, high = -np.maximum(good, 0) - DOUBT * noise, np.maximum(bad, 0) + DOUBT * noise
        sums.append(np.clip(of_feature, low, high))
    most_cells = max(len(bins.bin_of_cell) for bins in settings.bins)
    doubt = DOUBT * math.hypot(
        settings.residual_stddev, settings.count_stddev * math.sqrt(most_cells)
    )
    all_bad = settings.people * settings.base_rate
    least, most = all_bad - settings.people - doubt, all_bad + doubt
    everyone = min(max(intercept_sum, least), most)
    return tuple(sums), everyone


def finish(state: FitState, settings: FitSettings) -> tuple[float, Weights]:
    """The scorecard: averaged, monotone where a direction is declared, and centred.

    Returns:
        The intercept and the weights, log-odds. The mean of each feature's weights over (noisy)
        people is 0, so that a feature which an institution does not hold contributes the neutral 0,
        as a bin without evidence does.

    Raises:
        ConfigurationError: No more than half of the rounds are done, so nothing is averaged.
    """
    _check(state.weight_sums, settings.bins, "weight_sums")
    averaged = state.round - settings.rounds // 2
    if averaged < 1:
        raise ConfigurationError(
            f"Expected more than half of {settings.rounds} rounds done, got {state.round}."
        )
    weights = []
    for feature, (total, bins) in enumerate(zip(state.weight_sums, settings.bins, strict=True)):
        counts, mean = settings.counts(feature), total / averaged
        if settings.directions[feature] and bins.ordered_bins > 1:
            # Slow to import: a third of the start of every command that knows what a card is.
            from scipy.optimize import isotonic_regression  # noqa: PLC0415

            ordered = slice(0, bins.ordered_bins)
            rising = settings.directions[feature] > 0
            mean[ordered] = isotonic_regression(
                mean[ordered], weights=counts[ordered], increasing=rising
            ).x
        weights.append(_centred(mean, counts))
    return state.intercept_sum / averaged, tuple(weights)


def _step(settings: FitSettings) -> float:
    """The part of its own full step that each feature takes in a round.

    A bin with more bad people than most is more curved than p (1 - p) says, by up to this excess.
    A few features on their own must allow for it. Many features that all mark the same risky
    people can still overshoot for them: this is damped by averaging, not excluded.
    """
    rate = settings.base_rate
    excess = 1.0
    for feature, bad in enumerate(settings.bad):
        counts = settings.counts(feature)
        risk = np.clip(bad[counts > 0] / counts[counts > 0], 0.0, 0.5)
        excess = max(excess, float((risk * (1 - risk)).max(initial=0.0)) / (rate * (1 - rate)))
    spread = max(len(settings.bins), excess)
    if settings.residual_stddev == 0:
        return 1 / spread  # nothing to stop early for: the prior alone regularises
    return min(LONGEST_STEP / spread, FULL_STEPS / settings.rounds)


def _move(settings: FitSettings, feature: int, rate: float, sums: Array, weights: Array) -> Array:
    """The full step of one feature alone, K C (C K C + V)^-1 (sums - K^-1 weights), log-odds."""
    counts = settings.counts(feature)
    seen = np.flatnonzero(counts)
    moves = np.zeros(len(counts))
    if not len(seen):
        return moves
    information = counts[seen] * rate * (1 - rate)
    variance = information + settings.residual_stddev**2 / settings.rounds
    prior = _prior(settings.bins[feature], counts, len(settings.bins))[np.ix_(seen, seen)]
    sums, weights = sums[seen], weights[seen]
    # What the sums say of everyone belongs to the intercept.
    told = sums - counts[seen] * sums.sum() / counts.sum() - np.linalg.solve(prior, weights)
    observed = information[:, None] * prior * information + np.diag(variance)
    moves[seen] = prior @ (information * np.linalg.solve(observed, told))
    return moves


def _prior(bins: FeatureBins, counts: Array, features: int) -> Array:
    """Covariance of a feature's weights before anything is known, (bins, bins), log-odds squared.

    Scaled so that the mean over people of a weight's variance is SCORE_VARIANCE / features.
    """
    place = np.arange(bins.ordered_bins)
    correlation = np.eye(bins.bins)
    correlation[: bins.ordered_bins, : bins.ordered_bins] = np.exp(
        -np.abs(place[:, None] - place) / max(bins.ordered_bins, 1)
    )
    share = counts / counts.sum()
    spread = np.zeros(len(share))
    np.power(share, -0.25, out=spread, where=share > 0)
    spread *= math.sqrt(SCORE_VARIANCE / features / float(share @ spread**2))
    return np.asarray(spread[:, None] * correlation * spread)


def _centred(weights: Array, counts: Array) -> Array:
    """The weights less their mean over people; 0 where there is nobody."""
    mean = weights @ counts / max(counts.sum(), 1.0)
    return np.where(counts > 0, weights - mean, 0.0)


def _check(arrays: Weights, bins: tuple[FeatureBins, ...], name: str) -> None:
    """Refuse anything but one finite array of shape (bins,) a feature."""
    if len(arrays) != len(bins) or not all(
        array.shape == (own.bins,) and np.isfinite(array).all()
        for array, own in zip(arrays, bins, strict=True)
    ):
        raise ConfigurationError(f"Expected {name} to be finite, one array of (bins,) a feature.")
