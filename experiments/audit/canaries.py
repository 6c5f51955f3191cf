"""Guesses who took part in a training, for whoever sees every opened sum: a matched filter.

A canary is a vector: what it would bring to each sum, whatever the model is. The guesser knows all
canaries and everybody else's records; it does not know the coins, nor how much noise there is in
truth. With the rest subtracted, the sums are

    y_t = sum over canaries j of coin_j a_tj + noise_t,    coin_j 0 or 1

in units of the noise that the plan promises. It takes the share of that noise under which the sums
are most likely (coins taken as Gaussian of their variance 1/4), then correlates the sums with each
canary's vectors, what the others bring being taken off as well as that noise allows: the linear
estimate of least squared error. With noise as promised that is nearly the plain inner product;
without noise it solves for the coins. It guesses "took part" where the estimate is above 1/2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SHARES_OF_NOISE: Final = tuple(10.0 ** (-power / 4) for power in range(25))
"""Tried as the noise's true share, 1 down to a millionth of what is promised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """One opened sum, as a guesser sees it.

    Attributes:
        contributions: float64[canaries, length], what each canary would bring.
        remainder: float64[length], the sum less all that is not the canaries' or noise.
        stddev: of the noise on each number as the plan has it, in the same unit, above 0.
    """

    contributions: Array
    remainder: Array
    stddev: float


def estimates(sums: Iterable[Opened]) -> Array:
    """Returns float64[canaries]: how far each canary took part; 1 = did, 0 = did not.

    Args:
        sums: all that was opened; of the same canaries.
    """
    opened = tuple(sums)
    brought = np.concatenate([one.contributions / one.stddev for one in opened], axis=1).T
    centred = np.concatenate([one.remainder / one.stddev for one in opened])
    centred = centred - brought.sum(axis=1) / 2
    left, strengths, right = np.linalg.svd(brought, full_matrices=False)
    along = left.T @ centred
    across = max(0.0, float(centred @ centred - along @ along))
    free = len(centred) - len(strengths)

    def unlikely(share: float) -> float:
        spread = share**2 + strengths**2 / 4
        return float(
            np.sum(np.log(spread) + along**2 / spread) + free * np.log(share**2) + across / share**2
        )

    noise = min(_SHARES_OF_NOISE, key=unlikely)
    found: Array = 0.5 + right.T @ (strengths * along / (strengths**2 + 4 * noise**2))
    return found


def right_guesses(sums: Iterable[Opened], coins: NDArray[np.bool_]) -> int:
    """Returns how many coins are guessed right.

    Args:
        sums: as `estimates` takes them.
        coins: bool[canaries], which took part.
    """
    return int(np.sum((estimates(sums) > 0.5) == coins))
