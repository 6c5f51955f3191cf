"""Detections: each returns when noise and sums look right and raises `Detected` when not.

Every detection raises by chance with probability at most about `FALSE_ALARM` on right noise; with
the fixed seeds of the tests none does. `draws_needed` says how many draws make a wrong scale show.
"""

import math
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FALSE_ALARM: Final = 1e-6
"""Chance that one detection raises on right noise."""

MISS: Final = 1e-3
"""Chance that a wrong scale goes unnoticed, at most, with `draws_needed`."""

Draws = NDArray[np.int64]


class Detected(AssertionError):  # noqa: N818  a finding, not an error of the program
    """The noise is not what was promised."""


def draws_needed(deviation_ratio: float) -> int:
    """Returns how many draws show a standard deviation that is `deviation_ratio` times the right.

    Exact for Gaussian noise: the least n (to 1 part in 1000) at which `check_variance` raises with
    probability at least 1 - MISS.
    """
    low, high = 1, 2
    while not _power(high, deviation_ratio) >= 1 - MISS:
        low, high = high, 2 * high
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        if _power(middle, deviation_ratio) >= 1 - MISS:
            high = middle
        else:
            low = middle
    return high


def _power(draws: int, deviation_ratio: float) -> float:
    ratio = deviation_ratio**2
    lowest, highest = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], draws)
    return float(stats.chi2.cdf(lowest / ratio, draws) + stats.chi2.sf(highest / ratio, draws))


def check_variance(draws: Draws, variance: float) -> None:
    """Two-sided chi-square test of sum of squares / variance with n degrees of freedom.

    False alarms: FALSE_ALARM. A discrete Gaussian of variance >= 4 has the moments of the
    continuous one to within 10^-15.
    """
    value = float(np.sum(draws.astype(np.float64) ** 2)) / float(variance)
    _require_likely(
        2 * min(stats.chi2.cdf(value, draws.size), stats.chi2.sf(value, draws.size)), "variance"
    )


def check_least_variance(draws: Draws, variance: float) -> None:
    """One-sided: raises where the variance is below `variance`. False alarms: FALSE_ALARM."""
    value = float(np.sum(draws.astype(np.float64) ** 2)) / float(variance)
    _require_likely(float(stats.chi2.cdf(value, draws.size)), "too small a variance")


def check_mean(draws: Draws, variance: float) -> None:
    """Two-sided test that the mean is zero. False alarms: FALSE_ALARM."""
    z = abs(float(np.sum(draws))) / math.sqrt(draws.size * float(variance))
    _require_likely(2 * float(stats.norm.sf(z)), "mean")


def check_kurtosis(draws: Draws) -> None:
    """Two-sided test of the fourth moment (Anscombe and Glynn 1983), for 2,000 draws or more.

    False alarms: 1e-5 or so. The test is an approximation: of 40,000 Gaussian samples of 2,000 it
    put 1.0e-4 below 1e-4, as it should, but one below 1e-6; it is better with more draws.
    """
    _require_likely(float(stats.kurtosistest(draws.astype(np.float64)).pvalue), "kurtosis")


def check_lattice(draws: Draws) -> None:
    """Chi-square that residues modulo 2, 3, 5, 7 and 16 are uniform, for variances >= 4096.

    A grid coarser than 1, or noise scaled after it was drawn, shows. False alarms: FALSE_ALARM,
    shared by the five tests; residues are uniform to within 10^-300.
    """
    if draws.dtype != np.int64:
        raise Detected("noise that is not whole")
    moduli = (2, 3, 5, 7, 16)
    for modulus in moduli:
        seen = np.bincount(draws % modulus, minlength=modulus)
        p_value = float(stats.chisquare(seen).pvalue)
        _require_likely(p_value * len(moduli), f"residues modulo {modulus}")


def check_symmetry(draws: Draws, variance: int) -> None:
    """Exact binomial tests: as many positive as negative draws, and zero neither rare nor twice.

    False alarms: FALSE_ALARM, shared by the two tests.
    """
    positive, negative = int(np.sum(draws > 0)), int(np.sum(draws < 0))
    signs = float(stats.binomtest(positive, positive + negative, 0.5).pvalue)
    zero = float(exact_masses(variance)[0])
    zeros = float(stats.binomtest(int(np.sum(draws == 0)), draws.size, zero).pvalue)
    _require_likely(2 * signs, "signs")
    _require_likely(2 * zeros, "zeros")


def exact_masses(variance: int) -> NDArray[np.float64]:
    """Returns P(|y|-th non-negative integer) for y = 0, 1, ... up to 10 standard deviations.

    Straight from the definition: exp(-y^2 / (2 variance)) over its sum on all integers.
    """
    reach = 10 * (math.isqrt(variance) + 1)
    weights = [math.exp(-(y * y) / (2 * variance)) for y in range(reach + 1)]
    whole = math.fsum([weights[0], *(2 * weight for weight in weights[1:])])
    return np.array(weights) / whole


def check_masses(draws: Draws, variance: int) -> None:
    """Chi-square against the exact probability mass function, for variances up to 10^7.

    Integers are pooled, from the middle outwards on either side, until each pool expects at least
    50 draws. False alarms: about FALSE_ALARM.
    """
    masses = exact_masses(variance)
    both = np.concatenate([masses[:0:-1], masses])
    edges, pooled, mass = [], [], 0.0
    for place, one in enumerate(both):
        mass += float(one)
        if mass * draws.size >= 50 and float(both[place + 1 :].sum()) * draws.size >= 50:
            edges.append(place - (len(masses) - 1))
            pooled.append(mass)
            mass = 0.0
    pooled.append(1.0 - math.fsum(pooled))
    pools = np.searchsorted(np.array(edges), draws, side="left")
    seen = np.bincount(pools, minlength=len(pooled))
    expected = np.array(pooled) * draws.size
    value = float(np.sum((seen - expected) ** 2 / expected))
    _require_likely(float(stats.chi2.sf(value, len(pooled) - 1)), "masses")


def check_normal(draws: Draws, variance: float) -> None:
    """Kolmogorov-Smirnov of Phi(draw / sigma) against the uniform distribution; huge variances.

    False alarms: FALSE_ALARM (exact distribution of the statistic).
    """
    uniform = stats.norm.cdf(draws.astype(np.float64) / math.sqrt(float(variance)))
    _require_likely(float(stats.kstest(uniform, "uniform").pvalue), "normality")


def check_uncorrelated(vectors: NDArray[np.int64]) -> None:
    """Every two of the vectors correlate by less than 5 / sqrt(d).

    Args:
        vectors: int64[vectors, d].

    False alarms: 5.7e-7 for each pair. A seed that was shared or used twice gives 1; a vector of
    zeros raises too.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not lengths.all():
        raise Detected("a noise vector that is zero")
    scaled = vectors / lengths
    found = np.abs(scaled @ scaled.T)
    limit = 5 / math.sqrt(vectors.shape[1])
    for first, second in combinations(range(len(vectors)), 2):
        if not found[first, second] < limit:
            raise Detected(f"noise vectors {first} and {second} correlate")


def check_one_person(change: NDArray[np.int64], sensitivity_squared: int) -> None:
    """Exact: what one person changed in a sum is no longer than was promised. No false alarms.

    Args:
        change: int64[d], the sum with that person less the sum without, grid units.
        sensitivity_squared: promised, grid units squared.
    """
    if sum(one * one for one in change.tolist()) > sensitivity_squared:
        raise Detected("one person changes more than was promised")


def check_national_noise(noise: NDArray[np.int64], variance: int) -> None:
    """All of the above on the noise of a few rounds, as the door's checks of a whole federation.

    Args:
        noise: int64[rounds, institutions, d], each institution's answer less its exact sum.
        variance: the share that each institution owes.

    False alarms: 3 FALSE_ALARM + 1e-5 (kurtosis) + 5.7e-7 for each pair of answers.
    """
    rounds, institutions, length = noise.shape
    released = noise.sum(axis=1).reshape(-1)
    check_variance(released, institutions * variance)
    check_mean(released, institutions * variance)
    check_kurtosis(released)
    check_lattice(released)
    check_uncorrelated(noise.reshape(rounds * institutions, length))


def _require_likely(p_value: float, what: str) -> None:
    if not p_value >= FALSE_ALARM:
        raise Detected(f"{what}: a chance of {p_value:.2g} if the noise were right")
