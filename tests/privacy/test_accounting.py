"""Prices: exact <= PLD <= RDP, monotone, tight, rounded up, refused when in doubt."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from typing import Any

import dp_accounting
import mpmath
import msgspec
import pytest
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from clients.policy import Policy
from federation.errors import ConfigurationError, PrivacyError
from federation.learning import Joint, ScorecardModel
from federation.plan import Noise, Participation, Plan, Target, load_plan, plan_toml
from federation.pricing import noise_for, price_of
from federation.privacy import accountant
from federation.privacy.accountant import (
    delta_of,
    epsilon_of,
    opinions,
    require_target,
    sampler_slack,
    units_within,
)
from federation.privacy.events import (
    LEAST_SHARE_VARIANCE,
    GaussianEvents,
    variance_for,
)
from federation.privacy.units import (
    LARGEST_UNITS,
    BudgetUnits,
    Delta,
    Epsilon,
    Population,
    Price,
)
from tests.federations import KEY, names, signed_plan, small_schema
from tests.privacy.reference_price import (
    exact_units,
    true_delta,
    true_epsilon,
    units_owed,
)

SCHEMA = small_schema()
DELTA = Delta(1e-6)
PER_ONE = 10**12


def with_noise(plan: Plan, **changes: int) -> Plan:
    noise = msgspec.structs.replace(plan.noise, **changes)
    return msgspec.structs.replace(plan, noise=noise).signed(KEY)


# Three ways of counting.


@pytest.mark.parametrize(
    ("epsilon", "rounds", "colluders", "institutions"),
    [(0.1, 1, 1, 4), (0.5, 5, 2, 6), (1.0, 20, 1, 10), (4.0, 40, 3, 10), (10.0, 3, 1, 3)],
)
def test_exact_is_at_most_pld_and_pld_at_most_rdp(
    epsilon: float, rounds: int, colluders: int, institutions: int
) -> None:
    plan = signed_plan(
        SCHEMA,
        epsilon=epsilon,
        rounds=rounds,
        colluders=colluders,
        invited=names(institutions),
    )
    price = price_of(plan, SCHEMA)
    for population in Population:
        found = price.opinions(population)
        times = sum(event.times for event in price.events[population])
        assert found.exact <= found.pld * (1 + 2e-9)  # the headline is rounded up
        assert found.pld <= found.rdp + 1e-4 * times
        assert found.pld <= found.exact * 1.01 + 1e-4 * times
        assert found.rdp <= 1.6 * found.exact + 0.1
        assert found.exact <= epsilon


@pytest.mark.parametrize("mu", [1e-3, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.1, 1.0, 4.0, 10.0])
def test_delta_is_that_of_dp_accounting_and_of_fifty_digits(mu: float, epsilon: float) -> None:
    units = BudgetUnits(round(mu**2 * PER_ONE))
    exact = true_delta(units, epsilon)
    theirs = GaussianPrivacyLoss(
        standard_deviation=1 / mu,
        adjacency_type=dp_accounting.pld.privacy_loss_mechanism.AdjacencyType.ADD,
    ).get_delta_for_epsilon(epsilon)
    found = delta_of(units, epsilon)
    assert found == pytest.approx(float(exact), rel=1e-7, abs=1e-16)
    assert found == pytest.approx(theirs, rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-9, 1e-12, 1e-15])
@pytest.mark.parametrize("mu", [1e-4, 1e-3, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0])
def test_epsilon_is_never_below_fifty_digits_and_at_most_two_parts_in_a_billion_above(
    mu: float, delta: float
) -> None:
    units = BudgetUnits(round(mu**2 * PER_ONE))
    exact = true_epsilon(units, delta)
    found = epsilon_of(units, Delta(delta))
    assert found >= exact
    assert found <= exact * (1 + 2e-9)


def test_no_noise_to_speak_of_costs_infinity_and_nothing_costs_nothing() -> None:
    assert epsilon_of(BudgetUnits(0), DELTA) == 0.0
    assert epsilon_of(BudgetUnits(2500 * PER_ONE), DELTA) == math.inf
    assert delta_of(BudgetUnits(0), 1.0) == 0.0
    assert delta_of(BudgetUnits(10**6 * PER_ONE), 1.0) == pytest.approx(1.0)


def test_a_target_that_is_no_number_allows_nothing_however_often_it_is_asked() -> None:
    nan = math.nan
    for _ in range(2):
        assert units_within(Epsilon(nan), DELTA) == 0
        assert units_within(Epsilon(1.0), Delta(nan)) == 0
    assert epsilon_of(BudgetUnits(PER_ONE), Delta(nan)) == math.inf


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 1.0, 8.0, 100.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-9])
def test_the_most_units_within_a_target_are_within_it_and_a_few_more_are_not(
    epsilon: float, delta: float
) -> None:
    found = units_within(*require_target(epsilon, delta))
    assert epsilon_of(found, Delta(delta)) <= epsilon
    assert epsilon_of(BudgetUnits(found + found // 10**6 + 2), Delta(delta)) > epsilon


# Monotone.


@given(st.integers(1, 100 * PER_ONE), st.integers(1, 100 * PER_ONE), st.floats(1e-12, 1e-2))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_more_units_never_cost_less_epsilon(first: int, second: int, delta: float) -> None:
    less, more = sorted((first, second))
    low = epsilon_of(BudgetUnits(less), Delta(delta))
    assert low <= epsilon_of(BudgetUnits(more), Delta(delta)) * (1 + 1e-9)


def noise(**changes: Any) -> Noise:
    institutions = changes.pop("institutions", 10)
    quorum, colluders = changes.pop("quorum", 8), changes.pop("colluders", 1)
    spare = changes.pop("spare", 2)
    participation = Participation(
        invited=names(institutions),
        quorum=quorum,
        threshold=(institutions + colluders) // 2 + 1,
        colluders=colluders,
        spare_attempts=spare,
        audited_share=0.02,
    )
    chosen = {"rounds": 10, "epsilon": 1.0, "delta": 1e-6, "bins_share": 0.08} | changes
    return noise_for(
        schema=SCHEMA,
        participation=participation,
        mode=Joint(),
        model=ScorecardModel(),
        **chosen,
    )


@pytest.mark.parametrize(
    ("name", "towards_more_noise"),
    [
        ("epsilon", [8.0, 4.0, 1.0, 0.5, 0.1, 0.01]),
        ("delta", [1e-3, 1e-6, 1e-9]),
        ("rounds", [1, 2, 10, 11, 100, 1000]),
        ("spare", [0, 1, 2, 50]),
        ("colluders", [1, 2, 3, 4]),
        ("quorum", [10, 9, 8, 7]),
    ],
)
def test_noise_grows_with_what_makes_the_promise_harder(
    name: str, towards_more_noise: list[float]
) -> None:
    found = [noise(**{name: value}) for value in towards_more_noise]
    for less, more in pairwise(found):
        assert less.step < more.step
        assert less.bins <= more.bins
        assert less.evaluation <= more.evaluation


def test_a_larger_share_for_bins_moves_noise_from_bins_to_steps() -> None:
    small, large = noise(bins_share=0.05), noise(bins_share=0.2)
    assert large.bins < small.bins
    assert large.step > small.step
    assert large.evaluation == small.evaluation


# The target is kept, and tightly.


@st.composite
def chosen_settings(draw: st.DrawFn) -> dict[str, Any]:
    institutions = draw(st.integers(4, 60))
    colluders = draw(st.integers(1, institutions // 2 - 1))
    threshold = (institutions + colluders) // 2 + 1
    quorum = draw(st.integers(max(threshold, colluders + 2), institutions))
    national = draw(st.integers(100, 10**9))
    return {
        "invited": names(institutions),
        "colluders": colluders,
        "quorum": quorum,
        "spare_attempts": draw(st.integers(0, 20)),
        "rounds": draw(st.integers(1, 500)),
        "people": national,
        "most_per_institution": national,
        "epsilon": draw(st.floats(0.01, 8.0)),
        "delta": min(draw(st.floats(1e-10, 1e-3)), 1 / national),
        "held_out_fraction": draw(st.sampled_from([0.0, 0.25])),
    }


@given(chosen_settings())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_new_plan_keeps_its_target_and_wastes_less_than_a_part_in_a_million(
    chosen: dict[str, Any],
) -> None:
    plan = signed_plan(SCHEMA, **chosen)
    price = price_of(plan, SCHEMA)
    owed = units_owed(plan, SCHEMA)
    slack = sampler_slack(
        coordinates(plan), epsilon=Epsilon(plan.privacy.epsilon), delta=plan.privacy.delta
    )
    budget = units_within(
        Epsilon(plan.privacy.epsilon - slack.epsilon), Delta(plan.privacy.delta - slack.delta)
    )
    answers = plan.rounds + plan.participation.spare_attempts
    held_out = 1 if chosen["held_out_fraction"] else 0
    assert price.trained <= plan.privacy.epsilon
    assert price.held_out <= plan.privacy.epsilon
    assert owed[Population.TRAINED] <= price.price.trained <= budget
    assert owed[Population.HELD_OUT] <= price.price.held_out <= budget * held_out
    assert price.price.trained >= budget * (1 - 1e-6) - 2 * (answers + 1)
    assert price.price.held_out >= (budget * (1 - 1e-6) - 2) * held_out
    for population in Population:
        true = (
            true_delta(owed[population], plan.privacy.epsilon - slack.epsilon)
            if (owed[population])
            else 0
        )
        assert true + slack.delta <= plan.privacy.delta


def coordinates(plan: Plan) -> int:
    """Returns how many noisy numbers a plan may release, counted by hand for `small_schema`.

    Fine cells: income 10 + missing, late 6, home 2 + other; city 3 groups of 32 cells, and 32.
    """
    cells = 11 + 6 + 3
    answers = plan.rounds + plan.participation.spare_attempts
    each = 2 * cells + answers * (cells + 1) + 32 * (1 + 3)
    return each * len(plan.participation.invited)


@pytest.mark.parametrize("question", ["bins", "step", "evaluation"])
def test_a_plan_one_budget_unit_beyond_its_target_is_refused_and_one_at_it_is_priced(
    question: str,
) -> None:
    plan = signed_plan(SCHEMA, epsilon=1.0, rounds=1, spare_attempts=0)
    population = Population.HELD_OUT if question == "evaluation" else Population.TRAINED
    slack = sampler_slack(coordinates(plan), epsilon=Epsilon(1.0), delta=plan.privacy.delta)
    budget = units_within(Epsilon(1.0 - slack.epsilon), Delta(1e-6 - slack.delta))
    events = {
        "bins": price_of(plan, SCHEMA).events[Population.TRAINED][0],
        "step": price_of(plan, SCHEMA).events[Population.TRAINED][1],
        "evaluation": price_of(plan, SCHEMA).events[Population.HELD_OUT][0],
    }
    others = price_of(plan, SCHEMA).price.of(population) - events[question].units()
    honest = plan.participation.honest_shares

    def lowered(total: int) -> Plan:
        """Returns the plan with the most noise at which its population pays `total` or more."""
        low, high = 1, getattr(plan.noise, question)
        while high - low > 1:
            middle = (low + high) // 2
            event = GaussianEvents(
                sensitivity_squared=events[question].sensitivity_squared,
                variance=middle * honest,
                times=1,
            )
            low, high = (middle, high) if event.units() + others >= total else (low, middle)
        return with_noise(plan, **{question: low})

    kept = price_of(with_noise(plan, **{question: getattr(plan.noise, question)}), SCHEMA)
    assert kept.price.of(population) <= budget
    beyond = lowered(budget + 1)
    assert budget - 1 < units_owed(beyond, SCHEMA)[population] < budget + 2
    with pytest.raises(PrivacyError, match="more than the 1 that it promises"):
        price_of(beyond, SCHEMA)


def test_a_plan_for_another_schema_or_with_a_lower_target_than_its_noise_is_refused() -> None:
    plan = signed_plan(SCHEMA)
    with pytest.raises(ConfigurationError, match="schema"):
        price_of(plan, small_schema(rows="many"))
    said = plan.privacy
    for changes in (
        {"epsilon": said.epsilon * (1 - 1e-6)},
        {"delta": said.delta / 1.001},
        {"epsilon_coordinator_alone": said.epsilon_coordinator_alone - 2e-6},
    ):
        target = msgspec.structs.replace(said, **changes)
        with pytest.raises(PrivacyError, match="more than"):
            price_of(msgspec.structs.replace(plan, privacy=target).signed(KEY), SCHEMA)


@pytest.mark.parametrize("alone", [4.1, 0.0, -1.0, math.nan, math.inf])
def test_what_a_plan_promises_against_the_coordinator_alone_is_a_promise_and_no_weaker(
    alone: float,
) -> None:
    with pytest.raises(PrivacyError):
        Target(epsilon=4.0, epsilon_coordinator_alone=alone, delta=1e-6)


@pytest.mark.parametrize("colluders", [1, 2, 3])
def test_against_the_coordinator_alone_all_shares_of_the_quorum_count(colluders: int) -> None:
    plan = signed_plan(SCHEMA, invited=names(8), quorum=7, colluders=colluders)
    price = price_of(plan, SCHEMA)
    owed = units_owed(plan, SCHEMA, colluders=0)
    answers = plan.rounds + plan.participation.spare_attempts
    for population in Population:
        assert 0 <= price.alone.of(population) - owed[population] < answers + 2
        assert price.alone.of(population) < price.price.of(population)
    dearest = max(price.trained_coordinator_alone, price.held_out_coordinator_alone)
    assert dearest <= plan.privacy.epsilon_coordinator_alone < dearest + 2e-6
    assert dearest < plan.privacy.epsilon


# Whole numbers, rounded up.


@given(st.integers(1, 2**45), st.integers(LEAST_SHARE_VARIANCE, 2**80), st.integers(0, 20_000))
@settings(max_examples=150, deadline=None, derandomize=True)
@example(2**45, LEAST_SHARE_VARIANCE, 1)
@example(1, 2**80, 1)
def test_units_round_up_by_less_than_one_each(
    sensitivity_squared: int, variance: int, times: int
) -> None:
    event = GaussianEvents(sensitivity_squared=sensitivity_squared, variance=variance, times=times)
    exact = exact_units(sensitivity_squared, variance)
    assume(exact <= LARGEST_UNITS)
    assert exact <= event.units_each() < exact + 1
    assert event.units() == event.units_each() * times
    assert type(event.units()) is int
    assert event.units_each() >= 1


@given(st.integers(1, 2**45), st.integers(1, 2**50))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_variance_for_a_price_is_the_smallest_that_keeps_it(
    sensitivity_squared: int, units: int
) -> None:
    variance = variance_for(sensitivity_squared=sensitivity_squared, units_each=BudgetUnits(units))
    assert math.ceil(exact_units(sensitivity_squared, variance)) <= units
    if variance > LEAST_SHARE_VARIANCE:
        assert math.ceil(exact_units(sensitivity_squared, variance - 1)) > units


def test_the_noise_multiplier_is_what_is_left_after_rounding_over_the_sensitivity() -> None:
    event = GaussianEvents(sensitivity_squared=9 * 2**32, variance=10**12, times=1)
    expected = mpmath.sqrt(mpmath.mpf(10**12 - 4) / (9 * 2**32))
    assert event.noise_multiplier() == pytest.approx(float(expected), rel=1e-14)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sensitivity_squared": 0},
        {"sensitivity_squared": -1},
        {"sensitivity_squared": 1.0},
        {"variance": LEAST_SHARE_VARIANCE - 1},
        {"variance": -(10**12)},
        {"variance": 1e12},
        {"times": -1},
        {"times": True},
        {"times": 1.0},
    ],
)
def test_an_event_that_is_not_in_whole_positive_numbers_is_refused(wrong: dict[str, int]) -> None:
    right = {"sensitivity_squared": 2**32, "variance": 10**12, "times": 1}
    with pytest.raises(PrivacyError, match="Expected a whole"):
        GaussianEvents(**{**right, **wrong})


def test_a_price_that_cannot_be_counted_is_refused() -> None:
    with pytest.raises(PrivacyError, match="cannot be counted"):
        GaussianEvents(
            sensitivity_squared=2**60, variance=LEAST_SHARE_VARIANCE, times=1
        ).units_each()
    dearest = GaussianEvents(sensitivity_squared=LARGEST_UNITS, variance=PER_ONE + 4, times=1)
    assert dearest.units_each() == LARGEST_UNITS
    with pytest.raises(PrivacyError, match="cannot be counted"):
        GaussianEvents(
            sensitivity_squared=LARGEST_UNITS + 1, variance=PER_ONE + 4, times=1
        ).units_each()
    with pytest.raises(PrivacyError, match="Nothing of the budget"):
        variance_for(sensitivity_squared=1, units_each=BudgetUnits(0))
    for units in (-1, 1.5, math.nan, math.inf, LARGEST_UNITS + 1, True):
        with pytest.raises(PrivacyError):
            Price(trained=units, held_out=BudgetUnits(1))


# What is refused.

BAD_EPSILONS = (0.0, -0.0, -1.0, 100.5, math.nan, math.inf, -math.inf)
BAD_DELTAS = (0.0, -1e-6, 1.0, 2.0, math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [*((epsilon, 1e-6) for epsilon in BAD_EPSILONS), *((1.0, delta) for delta in BAD_DELTAS)],
)
def test_zero_negative_endless_and_undefined_targets_are_refused_everywhere(
    epsilon: float, delta: float
) -> None:
    plan = signed_plan(SCHEMA)
    with pytest.raises(PrivacyError):
        require_target(epsilon, delta)
    with pytest.raises(PrivacyError):
        Target(epsilon=epsilon, epsilon_coordinator_alone=0.1, delta=delta)
    with pytest.raises(PrivacyError):
        noise(epsilon=epsilon, delta=delta)
    for name in ("epsilon_per_plan", "epsilon_per_year", "epsilon_lifetime"):
        limits = dict.fromkeys(("epsilon_per_plan", "epsilon_per_year", "epsilon_lifetime"), 1.0)
        with pytest.raises(PrivacyError):
            Policy(
                coordinator=plan.coordinator,
                approved_peers=(),
                purposes=("p",),
                least_participants=3,
                least_quorum=3,
                least_threshold=3,
                least_colluders=1,
                least_audited_share=0.0,
                longest_validity_days=1,
                rounds_per_hour=1,
                delta=delta,
                **{**limits, name: epsilon},
            )


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_a_bins_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match="bins_share"):
        noise(bins_share=share)


def test_the_samplers_error_is_charged_by_its_formula() -> None:
    coordinates, epsilon, delta = 10**6, 0.5, 1e-6
    found = sampler_slack(coordinates, epsilon=epsilon, delta=delta)
    with mpmath.workdps(40):
        eta, lost = mpmath.mpf(coordinates) / 2**46, mpmath.mpf(coordinates) / 2**110
        owed = (mpmath.exp(eta) - 1) * delta + (1 + mpmath.exp(epsilon)) * lost
    assert found.epsilon == pytest.approx(float(eta), rel=1e-12)
    assert found.delta == pytest.approx(float(owed), rel=1e-12, abs=0)
    only_lost = sampler_slack(coordinates, epsilon=epsilon, delta=0.0)
    assert only_lost.delta == pytest.approx(
        float((1 + mpmath.exp(epsilon)) * lost), rel=1e-12, abs=0
    )


def test_a_delta_below_what_the_sampler_may_lose_is_refused() -> None:
    with pytest.raises(PrivacyError, match="sampler's own error"):
        noise(delta=1e-31)
    with pytest.raises(PrivacyError, match="sampler's own error"):
        noise(epsilon=1e-12)


# An accountant that is not sure.


@contextmanager
def replaced(monkeypatch: pytest.MonkeyPatch, owner: object, result: Any) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(owner, "get_epsilon", result)
        yield


EVENTS = (GaussianEvents(sensitivity_squared=2**32, variance=2**32 * 25, times=10),)


@pytest.mark.parametrize(
    "owner", [dp_accounting.pld.PLDAccountant, dp_accounting.rdp.RdpAccountant]
)
def test_an_accountant_that_warns_or_fails_or_contradicts_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, owner: type
) -> None:
    original = owner.get_epsilon
    assert opinions(EVENTS, DELTA).exact > 0

    def warns(*arguments: object) -> float:
        warnings.warn("did not converge", RuntimeWarning, stacklevel=1)
        return float(original(*arguments))

    def fails(*_: object) -> float:
        raise OverflowError("too large")

    with replaced(monkeypatch, owner, warns), pytest.raises(PrivacyError, match="not sure"):
        opinions(EVENTS, DELTA)
    with replaced(monkeypatch, owner, fails), pytest.raises(PrivacyError, match="not sure"):
        opinions(EVENTS, DELTA)
    for answer in (0.1, 0.0, -1.0, math.nan):
        with (
            replaced(monkeypatch, owner, lambda *_, answer=answer: answer),
            pytest.raises(PrivacyError, match="contradict"),
        ):
            opinions(EVENTS, DELTA)


def test_a_pld_that_says_infinity_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = dp_accounting.pld.PLDAccountant
    with (
        replaced(monkeypatch, owner, lambda *_: math.inf),
        pytest.raises(PrivacyError, match="contradict"),
    ):
        opinions(EVENTS, DELTA)


@pytest.mark.parametrize(
    ("pld", "rdp", "trusted"),
    [
        (1.0, 1.5, True),
        (1 - 5e-7, 1.5, True),  # below the headline by what is rounded up in it
        (1 - 2e-6, 1.5, False),
        (1.0105, 1.5, True),  # above it by a percent and half the discretisation
        (1.0125, 1.5, False),
        (1.005, 1.0045, True),  # above RDP by half the discretisation
        (1.005, 1.003, False),
    ],
)
def test_the_three_may_differ_by_their_discretisation_and_no_more(
    monkeypatch: pytest.MonkeyPatch, pld: float, rdp: float, trusted: bool
) -> None:
    """Times the headline, which is near one; ten answers have a discretisation of 10^-3."""
    events = (GaussianEvents(sensitivity_squared=2**32, variance=2**32 * 178, times=10),)
    exact = epsilon_of(BudgetUnits(events[0].units()), DELTA)
    assert exact == pytest.approx(1.0, abs=0.01)
    monkeypatch.setattr(dp_accounting.pld.PLDAccountant, "get_epsilon", lambda *_: exact * pld)
    monkeypatch.setattr(dp_accounting.rdp.RdpAccountant, "get_epsilon", lambda *_: exact * rdp)
    if trusted:
        assert opinions(events, DELTA).pld == exact * pld
    else:
        with pytest.raises(PrivacyError, match="contradict"):
            opinions(events, DELTA)


def test_a_headline_that_is_too_low_is_refused_by_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = accountant.epsilon_of
    monkeypatch.setattr(accountant, "epsilon_of", lambda units, delta: honest(units, delta) * 0.9)
    with pytest.raises(PrivacyError, match="contradict"):
        opinions(EVENTS, DELTA)


def test_the_headline_is_within_a_percent_of_fractions_added_by_hand() -> None:
    units = sum(exact_units(2**32, 2**32 * 25) * 10 for _ in EVENTS)
    assert units == Fraction(2**32 * 10 * PER_ONE, 2**32 * 25 - 4)
    assert opinions(EVENTS, DELTA).exact == pytest.approx(true_epsilon(units, DELTA), rel=1e-8)


def test_a_plan_whose_delta_the_sampler_uses_up_has_no_price() -> None:
    plan = signed_plan(SCHEMA)
    target = msgspec.structs.replace(plan.privacy, delta=1e-31)
    tiny = msgspec.structs.replace(plan, privacy=target)
    with pytest.raises(PrivacyError, match="epsilon inf"):
        price_of(tiny, SCHEMA)


def test_two_honest_shares_are_needed_whatever_the_other_rules_allow() -> None:
    with pytest.raises(PrivacyError, match="colluders \\+ 2"):
        Participation(
            invited=("a", "b", "c"),
            quorum=3,
            threshold=3,
            colluders=2,
            spare_attempts=0,
            audited_share=0.0,
        )


def test_a_whole_epsilon_and_nobody_held_out_are_signed_as_they_are_read_back() -> None:
    plan = signed_plan(SCHEMA, epsilon=1, held_out_fraction=0)
    read = load_plan(plan_toml(plan))
    assert read == plan
    assert read.digest == plan.digest
    read.require_signed()
