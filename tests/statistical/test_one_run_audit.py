"""The bounds of the audit: they are the published ones, and a promise that is kept is not refuted.

Rates: a mechanism that meets its claim exactly is refuted in at most 5 % of runs, by proof; seeds
are fixed, and the allowance is three standard deviations of a count.
"""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from experiments.audit.one_run_audit import (
    least_epsilon,
    least_mu,
    least_mu_of_runs,
    p_value,
    stake_for,
)

RUNS = 2000
LEVEL = 0.05
ALLOWED = RUNS * LEVEL + 3 * math.sqrt(RUNS * LEVEL * (1 - LEVEL))


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


@pytest.mark.parametrize(
    ("canaries", "right", "guesses", "mu"),
    [
        (1000, 500, 800, 0.2010),
        (100, 75, 100, 0.4043),
        (1000, 90, 100, 0.6025),
        (64, 60, 64, 0.9692),
        (100, 30, 30, 0.9881),
    ],
)
def test_the_bound_for_a_trade_off_curve_is_the_published_recursion(canaries, right, guesses, mu):
    """Figures of the recursion as its authors published it, confidence 95 %."""
    found = least_mu(right=right, guesses=guesses, canaries=canaries, level=LEVEL)
    assert found == pytest.approx(mu, abs=2e-4)


def most_likely(right, guesses, canaries, mu):
    """Returns the largest P[at least `right`] that the inequalities allow, by an optimiser."""

    def tails(p, factor):
        return np.cumsum((factor * p)[::-1])[::-1] / canaries

    counts = np.arange(guesses + 1)

    def slack(p):
        hits, misses = tails(p, counts), tails(p, guesses - counts)
        blown_down = stats.norm.cdf(stats.norm.ppf(np.clip(hits[1:], 1e-15, 1 - 1e-15)) - mu)
        return misses[:-1] - blown_down

    found = optimize.minimize(
        lambda p: -np.sum(p[right:]),
        np.full(guesses + 1, 1 / (guesses + 1)),
        bounds=[(0, 1)] * (guesses + 1),
        constraints=[
            {"type": "eq", "fun": lambda p: np.sum(p) - 1},
            {"type": "ineq", "fun": slack},
        ],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert found.success
    return -found.fun


@pytest.mark.parametrize(("right", "guesses", "canaries"), [(5, 6, 6), (6, 6, 10), (4, 5, 8)])
def test_no_distribution_within_the_inequalities_makes_so_many_right_guesses_likelier(
    right, guesses, canaries
):
    """At the bound the likeliest distribution gives the level: found by optimisation, not by us."""
    for level in (0.05, 0.3):
        mu = least_mu(right=right, guesses=guesses, canaries=canaries, level=level)
        if mu > 0:
            assert most_likely(right, guesses, canaries, mu) == pytest.approx(level, rel=0.01)


def needed(mu, guesses, canaries):
    """Returns the least number of right guesses that refute a mu at the level."""
    for right in range(guesses // 2, guesses + 1):
        if least_mu(right=right, guesses=guesses, canaries=canaries, level=LEVEL) > mu:
            return right
    return guesses + 1


def guessed(generator, mu, canaries, guesses):
    """Returns the right guesses about a Gaussian mechanism of just this mu, the surest ones."""
    coins = generator.random(canaries) < 0.5
    seen = mu * coins + generator.standard_normal(canaries) - mu / 2
    surest = np.argsort(-np.abs(seen))[:guesses]
    return int(np.sum((seen[surest] > 0) == coins[surest]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mu", "canaries", "guesses"), [(0.5, 40, 40), (0.5, 40, 10), (1.5, 100, 30), (3.0, 20, 20)]
)
def test_a_gaussian_mechanism_of_just_this_mu_is_refuted_in_5_of_100_runs_at_most(
    mu, canaries, guesses
):
    generator = np.random.default_rng(0)
    least = needed(mu, guesses, canaries)
    refuted = sum(guessed(generator, mu, canaries, guesses) >= least for _ in range(RUNS))
    assert refuted <= ALLOWED


def test_a_mechanism_whose_guesses_are_all_right_or_all_wrong_is_refuted_in_5_of_100_runs_at_most():
    """One number tells whether most coins fell: right guesses then hang together."""
    mu, canaries = 1.0, 20
    generator, least = np.random.default_rng(1), needed(1.0, 20, 20)
    refuted = 0
    for _ in range(RUNS):
        coins = generator.random(canaries) < 0.5
        seen = mu * (coins.sum() - canaries / 2) + generator.standard_normal()
        refuted += int(np.sum((seen > 0) == coins)) >= least
    assert refuted <= ALLOWED


def test_a_mechanism_that_sometimes_tells_everything_is_allowed_for():
    whole = least_mu(right=30, guesses=30, canaries=30, level=LEVEL)
    assert 0 < least_mu(right=30, guesses=30, canaries=30, level=LEVEL, lost=0.04) < whole
    told = least_mu(right=30, guesses=30, canaries=30, level=LEVEL, lost=0.06)
    assert told == 0.0, "all is told more often than the level"


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_independent_runs_of_just_this_mu_are_refuted_in_5_of_100_tables_at_most(together):
    """Guesses of a run alone, or all right or all wrong together, which has the same mean."""
    mu, canaries, runs = 0.5, 50, 40
    success = stats.norm.cdf(mu / 2)
    generator = np.random.default_rng(2)
    size = (RUNS, runs)
    right = (
        canaries * generator.binomial(1, success, size)
        if together
        else generator.binomial(canaries, success, size)
    )
    found = [least_mu_of_runs(one, canaries=canaries, level=LEVEL) for one in right.tolist()]
    assert sum(one > mu for one in found) <= ALLOWED
    assert together or np.mean(found) > 0.2, "and it is not a bound that proves nothing"


def test_many_independent_runs_come_close_to_the_truth():
    success = stats.norm.cdf(0.5)
    right = np.random.default_rng(3).binomial(100, success, 2000).tolist()
    assert 0.95 < least_mu_of_runs(right, canaries=100, level=LEVEL) < 1.0


def test_no_stake_is_so_high_that_a_run_loses_everything():
    for mean in (0.5, 0.7, 1.0):
        assert 0 < stake_for(mean, runs=1, canaries=10**6, level=1e-9) * mean < 1


def test_nothing_is_proved_by_guesses_that_are_half_right():
    assert least_mu(right=50, guesses=100, canaries=100, level=LEVEL) == 0.0
    assert least_mu(right=0, guesses=0, canaries=100, level=LEVEL) == 0.0
    assert least_mu_of_runs([50] * 100, canaries=100, level=LEVEL) == 0.0


@pytest.mark.parametrize("right", [-1, 11])
def test_counts_that_do_not_fit_are_refused(right):
    with pytest.raises(ValueError, match="right="):
        least_mu(right=right, guesses=10, canaries=10, level=LEVEL)
    with pytest.raises(ValueError, match="guesses right"):
        least_mu_of_runs([right], canaries=10, level=LEVEL)
