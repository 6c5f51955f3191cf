"""Sampled sums: the units dominate the whole profile, both ways, and are not much too dear."""

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant

from federation.errors import PrivacyError
from federation.privacy import accountant, sampled
from federation.privacy.accountant import epsilon_of, opinions
from federation.privacy.events import LEAST_SHARE_VARIANCE, GaussianEvents
from federation.privacy.sampled import (
    LOST_TO_SAMPLING,
    SampledEvents,
    dominates,
    sampled_variance_for,
)
from federation.privacy.units import UNITS_PER_MU_SQUARED, BudgetUnits, Delta
from tests.privacy.reference_price import true_delta
from tests.privacy.reference_sampled import composed_deltas, one_sum_delta

DELTA = Delta(1e-6)
SENSITIVITY_SQUARED = 2**48

# Sampling rate, sums, noise multiplier, and what the domination costs of epsilon at 10^-6.
TRAININGS = (
    (0.1, 200, 1.5, 0.05),
    (0.02, 2000, 0.8, 0.07),
    (0.02, 2000, 3.0, 0.01),
    (0.5, 2000, 20.0, 0.001),
    (0.5, 20, 4.0, 0.02),
    (0.2, 500, 6.0, 0.005),
    (0.02, 20, 1.0, 0.55),  # few and loud: far from any Gaussian
)


def events(rate: float, times: int, multiplier: float) -> SampledEvents:
    return SampledEvents(
        sensitivity_squared=SENSITIVITY_SQUARED,
        variance=math.floor(SENSITIVITY_SQUARED * multiplier**2) + 4,
        sampling_rate=rate,
        times=times,
    )


def covered(units: int, epsilon: float) -> float:
    """Returns the profile of "delta_0 everything, else mu": to fifty digits before rounding."""
    return LOST_TO_SAMPLING + (1 - LOST_TO_SAMPLING) * float(true_delta(units, epsilon))


# The units dominate.


@pytest.mark.parametrize(("rate", "times", "multiplier", "_"), TRAININGS)
@pytest.mark.parametrize("remove", [True, False])
def test_the_units_cover_a_profile_computed_by_other_means_in_both_directions(
    rate: float, times: int, multiplier: float, _: float, remove: bool
) -> None:
    units = events(rate, times, multiplier).units()
    mu = math.sqrt(units / UNITS_PER_MU_SQUARED)
    epsilons = np.linspace(0.0, mu * (mu / 2 + 7), 40)
    deltas = composed_deltas(multiplier, rate, times, epsilons, remove=remove)
    assert deltas[0] > 1e-3 * mu
    for epsilon, delta in zip(epsilons, deltas, strict=True):
        assert delta <= covered(units, epsilon) * (1 + 1e-4)


@pytest.mark.parametrize(("rate", "multiplier"), [(0.5, 3.0), (0.02, 0.8), (0.9, 1.0)])
def test_one_sampled_sum_is_covered_exactly_at_every_epsilon(
    rate: float, multiplier: float
) -> None:
    units = events(rate, 1, multiplier).units()
    tightest = 0.0
    for epsilon in np.linspace(0.0, 12 / multiplier**2, 60):
        for remove in (True, False):
            delta = one_sum_delta(multiplier, rate, epsilon, remove=remove)
            assert delta <= covered(units, epsilon)
            tightest = max(tightest, delta / covered(units - units // 200, epsilon))
    assert tightest > 0.9


@pytest.mark.parametrize(("rate", "times", "multiplier", "_"), [TRAININGS[0], TRAININGS[4]])
def test_a_finer_discretisation_and_a_finer_grid_are_covered_and_half_a_percent_less_is_not(
    rate: float, times: int, multiplier: float, _: float
) -> None:
    units = events(rate, times, multiplier).units()
    composed = privacy_loss_distribution.from_gaussian_mechanism(
        multiplier,
        sampling_prob=rate,
        value_discretization_interval=sampled._interval(multiplier, rate) / 2,
    ).self_compose(times)
    end = composed.get_epsilon_for_delta(LOST_TO_SAMPLING / 2)
    epsilons = np.linspace(0.0, end * 1.001, 30_000)
    deltas = np.asarray(composed.get_delta_for_epsilon(epsilons))
    assert dominates(units, epsilons, deltas)
    assert not dominates(BudgetUnits(units - units // 200), epsilons, deltas)


def test_a_profile_that_sticks_out_anywhere_is_not_dominated() -> None:
    units = BudgetUnits(UNITS_PER_MU_SQUARED)
    epsilons = np.linspace(0.0, 8.0, 2001)
    below = np.array([float(true_delta(units, epsilon)) for epsilon in epsilons[1:]])
    deltas = np.append(below * (1 - 1e-6), 0.0)
    assert dominates(units, epsilons, deltas)
    for place in (0, 700, 1200, 2000):
        higher = deltas.copy()
        higher[place] = higher[place] * 1.0001 + 1.1e-10
        assert not dominates(units, epsilons, higher)
    assert not dominates(BudgetUnits(units - units // 1000), epsilons, deltas)


@pytest.mark.parametrize("mu", [1e-5, 1e-3, 0.1, 1.0, 6.0, 20.0])
def test_the_gaussian_delta_is_a_lower_bound_of_fifty_digits_and_close_to_it(mu: float) -> None:
    units = BudgetUnits(round(mu**2 * UNITS_PER_MU_SQUARED))
    epsilons = np.concatenate([[0.0], mu * (mu / 2 + np.linspace(-3, 7, 21))])
    epsilons = epsilons[epsilons >= 0]
    for epsilon, found in zip(epsilons, sampled._delta_below(units, epsilons), strict=True):
        exact = float(true_delta(units, epsilon))
        assert found <= exact
        assert found == pytest.approx(exact, rel=1e-5, abs=1e-13)


def test_float_error_of_the_composition_is_far_below_what_is_added_for_it() -> None:
    """Against an FFT with 64-bit mantissas where the machine has them, else against itself."""
    from dp_accounting.pld.common import self_convolve
    from scipy import fft

    loss = np.arange(-100, 101) / 33
    single = np.exp(-((loss - 0.05) ** 2) * 5)
    single /= single.sum()
    times = 1000
    start, found = self_convolve(list(single), times, 1e-15)
    size = fft.next_fast_len(200 * times + 1)
    padded = np.zeros(size, dtype=np.longdouble)
    padded[: len(single)] = single
    exact = fft.irfft(fft.rfft(padded) ** times, size)[start : start + len(found)]
    assert np.abs(np.asarray(found) - exact).sum() < LOST_TO_SAMPLING / 50


# What it costs.


@pytest.mark.parametrize(("rate", "times", "multiplier", "dearer"), TRAININGS)
def test_epsilon_is_never_below_pld_and_above_it_by_a_known_part(
    rate: float, times: int, multiplier: float, dearer: float
) -> None:
    units = events(rate, times, multiplier).units()
    stated = epsilon_of(units, Delta(DELTA - LOST_TO_SAMPLING))
    by_pld = (
        privacy_loss_distribution.from_gaussian_mechanism(
            multiplier, sampling_prob=rate, value_discretization_interval=5e-4
        )
        .self_compose(times)
        .get_epsilon_for_delta(DELTA)
    )
    assert by_pld <= stated * (1 + 1e-4)
    assert stated <= by_pld * (1 + dearer)


@pytest.mark.parametrize(("rate", "times", "multiplier", "_"), TRAININGS[:6])
def test_many_small_sums_cost_less_than_renyi_says(
    rate: float, times: int, multiplier: float, _: float
) -> None:
    event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(multiplier))
    by_rdp = RdpAccountant().compose(event, times).get_epsilon(DELTA)
    stated = epsilon_of(events(rate, times, multiplier).units(), Delta(DELTA - LOST_TO_SAMPLING))
    assert stated < by_rdp * 1.01


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "times", "multiplier", "dearer"), TRAININGS)
def test_epsilon_stands_to_the_prv_accountant_of_opacus_as_it_does_to_pld(
    rate: float, times: int, multiplier: float, dearer: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn of their own dependencies
        from opacus.accountants import PRVAccountant

        prv = PRVAccountant()
        prv.history = [(multiplier, rate, times)]
        by_prv = prv.get_epsilon(delta=DELTA, eps_error=0.01, delta_error=DELTA / 1000)
    stated = epsilon_of(events(rate, times, multiplier).units(), Delta(DELTA - LOST_TO_SAMPLING))
    assert by_prv - 0.02 <= stated <= by_prv * (1 + dearer) + 0.02


@pytest.mark.parametrize(
    ("rate", "times", "multiplier"), [(0.5, 2000, 20.0), (0.2, 500, 6.0), (0.01, 1000, 5.0)]
)
def test_many_small_sums_cost_what_the_central_limit_says(
    rate: float, times: int, multiplier: float
) -> None:
    limit = rate**2 * times * math.expm1(multiplier**-2)
    found = events(rate, times, multiplier).units() / UNITS_PER_MU_SQUARED
    assert limit < found < limit * 1.04


def test_everybody_in_every_sum_costs_exactly_what_unsampled_sums_cost() -> None:
    everybody = events(1.0, 40, 7.0)
    plain = GaussianEvents(
        sensitivity_squared=SENSITIVITY_SQUARED, variance=everybody.variance, times=40
    )
    assert everybody.units() == plain.units()
    assert everybody.lost() == 0.0
    assert everybody.noise_multiplier() == plain.noise_multiplier() == pytest.approx(7.0)


def test_sampling_never_costs_more_than_asking_everybody() -> None:
    nearly = events(1 - 1e-9, 40, 7.0)
    assert nearly.units() <= events(1.0, 40, 7.0).units()
    assert nearly.units() == pytest.approx(events(1.0, 40, 7.0).units(), rel=1e-3)
    assert nearly.lost() == LOST_TO_SAMPLING


def test_no_sums_cost_nothing_and_lose_nothing_of_delta() -> None:
    assert events(0.1, 0, 5.0).units() == 0
    assert events(0.1, 0, 5.0).lost() == 0.0


def test_hardly_anybody_under_very_much_noise_still_has_a_price() -> None:
    assert events(1e-6, 1, 10_000.0).units() == sampled._CHEAPEST


def test_a_price_has_five_digits_and_is_rounded_up() -> None:
    assert sampled._rounded_up(1_234_561_000) == 1_234_600_000
    assert sampled._rounded_up(1_234_600_000) == 1_234_600_000
    assert sampled._rounded_up(12_345) == 12_345
    assert sampled._rounded_up(123) == 123


def test_more_people_more_sums_or_less_noise_cost_more() -> None:
    middle = (0.1, 100, 3.0)
    price = events(*middle).units()
    for rate, times, multiplier in (
        (0.101, 100, 3.0),
        (0.1, 101, 3.0),
        (0.1, 100, 2.98),
    ):
        assert events(rate, times, multiplier).units() > price


# From the price to the noise.


@pytest.mark.parametrize(("rate", "times", "mu_squared"), [(0.1, 100, 0.05), (0.5, 20, 0.001)])
def test_the_noise_found_costs_at_most_what_it_may_and_a_thousandth_less_noise_costs_more(
    rate: float, times: int, mu_squared: float
) -> None:
    units = BudgetUnits(round(mu_squared * UNITS_PER_MU_SQUARED))
    found = sampled_variance_for(
        sensitivity_squared=SENSITIVITY_SQUARED, sampling_rate=rate, times=times, units=units
    )
    asked = replace(events(rate, times, 1.0), variance=found)
    assert asked.units() <= units
    assert replace(asked, variance=math.floor(found / 1.0011)).units() > units


def test_noise_for_everybody_is_that_of_unsampled_sums() -> None:
    found = sampled_variance_for(
        sensitivity_squared=2**40,
        sampling_rate=1.0,
        times=10,
        units=BudgetUnits(10 * UNITS_PER_MU_SQUARED),
    )
    assert found == 2**40 + 4


def test_noise_is_never_below_the_least_that_a_sampled_sum_may_have() -> None:
    found = sampled_variance_for(
        sensitivity_squared=2**40,
        sampling_rate=0.01,
        times=1,
        units=BudgetUnits(10**4 * UNITS_PER_MU_SQUARED),
    )
    assert found == pytest.approx(2**40 * 0.09, rel=1.1e-3)
    least = sampled_variance_for(
        sensitivity_squared=1,
        sampling_rate=0.5,
        times=1,
        units=BudgetUnits(UNITS_PER_MU_SQUARED),
    )
    assert least == LEAST_SHARE_VARIANCE


@pytest.mark.parametrize(
    "wrong", [{"times": 0}, {"units": 5}, {"units": 0}, {"sampling_rate": 0.0}]
)
def test_noise_that_cannot_be_found_is_refused(wrong: dict[str, Any]) -> None:
    right = {
        "sensitivity_squared": 2**40,
        "sampling_rate": 0.1,
        "times": 10,
        "units": BudgetUnits(10**10),
    }
    with pytest.raises(PrivacyError):
        sampled_variance_for(**{**right, **wrong})


# Refused.


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling_rate": 0.0},
        {"sampling_rate": -0.1},
        {"sampling_rate": 1.5},
        {"sampling_rate": math.nan},
        {"sampling_rate": math.inf},
        {"sampling_rate": 1e-7},
        {"sampling_rate": 1},
        {"times": -1},
        {"times": 20_001},
        {"times": 2.0},
        {"variance": LEAST_SHARE_VARIANCE - 1},
        {"variance": 2**48 // 12},  # a noise multiplier of 0.289
        {"sensitivity_squared": 0},
    ],
)
def test_figures_out_of_their_range_are_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {
        "sensitivity_squared": 2**48,
        "variance": 2**50,
        "sampling_rate": 0.1,
        "times": 10,
    }
    SampledEvents(**right)
    with pytest.raises(PrivacyError):
        SampledEvents(**{**right, **wrong})


def test_sums_that_tell_too_much_have_no_price() -> None:
    with pytest.raises(PrivacyError, match="too little noise"):
        events(0.9, 2000, 0.5).units()


@pytest.fixture
def _nothing_remembered() -> Any:
    sampled._dominating.cache_clear()
    yield
    sampled._dominating.cache_clear()


@pytest.mark.usefixtures("_nothing_remembered")
@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("get_epsilon_for_delta", math.inf, "lost more"),
        ("get_epsilon_for_delta", math.nan, "lost more"),
        ("get_delta_for_epsilon", lambda epsilons: np.full(len(epsilons), 0.5), "cannot be one"),
        ("get_delta_for_epsilon", lambda epsilons: epsilons * math.nan, "cannot be one"),
        ("get_delta_for_epsilon", lambda epsilons: np.full(len(epsilons), 1.02), "cannot be one"),
        ("get_delta_for_epsilon", lambda epsilons: np.zeros(len(epsilons)) - 1, "cannot be one"),
        ("get_delta_for_epsilon", lambda epsilons: np.sin(epsilons * 9), "cannot be one"),
    ],
)
def test_an_accountant_that_gives_nonsense_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, method: str, answer: Any, message: str
) -> None:
    owner = privacy_loss_distribution.PrivacyLossDistribution
    monkeypatch.setattr(owner, method, lambda _, x: answer(x) if callable(answer) else answer)
    with pytest.raises(PrivacyError, match=message):
        events(0.1, 10, 3.0).units()


@pytest.mark.usefixtures("_nothing_remembered")
def test_an_accountant_that_warns_or_fails_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def warns(*_: object, **__: object) -> None:
        warnings.warn("did not converge", RuntimeWarning, stacklevel=1)

    def fails(*_: object, **__: object) -> None:
        raise OverflowError("too large")

    for replaced in (warns, fails):
        monkeypatch.setattr(privacy_loss_distribution, "from_gaussian_mechanism", replaced)
        with pytest.raises(PrivacyError, match="not sure"):
            events(0.1, 10, 3.0).units()


# Beside the other accountants.


def test_the_opinions_on_sampled_and_unsampled_sums_stand_in_their_order() -> None:
    binned = GaussianEvents(sensitivity_squared=2**32, variance=2**32 * 400, times=1)
    found = opinions((binned, events(0.2, 60, 4.0)), DELTA)
    assert found.pld <= found.exact <= found.pld * 1.05
    assert found.pld <= found.rdp
    alone = opinions((events(0.2, 60, 4.0),), DELTA)
    assert alone.exact < found.exact
    assert alone.pld < found.pld


def test_sampled_sums_for_everybody_have_the_opinions_of_unsampled_ones() -> None:
    everybody = events(1.0, 10, 12.0)
    assert opinions((everybody,), DELTA) == opinions((everybody.for_everyone(),), DELTA)


def test_a_price_of_sampled_sums_that_is_too_low_is_refused_by_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = accountant.epsilon_of
    monkeypatch.setattr(accountant, "epsilon_of", lambda units, delta: honest(units, delta) * 0.9)
    with pytest.raises(PrivacyError, match="contradict"):
        opinions((events(0.2, 60, 4.0),), DELTA)


def test_a_delta_that_sampling_loses_is_refused() -> None:
    with pytest.raises(PrivacyError, match="state a larger one"):
        opinions((events(0.2, 60, 4.0),), Delta(LOST_TO_SAMPLING))


def test_what_sampling_loses_is_taken_from_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    honest = accountant.epsilon_of

    def noted(units: BudgetUnits, delta: Delta) -> float:
        asked.append(delta)
        return honest(units, delta)

    monkeypatch.setattr(accountant, "epsilon_of", noted)
    opinions((events(0.2, 60, 4.0), events(0.1, 20, 4.0), events(0.1, 0, 4.0)), DELTA)
    assert asked == [DELTA - 2 * LOST_TO_SAMPLING]
