"""What every report is written with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from scipy import stats

OURS: Final = "#0b6e99"
PEER: Final = "#c2552d"
GREY: Final = "#777777"
"""Colours of plots, told apart by markers and lines as well."""

FEWEST: Final = 6
"""Turns of which the lowest and the highest hold the median with probability 95 %, or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Middle:
    """A median and a range about it; formatted as `median (low to high)`.

    Attributes:
        median: of the values.
        low: at most the median.
        high: at least the median.
    """

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Returns all three, each as `spec` says."""
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def middle(values: Iterable[float]) -> Middle:
    """Returns the median, with its 95 % interval if there are at least six values.

    The interval goes from the k-th lowest to the k-th highest, with the largest k whose chance to
    miss is at most 5 %: of n independent values from one continuous distribution, whatever it is,
    as many lie below its median as a fair coin tossed n times shows heads (David and Nagaraja,
    Order Statistics, 2003, section 7.1). Of fewer values the range is the lowest and the highest.

    Args:
        values: at least one, one of each turn.
    """
    found = sorted(values)
    k = max(1, int(stats.binom.ppf(0.025, len(found), 0.5)))
    return Middle(median=median(found), low=found[k - 1], high=found[-k])


def ratio(above: Iterable[float], below: Iterable[float]) -> Middle:
    """Returns the middle of the ratios, taken turn by turn.

    Args:
        above: one of each turn, at least one.
        below: likewise, of the same turns.
    """
    return middle(one / other for one, other in zip(above, below, strict=True))


def in_brackets(*turns: int) -> str:
    """Says what `middle` shows in brackets, for captions.

    Args:
        turns: how many values each of the medians is of.
    """
    interval = (
        "the 95 % interval of the median, from order statistics, as if turns were independent"
    )
    extremes = "the lowest and the highest"
    if min(turns) >= FEWEST:
        return interval
    if max(turns) < FEWEST:
        return extremes
    return f"{interval}; of fewer than {FEWEST} values {extremes}"


def error_bars(middles: Iterable[Middle]) -> tuple[list[float], list[float]]:
    """Returns how far the ranges reach below and above the medians, as matplotlib wants them."""
    listed = list(middles)
    return [one.median - one.low for one in listed], [one.high - one.median for one in listed]


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; columns after the first are right-aligned."""
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of the difference of two means (Welch 1947).

    Args:
        first: independent values, at least two; its mean counts positive.
        second: likewise.
    """
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    return float(interval.low), float(interval.high)


def exact_interval(hits: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the interval of a share, lower and upper end (Clopper and Pearson 1934).

    Args:
        hits: in [0, of].
        of: independent trials, at least one.
        confidence: of both sides together.
    """
    interval = stats.binomtest(hits, of).proportion_ci(confidence)
    return float(interval.low), float(interval.high)


def mean(values: Iterable[float]) -> float:
    """Returns the mean of at least one value."""
    listed = list(values)
    return sum(listed) / len(listed)
