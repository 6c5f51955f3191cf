"""The exact AUC of scores that one holder sees: at home and in simulations, never on the wire."""

import numpy as np
from numpy.typing import NDArray

from federation.errors import DataError
from federation.model.evaluation import Figure

_NORMAL_975 = 1.959964


def auc_of(scores: NDArray[np.int64], bad: NDArray[np.bool_]) -> Figure:
    """Returns P(score of a good > score of a bad), ties half, with DeLong's 95 % interval.

    Args:
        scores: int64[people], higher is safer.
        bad: bool[people].

    Raises:
        DataError: there are no good or no bad people.
    """
    of_good, of_bad = _placements(scores, bad)
    value = float(of_good.mean())
    return _figure(value, _variance(of_good) + _variance(of_bad))


def auc_difference(
    first: NDArray[np.int64], second: NDArray[np.int64], bad: NDArray[np.bool_]
) -> Figure:
    """Returns AUC(first) - AUC(second) on the same people, with the paired 95 % interval.

    The method of DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44), by placements.

    Raises:
        DataError: there are no good or no bad people.
    """
    good_first, bad_first = _placements(first, bad)
    good_second, bad_second = _placements(second, bad)
    of_good, of_bad = good_first - good_second, bad_first - bad_second
    return _figure(float(of_good.mean()), _variance(of_good) + _variance(of_bad))


def _placements(
    scores: NDArray[np.int64], bad: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns for each good person the share of bad people below, for each bad of good above."""
    goods, bads = np.sort(scores[~bad]), np.sort(scores[bad])
    if not len(goods) or not len(bads):
        raise DataError("An AUC needs good and bad people.")
    below = np.searchsorted(bads, scores[~bad], "left") + np.searchsorted(
        bads, scores[~bad], "right"
    )
    not_above = np.searchsorted(goods, scores[bad], "left") + np.searchsorted(
        goods, scores[bad], "right"
    )
    return below / (2 * len(bads)), 1.0 - not_above / (2 * len(goods))


def _variance(placements: NDArray[np.float64]) -> float:
    if len(placements) < 2:
        return 1.0
    return float(placements.var(ddof=1) / len(placements))


def _figure(value: float, variance: float) -> Figure:
    reach = _NORMAL_975 * float(np.sqrt(variance))
    return Figure(value=value, low=value - reach, high=value + reach)
