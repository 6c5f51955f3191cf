"""What a scorer returns, whatever the model: points, and reasons in one order for all."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.model.score_scale import ScoreScale

MOST_REASONS: Final = 4
"""Regulation B, 12 CFR 1002.9(b)(2), comment 9: more than four reasons help nobody."""

NO_REASON: Final = -1

LOSS_UNITS_PER_POINT: Final = 100
"""Points lost are counted in whole hundredths, so that no order rests on a rounding error."""

LEAST_LOSS: Final = LOSS_UNITS_PER_POINT
"""A reason that costs less than one point is not told: rounding alone costs as much."""

_LARGEST_LOG_ODDS: Final = 700.0  # beyond it exp overflows; the rate is 0 or 1 in float32 anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of some rows.

    Attributes:
        points: int32[rows], unclipped, the exact sum of base and bins' points.
        shown: int32[rows], cut to the scale's range.
        reasons: int16[rows, 4], numbers into `Scorer.reasons` by points lost, `NO_REASON` where
            there are fewer.
    """

    points: NDArray[np.int32]
    shown: NDArray[np.int32]
    reasons: NDArray[np.int16]


def places_of(reasons: tuple[str, ...]) -> int:
    """Returns the places that keys of these reasons need: a power of two that no number reaches."""
    return 1 << len(reasons).bit_length()


class Leading:
    """The largest keys of some rows, the largest first.

    A reason competes with one number, its key: loss * places + (places - 1 - its number), the loss
    in hundredths of a point. Keys of a row differ, a larger one leads, and one below
    `LEAST_LOSS * places` cost too little.
    """

    __slots__ = ("_keys", "_places", "_smaller")

    def __init__(self, rows: int, places: int, key_type: type[np.signedinteger]) -> None:
        """Starts with no reasons.

        Args:
            rows: how many.
            places: of `places_of`.
            key_type: int32 or int64, whichever holds every key.
        """
        self._places = places
        self._keys = [np.full(rows, places - 1, dtype=key_type) for _ in range(MOST_REASONS)]
        self._smaller = np.empty(rows, dtype=key_type)

    def offer(self, key: NDArray[np.signedinteger]) -> None:
        """Takes the key of one reason in each row; the array is used up."""
        smaller = self._smaller
        for place in self._keys:  # the larger key keeps the place, the smaller one goes on
            np.minimum(place, key, out=smaller)
            np.maximum(place, key, out=place)
            key, smaller = smaller, key

    def write(self, reasons: NDArray[np.int16]) -> None:
        """Writes the numbers of the leading reasons into int16[4, rows]."""
        for place, found in zip(self._keys, reasons, strict=True):
            number_of = self._places - 1 - (place & (self._places - 1))
            found[:] = np.where(place >= LEAST_LOSS * self._places, number_of, NO_REASON)


def texts_of(texts: tuple[str, ...], reasons: NDArray[np.int16]) -> tuple[str, ...]:
    """Returns the texts behind one row of `Scores.reasons`."""
    return tuple(texts[number] for number in reasons if number != NO_REASON)


def bad_rates(scale: ScoreScale, points: NDArray[np.int32]) -> NDArray[np.float32]:
    """Returns `ScoreScale.bad_rate_at` of many scores.

    Args:
        scale: of the release.
        points: int32[rows], unclipped.

    Returns:
        float32[rows] in [0, 1].
    """
    above = points.astype(np.float64) - scale.points
    log_odds_good = above / scale.factor + math.log(scale.odds)
    bounded = np.clip(log_odds_good, -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS)
    rates: NDArray[np.float32] = (1.0 / (1.0 + np.exp(bounded))).astype(np.float32)
    return rates
