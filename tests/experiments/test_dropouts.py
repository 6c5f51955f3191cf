import itertools

import msgspec
import numpy as np
import pytest

from experiments.budget.catalogue import DROPOUTS
from experiments.budget.dropouts import Cell, Once, share_ended
from experiments.budget.dropouts_report import bears_one_more, lost
from experiments.budget.dropouts_report import trained as trained_table
from experiments.budget.losing import Choice, Loss, plan_for, train_losing
from experiments.budget.quorums import cheapest, cost_of, course_of, opens
from tests.federations import small_schema, small_table

CHOICE = Choice(institutions=5, quorum=4, colluders=1, spare_attempts=2)
RUN = Once(auc=None, ended=True, retries=0, attempts=3, fewest=4, reserved=1.0, spent=0.5)


def trained(tmp_path, choice=CHOICE, **how):
    schema, table = small_schema(), small_table(tmp_path / "all.parquet", 500, seed=1)
    plan = plan_for(schema, choice, rounds=2, people=500, epsilon=4.0, most_per_institution=500)
    return train_losing(plan, schema, table, **how)


def test_an_attempt_opens_as_often_as_enumeration_says():
    rate = 0.3
    expected = sum(
        np.prod([rate if late else 1 - rate for late in who])
        for who in itertools.product((False, True), repeat=5)
        if 5 - sum(who) >= 4
    )
    assert opens(CHOICE, rate) == pytest.approx(expected)


def test_trainings_end_as_often_as_drawing_attempt_by_attempt_says():
    generator, rate, rounds, ended = np.random.default_rng(5), 0.2, 4, 0
    for _ in range(4_000):
        failed = opened = 0
        while opened < 1 + rounds and failed <= CHOICE.spare_attempts:
            in_time = np.count_nonzero(generator.random(5) >= rate)
            opened, failed = opened + (in_time >= 4), failed + (in_time < 4)
        ended += opened == 1 + rounds
    assert course_of(CHOICE, rate, rounds=rounds).ends == pytest.approx(ended / 4_000, abs=0.03)


@pytest.mark.parametrize(("quorum", "colluders", "spare"), [(5, 1, 0), (4, 1, 2), (5, 2, 1)])
def test_the_price_sheet_has_the_noise_that_the_formula_has(quorum, colluders, spare):
    choice = Choice(institutions=5, quorum=quorum, colluders=colluders, spare_attempts=spare)
    cost = cost_of(small_schema(), choice, rounds=10, epsilon=1.0)
    expected = (5 / (quorum - colluders) * (10 + spare) / 10) ** 0.5
    assert cost.noise == pytest.approx(expected, rel=1e-6)
    assert cost.alone < 1.0 < cost.one_more


@pytest.mark.parametrize(("colluders", "bears"), [(1, False), (2, True), (3, False)])
def test_no_epsilon_is_shown_against_more_than_the_threshold_bears(colluders, bears):
    """Of ten, t is 6, 7 and 7: with one more, 2t > n + c + 1 holds for two colluders alone."""
    choice = Choice(institutions=10, quorum=10, colluders=colluders, spare_attempts=0)
    assert bears_one_more(cost_of(small_schema(), choice, epsilon=1.0, rounds=5)) is bears


def test_the_cheapest_choice_wants_everybody_only_if_nobody_is_late():
    nobody = cheapest(10, 1, 0.0, rounds=20, gone=False)
    assert (nobody.choice.quorum, nobody.choice.spare_attempts) == (10, 0)
    some = cheapest(10, 1, 0.1, rounds=20, gone=False)
    assert some.choice.quorum < 10
    assert some.ends >= 0.95
    assert some.noise > nobody.noise


def test_fewer_spare_attempts_are_read_off_a_run_with_more():
    runs = tuple(msgspec.structs.replace(RUN, retries=retries) for retries in (0, 2, 3))
    runs += (msgspec.structs.replace(RUN, ended=False, retries=5),)
    cell = Cell(dataset="", choice=CHOICE, loss=Loss.LOST, rate=0.1, runs=runs)
    assert [cell.ended(spare) for spare in (0, 2, 5)] == [1, 2, 3]
    share, low, high = share_ended(cell, 2)
    assert share == 0.5
    assert 0 < low < 0.5 < high < 1


def test_every_figure_over_seeds_has_its_interval_and_the_others_say_exact_or_smallest():
    """Retries of 0, 2, 3 and 5: mean 2.5, standard deviation 2.0817, Student's 3.1824 of three."""
    runs = [msgspec.structs.replace(RUN, retries=retries, auc=0.7) for retries in (0, 2, 3)]
    runs.append(msgspec.structs.replace(RUN, retries=5, ended=False, fewest=2, spent=0.3))
    late = Cell(dataset="taiwan", choice=CHOICE, loss=Loss.LATE, rate=0.1, runs=tuple(runs))
    gone = msgspec.structs.replace(late, dataset="", loss=Loss.LOST)
    found = msgspec.structs.replace(DROPOUTS.load(), trained=(late,), lost=(gone,))
    ended = "2 of 4: 50% (7% to 93%)"
    for told in (trained_table(found), lost(found)):
        head, _, row = told.splitlines()[:3]
        assert "smallest total seen, institutions | epsilon reserved, exact | epsilon spent" in head
        assert row.endswith("| 2.5 +-3.3 | 2 | 1.000 | 0.450 +-0.159 |")
        assert ended in row
        for words in ("quorum", "may conspire", "spare attempts", "4 seeds", "delta 1e-06"):
            assert words in told
    alone = msgspec.structs.replace(late, runs=(runs[0],))
    assert "0.500 (one seed)" in trained_table(msgspec.structs.replace(found, trained=(alone,)))


@pytest.mark.slow
def test_nobody_lost_means_everybody_in_every_total_and_nothing_retried(tmp_path):
    done = trained(tmp_path, loss=Loss.LATE, rate=0.0, seed=1)
    assert (done.ended, done.retries, done.answers) == (True, 0, (5, 5, 5))
    assert 0 < done.spent < done.reserved


@pytest.mark.slow
def test_whoever_is_late_has_paid_and_an_attempt_that_failed_is_refunded(tmp_path):
    whole = trained(tmp_path, loss=Loss.LATE, rate=0.0, seed=1)
    done = [trained(tmp_path, loss=Loss.LATE, rate=0.3, seed=seed) for seed in range(4)]
    again = [one for one in done if one.ended and one.retries]
    assert again
    assert all(min(one.answers) >= 4 for one in again)
    assert all(one.spent <= whole.spent + 1e-9 for one in again)


@pytest.mark.slow
def test_more_that_leave_for_good_than_the_quorum_allows_end_a_training(tmp_path):
    done = trained(tmp_path, loss=Loss.GONE, rate=1.0, seed=2)
    assert not done.ended
    assert done.card is None
