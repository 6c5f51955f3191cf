"""Ways of counting the same events, each with what it says of its own error.

The product's three (its ledger, PLD and RDP) are asked through the product. The others are asked
here: the PRV accountants of Opacus and of Microsoft, zero-concentrated privacy in two conversions,
and the central limit of sampled sums, which is no bound. An accountant that warns or fails is shown
with its words.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import dp_accounting
import msgspec
from dp_accounting import pld, rdp
from scipy.optimize import minimize_scalar

from federation.course import Events
from federation.errors import PrivacyError
from federation.privacy.accountant import (
    LARGEST_EPSILON,
    Opinions,
    delta_of,
    epsilon_of,
    opinions,
)
from federation.privacy.sampled import SampledEvents
from federation.privacy.units import UNITS_PER_MU_SQUARED, BudgetUnits, Delta

PRV_ERROR: Final = 0.001
"""Of epsilon, each way, that PRV accountants are asked to keep; of delta a thousandth of it."""

_FAILURES: Final = (ArithmeticError, ValueError, RuntimeError, PrivacyError)

Span = tuple[float | None, float]
"""The accountant's own lower bound, if it states one, and the bound that it stands to."""


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """What an accountant says.

    Attributes:
        epsilon: the bound that it stands to; None if it gives none.
        least: its own lower bound; None if it states none.
        said: what it warned of, or why it gives no bound.
    """

    epsilon: float | None
    least: float | None = None
    said: tuple[str, ...] = ()


def rate_of(event: Events) -> float:
    """Returns the probability with which a person takes part in each of the sums."""
    return event.sampling_rate if isinstance(event, SampledEvents) else 1.0


@lru_cache(maxsize=256)
def _ours(events: tuple[Events, ...], delta: float) -> Opinions:
    return opinions(events, Delta(delta))


def _ledger(events: tuple[Events, ...], delta: float) -> Span:
    """The ledger's: exact for sums over everybody, a dominating mu^2 for sampled ones."""
    return None, _ours(events, delta).exact


def _pld(events: tuple[Events, ...], delta: float) -> Span:
    return None, _ours(events, delta).pld


def _rdp(events: tuple[Events, ...], delta: float) -> Span:
    return None, _ours(events, delta).rdp


def _opacus(events: tuple[Events, ...], delta: float) -> Span:
    """Gopi, Lee and Wutschitz 2021 as Opacus has it; it returns its upper end only.

    The lower end is its upper one at the delta a stated error above, less both errors of epsilon.
    """
    from opacus.accountants import PRVAccountant  # noqa: PLC0415  six seconds to import

    accountant = PRVAccountant()
    accountant.history = [(one.noise_multiplier(), rate_of(one), one.times) for one in events]
    error = {"eps_error": PRV_ERROR, "delta_error": delta / 1000}
    above = float(accountant.get_epsilon(delta * 1.002, **error))
    return above - 2 * PRV_ERROR, float(accountant.get_epsilon(delta, **error))


def _microsoft(events: tuple[Events, ...], delta: float) -> Span:
    """Gopi, Lee and Wutschitz 2021 by its authors."""
    import prv_accountant  # noqa: PLC0415  only an experiment needs it

    times = [one.times for one in events]
    accountant = prv_accountant.PRVAccountant(
        [
            prv_accountant.GaussianMechanism(one.noise_multiplier())
            if rate_of(one) == 1
            else prv_accountant.PoissonSubsampledGaussianMechanism(
                rate_of(one), one.noise_multiplier()
            )
            for one in events
        ],
        eps_error=PRV_ERROR,
        delta_error=delta / 1000,
        max_self_compositions=times,
    )
    least, _, most = accountant.compute_epsilon(delta, times)
    return float(least), float(most)


def rho_of(events: tuple[Events, ...]) -> float:
    """Returns rho of zero-concentrated privacy: half of mu^2, as if nobody were sampled.

    Sampling does not lower it: the Renyi divergence of a sampled Gaussian grows with its order as
    that of an unsampled one, in the limit, and rho must bound it at every order.
    """
    return sum(one.times / (2 * one.noise_multiplier() ** 2) for one in events)


def tight_zcdp(rho: float, delta: float) -> float:
    """Returns epsilon of rho-zCDP by Canonne, Kamath and Steinke 2020, Proposition 12, best order.

    Every order gives a bound, so that the search for the best one cannot make it wrong.
    """

    def at(log_of_order_less_one: float) -> float:
        less_one = math.exp(log_of_order_less_one)
        order = 1 + less_one
        return rho * order - (math.log(delta) + math.log(order)) / less_one + math.log1p(-1 / order)

    best = minimize_scalar(at, bounds=(-10, 15), method="bounded", options={"xatol": 1e-9})
    return max(0.0, float(best.fun))


def plain_zcdp(rho: float, delta: float) -> float:
    """Returns epsilon of rho-zCDP by Bun and Steinke 2016, Proposition 1.3."""
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def _tight(events: tuple[Events, ...], delta: float) -> Span:
    return None, tight_zcdp(rho_of(events), delta)


def _plain(events: tuple[Events, ...], delta: float) -> Span:
    return None, plain_zcdp(rho_of(events), delta)


def _limit(events: tuple[Events, ...], delta: float) -> Span:
    """The Gaussian limit of many sampled sums (Bu, Dong, Long and Su 2020): not a bound."""
    squared = sum(
        one.times * rate_of(one) ** 2 * math.expm1(one.noise_multiplier() ** -2)
        if rate_of(one) < 1
        else one.times / one.noise_multiplier() ** 2
        for one in events
    )
    units = BudgetUnits(math.ceil(squared * UNITS_PER_MU_SQUARED))
    return None, epsilon_of(units, Delta(delta))


LEDGER, PLD, RDP = "ledger", "PLD", "RDP"
OPACUS, MICROSOFT = "PRV, Opacus", "PRV, Microsoft"
TIGHT, PLAIN, LIMIT = "zCDP 2020", "zCDP 2016", "Gaussian limit"

ACCOUNTANTS: Final[Mapping[str, Callable[[tuple[Events, ...], float], Span]]] = {
    LEDGER: _ledger,
    PLD: _pld,
    MICROSOFT: _microsoft,
    OPACUS: _opacus,
    RDP: _rdp,
    TIGHT: _tight,
    PLAIN: _plain,
    LIMIT: _limit,
}


def counted(accountant: str, events: tuple[Events, ...], delta: float) -> Count:
    """Returns what an accountant says of events, its warnings and failures included."""
    if accountant == OPACUS:
        _import_opacus()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            least, epsilon = ACCOUNTANTS[accountant](events, delta)
        except _FAILURES as error:
            return Count(epsilon=None, said=(_shortened(error),))
    said = tuple(dict.fromkeys(_shortened(one.message) for one in heard))
    if not math.isfinite(epsilon):
        return Count(epsilon=None, said=(*said, f"says {epsilon}"))
    return Count(epsilon=epsilon, least=least, said=said)


def _import_opacus() -> None:
    """Imports it once; what its imports warn of is not about our events."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import opacus.accountants  # noqa: F401, PLC0415  as in `_opacus`


def _shortened(said: object) -> str:
    text = " ".join(str(said).split())
    return text if len(text) <= 90 else f"{text[:87]}..."


def group_delta(units: BudgetUnits, epsilon: float, times: int) -> float:
    """Returns the delta at which a group of `times` has times x epsilon, whatever the mechanism.

    (epsilon, delta) for one becomes (k epsilon, delta (e^(k epsilon) - 1) / (e^epsilon - 1)) for k
    (Vadhan 2017, "The complexity of differential privacy", Lemma 2.2, summed). Infinity where it
    cannot be computed.
    """
    try:
        growth = math.expm1(times * epsilon) / math.expm1(epsilon)
    except OverflowError:
        return math.inf
    return delta_of(units, epsilon) * growth


def generic(units: BudgetUnits, times: int, delta: float) -> float | None:
    """Returns the group's epsilon at `delta`: the best epsilon of one to start from, times k."""
    low, high = 1e-9, 500.0 / times
    if group_delta(units, high, times) > delta:
        return None
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if group_delta(units, middle, times) > delta else (low, middle)
    return times * high if times * high <= LARGEST_EPSILON else None


# One by one, for the clock: the product asks PLD and RDP together.

INTERVAL: Final = 1e-4
WHOLE_ORDERS: Final = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)


def composed(events: tuple[Events, ...]) -> dp_accounting.DpEvent:
    """Returns events in the words of dp-accounting."""

    def each(event: Events) -> dp_accounting.DpEvent:
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier())
        if rate_of(event) == 1:
            return gaussian
        return dp_accounting.PoissonSampledDpEvent(rate_of(event), gaussian)

    return dp_accounting.ComposedDpEvent(
        [dp_accounting.SelfComposedDpEvent(each(one), one.times) for one in events]
    )


def pld_alone(events: tuple[Events, ...], delta: float) -> float:
    """Returns what PLD says with the settings that the product asks it with."""
    accountant = pld.PLDAccountant(value_discretization_interval=INTERVAL)
    return float(accountant.compose(composed(events)).get_epsilon(delta))


def rdp_alone(events: tuple[Events, ...], delta: float) -> float:
    """Returns what RDP says, likewise."""
    orders = WHOLE_ORDERS if any(rate_of(one) < 1 for one in events) else None
    return float(rdp.RdpAccountant(orders).compose(composed(events)).get_epsilon(delta))


def cpu_seconds(work: Callable[[], object]) -> float:
    """Returns the CPU seconds of this process that a piece of work takes."""
    before = time.process_time()
    work()
    return time.process_time() - before
