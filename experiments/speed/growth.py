"""Laws of growth: seconds by size, fitted to measurements, with the interval of what comes next.

A law is a sum of powers of the size, each with a coefficient: `fixed + each * people`. It is fitted
by least squares of relative errors, since a clock is as far off, in percent, at a large size as at
a small one.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from scipy import stats

from federation.errors import ConfigurationError

_COVERED: Final = 0.95


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement.

    Attributes:
        size: people, or institutions.
        value: what was measured there, above 0.
    """

    size: float
    value: float


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a law says at a size: its value, and the 95 % interval of one further measurement."""

    value: float
    low: float
    high: float


class Law(msgspec.Struct, frozen=True, kw_only=True):
    """value = sum of coefficient * size^power.

    Attributes:
        powers: of the size.
        coefficients: one for each power.
        covariance: of the coefficients.
        spread: standard deviation of a measurement around the law, relative to the law.
        largest_error: of the law at any of its points, relative to what was measured.
        points: that it was fitted to.
    """

    powers: tuple[float, ...]
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    spread: float
    largest_error: float
    points: tuple[Point, ...]

    def at(self, size: float) -> Expected:
        """Returns what is expected of one further measurement at a size.

        The interval knows how the points scatter and how far the size lies from them. It does not
        know of anything that begins beyond the largest of them.
        """
        terms = np.array([size**power for power in self.powers])
        value = float(terms @ np.array(self.coefficients))
        variance = float(terms @ np.array(self.covariance) @ terms) + (self.spread * value) ** 2
        free = len(self.points) - len(self.powers)
        reach = float(stats.t.ppf((1 + _COVERED) / 2, free)) * math.sqrt(variance)
        return Expected(value=value, low=value - reach, high=value + reach)

    def reach_of(self, place: int) -> float:
        """Returns half of the 95 % interval of a coefficient."""
        free = len(self.points) - len(self.powers)
        quantile = float(stats.t.ppf((1 + _COVERED) / 2, free))
        return quantile * math.sqrt(self.covariance[place][place])

    @property
    def largest(self) -> float:
        """The largest size that it was fitted to; beyond it the law is extrapolated."""
        return max(point.size for point in self.points)


def fitted(points: Sequence[Point], powers: tuple[float, ...]) -> Law:
    """Returns the law through some points.

    Raises:
        ConfigurationError: not more points than powers, or fewer sizes.
    """
    sizes = np.array([point.size for point in points], dtype=np.float64)
    values = np.array([point.value for point in points], dtype=np.float64)
    if len(points) <= len(powers) or len(set(sizes.tolist())) < len(powers):
        raise ConfigurationError("A law needs more measurements, at more sizes, than it has terms.")
    terms = np.column_stack([sizes**power for power in powers]) / values[:, np.newaxis]
    scales = np.linalg.norm(terms, axis=0)  # people squared and seconds: far apart
    found, *_ = np.linalg.lstsq(terms / scales, np.ones_like(values))
    errors = terms / scales @ found - 1.0
    spread = float(np.sqrt(errors @ errors / (len(points) - len(powers))))
    inverse = np.linalg.inv((terms / scales).T @ (terms / scales))
    covariance = spread**2 * inverse / np.outer(scales, scales)
    return Law(
        powers=powers,
        coefficients=tuple((found / scales).tolist()),
        covariance=tuple(tuple(row) for row in covariance.tolist()),
        spread=spread,
        largest_error=float(np.abs(errors).max()),
        points=tuple(points),
    )
