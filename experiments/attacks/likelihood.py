"""The arithmetic of the attack LiRA: likelihood ratios, and what they find.

Carlini et al. 2022 (arXiv 2112.03570), online attack, each target's scores Gaussian with and
without it. The two have one variance here, pooled: from few shadow trainings two would be guessed
badly, and much of what a score gives away be lost (their section on few shadow models).
"""

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

_RESAMPLED: Final = 400
_LEAST_VARIANCE: Final = 1e-12

Array = NDArray[np.float64]
Coins = NDArray[np.bool_]


def likelihood_ratios(shadows: Array, coins: Coins, seen: Array) -> Array:
    """Returns float64[trainings, targets]: log-likelihood with, less that without the target.

    Args:
        shadows: float64[shadow trainings, targets], scores.
        coins: bool[shadow trainings, targets], who took part; each of them at least once, and at
            least once not.
        seen: float64[trainings, targets], scores to judge.
    """
    with_it = np.mean(shadows, axis=0, where=coins)
    without = np.mean(shadows, axis=0, where=~coins)
    about = shadows - np.where(coins, with_it, without)
    variance = np.maximum(np.sum(about**2, axis=0) / (len(shadows) - 2), _LEAST_VARIANCE)
    ratios: Array = ((seen - without) ** 2 - (seen - with_it) ** 2) / (2 * variance)
    return ratios


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A measured figure with its 95 % interval, from trainings drawn again.

    Attributes:
        value: of all trainings.
        low: of the interval.
        high: of the interval.
    """

    value: float
    low: float
    high: float


def resampled(ratios: Array, coins: Coins, rate: float | None) -> Rate:
    """Returns AUC, or the true positives at a rate, and its interval: whole trainings are redrawn.

    Args:
        ratios: float64[trainings, targets].
        coins: bool[trainings, targets].
        rate: of false positives; None for the AUC.
    """
    generator = np.random.default_rng(0)

    def figure(chosen: NDArray[np.int64]) -> float:
        with_it, without = ratios[chosen][coins[chosen]], ratios[chosen][~coins[chosen]]
        if rate is None:
            return area(with_it, without)
        return true_positives(with_it, without, rate)

    everyone = np.arange(len(ratios))
    drawn = [figure(generator.choice(everyone, len(everyone))) for _ in range(_RESAMPLED)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Rate(value=figure(everyone), low=float(low), high=float(high))


def ideal(mu: float, coins: Coins, shadows: int, repetitions: int) -> Rate:
    """Returns the AUC where scores give away all that mu allows: the mean of whole repetitions.

    Its interval holds 95 % of the repetitions. If it reaches 0.5, the attack has no power.

    Args:
        mu: of Gaussian differential privacy.
        coins: bool[shadow trainings and attacked ones, targets].
        shadows: so many of them are the attacker's.
        repetitions: of the attack, with scores drawn again.
    """
    generator = np.random.default_rng(23)
    areas = []
    for _ in range(repetitions):
        seen = mu * coins + generator.standard_normal(coins.shape)
        ratios = likelihood_ratios(seen[:shadows], coins[:shadows], seen[shadows:])
        areas.append(area(ratios[coins[shadows:]], ratios[~coins[shadows:]]))
    low, high = np.quantile(areas, [0.025, 0.975])
    return Rate(value=float(np.mean(areas)), low=float(low), high=float(high))


def area(with_it: Array, without: Array) -> float:
    """Returns the AUC: how often one that took part has the larger ratio; ties count half."""
    ranks = stats.rankdata(np.concatenate([with_it, without]))
    most = ranks[: len(with_it)].sum() - len(with_it) * (len(with_it) + 1) / 2
    return float(most / (len(with_it) * len(without)))


def true_positives(with_it: Array, without: Array, rate: float) -> float:
    """Returns the share found of those who took part, at most `rate` of the others being accused.

    Args:
        with_it: ratios of those who took part.
        without: ratios of the others.
        rate: of false positives, in (0, 1).
    """
    accused = math.floor(rate * len(without))
    threshold = np.sort(without)[len(without) - accused - 1]
    return float(np.mean(with_it > threshold))
