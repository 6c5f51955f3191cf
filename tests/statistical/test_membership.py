"""Who took part can be told from a build without noise, and cannot from the product.

The audit of one run: right guesses about canaries refute an epsilon (`experiments.one_run_audit`).
Rates: with confidence 95 % a build that keeps its promise is accused in at most one seed of twenty;
seeds are fixed. At epsilon 1 the product's noise lets 55 of 100 guesses be right and an accusation
needs 55 of 64: chance below 1e-6 a seed.
"""

import math
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest

from clients.configuration import Configuration
from experiments.canaries import Opened, estimates, right_guesses
from experiments.entropy import SeededEntropy
from experiments.membership import MODELS, attacked, audited_crowd, audited_plan
from experiments.membership_crowd import (
    KEY,
    NAMES,
    contribution,
    noise_times,
    vectors,
    watched_training,
)
from experiments.one_run_audit import least_epsilon, p_value
from federation import door
from federation.asking import sum_for
from federation.fits import Fit
from federation.pricing import price_of
from federation.privacy.discrete_gaussian import sample
from federation.query import Question
from fedscore.simulation import simulate
from server.rounds import MaskedSums
from tests.federations import ignore, open_policy

SEEDS = 100
FEW_SEEDS = 3


@pytest.fixture(scope="module")
def crowd():
    return audited_crowd()


@pytest.fixture(scope="module", params=list(MODELS))
def plan(crowd, request):
    return audited_plan(crowd, request.param)


@pytest.fixture(scope="module")
def claim(crowd, plan):
    return price_of(plan, crowd.schema).trained


def bound(right, canaries):
    return least_epsilon(right=right, guesses=canaries, canaries=canaries, delta=1e-6)


def caught(crowd, plan, claim, seeds):
    """Returns in how many seeds the lower bound is above the claim, and the share of right."""
    right = [attacked(crowd, plan, seed) for seed in range(seeds)]
    canaries = len(crowd.owners)
    return sum(bound(one, canaries) > claim for one in right), np.mean(right) / canaries


@pytest.mark.slow
def test_without_noise_the_audit_catches_the_build_in_100_of_100_seeds(crowd, plan, claim):
    with noise_times(0):
        found, right = caught(crowd, plan, claim, SEEDS)
    assert found == SEEDS
    assert right > 0.99


@pytest.mark.slow
def test_the_product_is_accused_in_0_of_100_seeds_and_guesses_are_what_its_noise_allows(
    crowd, plan, claim
):
    """The share of right guesses: Phi(mu / 2) at most; above it by 0.02 once in 1,000."""
    found, right = caught(crowd, plan, claim, SEEDS)
    assert found == 0
    mu = math.sqrt(price_of(plan, crowd.schema).price.trained / 10**12)
    assert 0.5 < right < 0.5 * (1 + math.erf(mu / 2 / math.sqrt(2))) + 0.02


def test_a_hundredth_of_the_noise_is_caught(crowd, plan, claim):
    with noise_times(0.01):
        found, _ = caught(crowd, plan, claim, FEW_SEEDS)
    assert found == FEW_SEEDS


def simulated(crowd, plan, seed, directory):
    """Returns how many coins are guessed from the totals of a whole simulation, masks and all."""
    coins = np.random.default_rng([7, seed]).random(len(crowd.owners)) < 0.5
    seen, ask = [], MaskedSums.ask

    def watched(sums, question, *, round_, model):
        total = ask(sums, question, round_=round_, model=model)
        query = sum_for(plan, crowd.schema, question, model)
        opened = np.rint(total.values * question.bound).astype(np.int64)
        seen.append(crowd.sight(plan, query, model, opened, NAMES))
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
                    policy=open_policy(plan),
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
def test_a_whole_simulation_without_noise_gives_every_coin_away(crowd, plan, claim, tmp_path):
    with noise_times(0):
        right = simulated(crowd, plan, 0, tmp_path)
    assert right == len(crowd.owners)
    assert bound(right, right) > claim


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FEW_SEEDS))
def test_a_whole_simulation_of_the_product_accuses_nobody(crowd, plan, claim, tmp_path, seed):
    right = simulated(crowd, plan, seed, tmp_path)
    assert bound(right, len(crowd.owners)) < claim


def test_the_bound_is_the_published_one():
    """The example of appendix D: 75 of 100 guesses about 1,000 canaries right, delta 1e-4."""
    found = least_epsilon(right=75, guesses=100, canaries=1000, delta=1e-4)
    assert found == pytest.approx(0.673, abs=5e-4)


@pytest.mark.parametrize(("right", "epsilon", "delta"), [(7, 0.5, 0.0), (9, 1.0, 1e-3)])
def test_the_p_value_is_the_sum_that_it_cites(right, epsilon, delta):
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(10, k) * q**k * (1 - q) ** (10 - k) for k in range(11)]
    steepest = max(sum(mass[right - i : right]) / i for i in range(1, right + 1))
    found = p_value(right=right, guesses=10, canaries=20, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(sum(mass[right:]) + 2 * 20 * delta * steepest)


def test_randomised_response_of_just_this_epsilon_is_accused_once_in_twenty_seeds_at_most():
    """The mechanism at which the bound is tight: 1,000 runs, 100 canaries, 5 % or less accused."""
    generator = np.random.default_rng(0)
    right = generator.binomial(100, 1 / (1 + math.exp(-1.0)), 1000)
    refuted = {
        one: p_value(right=one, guesses=100, canaries=100, epsilon=1.0, delta=0.0) < 0.05
        for one in range(101)
    }
    accused = sum(refuted[one] for one in right.tolist())
    assert 10 < accused < 70


@pytest.mark.parametrize("right", [-1, 11])
def test_more_right_guesses_than_guesses_are_refused(right):
    with pytest.raises(ValueError, match="right="):
        p_value(right=right, guesses=10, canaries=10, epsilon=1.0, delta=0.0)


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
