"""Takes exact sums over a few people apart, by what recurs.

Each person adds the same numbers in one bin of every feature. Whoever is alone in a bin of several
features leaves these numbers there; what is a sum of numbers that are seen elsewhere is of several
people. Once single people's numbers are known, every other sum says who is in it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

_POOL: Final = 20
"""Sums that may be of one person each, at most: the most frequent ones."""

Whole = NDArray[np.int64]


def taken_apart(columns: Sequence[Whole], common: Whole, sums: Whole, people: int) -> Whole:
    """Returns int64[features, people]: bins of each person, the most common one where unsure.

    Args:
        columns: per feature int64[bins], the place of each of its bins in a row of numbers.
        common: int64[features], the most common bin.
        sums: int64[rows, width], exact; the last number of a row is over all of them.
        people: behind them.
    """
    weights = np.random.default_rng(5).integers(1, 2**62, len(sums))
    with np.errstate(over="ignore"):  # modulo 2^64: sums of numbers stay sums
        numbers = (weights[:, np.newaxis] * sums).sum(axis=0)
    found = np.repeat(common[:, np.newaxis], people, axis=1)
    singles = _singles(columns, numbers, people)
    if not singles:
        return found
    sums_of = _sums_of_subsets(np.array(singles))
    for feature, of_feature in enumerate(columns):
        for of_bin, number in enumerate(numbers[of_feature]):
            if number == 0:
                continue
            subsets = np.flatnonzero(sums_of == number)
            if len(subsets) == 1:
                for one in range(len(singles)):
                    if subsets[0] >> one & 1:
                        found[feature, one] = of_bin
    return found


def _singles(columns: Sequence[Whole], numbers: Whole, people: int) -> list[int]:
    """Returns the numbers that single people leave, as far as they show."""
    if people == 1:
        return [int(numbers[-1])]
    seen = Counter(int(number) for of in columns for number in numbers[of] if number != 0)
    pool = [number for number, _ in seen.most_common(_POOL)]
    sums_of = _sums_of_subsets(np.array(pool))
    # Whatever is a sum of other numbers that are seen is of several people.
    singles = [
        number
        for place, number in enumerate(pool)
        if set(np.flatnonzero(sums_of == number).tolist()) == {1 << place}
    ][:people]
    if len(singles) == people - 1:
        with np.errstate(over="ignore"):
            rest = np.array([numbers[-1]]) - np.array(singles).sum()
        singles.append(int(rest[0]))
    return singles


def _sums_of_subsets(numbers: Whole) -> Whole:
    """Returns int64[2 ** len(numbers)], modulo 2^64: at place p the sum of p's bits' numbers."""
    sums = np.zeros(1, dtype=np.int64)
    with np.errstate(over="ignore"):
        for number in numbers:
            sums = np.concatenate([sums, sums + number])
    return sums


def share_right(found: Whole, truth: Whole) -> float:
    """Returns the share of bins found of people, in the order that fits best.

    Args:
        found: int64[features, people].
        truth: int64[features, people]; features without a bin do not count.
    """
    hits = ((found[:, :, np.newaxis] == truth[:, np.newaxis]) & (truth >= 0)[:, np.newaxis]).sum(0)
    return float(hits[linear_sum_assignment(-hits)].sum() / (truth >= 0).sum())
