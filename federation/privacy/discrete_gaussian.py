r"""The discrete Gaussian on the integers: P(y) proportional to exp(-y^2 / (2 variance)).

Sampled by rejection from a staircase. The magnitudes are cut into steps of `width` = 2^j integers,
4 to 8 steps a standard deviation. A step h is drawn with probability proportional to
exp(-(h width)^2 / (2 variance)) by comparing a 128-bit word with a table computed to 60 digits (its
lower half is drawn only in the rare case that it matters); a place l within it and a sign are exact
random bits; y = +-(h width + l) is kept with probability exp(-(2 h width l + l^2) / (2 variance))
>= exp(-3.2), and minus zero never, so that zero is not counted twice. What differs from the exact
distribution:

* every probability by a factor within exp(+-RELATIVE_ERROR): float64's exp (2 units in the last
  place allowed) and a 53-bit comparison of a probability that is at least exp(-3.2);
* a mass of at most LOST_MASS: the table's rounding (at most 107 steps, each off by less than
  2^-128; four in five proposals are kept), and the tail beyond 12.5 standard deviations (2^-116).

Both enter the certificate (`federation.privacy.accountant`).
"""

from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from itertools import accumulate
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from federation.errors import PrivacyError
from federation.privacy.entropy import Keystream

LEAST_VARIANCE = 4
LARGEST_VARIANCE = 2**80
RELATIVE_ERROR = 2.0**-47
LOST_MASS = 2.0**-110

_TAIL = Decimal("12.5")


def sample(*, variance: int, count: int, key: bytes) -> NDArray[np.int64]:
    """Returns independent draws from the discrete Gaussian of mean zero.

    Args:
        variance: the parameter sigma^2 in squared grid units, a whole number in [4, 2^80]. From
            4 on it is the variance to within 10^-30.
        count: how many draws, >= 0.
        key: 32 fresh bytes of entropy, used for this call only.

    Returns:
        int64[count].

    Raises:
        PrivacyError: the variance is not a whole number in range, or the key is not 32 bytes.
    """
    if type(variance) is not int or not LEAST_VARIANCE <= variance <= LARGEST_VARIANCE:
        raise PrivacyError(
            f"Expected a whole noise variance in [{LEAST_VARIANCE}, 2^80] grid units squared, "
            f"got {variance!r}."
        )
    stream = Keystream(key)
    stairs = _staircase(variance)
    out = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        drawn = _propose(stream, stairs, variance, tries=(count - filled) * 3 // 2 + 16)
        taken = drawn[: count - filled]
        out[filled : filled + len(taken)] = taken
        filled += len(taken)
    return out


def _propose(
    stream: Keystream, stairs: "_Staircase", variance: int, *, tries: int
) -> NDArray[np.int64]:
    words = stream.words(3 * tries)
    steps = stairs.steps(words[:tries], stream)
    bits = stairs.bits
    places = (words[tries : 2 * tries] >> np.uint64(1)) & np.uint64((1 << bits) - 1)
    negative = (words[tries : 2 * tries] & np.uint64(1)).astype(bool)
    within = places.astype(np.float64)
    start = steps.astype(np.float64) * float(1 << bits)
    keep_probability = np.exp(-within * (2.0 * start + within) / (2.0 * variance))
    uniform = (words[2 * tries :] >> np.uint64(11)).astype(np.float64) * 2.0**-53
    magnitudes = (steps << bits) + places.astype(np.int64)
    kept = (uniform < keep_probability) & ~(negative & (magnitudes == 0))
    signed = np.where(negative, -magnitudes, magnitudes)
    drawn: NDArray[np.int64] = signed[kept]
    return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class _Staircase:
    """The steps of one variance.

    Attributes:
        bits: log2 of the width of a step.
        thresholds: for each step but the last, P(step <= h) times 2^128, rounded down.
        upper: uint64, the upper halves of the thresholds.
    """

    bits: int
    thresholds: tuple[int, ...]
    upper: NDArray[np.uint64]

    def steps(self, words: NDArray[np.uint64], stream: Keystream) -> NDArray[np.int64]:
        """Returns the step of each word: how many thresholds lie at or below it.

        A word that equals the upper half of a threshold does not decide it: then the lower half of
        the word is drawn as well.
        """
        steps = np.searchsorted(self.upper, words, side="right").astype(np.int64)
        undecided = np.flatnonzero(self.upper[np.maximum(steps - 1, 0)] == words)
        for one, low in zip(undecided, stream.words(len(undecided)), strict=True):
            steps[one] = bisect_right(self.thresholds, (int(words[one]) << 64) | int(low))
        return steps


@lru_cache(maxsize=64)
def _staircase(variance: int) -> _Staircase:
    deviation = isqrt(variance)
    bits = max(0, (deviation // 4).bit_length() - 1)
    with localcontext() as context:
        context.prec = 60
        width = Decimal(1 << bits)
        steps = int(_TAIL * (Decimal(variance).sqrt() + 1) / width) + 1
        masses = [(-((h * width) ** 2) / (2 * variance)).exp() for h in range(steps)]
        reached = accumulate(masses[:-1])
        whole = sum(masses)
        thresholds = tuple(min(int(one / whole * 2**128), 2**128 - 1) for one in reached)
    upper = np.array([one >> 64 for one in thresholds], dtype=np.uint64)
    return _Staircase(bits=bits, thresholds=thresholds, upper=upper)
