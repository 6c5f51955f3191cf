"""Bins of a scorecard, chosen from noisy counts of good and bad people per public fine cell.

Everything here is post-processing of one noisy histogram that was paid for once: nothing below
reads a record, and nothing costs privacy. A feature's fine cells are public: `ordered_cells` cells
in value order (a numeric grid), then cells without an order (special codes, missing, categories,
other). Bins are what the scorecard gives points to: runs of ordered cells, and single unordered
cells.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError

Counts = NDArray[np.float64]

# A bin needs this share of all people, so that a card stays readable while rare, telling values
# (a fraction of a percent of people) still get points of their own.
SMALLEST_SHARE = 0.005
# It needs as many people as tell its log-odds to within 0.75 at a bad rate of 10 %, without noise:
# 1 / sqrt(20 * 0.1 * 0.9) = 0.75. The fit's prior, whose standard deviation is less than that,
# shrinks what so few say; merged with others, they could say nothing. Matters below 10,000 people.
SMALLEST_PEOPLE = 20.0
# It needs so many standard deviations of one cell's noise: a single cell of noise alone would pass
# once in 700.
NOISE_MULTIPLE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBins:
    """Which bin each public fine cell of one feature falls in.

    Attributes:
        ordered_cells: Number of cells in value order, 0 or more; cells 0 .. ordered_cells - 1.
            The cells after them have no order.
        ordered_bins: Number of bins made of ordered cells, in value order: bins 0 ..
            ordered_bins - 1 are contiguous runs of ordered cells.
        bin_of_cell: The bin of every cell. Unordered cells too small for a bin of their own
            share the last bin.

    Raises:
        ConfigurationError: The bins are not such a partition, or a bin holds no cell.
    """

    ordered_cells: int
    ordered_bins: int
    bin_of_cell: tuple[int, ...]

    def __post_init__(self) -> None:
        cells = len(self.bin_of_cell)
        if not cells or not 0 <= self.ordered_cells <= cells:
            raise ConfigurationError(
                f"Expected ordered_cells={self.ordered_cells} in [0, {cells}] and a cell at least."
            )
        ordered = list(self.bin_of_cell[: self.ordered_cells])
        if sorted(set(ordered)) != list(range(self.ordered_bins)) or ordered != sorted(ordered):
            raise ConfigurationError(
                f"Expected {self.ordered_bins} bins of ordered cells, runs numbered in value order."
            )
        unordered = self.bin_of_cell[self.ordered_cells :]
        if sorted(set(unordered)) != list(range(self.ordered_bins, self.bins)):
            raise ConfigurationError(
                "Expected bins of unordered cells numbered on from the ordered bins, none empty."
            )

    @property
    def bins(self) -> int:
        """Number of bins, at least 1."""
        return max(self.bin_of_cell) + 1

    @property
    def cells_per_bin(self) -> Counts:
        """Cells in each bin, shape (bins,): as many independent noises are in the bin's count."""
        return np.bincount(self.bin_of_cell, minlength=self.bins).astype(np.float64)


def merge(bins: FeatureBins, counts: Counts) -> Counts:
    """Noisy counts per bin, shape (bins,), from noisy counts per cell, shape (cells,).

    Negative counts are kept: clipping before adding would make every bin too large. The noise of a
    bin has standard deviation stddev * sqrt(cells_per_bin).

    Raises:
        ConfigurationError: The shape is not (cells,), or a count is not finite.
    """
    if counts.shape != (len(bins.bin_of_cell),) or not np.isfinite(counts).all():
        raise ConfigurationError(
            f"Expected {len(bins.bin_of_cell)} finite counts, one a cell, got shape {counts.shape}."
        )
    return np.bincount(bins.bin_of_cell, weights=counts, minlength=bins.bins).astype(np.float64)


def smallest_bin(*, stddev: float, people: float) -> float:
    """The least number of people (as noisy counts say) that may have a bin of their own.

    Args:
        stddev: Standard deviation of the noise in one cell's good count, and in its bad count,
            people; 0 without privacy.
        people: Number of people in the federation, a public figure or a noisy count; above 0.
    """
    return max(SMALLEST_SHARE * people, SMALLEST_PEOPLE, NOISE_MULTIPLE * math.sqrt(2) * stddev)


def most_bins(*, stddev: float, people: float) -> int:
    """How many ordered bins one feature may have, 4 to 16.

    Half as many as fit at the smallest size, for bins are rarely all small. 16 are as many as a
    person reads; where noise allows few, neighbours are alike by the prior of the fit, and 4 lose
    nothing.
    """
    return int(np.clip(round(people / smallest_bin(stddev=stddev, people=people) / 2), 4, 16))


def choose_bins(
    *, ordered_cells: int, good: Counts, bad: Counts, stddev: float, people: float, most: int
) -> FeatureBins:
    """Bins of one feature from its noisy histogram.

    Ordered cells are cut at equal steps of the cumulative square root of their counts (the rule of
    Dalenius and Hodges 1959 for strata: between equal width and equal mass, so that rare values at
    the ends, which tell most about credit, get bins of their own); a run that is still too small
    joins its smaller neighbour. An unordered cell that is large enough is a bin; the others share
    one last bin.

    Args:
        ordered_cells: How many of the cells, from the first, are in value order; 0 .. cells.
        good: Noisy counts of good people, shape (cells,); may be negative.
        bad: Noisy counts of bad people, shape (cells,); may be negative.
        stddev: Standard deviation of the noise in each count, people; 0 or more.
        people: Number of people, public or noisy; above 0.
        most: Upper limit of ordered bins, 1 or more.

    Returns:
        Bins of which each, except the last one of left-over unordered cells and a feature's only
        one, has at least `smallest_bin` people.

    Raises:
        ConfigurationError: Shapes differ, a count is not finite, or a limit is out of range.
    """
    cells = len(good)
    if good.shape != bad.shape or good.ndim != 1 or not 0 <= ordered_cells <= cells or not cells:
        raise ConfigurationError(
            f"Expected good {good.shape} and bad {bad.shape} of one shape (cells,), cells of at "
            f"least 1 and ordered_cells={ordered_cells}."
        )
    if not (np.isfinite(good).all() and np.isfinite(bad).all()):
        raise ConfigurationError("Expected finite counts.")
    if not 0 <= stddev < math.inf or not 0 < people < math.inf or most < 1:
        raise ConfigurationError(
            f"Expected stddev={stddev} of 0 or more, people={people} above 0, most={most} above 0."
        )
    counts = good + bad
    floor = smallest_bin(stddev=stddev, people=people)
    runs = _cut(counts[:ordered_cells], most=most, noise=2 * math.sqrt(2) * stddev)
    while len(runs) > 1:
        sizes = [float(counts[run].sum()) for run in runs]
        small = int(np.argmin(sizes))
        if sizes[small] >= floor:
            break
        neighbours = [side for side in (small - 1, small + 1) if 0 <= side < len(runs)]
        first = min(small, min(neighbours, key=lambda side: sizes[side]))
        runs[first : first + 2] = [np.concatenate(runs[first : first + 2])]
    bin_of_cell = np.full(cells, -1)
    for number, run in enumerate(runs):
        bin_of_cell[run] = number
    own = ordered_cells + np.flatnonzero(counts[ordered_cells:] >= floor)
    bin_of_cell[own] = len(runs) + np.arange(len(own))
    bin_of_cell[bin_of_cell < 0] = len(runs) + len(own)
    return FeatureBins(
        ordered_cells=ordered_cells,
        ordered_bins=len(runs),
        bin_of_cell=tuple(int(number) for number in bin_of_cell),
    )


def _cut(counts: Counts, *, most: int, noise: float) -> list[NDArray[np.intp]]:
    """Runs of cells at equal steps of cumulative sqrt(count).

    A count within the noise is taken as 0, or empty cells would get bins.
    """
    if not len(counts):
        return []
    mass = np.sqrt(np.where(counts > noise, counts, 0.0))
    if not mass.sum():
        return [np.arange(len(counts))]
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    step = np.minimum((middle * most).astype(np.intp), most - 1)
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(step)) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Weight of evidence of each bin of one feature, and the feature's information value.

    Attributes:
        weight: Shape (bins,), log-odds: ln((good_b / good) / (bad_b / bad)); above 0 means
            safer than the average person.
        standard_error: Shape (bins,), log-odds; covers both the sampling of people and the
            privacy noise.
        information_value: sum_b (good_b / good - bad_b / bad) * weight_b, 0 or more.
    """

    weight: Counts
    standard_error: Counts
    information_value: float


def evidence(bins: FeatureBins, *, good: Counts, bad: Counts, stddev: float) -> Evidence:
    """Weight of evidence and information value per bin from noisy counts per bin.

    A count below its floor (half a person, or the bin's noise) is raised to it: a negative count
    has no logarithm. The standard error is that of a log of counts by the delta method,
    sqrt(sum over both counts of 1 / count + noise variance / count^2).

    Args:
        bins: The feature's bins.
        good: Noisy good counts per bin, shape (bins,), as `merge` gives them.
        bad: The same for bad people.
        stddev: Standard deviation of the noise in one cell's count, people.

    Raises:
        ConfigurationError: A shape is not (bins,).
    """
    if good.shape != (bins.bins,) or bad.shape != (bins.bins,):
        raise ConfigurationError(
            f"Expected {bins.bins} good and bad counts, got {good.shape} and {bad.shape}."
        )
    noise = stddev * np.sqrt(bins.cells_per_bin)
    floor = np.maximum(noise, 0.5)
    good, bad = np.maximum(good, floor), np.maximum(bad, floor)
    good_share, bad_share = good / good.sum(), bad / bad.sum()
    weight = np.log(good_share / bad_share)
    variance = sum(1 / count + (noise / count) ** 2 for count in (good, bad))
    return Evidence(
        weight=weight,
        standard_error=np.sqrt(variance),
        information_value=float(((good_share - bad_share) * weight).sum()),
    )
