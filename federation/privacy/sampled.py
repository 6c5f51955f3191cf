r"""Sums over a Poisson sample of people, priced in the same mu^2 as sums over everyone.

Each person takes part in a sum with probability q, by a coin of their own that nobody else sees.
What one person can change is then a mixture, not a shift, and no mu^2 describes it exactly. A
training of T such sums is charged the smallest mu^2 whose Gaussian trade-off lies on the safe side
of the whole training's privacy profile everywhere, but for a probability delta_0
(`LOST_TO_SAMPLING`) that is stated beside the epsilon.

**Why that is sound.** Neighbours add or remove one person. One sum, given all that was answered
before it, is dominated by the pair ((1 - q) N(0, sigma^2) + q N(1, sigma^2), N(0, sigma^2)) if the
person is removed and by the same pair reversed if added (Zhu, Dong and Wang 2022), and T of them,
chosen adaptively, by the T-fold products (the same). Let delta_+(epsilon) and delta_-(epsilon) be
the hockey-stick divergences of the two products. We look for the smallest mu with, for **every**
epsilon >= 0,

    max(delta_+, delta_-)(epsilon) <= delta_0 + (1 - delta_0) delta_mu(epsilon),

delta_mu being the profile of mu-Gaussian differential privacy. The right side is the profile of
"with probability delta_0 everything is told, else N(mu, 1) or N(0, 1)". Negative epsilons of one
direction are positive ones of the other, so both directions together are the whole trade-off curve,
and by Blackwell's theorem (in Dong, Roth and Su 2022) one draw of that simple mechanism suffices to
imitate the products, hence the training: all it tells of a person could be drawn before its first
question is asked. So what else is asked between its rounds, and how that depends on the answers,
changes nothing; a training that ends early costs no more; and the units add in the ledger like any
others (Smith and Thakurta 2022), the delta_0 of k trainings adding to at most k delta_0. What is
fixed beforehand are q, T and the ratio of noise to sensitivity. Integer noise is priced as in
`events`: the step from continuous to integer noise is post-processing, sampled or not.

**Why the arithmetic is sound.** dp-accounting discretises the privacy loss of one sum so that every
divergence is at least the true one (Doroshenko et al. 2022, connect the dots), takes the larger of
both directions and composes by FFT; the truncated tails (10^-15) count as told. Between two points
of our grid both profiles decrease, so the left end of the first is compared with the right end of
the second, up to an epsilon whose delta is below delta_0; delta_mu is taken at its lower end
(`_delta_below`). What is left is the float error of the library. Measured: one sum's divergence is
within 2 10^-16 of forty digits, which T sums make T times; the composed divergence is within
2.3 10^-13 of FFTs with 64-bit mantissas at T = 2,000 and within 7.2 10^-12 at T = 100,000. For both
together `_ARITHMETIC`, twice what they come to at `MOST_TIMES`, is added before anything is
compared.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import PrivacyError
from federation.privacy.events import (
    LEAST_SHARE_VARIANCE,
    ROUNDING_VARIANCE,
    GaussianEvents,
    variance_for,
)
from federation.privacy.units import LARGEST_UNITS, UNITS_PER_MU_SQUARED, BudgetUnits

LOST_TO_SAMPLING: Final[float] = 1e-10
"""delta_0: added to the delta of a statement for every sampled training in it."""

LEAST_SAMPLING_RATE: Final = 1e-6
"""A smaller rate than one in a million is refused as a mistake."""

LEAST_NOISE_MULTIPLIER: Final = 0.3
"""With less noise a sampled sum nearly tells who is in it; refused."""

MOST_TIMES: Final = 20_000
"""The float error of the composition grows with their number and is bounded up to this one."""

_ARITHMETIC = LOST_TO_SAMPLING / 10
_DEAREST = BudgetUnits(400 * UNITS_PER_MU_SQUARED)  # mu = 20: an epsilon near 300
_FURTHEST = 700.0  # the largest epsilon that the library's formula can take
_CHEAPEST = BudgetUnits(100)  # mu = 10^-5
_GRID_POINTS = 10_001
_FLOAT_ERROR = 1e-13


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledEvents:
    """`times` sums over a fresh Poisson sample each, with a Gaussian that the adversary lacks.

    Attributes:
        sensitivity_squared: the largest squared L2 change that one person who takes part makes to
            a sum, in grid units squared, a whole number >= 1.
        variance: the noise in a sum that neither the coordinator nor its colluders know, in grid
            units squared.
        sampling_rate: the public probability q with which each person takes part in a sum, each
            time anew, in [10^-6, 1]; 1 means everybody.
        times: how often such a sum is answered, in [0, 20,000].
    """

    sensitivity_squared: int
    variance: int
    sampling_rate: float
    times: int

    def __post_init__(self) -> None:
        everyone = self.for_everyone()
        rate = self.sampling_rate
        if type(rate) is not float or not LEAST_SAMPLING_RATE <= rate <= 1.0:
            raise PrivacyError(
                f"Expected a sampling_rate in [{LEAST_SAMPLING_RATE:g}, 1], got {rate!r}."
            )
        if self.times > MOST_TIMES:
            raise PrivacyError(f"Expected at most {MOST_TIMES} sampled sums, got {self.times}.")
        if rate < 1.0 and everyone.noise_multiplier() < LEAST_NOISE_MULTIPLIER:
            raise PrivacyError(
                f"The noise of a sampled sum is {everyone.noise_multiplier():.3g} of what one "
                f"person changes; at least {LEAST_NOISE_MULTIPLIER:g} is needed."
            )

    def for_everyone(self) -> GaussianEvents:
        """Returns the same sums taken over everyone, who always takes part: never cheaper."""
        return GaussianEvents(
            sensitivity_squared=self.sensitivity_squared, variance=self.variance, times=self.times
        )

    def noise_multiplier(self) -> float:
        """Returns sigma_eff / sensitivity of one sum, the figure that other accountants take."""
        return self.for_everyone().noise_multiplier()

    def lost(self) -> float:
        """Returns the delta_0 that a statement about these sums must add to its delta."""
        return LOST_TO_SAMPLING if self.sampling_rate < 1.0 and self.times > 0 else 0.0

    def units(self) -> BudgetUnits:
        """Returns the mu^2 that dominates all `times` sums together, in budget units, rounded up.

        Rounded to five digits, so that two machines' floats hardly ever give two prices. Slow the
        first time (about a second, and two to import dp-accounting), then remembered.

        Raises:
            PrivacyError: the accountant warned, failed or lost more than delta_0, or no mu up to
                20 is enough.
        """
        units = _units_or_more(self)
        if units > _DEAREST and self.sampling_rate < 1.0:
            raise PrivacyError("The sampled sums have too little noise for a price to be counted.")
        return units


def sampled_variance_for(
    *, sensitivity_squared: int, sampling_rate: float, times: int, units: BudgetUnits
) -> int:
    """Returns the smallest variance at which `times` sampled sums cost at most `units` together.

    Within one part in a thousand, always toward more noise; never below `LEAST_SHARE_VARIANCE`,
    nor below the least noise that a sampled sum may have. Takes seconds.

    Raises:
        PrivacyError: `times` or `units` is less than one for each sum, a figure is out of its
            range, or the accountant failed.
    """

    def events(variance: int) -> SampledEvents:
        return SampledEvents(
            sensitivity_squared=sensitivity_squared,
            variance=variance,
            sampling_rate=sampling_rate,
            times=times,
        )

    if times < 1:
        raise PrivacyError("Noise for no sum at all was asked for.")
    units = min(units, _DEAREST) if sampling_rate < 1.0 else units
    enough = variance_for(
        sensitivity_squared=sensitivity_squared, units_each=BudgetUnits(units // times)
    )
    least = LEAST_SHARE_VARIANCE
    if sampling_rate < 1.0:
        needed = sensitivity_squared * LEAST_NOISE_MULTIPLIER**2 * (1 + 1e-9)
        least = max(least, math.ceil(needed) + ROUNDING_VARIANCE)
    high = max(enough, least)
    fits = events(high).units() <= units
    if fits and sampling_rate < 1.0:
        high = _least_variance(
            least=least,
            enough=high,
            guess=_clt_variance(sensitivity_squared, sampling_rate, times, units),
            excess=lambda variance: math.log(_units_or_more(events(variance)) / units),
        )
    if not fits or events(high).units() > units:
        raise PrivacyError("No noise was found at which the sampled sums cost what they may.")
    return high


def _clt_variance(
    sensitivity_squared: int, sampling_rate: float, times: int, units: BudgetUnits
) -> float:
    """Returns where to look first: mu = q sqrt(T (exp(1/sigma^2) - 1)) in the limit of many sums.

    Bu, Dong, Long and Su 2020, "Deep learning with Gaussian differential privacy".
    """
    each = units / UNITS_PER_MU_SQUARED / (sampling_rate**2 * times)
    return sensitivity_squared / math.log1p(each) + ROUNDING_VARIANCE


def _least_variance(
    *, least: int, enough: int, guess: float, excess: Callable[[int], float]
) -> int:
    """Returns a variance in [least, enough] that fits, a thousandth above one that does not.

    Secants on logarithms, on which the price is nearly straight, enclosed; then halving.

    Args:
        least: the least that may be returned.
        enough: a variance that fits.
        guess: where to look first.
        excess: log of the price over what may be paid: it fits at or below 0. Decreasing.
    """
    low, high = least - 1, enough
    power, before = 1.0, (0, 0.0)
    for step in range(64):
        if high - low <= max(1, high // 1000):
            break
        if step > 12 or not low < guess < high:
            guess = math.sqrt(low * high)
        variance = min(max(round(guess), low + 1), high - 1)
        over = excess(variance)
        low, high = (variance, high) if over > 0 else (low, variance)
        if before[0] and abs(change := math.log(variance / before[0])) > 1e-4:
            power = min(max((before[1] - over) / change, 0.5), 20.0)
        before = (variance, over)
        # Past the crossing by a little, so that it is soon enclosed from both sides.
        guess = variance * math.exp(over / power + math.copysign(3e-4, over))
    return high


def _units_or_more(events: SampledEvents) -> BudgetUnits:
    """Returns `events.units()`; more than `_DEAREST` if it is more."""
    everyone = events.for_everyone().units()
    if events.sampling_rate == 1.0 or events.times == 0:
        return everyone
    sampled = _dominating(events.noise_multiplier(), events.sampling_rate, events.times)
    return min(everyone, sampled)


@lru_cache(maxsize=1024)
def _dominating(noise_multiplier: float, sampling_rate: float, times: int) -> BudgetUnits:
    epsilons, deltas = _profile(noise_multiplier, sampling_rate, times)
    if not dominates(_DEAREST, epsilons, deltas):
        return BudgetUnits(LARGEST_UNITS)
    if dominates(_CHEAPEST, epsilons, deltas):
        return _CHEAPEST
    low, high = int(_CHEAPEST), int(_DEAREST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if dominates(BudgetUnits(middle), epsilons, deltas) else (middle, high)
        )
    return _rounded_up(high)


def _rounded_up(units: int) -> BudgetUnits:
    step = int(10 ** max(0, len(str(units)) - 5))
    return BudgetUnits(-(-units // step) * step)


def dominates(
    units: BudgetUnits, epsilons: NDArray[np.float64], deltas: NDArray[np.float64]
) -> bool:
    """Returns whether mu^2 = `units`, after delta_0 is lost, covers a decreasing profile.

    Args:
        units: mu^2 in budget units, in [100, 4 * 10^14].
        epsilons: increasing, from 0 on. Shape (points,).
        deltas: upper bounds of delta at `epsilons`, float error not counted. Shape (points,).
    """
    covered = LOST_TO_SAMPLING + (1 - LOST_TO_SAMPLING) * _delta_below(units, epsilons[1:])
    needed = deltas + _ARITHMETIC
    return bool(np.all(needed[:-1] <= covered) and needed[-1] <= LOST_TO_SAMPLING)


def _delta_below(units: BudgetUnits, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns a lower bound of the Gaussian delta at each epsilon, float error counted.

    With a = mu/2 - epsilon/mu and b = a - mu, exp(epsilon - b^2/2) = exp(-a^2/2), so that

        delta = exp(-a^2/2) (erfcx(-a/sqrt 2) - erfcx(-b/sqrt 2)) / 2,

    a difference of smooth numbers instead of vanishing ones. erfcx is good to a few 10^-16; each is
    moved by 10^-13 to the safe side.
    """
    from scipy.special import erfcx  # noqa: PLC0415  slow to import, needed only for a price

    mu = math.sqrt(units / UNITS_PER_MU_SQUARED)
    a = mu / 2 - epsilons / mu
    told = erfcx(-a / math.sqrt(2)) * (1 - _FLOAT_ERROR)
    not_told = erfcx((mu - a) / math.sqrt(2)) * (1 + _FLOAT_ERROR)
    below: NDArray[np.float64] = np.maximum(np.exp(-(a**2) / 2) * (told - not_told) / 2, 0.0)
    return below


def _profile(
    noise_multiplier: float, sampling_rate: float, times: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns epsilons from 0 on and an upper bound of the sums' delta in both directions at each.

    The last delta is at most `_ARITHMETIC`, unless the last epsilon is `_FURTHEST`.

    Raises:
        PrivacyError: the accountant warned or failed, or its profile does not fall below delta_0.
    """
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415  two seconds to import

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            composed = privacy_loss_distribution.from_gaussian_mechanism(
                noise_multiplier,
                sampling_prob=sampling_rate,
                pessimistic_estimate=True,
                value_discretization_interval=_interval(noise_multiplier, sampling_rate),
            ).self_compose(times)
            furthest = float(composed.get_epsilon_for_delta(_ARITHMETIC)) * (1 + 1e-6)
            if not math.isfinite(furthest):
                raise PrivacyError("The accountant lost more of the sampled sums than is allowed.")
            epsilons = np.linspace(0.0, min(max(furthest, 1e-9), _FURTHEST), _GRID_POINTS)
            deltas = np.asarray(composed.get_delta_for_epsilon(epsilons), dtype=np.float64)
        except (Warning, ValueError, OverflowError) as error:
            raise PrivacyError(f"The accountant is not sure of sampled sums: {error}") from error
    falls = bool(np.all(np.diff(deltas) <= _ARITHMETIC))
    ends = furthest > _FURTHEST or deltas[-1] <= _ARITHMETIC
    if not (falls and ends and 0.0 <= deltas[0] <= 1.01):
        raise PrivacyError("The accountant gives a profile of sampled sums that cannot be one.")
    return epsilons, np.minimum(deltas, 1.0)


def _interval(noise_multiplier: float, sampling_rate: float) -> float:
    """Returns the width of the library's cells: a part of the privacy loss of one sum.

    A fiftieth of its standard deviation, but at most 10^5 cells to the largest loss that matters.
    Any width is sound; a wider one costs more units.
    """
    one = 1 / noise_multiplier
    deviation = sampling_rate * math.sqrt(math.expm1(one**2))
    largest = math.log1p(sampling_rate * math.expm1(one * (one / 2 + 10.3)))
    return max(deviation / 50, largest / 10**5, 1e-8)
