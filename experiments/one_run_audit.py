"""What guessing who took part proves about epsilon: the audit of one run.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846,
the (epsilon, delta) bound and appendix D). Of m canaries each takes part by a fair coin of its own.
Whoever sees only what the mechanism gave out guesses some of the coins. Under (epsilon, delta)
differential privacy with respect to adding or removing one person, the number of right guesses out
of r is hardly ever larger than a binomial's with success q = 1 / (1 + exp(-epsilon)):

    P[right >= v] <= P[B >= v] + 2 m delta max over i = 1..v of P[v > B >= v - i] / i

So many right guesses refute an epsilon. The bound holds for any guesser; a bad one proves little.
"""

import math
from functools import cache
from typing import Final

import numpy as np
from scipy import stats

CONFIDENCE: Final = 0.95
_MOST: Final = 64.0
_HALVINGS: Final = 40


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
def least_epsilon(*, right: int, guesses: int, canaries: int, delta: float) -> float:
    """Returns the lower bound on epsilon at `CONFIDENCE`: every smaller one is refuted.

    Returns 0 where nothing is, and at most 64.
    """

    def is_refuted(epsilon: float) -> bool:
        found = p_value(
            right=right, guesses=guesses, canaries=canaries, epsilon=epsilon, delta=delta
        )
        return found < 1 - CONFIDENCE

    low, high = 0.0, _MOST
    if not is_refuted(low):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low
