"""What guessing who took part proves about epsilon: the audit of one run, and of many runs.

Of m canaries each takes part by a fair coin of its own. Whoever sees only what the mechanism gave
out guesses some of the coins; v of r guesses are right. So many right guesses refute a promise. The
bounds hold for any guesser; a bad one proves little. Neighbours: adding or removing one person.

**(epsilon, delta)**: `p_value` (Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1)
Training Run", arXiv 2305.08846, the (epsilon, delta) bound and appendix D). The number of right
guesses is hardly ever larger than a binomial's with success q = 1 / (1 + exp(-epsilon)):

    P[right >= v] <= P[B >= v] + 2 m delta max over i = 1..v of P[v > B >= v - i] / i

It allows for any mechanism that keeps this one promise, also for randomised response, about which
guesses are right far more often than about a Gaussian one.

**mu of Gaussian differential privacy**: `least_mu` (Mahloujifar, Melis and Chaudhuri 2024,
"Auditing f-Differential Privacy in One Run", arXiv 2410.22235). Let p_i be the probability of i
right guesses in all, and of a canary at random

    r_i = sum over j >= i of j / m p_j,    h_i = sum over j >= i of (r - j) / m p_j

the probability that it is guessed right, or wrong, in a run with at least i right guesses. Turn the
coin of one canary: what is guessed about it stays as likely as the trade-off function says, and a
right guess among i right ones becomes a wrong one among i - 1. As the inverse of the blow-up of mu,
G(x) = Phi(Phi^-1(x) - mu), is convex, h_(i-1) >= G(r_i). If P[right >= v] is `level`, then r_v is
at least, and h_v at most, what they are when all that probability lies on v itself; from there the
inequality forces more and more probability on v - 1, v - 2, ..., 0, the least when each is given
no more than it must. Where more than 1 is forced in all, so many right guesses are less likely
than `level`.

**mu from independent runs**: `least_mu_of_runs`. Guesses within a run may depend on one another in
any way, which the two bounds above pay for; runs with coins and noise of their own cannot.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

CONFIDENCE: Final = 0.95
_MOST: Final = 64.0
_HALVINGS: Final = 40
_MOST_MU: Final = 20.0
_TRIED: Final = 33
_REFINEMENTS: Final = 4
_MOST_OF_A_STAKE: Final = 0.99


def p_value(*, right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Returns how likely so many right guesses are, at most, if the promise holds.

    Args:
        right: v, of the guesses, 0 to `guesses`.
        guesses: r, 0 to `canaries`; the guesser may pass.
        canaries: m.
        epsilon: of the promise, at least 0.
        delta: of the promise, in [0, 1].

    Raises:
        ValueError: the numbers do not fit each other.
    """
    if not 0 <= right <= guesses <= canaries or epsilon < 0 or not 0 <= delta <= 1:
        raise ValueError(f"Expected 0 <= {right=} <= {guesses=} <= {canaries=} and a promise.")
    binomial = stats.binom(guesses, 1 / (1 + math.exp(-epsilon)))
    below = np.cumsum(binomial.pmf(np.arange(right - 1, -1, -1)))
    steepest = float(np.max(below / np.arange(1, right + 1), initial=0.0))
    return min(1.0, float(binomial.sf(right - 1)) + 2 * canaries * delta * steepest)


@cache
def least_epsilon(
    *, right: int, guesses: int, canaries: int, delta: float, level: float = 1 - CONFIDENCE
) -> float:
    """Returns the lower bound on epsilon: every smaller one is refuted.

    Args:
        right: as `p_value` takes it, and so the next three.
        guesses: likewise.
        canaries: likewise.
        delta: likewise.
        level: how often a promise that is kept may be refuted, in (0, 1).

    Returns:
        0 where nothing is refuted, and at most 64.
    """

    def is_refuted(epsilon: float) -> bool:
        found = p_value(
            right=right, guesses=guesses, canaries=canaries, epsilon=epsilon, delta=delta
        )
        return found < level

    low, high = 0.0, _MOST
    if not is_refuted(low):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


def least_mu(*, right: int, guesses: int, canaries: int, level: float, lost: float = 0.0) -> float:
    """Returns the lower bound on mu: every smaller one is refuted by so many right guesses.

    Args:
        right: v, of the guesses.
        guesses: r, fixed before the coins fall; which canaries they are about may depend on
            anything that is seen.
        canaries: m.
        level: how often a true mu may be refuted, in (0, 1): 0.05 for a confidence of 95 %.
        lost: delta_0, the probability with which everything may be told besides.

    Returns:
        Between 0, where nothing is refuted, and 20; low by less than 10^-4.

    Raises:
        ValueError: the numbers do not fit each other.
    """
    if not 0 <= right <= guesses <= canaries or not 0 < level < 1 or not 0 <= lost < 1:
        raise ValueError(f"Expected 0 <= {right=} <= {guesses=} <= {canaries=} and a level.")
    low, high = 0.0, _MOST_MU
    for _ in range(_REFINEMENTS):
        tried = np.linspace(low, high, _TRIED)
        is_refuted = _are_refuted(tried, (right, guesses, canaries), level, lost)
        place = int(np.argmin(is_refuted)) if not is_refuted.all() else len(tried)
        if place == 0:
            return 0.0
        low, high = float(tried[place - 1]), float(tried[min(place, len(tried) - 1)])
    return low


def _are_refuted(
    mu: NDArray[np.float64], counts: tuple[int, int, int], level: float, lost: float
) -> NDArray[np.bool_]:
    """Returns for each mu whether so many right guesses have a probability below `level`."""
    right, guesses, canaries = counts
    share, limit = level / canaries, guesses / canaries
    hits = np.full(mu.shape, share * right)
    misses = np.full(mu.shape, share * (guesses - right))
    for place in range(right - 1, -1, -1):
        needed = np.clip((hits - lost) / (1 - lost), 0.0, 1.0)
        needed = (1 - lost) * special.ndtr(special.ndtri(needed) - mu)
        more = np.maximum(needed - misses, 0.0)
        misses += more
        hits += more * (place / (guesses - place))
        if not np.any((more > 0) & (hits + misses <= limit)):
            break  # where nothing more is forced now, nothing ever will be
    found: NDArray[np.bool_] = hits + misses > limit
    return found


def least_mu_of_runs(right: Sequence[int], *, canaries: int, level: float) -> float:
    """Returns the lower bound on mu that independent runs of a mechanism give together.

    Under mu of Gaussian differential privacy each guess is right with probability at most
    p = Phi(mu / 2), so the share X of right guesses of a run has a mean of at most p, whatever its
    distribution on [0, 1]. With a stake s fixed beforehand, the product over runs of 1 + s (X - p)
    then is at least 1 / level with probability at most `level` (Markov), which refutes mu
    (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
    arXiv 2010.09686).

    Args:
        right: of each run, how many guesses were right, 0 to `canaries`.
        canaries: of each run; each is guessed about.
        level: how often a true mu may be refuted, in (0, 1).

    Returns:
        Between 0, where nothing is refuted, and 20.

    Raises:
        ValueError: the numbers do not fit each other.
    """
    shares = np.array(right, dtype=np.float64) / canaries
    if not 0 < level < 1 or not len(shares) or not (0 <= shares.min() <= shares.max() <= 1):
        raise ValueError("Expected runs with 0 to all guesses right, and a level in (0, 1).")

    def is_refuted(mean: float) -> bool:
        stake = stake_for(mean, runs=len(shares), canaries=canaries, level=level)
        return float(np.sum(np.log1p(stake * (shares - mean)))) >= math.log(1 / level)

    low, high = 0.5, 1.0
    if not is_refuted(low):
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return min(_MOST_MU, 2 * float(special.ndtri(low)))


def stake_for(mean: float, *, runs: int, canaries: int, level: float) -> float:
    """Returns the stake that is best where guesses are independent: never so high as to lose all.

    Args:
        mean: that is to be refuted, in (0, 1].
        runs: how many.
        canaries: of each.
        level: of the test.
    """
    best = math.sqrt(8 * canaries * math.log(1 / level) / runs)
    return min(best, _MOST_OF_A_STAKE / mean)
