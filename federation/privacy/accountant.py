r"""Budget units to (epsilon, delta) and back, with two independent opinions.

The headline is the exact trade-off of Gaussian differential privacy (Balle and Wang 2018, Theorem
8; Dong, Roth and Su 2022, Corollary 2.13): a sum of mu^2 corresponds to

    delta(epsilon) = Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu).

It is what the ledger's filter charges, so one figure serves plan, policy and ledger. The privacy
loss distribution (PLD) and Renyi (RDP) accountants of dp-accounting are asked as well when people
look at a plan's price (`opinions`); if they do not stand to it as they must, there is no price.
Sums over a Poisson sample have no exact mu^2; they are charged one that dominates them (`sampled`).
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from federation.errors import PrivacyError
from federation.privacy.discrete_gaussian import LOST_MASS, RELATIVE_ERROR
from federation.privacy.events import GaussianEvents
from federation.privacy.sampled import SampledEvents
from federation.privacy.units import UNITS_PER_MU_SQUARED, BudgetUnits, Delta, Epsilon

if TYPE_CHECKING:
    import dp_accounting

LARGEST_EPSILON = 100.0
"""Above this a bound protects nobody; asking for more is refused as a mistake."""

_PLD_INTERVAL = 1e-4

_SAMPLED_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)
"""Renyi orders for sums over a sample: at whole ones the bound is a finite sum, at others a series
that dp-accounting leaves out of the answer when it does not converge."""


def require_target(epsilon: float, delta: float) -> tuple[Epsilon, Delta]:
    """Returns the target as checked types.

    Raises:
        PrivacyError: epsilon is not in (0, 100] or delta not in (0, 1); zero, negative numbers,
            NaN and infinity are refused.
    """
    if not (math.isfinite(epsilon) and 0.0 < epsilon <= LARGEST_EPSILON):
        raise PrivacyError(f"Expected epsilon={epsilon!r} in (0, {LARGEST_EPSILON:g}].")
    if not (math.isfinite(delta) and 0.0 < delta < 1.0):
        raise PrivacyError(f"Expected delta={delta!r} in (0, 1).")
    return Epsilon(float(epsilon)), Delta(float(delta))


def delta_of(units: BudgetUnits, epsilon: float) -> float:
    """Returns the exact delta at which mu^2 = units * 10^-12 gives `epsilon`, in [0, 1]."""
    mu = math.sqrt(units / UNITS_PER_MU_SQUARED)
    if mu == 0.0:
        return 0.0
    first = math.erfc((epsilon / mu - mu / 2) / math.sqrt(2)) / 2
    second = math.erfc((epsilon / mu + mu / 2) / math.sqrt(2)) / 2
    return max(0.0, first - math.exp(epsilon) * second)


def epsilon_of(units: BudgetUnits, delta: Delta) -> Epsilon:
    """Returns the exact epsilon of a mu^2 at `delta`, rounded up by at most one part in 10^9.

    Returns infinity where it would exceed 700, beyond the range of the formula.
    """
    low, high = 0.0, 700.0
    if delta_of(units, low) <= delta:
        return Epsilon(0.0)
    if not delta_of(units, high) <= delta:  # a delta that is NaN as well
        return Epsilon(math.inf)
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(units, middle) > delta else (low, middle)
    return Epsilon(high * (1 + 5e-10))


@lru_cache(maxsize=1024)  # every message is held against the same limits
def units_within(epsilon: Epsilon, delta: Delta) -> BudgetUnits:
    """Returns the largest mu^2, in budget units, whose epsilon at `delta` is at most `epsilon`."""
    low, high = 0, 10**4 * UNITS_PER_MU_SQUARED
    while high - low > 1:
        middle = (low + high) // 2
        fits = epsilon_of(BudgetUnits(middle), delta) <= epsilon
        low, high = (middle, high) if fits else (low, middle)
    return BudgetUnits(low)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSlack:
    """What the sampler's distance from the exact distribution costs: added, tiny, stated."""

    epsilon: float
    delta: float


def sampler_slack(coordinates: int, *, epsilon: float, delta: float) -> SamplerSlack:
    """Returns the price of an inexact sampler over all noisy coordinates that are ever answered.

    If every probability is off by a factor within exp(+-eta/2) and a mass of `lost` is missing, an
    (epsilon, delta) statement becomes (epsilon + eta, exp(eta) delta + (1 + exp(epsilon)) lost).

    Args:
        coordinates: noise samples behind the statement: vector length x answers x institutions.
        epsilon: the target.
        delta: the target.
    """
    eta = 2 * coordinates * RELATIVE_ERROR
    lost = coordinates * LOST_MASS
    return SamplerSlack(epsilon=eta, delta=math.expm1(eta) * delta + (1 + math.exp(epsilon)) * lost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinions:
    """Epsilon of the same events at the same delta by three ways of counting.

    Attributes:
        exact: what the units of the ledger say: exact for sums over everyone, an upper bound for
            sums over a sample, what sampling loses of delta included.
        pld: the privacy loss distribution's upper bound.
        rdp: the Renyi upper bound.
    """

    exact: Epsilon
    pld: Epsilon
    rdp: Epsilon


def opinions(events: Sequence[GaussianEvents | SampledEvents], delta: Delta) -> Opinions:
    """Returns the ledger's epsilon beside dp-accounting's PLD and RDP upper bounds.

    Args:
        events: all that is answered about one population, at least one of them.
        delta: the failure probability the three are stated at.

    Raises:
        PrivacyError: an accountant warned, did not converge, or the three do not stand in their
            order exact <= PLD <= RDP (to within the PLD's discretisation; sums over a sample may
            be charged more than PLD, never less): no price is better than one that cannot be
            trusted. Or sampling loses all of delta.
    """
    import dp_accounting  # noqa: PLC0415  two seconds to import, needed only when a plan is priced
    from dp_accounting import pld, rdp  # noqa: PLC0415  as above

    lost = sum(event.lost() for event in events if isinstance(event, SampledEvents))
    if lost >= delta:
        raise PrivacyError(f"Sampling loses {lost:g} of delta {delta:g}: state a larger one.")
    units = BudgetUnits(sum(event.units() for event in events))
    exact = epsilon_of(units, Delta(delta - lost))
    composed = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(_dp_event(event), event.times)
            for event in events
            if event.times > 0
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            by_pld = (
                pld.PLDAccountant(value_discretization_interval=_PLD_INTERVAL)
                .compose(composed)
                .get_epsilon(delta)
            )
            orders = _SAMPLED_ORDERS if lost > 0 else None
            by_rdp = rdp.RdpAccountant(orders).compose(composed).get_epsilon(delta)
        except (Warning, ValueError, OverflowError) as error:
            raise PrivacyError(f"An accountant is not sure of this plan: {error}") from error
    result = Opinions(exact=exact, pld=Epsilon(float(by_pld)), rdp=Epsilon(float(by_rdp)))
    discretisation = _PLD_INTERVAL * sum(event.times for event in events)
    in_order = by_pld <= by_rdp + discretisation and by_pld <= exact * 1.01 + discretisation
    if not (in_order and (lost > 0 or exact <= by_pld + 1e-9 + 1e-6 * exact)):
        raise PrivacyError(
            f"The accountants contradict each other (exact {exact:.6g}, PLD {by_pld:.6g}, "
            f"RDP {by_rdp:.6g}): this plan has no trustworthy price."
        )
    return result


def _dp_event(event: GaussianEvents | SampledEvents) -> "dp_accounting.DpEvent":
    """Returns one answer in the words of dp-accounting."""
    import dp_accounting  # noqa: PLC0415  as in `opinions`

    gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier())
    if isinstance(event, SampledEvents) and event.sampling_rate < 1.0:
        return dp_accounting.PoissonSampledDpEvent(event.sampling_rate, gaussian)
    return gaussian
