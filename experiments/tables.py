"""What every report is written with."""

from collections.abc import Iterable, Sequence

from scipy import stats


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


def mean(values: Iterable[float]) -> float:
    """Returns the mean of at least one value."""
    listed = list(values)
    return sum(listed) / len(listed)
