"""How good a scorecard is, from noisy histograms of held-out people: the door's view of quality.

Every held-out person falls in one (score band, outcome) cell, and once more for each protected
feature in its (group, score band, outcome) cell. All figures are post-processing of those sums.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.door import Contribution, one_column_each
from federation.model.score_scale import ScoreScale
from federation.query import UNITS_PER_ONE

_DOUBLINGS: Final = (-3.0, -2.0, -1.0, *(half / 2 for half in range(13)), 7.0)
"""Inner edges of the bands, in doublings of even odds good:bad: finest where lenders decide."""

BANDS: Final = len(_DOUBLINGS) + 1
"""Score bands, the first and the last of them open. Twice as many would put 1.4 times the noise on
an AUC, half as many would blur it."""

_NORMAL_975: Final = 1.959964
_CALIBRATION_BANDS: Final = 10

_Array = NDArray[np.float64]


def band_edges(scale: ScoreScale) -> NDArray[np.int64]:
    """Returns the BANDS - 1 inner edges in points, at the odds good:bad 1/8, 1/4, 1/2, 1 ... 128.

    Fixed by the scale alone, so that every institution and every plan has the same bands.
    """
    doublings = np.array(_DOUBLINGS) - np.log2(scale.odds)
    points = scale.points + scale.points_to_double * doublings
    return np.asarray(np.rint(points), dtype=np.int64)


def evaluation_columns(groups: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the columns of the question EVALUATION.

    Args:
        groups: the number of fine cells (groups) of each protected feature.
    """
    return (2 * BANDS, *(2 * BANDS * of_feature for of_feature in groups))


def evaluation_contribution(
    points: NDArray[np.int64],
    protected: NDArray[np.uint8],
    bad: NDArray[np.uint8],
    person_starts: NDArray[np.int64] | None,
    *,
    scale: ScoreScale,
) -> Contribution:
    """Returns what rows bring to the question EVALUATION.

    Args:
        points: int64[rows], unclipped scores.
        protected: uint8[features, rows], codes of the protected features.
        bad: uint8[rows], 1 = bad.
        person_starts: as in `Contribution`.
        scale: fixes the score bands.
    """
    bands = np.searchsorted(band_edges(scale), points, side="right")
    within = bands.astype(np.uint32) * 2 + (bad & np.uint8(1))
    groups = tuple(of_feature.astype(np.uint32) * (2 * BANDS) + within for of_feature in protected)
    return Contribution(
        values=np.full(len(bad), UNITS_PER_ONE, dtype=np.int64),
        cells=one_column_each((within, *groups)),
        person_starts=person_starts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """An estimate with a 95 % interval that covers the noise and the sampling of people.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBand:
    """A range of scores as it was promised and as it turned out.

    Attributes:
        least: lowest points of the range, None if it is open below.
        below: the range ends before these points, None if it is open above.
        people: noisy number of people in it.
        expected_bad_rate: what the scores promise, in (0, 1).
        observed_bad_rate: what happened.
    """

    least: int | None
    below: int | None
    people: float
    expected_bad_rate: float
    observed_bad_rate: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Separation and calibration of a card on held-out people.

    Attributes:
        people: noisy number of people.
        bad_rate: share of bad people.
        auc: area under the ROC curve, ties counted half.
        ks: largest distance between the score distributions of good and bad people. A maximum
            over noisy bands errs upward by up to about half its interval.
        gini: 2 auc - 1.
        calibration: at most ten ranges of about equal noisy mass.
    """

    people: float
    bad_rate: Figure
    auc: Figure
    ks: Figure
    gini: Figure
    calibration: tuple[CalibrationBand, ...]


def quality(histogram: NDArray[np.float64], *, stddev: float, scale: ScoreScale) -> Quality | None:
    """Returns the quality of a card from one (band, outcome) histogram.

    Every figure is a smooth function of the counts, whose errors are independent with variance
    stddev^2 (noise) + count (Poisson sampling of people); intervals follow by the delta method
    (for the AUC that is the variance of Hanley and McNeil 1982 in its general form, plus noise).

    Args:
        histogram: float64[2 * BANDS], noisy people per band and outcome (good, bad).
        stddev: of the noise on each cell, in people; 0 if there is none.
        scale: the card's scale.

    Returns:
        None if good or bad people do not stand out of the noise: then nothing can be said.
    """
    counts = histogram.reshape(BANDS, 2)
    good, bad = counts[:, 0], counts[:, 1]
    if min(good.sum(), bad.sum()) < max(1.0, 4.0 * stddev * np.sqrt(BANDS)):
        return None
    variances = np.maximum(counts, 0.0) + stddev**2
    auc = _auc(good, bad, variances)
    return Quality(
        people=float(counts.sum()),
        bad_rate=_bad_rate(good, bad, variances),
        auc=auc,
        ks=_ks(good, bad, variances),
        gini=Figure(value=2 * auc.value - 1, low=2 * auc.low - 1, high=2 * auc.high - 1),
        calibration=_calibration(counts, variances, stddev=stddev, scale=scale),
    )


def _figure(value: float, variance: float, *, least: float = 0.0, most: float = 1.0) -> Figure:
    reach = _NORMAL_975 * float(np.sqrt(variance))
    return Figure(
        value=float(value),
        low=max(least, float(value) - reach),
        high=min(most, float(value) + reach),
    )


def _auc(good: _Array, bad: _Array, variances: _Array) -> Figure:
    goods, bads = good.sum(), bad.sum()
    good_above = goods - np.cumsum(good) + good / 2
    bad_below = np.cumsum(bad) - bad / 2
    value = float(bad @ good_above) / (goods * bads)
    by_good = (bad_below / bads - value) / goods
    by_bad = (good_above / goods - value) / bads
    return _figure(value, float(by_good**2 @ variances[:, 0] + by_bad**2 @ variances[:, 1]))


def _ks(good: _Array, bad: _Array, variances: _Array) -> Figure:
    goods, bads = good.sum(), bad.sum()
    below_good, below_bad = np.cumsum(good) / goods, np.cumsum(bad) / bads
    at = int(np.argmax(below_bad - below_good))
    below = np.arange(BANDS) <= at
    by_good = (below - below_good[at]) / goods
    by_bad = (below - below_bad[at]) / bads
    value = float(below_bad[at] - below_good[at])
    return _figure(value, float(by_good**2 @ variances[:, 0] + by_bad**2 @ variances[:, 1]))


def _bad_rate(good: _Array, bad: _Array, variances: _Array) -> Figure:
    people = good.sum() + bad.sum()
    value = bad.sum() / people
    by_noise = value**2 * variances[:, 0].sum() + (1 - value) ** 2 * variances[:, 1].sum()
    return _figure(value, float(by_noise / people**2))


def _calibration(
    counts: _Array, variances: _Array, *, stddev: float, scale: ScoreScale
) -> tuple[CalibrationBand, ...]:
    edges = band_edges(scale)
    beyond = float(scale.points_to_double) / 2
    closed = np.concatenate(([edges[0] - beyond], edges, [edges[-1] + beyond]))
    middles = (closed[:-1] + closed[1:]) / 2
    promised = np.array([scale.bad_rate_at(float(points)) for points in middles])
    needed = max(counts.sum() / _CALIBRATION_BANDS, 8.0 * stddev)
    starts, mass = [0], 0.0
    for band in range(BANDS):
        mass += counts[band].sum()
        if mass >= needed and counts[band + 1 :].sum() >= needed:
            starts.append(band + 1)
            mass = 0.0
    found = []
    for start, end in zip(starts, [*starts[1:], BANDS], strict=True):
        inside = slice(start, end)
        people = np.maximum(counts[inside].sum(axis=1), 0.0)
        found.append(
            CalibrationBand(
                least=int(edges[start - 1]) if start > 0 else None,
                below=int(edges[end - 1]) if end < BANDS else None,
                people=float(counts[inside].sum()),
                expected_bad_rate=float(np.average(promised[inside], weights=people)),
                observed_bad_rate=_bad_rate(
                    counts[inside, 0], counts[inside, 1], variances[inside]
                ),
            )
        )
    return tuple(found)
