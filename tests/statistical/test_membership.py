"""Who took part can be told from a build without noise, and cannot from the product.

The audit of one run: right guesses about canaries refute an epsilon
(`experiments.audit.one_run_audit`, tested in `test_one_run_audit.py`). Rates: with confidence 95 %
a build that keeps its promise is accused in at most one seed of twenty; seeds are fixed. At epsilon
1 the product's noise lets 55 of 100 guesses be right and an accusation needs more than 100 of 128:
chance below 1e-6 a seed.
"""

import math
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest

from clients.configuration import Configuration
from experiments.audit import membership_report
from experiments.audit.canaries import Opened, estimates, right_guesses
from experiments.audit.membership import (
    CANARIES,
    NETWORK_JOINT,
    PEOPLE_EACH,
    REAL_RUNS,
    SCORECARD_JOINT,
    SHARES_OF_NOISE,
    Build,
    Membership,
    attacked,
    bounds_of,
    epsilon_at,
    kinds,
)
from experiments.audit.membership_crowd import (
    KEY,
    NAMES,
    Crowd,
    contribution,
    noise_times,
    vectors,
    watched_training,
)
from experiments.audit.one_run_audit import least_epsilon, least_mu
from experiments.entropy import SeededEntropy
from federation import door
from federation.asking import sum_for
from federation.fits import Fit
from federation.privacy.discrete_gaussian import sample
from federation.query import Question
from fedscore.simulation import simulate
from server.rounds import MaskedSums
from tests.federations import ignore, open_policy

SEEDS = 100
FEW_SEEDS = 3


@pytest.fixture(scope="module")
def crowd():
    return Crowd.drawn(people_each=PEOPLE_EACH, canaries=CANARIES)


@pytest.fixture(scope="module", params=[SCORECARD_JOINT, NETWORK_JOINT])
def kind(request):
    return kinds()[request.param]


@pytest.fixture(scope="module")
def plan(kind):
    return kind.plan


def bound(right, canaries):
    return least_epsilon(right=right, guesses=canaries, canaries=canaries, delta=1e-6)


def caught(kind, seeds):
    """Returns in how many seeds the lower bound is above the claim, and the share of right."""
    right = [attacked(kind, seed) for seed in range(seeds)]
    return (
        sum(bound(one, kind.canaries) > kind.epsilon for one in right),
        np.mean(right) / kind.canaries,
    )


@pytest.mark.slow
def test_without_noise_the_audit_catches_the_build_in_100_of_100_seeds(kind):
    with noise_times(0):
        found, right = caught(kind, SEEDS)
    assert found == SEEDS
    assert right > 0.99


@pytest.mark.slow
def test_the_product_is_accused_in_0_of_100_seeds_and_guesses_are_what_its_noise_allows(kind):
    """The share of right guesses: Phi(mu / 2) at most; above it by 0.02 once in 100,000."""
    found, right = caught(kind, SEEDS)
    assert found == 0
    assert 0.5 < right < 0.5 * (1 + math.erf(kind.mu / 2 / math.sqrt(2))) + 0.02


def test_a_hundredth_of_the_noise_is_caught(kind):
    with noise_times(0.01):
        found, _ = caught(kind, FEW_SEEDS)
    assert found == FEW_SEEDS


@pytest.mark.slow
@pytest.mark.parametrize("name", list(kinds()))
def test_every_kind_of_training_gives_its_canaries_away_without_noise_and_hides_them_with_it(name):
    """Sampling hides a canary in some rounds by itself. Product: at most one coin too many in 8."""
    audited = kinds()[name]
    with noise_times(0):
        _, silent = caught(audited, FEW_SEEDS)
    found, right = caught(audited, FEW_SEEDS)
    assert silent > 0.8
    assert found == 0
    assert right < 0.5 * (1 + math.erf(audited.mu / 2 / math.sqrt(2))) + 0.125


def build(noise, share, runs=REAL_RUNS):
    return Build(
        kind="any",
        epsilon=1.0,
        mu=0.2367,
        canaries=CANARIES,
        noise=noise,
        right=(round(share * CANARIES),) * runs,
    )


@pytest.mark.slow
def test_the_bounds_of_a_table_exceed_the_claim_without_noise_and_not_as_planned():
    shares = {0.0: 1.0, 0.1: 0.75, 0.5: 0.59, 1.0: 0.545}
    builds = tuple(build(noise, shares[noise]) for noise in SHARES_OF_NOISE)
    found = dict(zip(SHARES_OF_NOISE, bounds_of(builds), strict=True))
    silent, half, real = found[0.0], found[0.5], found[1.0]
    assert min(silent.any_mechanism, silent.one, silent.f_dp, silent.runs) > 1.0
    assert silent.alone == REAL_RUNS
    assert half.runs > 1.0, "only independent runs see that half is missing"
    assert max(half.any_mechanism, half.one, half.f_dp) < 1.0
    assert half.alone == real.alone == 0
    assert max(real.any_mechanism, real.curve) < 1.0
    assert 0.1 < real.visible < 1.0
    assert real.power.curve_of_one > real.power.any_of_one > 1.0
    assert real.power.any_of_all > 1.0


def test_where_even_right_guesses_prove_nothing_the_table_says_none():
    few = Build(kind="few", epsilon=8.0, mu=1.53, canaries=8, noise=1.0, right=(5,) * 10)
    found = Membership(delta=1e-6, people=1, builds=(few,), bounds=bounds_of((few,)))
    table = membership_report.table_of_power(found)
    (row,) = [line for line in table.splitlines() if line.startswith("| few")]
    assert row.count(": none") == 3
    power = found.bounds[0].power
    assert max(power.any_of_one, power.curve_of_one, power.any_of_all) < 8.0


def test_guesses_that_are_all_right_refute_the_curve_of_epsilon_8_but_not_its_epsilon():
    """As 200 trainings of 24 institutions without noise; an epsilon is refuted for any mechanism.

    Whoever keeps (8, 1e-6) may guess all 4,800 right once in five times: a coin each with
    probability 1 / (1 + e^-8).
    """
    silent, real = (
        Build(kind="few", epsilon=8.0, mu=1.5315, canaries=24, noise=noise, right=(right,) * 200)
        for noise, right in ((0.0, 24), (1.0, 18))
    )
    builds = (silent, real)
    found = Membership(delta=1e-6, people=1, builds=builds, bounds=bounds_of(builds))
    assert (1 + math.exp(-8)) ** -4800 > 0.19
    assert found.bounds[0].curve > 8.0 > found.bounds[0].any_mechanism
    said = membership_report.answer(found)
    of_one = "of 1 kinds of training, its epsilon for any mechanism for 0"
    assert f"refuted without noise: the plan's own curve (Gaussian, mu) for 1 {of_one};" in said
    assert f"with it: the plan's own curve (Gaussian, mu) for 0 {of_one} (" in said
    lines = membership_report.table(found).splitlines()
    assert "**curve refuted**" in lines[2]
    assert "not refuted" in lines[3]


def test_one_training_all_guessed_right_may_refute_a_curve_of_epsilon_1_but_no_epsilon_1():
    few = {"right": CANARIES, "guesses": CANARIES, "canaries": CANARIES, "level": 4e-6}
    assert epsilon_at(least_mu(**few)) > 3.0
    assert 0 < least_epsilon(delta=1e-6, **few) < 1.0


def simulated(crowd, plan, seed, directory):
    """Returns how many coins are guessed from the totals of a whole simulation, masks and all."""
    coins = np.random.default_rng([7, seed]).random(len(crowd.owners)) < 0.5
    seen, ask = [], MaskedSums.ask

    def watched(sums, question, *, round_, model):
        total = ask(sums, question, round_=round_, model=model)
        query = sum_for(plan, crowd.schema, question, model)
        opened = np.rint(total.values * question.bound).astype(np.int64)
        known = [[contribution(plan, one, model)] for one in crowd.others.values()]
        seen.append(crowd.sight(plan, query, model, opened, known))
        return total

    for place, name in enumerate(NAMES):
        pq.write_table(crowd.table_of(place, coins), directory / f"{name}.parquet")
    with patch.object(MaskedSums, "ask", watched):
        simulate(
            plan=plan,
            schema=crowd.schema,
            members=tuple(
                Configuration(
                    id=name,
                    title=name,
                    most_people=plan.people.most_per_institution,
                    table=str(directory / f"{name}.parquet"),
                    policy=open_policy(plan, longest_validity_days=3650),
                )
                for name in NAMES
            ),
            key=KEY,
            out=directory / "out",
            watch=ignore,
            inspect=False,
            noise_entropy=SeededEntropy(f"noise {seed}"),
            mask_entropy=SeededEntropy(f"masks {seed}"),
        )
    assert len(seen) == 1 + plan.rounds
    return right_guesses(seen, coins)


@pytest.mark.slow
def test_a_whole_simulation_without_noise_gives_every_coin_away(crowd, kind, tmp_path):
    with noise_times(0):
        right = simulated(crowd, kind.plan, 0, tmp_path)
    assert right > 0.97 * len(crowd.owners)
    assert bound(right, len(crowd.owners)) > kind.epsilon


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FEW_SEEDS))
def test_a_whole_simulation_of_the_product_accuses_nobody(crowd, kind, tmp_path, seed):
    right = simulated(crowd, kind.plan, seed, tmp_path)
    assert bound(right, len(crowd.owners)) < kind.epsilon


@pytest.mark.parametrize("asked", [False, True])
def test_the_canaries_vectors_are_what_the_door_adds_up(crowd, plan, asked):
    mostly_good = np.tile([100.0, 10.0], 8 * 16)
    fit = Fit.begin(plan, crowd.schema, mostly_good, len(NAMES))
    question, model = (plan.training_question, fit.to_ask()) if asked else (Question.BINS, None)
    query = sum_for(plan, crowd.schema, question, model)
    brought = contribution(plan, crowd.canaries, model)
    found = vectors(query, brought)
    assert np.array_equal(found.sum(axis=0), door.sum_of(query, [brought]).total)
    lengths = np.sum(found**2, axis=1)
    assert np.max(lengths) <= query.sensitivity_squared
    assert np.min(lengths) > 0.5 * query.sensitivity_squared


def test_dense_canaries_are_guessed_as_well_as_the_noise_allows():
    """Any vectors will do, as a network's gradients: 3,000 guesses, 4 standard deviations."""
    generator = np.random.default_rng(1)
    mu, canaries, runs = 1.0, 30, 100
    right = 0
    for _ in range(runs):
        brought = generator.normal(size=(canaries, 3000))
        brought *= mu / np.linalg.norm(brought, axis=1, keepdims=True)
        coins = generator.random(canaries) < 0.5
        seen = coins @ brought + generator.normal(size=3000)
        right += right_guesses([Opened(contributions=brought, remainder=seen, stddev=1.0)], coins)
    expected = 0.5 * (1 + math.erf(mu / 2 / math.sqrt(2)))
    assert right / (runs * canaries) == pytest.approx(expected, abs=4 * 0.5 / 3000**0.5)


def test_without_noise_estimates_are_the_coins():
    generator = np.random.default_rng(2)
    brought = generator.normal(size=(10, 12))
    coins = np.arange(10) % 3 == 0
    seen = Opened(contributions=brought, remainder=coins @ brought, stddev=1000.0)
    assert estimates([seen]) == pytest.approx(coins.astype(float), abs=1e-3)


def test_the_broken_build_is_mended_when_the_audit_leaves_it():
    before = door.sample
    with noise_times(0):
        assert door.sample is not before
        assert not np.any(door.sample(variance=10**6, count=9, key=bytes(32)))
    assert door.sample is before is sample


def test_the_masks_of_the_audits_trainings_cancel(crowd, plan):
    """Else what is seen would be noise of 2^63 units, and the noiseless coins not be guessed."""
    coins = np.zeros(len(crowd.owners), dtype=np.bool_)
    with noise_times(0):
        seen = watched_training(crowd, plan, coins, "masks")
    assert not any(one.remainder.any() for one in seen)
