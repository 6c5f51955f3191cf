"""Attacks that are published elsewhere, tried on the product and on builds that lack one guard.

The broken builds show that each attack works; the product's rows are its verdict. Figures of the
same attacks on more people are in `experiments/README.md`.
"""

import math

import numpy as np
import pyarrow as pa
import pytest

from clients.taking import Taking
from experiments.attacks.attack_stage import NAMES, staged
from experiments.attacks.differencing import ORDERS, forgetful, plain_card, twice
from experiments.attacks.different_models import MODELS, shown, single_out, unbound
from experiments.attacks.inversion import layout_of, likeliest, noised_answer
from experiments.attacks.poison import Poisoner, false_table, without_cap, without_clip
from experiments.attacks.poisoned_training import trained
from experiments.attacks.taken_apart import share_right, taken_apart
from experiments.audit.membership import (
    CANARIES,
    NETWORK_JOINT,
    PEOPLE_EACH,
    SCORECARD_JOINT,
    kinds,
)
from experiments.audit.membership_crowd import NAMES as BANKS
from experiments.audit.membership_crowd import Crowd, contribution, vectors
from experiments.entropy import SeededEntropy
from experiments.trial import People
from federation import door
from federation.asking import sum_for
from federation.fits import Fit
from federation.model import fitting
from federation.pricing import stddev_of_total
from federation.query import UNITS_PER_ONE, Question
from fedscore.planning import SCORECARD

PEOPLE = 40


@pytest.fixture(scope="module")
def crowd():
    return Crowd.drawn(people_each=PEOPLE_EACH, canaries=CANARIES)


@pytest.fixture(scope="module", params=[SCORECARD_JOINT, NETWORK_JOINT])
def layout(crowd, request):
    others = list(crowd.others.values())
    everybody = People(
        codes=np.concatenate([one.codes for one in others], axis=1),
        bad=np.concatenate([one.bad for one in others]),
    )
    return layout_of(kinds()[request.param].plan, crowd.schema, everybody)


def answers(layout, people, rounds):
    """Returns the questions of some rounds, and what each person brings to each."""
    for model in layout.models[:rounds]:
        query = layout.query(model)
        brought = contribution(layout.plan, people, model)
        yield query, vectors(query, brought).astype(np.int64)


def some(people, count):
    return People(codes=people.codes[:, :count], bad=people.bad[:count])


# What an answer gives away.


def test_a_plain_sum_without_noise_gives_one_person_away(crowd, layout):
    person = some(crowd.canaries, 1)
    sums = [layout.rows(brought[0]) for _, brought in answers(layout, person, len(layout.models))]
    found = taken_apart(layout.columns, layout.common, np.concatenate(sums), 1)
    assert share_right(found, layout.bins(person)) == 1.0


@pytest.mark.parametrize("people", [2, 4])
def test_plain_sums_without_noise_give_a_few_people_away(people):
    generator = np.random.default_rng(people)
    features, bins, rows = 20, 8, 5
    truth = generator.integers(0, bins, (features, people))
    signals = generator.integers(-1000, 1000, (rows, people))
    sums = np.zeros((rows, features * bins + 1), dtype=np.int64)
    for person in range(people):
        sums[:, np.arange(features) * bins + truth[:, person]] += signals[:, [person]]
    sums[:, -1] = signals.sum(axis=1)
    columns = np.arange(features * bins).reshape(features, bins)
    found = taken_apart(columns, np.zeros(features, dtype=np.int64), sums, people)
    assert share_right(found, truth) == 1.0


def guessed(layout, people, kind, rounds):
    """Returns for each person and feature whether the largest number stands in the person's bin."""
    entropy = SeededEntropy("guessed")
    along = np.zeros((people.bad.size, layout.width))
    for query, brought in answers(layout, people, rounds):
        for person, alone in enumerate(brought):
            seen = layout.rows(noised_answer(layout, query, alone, kind, entropy))
            along[person] += layout.rows(alone)[:, -1].astype(float) @ seen.astype(float)
    found = [likeliest(layout, one, 1.0)[1] for one in along]
    return np.stack(found, axis=1) == layout.bins(people)


def test_a_masked_answer_tells_nothing_about_a_persons_bins(crowd, layout):
    """Of 320 features as many as chance gives, within 4 standard deviations: once in 15,000."""
    right = guessed(layout, some(crowd.canaries, PEOPLE), "masked", 1)
    chance = np.mean([1 / len(of) for of in layout.columns])
    assert abs(right.mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / right.size)


def test_the_same_guess_finds_the_bins_under_a_hundredth_of_a_share_of_the_noise(crowd, layout):
    right = guessed(layout, some(crowd.canaries, PEOPLE), "little", 1)
    chance = np.mean([1 / len(of) for of in layout.columns])
    assert right.mean() > chance + 6 * math.sqrt(chance * (1 - chance) / right.size)


# A coordinator that opens an attempt twice, or asks everybody about another model.


@pytest.fixture(scope="module")
def stage():
    with staged(SCORECARD, "test") as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("conspirators", [0, 1])
def test_nobody_honest_helps_to_open_an_attempt_over_a_second_set(stage, order, conspirators):
    """By 2t > n + c one conspirator of six is too few: four must release either total."""
    round_ = order + len(ORDERS) * conspirators
    totals, asked, refused = twice(stage, round_, order, conspirators=conspirators)
    assert len(totals) == (0 if order == 2 and not conspirators else 1)
    assert refused == asked == len(NAMES) - 1 - conspirators


@pytest.mark.slow
def test_conspirators_open_a_second_total_once_they_and_the_victim_have_four_shares(stage):
    """The conspiracy works where it is large enough; the plan reckons with one."""
    totals, *_ = twice(stage, 6, 1, conspirators=3)
    assert len(totals) == 2


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_institutions_that_forget_what_they_said_give_one_of_them_away(stage, order):
    """The difference is its sum under one share of noise: 150 numbers, 6 standard deviations."""
    round_ = 7 + order
    with forgetful():
        totals, _, refused = twice(stage, round_, order)
    assert (len(totals), refused) == (2, 0)
    card = plain_card(stage.schema)
    query = stage.asking(stage.opening(4, card)).query
    truth = stage.truth(round_ % len(NAMES), query, card)
    noise = (totals[0] - totals[1]) / UNITS_PER_ONE - truth
    share = stddev_of_total(stage.plan, Question.STEP, 1)
    assert np.std(noise) == pytest.approx(share, rel=6 / math.sqrt(2 * len(noise)))


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("conspirators", [0, 1])
def test_a_victim_that_is_asked_about_another_model_is_in_no_total(model, conspirators):
    """The victim is asked once more if there is somebody to open a total of two with."""
    with staged(MODELS[model], "bound") as stage:
        tries = [single_out(stage, at, model, 0, conspirators=conspirators) for at in (0, 1)]
    for found in tries:
        assert not found.opened
        assert not found.passes
        assert found.refused == found.asked == len(NAMES)


@pytest.mark.slow
def test_conspirators_open_a_total_with_the_victim_once_they_and_it_are_a_quorum():
    """The conspiracy works where it is large enough; the plan reckons with one."""
    with staged(SCORECARD, "conspired") as stage:
        assert not single_out(stage, 0, "scorecard", 0, conspirators=3).opened
        assert single_out(stage, 1, "scorecard", 0, conspirators=4).opened


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
def test_where_the_model_is_not_bound_the_total_is_the_victims_alone(model):
    with unbound(), staged(MODELS[model], "unbound") as stage:
        true, elsewhere, judged = shown(stage.schema, model)
        query = stage.asking(stage.opening(0, true)).query
        assert not any(stage.truth(place, query, elsewhere)[judged].any() for place in (1, 5))
        found = single_out(stage, 0, model, 0)
        truth = stage.truth(0, query, true)
    assert found.opened
    noise = (found.left / query.question.bound - truth)[judged]
    stddev = stddev_of_total(stage.plan, query.question, len(NAMES))
    assert np.std(noise) == pytest.approx(stddev, rel=6 / math.sqrt(2 * len(noise)))


# A poisoning institution.


def poisoned(crowd, plan, model, *, is_bounded):
    """Returns the question, and what a poisoner brings to it instead of its people."""
    query = sum_for(plan, crowd.schema, plan.training_question, model)
    own = [contribution(plan, crowd.others[BANKS[1]], model)]
    evil = Poisoner(is_bounded=is_bounded)._instead(own, query.question, model)
    return query, own, list(evil)


@pytest.fixture(scope="module", params=[SCORECARD_JOINT, NETWORK_JOINT])
def training(crowd, request):
    plan = kinds()[request.param].plan
    if request.param == SCORECARD_JOINT:
        return plan, plain_card(crowd.schema)
    mostly_good = np.tile([100.0, 10.0], 8 * 16)
    return plan, Fit.begin(plan, crowd.schema, mostly_good, len(BANKS)).to_ask()


def test_the_door_lets_a_poisoner_bring_no_more_than_so_many_people_may(crowd, training):
    plan, model = training
    query, own, evil = poisoned(crowd, plan, model, is_bounded=False)
    people = crowd.others[BANKS[1]].bad.size
    most = people * math.sqrt(query.sensitivity_squared)
    within = door.sum_of(query, evil).total.astype(float)
    assert np.linalg.norm(within) <= most
    with without_clip():
        beyond = door.sum_of(query, evil).total.astype(float)
    assert np.linalg.norm(beyond) > 10 * most
    honest = door.sum_of(query, own).total.astype(float)
    assert honest @ beyond < 0


def test_what_a_bounded_poisoner_brings_passes_the_door_unchanged(crowd, training):
    plan, model = training
    query, _, evil = poisoned(crowd, plan, model, is_bounded=True)
    inside = door.sum_of(query, evil).total
    with without_clip():
        outside = door.sum_of(query, evil).total
    assert np.array_equal(inside, outside)
    assert inside.any()


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["vectors", "unbounded"])
def test_the_gate_or_everybody_at_home_notices_a_poisoned_card(attack):
    """The unbounded poisoner falsifies the evaluation too: the gate lets it pass, nobody else."""
    found = trained("scorecard", attack, "product", 0.2, 0)
    assert found.auc < 0.5
    assert found.refused is (attack == "vectors")
    assert found.worse == 9


def test_broken_builds_of_a_poisoner_are_mended_when_it_leaves():
    before = (Taking.people, door.clip, door.clip_products, fitting._believable)
    with Poisoner(is_bounded=False).at_work(), without_clip(), without_cap():
        assert before[:1] != (Taking.people,)
    assert before == (Taking.people, door.clip, door.clip_products, fitting._believable)


def test_false_tables_turn_outcomes_or_one_feature_round():
    table = pa.table({"bad": [0, 1, 0, 1], "limit": [40, 10, 30, 20]})
    labels = false_table(table, lie="labels", outcome="bad", feature="limit")
    assert labels.column("bad").to_pylist() == [1, 0, 1, 0]
    feature = false_table(table, lie="feature", outcome="bad", feature="limit")
    assert feature.column("limit").to_pylist() == [10, 30, 20, 40]
    assert false_table(table, lie="none", outcome="bad", feature="limit") is table


def test_a_made_up_table_gives_the_bad_the_values_of_low_risk():
    """Bad people had high limits; every other row is bad now, and half of the rows are."""
    limits = list(range(100))
    table = pa.table({"bad": [int(one >= 50) for one in limits], "limit": limits})
    told = false_table(table, lie="cells", outcome="bad", feature="", features=["limit"])
    bad, made_up = told.column("bad").to_numpy(), told.column("limit").to_numpy()
    assert bad.sum() == 50
    assert made_up[bad == 1].max() < 50 <= made_up[bad == 0].min()
    assert set(made_up) <= set(limits)
    assert len(set(made_up)) == 10
