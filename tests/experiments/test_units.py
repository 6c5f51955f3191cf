"""Other units of privacy: their accounts in order, and no sum at the door beyond them."""

import math

import pytest

from experiments.budget import units
from experiments.budget.accountants import generic, group_delta
from experiments.budget.priced_plans import DELTA, priced
from experiments.budget.unit_sums import Asked, at_institutions, of_a_record, of_a_row, row_bound
from experiments.budget.units import (
    INSTITUTIONS,
    ROWS,
    across,
    against,
    lines_of,
    printed,
    row_schema,
    sampled_across,
    stated,
)
from federation.privacy.accountant import delta_of, epsilon_of
from federation.privacy.units import BudgetUnits, Delta
from federation.query import Question

ASKED = {one: Asked(one) for one in (Question.BINS, Question.STEP, Question.GRADIENT)}


@pytest.mark.parametrize("question", ASKED)
@pytest.mark.parametrize("places", [1, 2, 5])
def test_a_person_of_r_institutions_moves_one_total_r_times_as_far_and_no_further(
    question: Question, places: int
) -> None:
    found = at_institutions(ASKED[question], places, 3, together=True)
    assert found.claimed == places**2 * ASKED[question].bound()
    assert 0.99 * found.claimed < found.furthest <= found.claimed
    apart = at_institutions(ASKED[question], places, 3, together=False)
    assert apart.claimed == places * ASKED[question].bound()
    assert 0.99 * apart.claimed < apart.furthest <= apart.claimed


@pytest.mark.parametrize("question", [Question.BINS, Question.STEP])
@pytest.mark.parametrize("rows", ROWS)
def test_a_row_of_many_moves_a_sum_within_its_bound_and_nearly_as_far(
    question: Question, rows: int
) -> None:
    found = of_a_row(ASKED[question], rows, 5)
    assert 0.95 * found.claimed < found.furthest <= found.claimed
    assert row_bound(ASKED[question].query, 1) == ASKED[question].bound()


@pytest.mark.parametrize("question", ASKED)
def test_a_record_replaced_moves_a_sum_at_most_twice_as_far(question: Question) -> None:
    found = of_a_record(ASKED[question], 5)
    assert 0.9 * found.claimed < found.furthest <= found.claimed <= 4 * ASKED[question].bound()


def test_an_exact_account_of_a_group_is_below_what_any_mechanism_would_pay() -> None:
    for line in lines_of((0.5, 1.0, 4.0)):
        if line.generic is None or line.times == 1:
            continue
        assert line.exact
        for exact, bound in zip(line.epsilons, line.generic, strict=True):
            assert bound is None or exact <= bound


@pytest.mark.parametrize("times", [2, 3, 5])
def test_the_generic_bound_keeps_its_delta_and_holds_for_the_true_group(times: int) -> None:
    price = priced("card", 1.0)[1].price.trained
    found = generic(price, times, DELTA)
    assert group_delta(price, found / times, times) == pytest.approx(DELTA, rel=1e-4)
    assert delta_of(BudgetUnits(price * times**2), found) <= DELTA
    one = epsilon_of(price, Delta(DELTA))
    blown = DELTA * sum(math.exp(one * place) for place in range(times))
    assert group_delta(price, one, times) == pytest.approx(blown, rel=1e-6)
    assert delta_of(BudgetUnits(price * times**2), times * one) <= blown


def test_mu_grows_with_r_in_one_total_and_with_its_root_in_local_mode() -> None:
    price = priced("card", 1.0)[1].price.trained
    joint, local = across("card"), across("local card")
    for place, count in enumerate(INSTITUTIONS):
        assert joint.epsilons[place] == stated(price * count**2)
        assert local.epsilons[place] == pytest.approx(stated(price * count), rel=1e-6)
    assert joint.epsilons[1] > 1.4 * local.epsilons[1]
    whole, person = across("institutions"), across("institution")
    assert whole.epsilons[1] == pytest.approx(person.epsilons[0], rel=1e-6)


@pytest.mark.slow
def test_a_coin_at_each_institution_costs_more_than_one_and_less_than_everybody_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Coarser than the experiment, which raises a bound by 2e-4 and takes a twentieth."""
    monkeypatch.setattr(units, "_INTERVAL", 1e-3)
    once, twice = (sampled_across("sampled", count) for count in (1, 2))
    price = priced("sampled", 1.0)[1].price.trained
    assert once <= stated(price)
    assert 2 * once < twice < stated(4 * price) * 1.01


def test_whoever_knows_more_of_the_noise_learns_more() -> None:
    reader, other, alone, headline, everybody = against((1.0,))
    assert reader.epsilons == alone.epsilons < headline.epsilons == other.epsilons
    assert headline.epsilons[0] == pytest.approx(1.0, rel=1e-6)
    assert everybody.shares == 1
    assert everybody.epsilons > headline.epsilons


def test_what_is_printed_names_its_unit() -> None:
    assert "one row" in printed("card", "rows", row_schema()).unit
