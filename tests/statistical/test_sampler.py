"""The discrete Gaussian against its definition. Each test states its false-alarm rate.

The seeds are fixed, so a test that passes once passes for ever; the rates say how likely an honest
sampler with other keys would have failed it. Every detection is also shown to reject a wrong one.
"""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from experiments.audit.detections import (
    FALSE_ALARM,
    MISS,
    Detected,
    Draws,
    check_kurtosis,
    check_lattice,
    check_least_variance,
    check_masses,
    check_mean,
    check_normal,
    check_symmetry,
    check_variance,
    draws_needed,
    exact_masses,
)
from experiments.entropy import SeededEntropy
from federation.errors import PrivacyError
from federation.privacy import discrete_gaussian
from federation.privacy.discrete_gaussian import (
    LARGEST_VARIANCE,
    LOST_MASS,
    RELATIVE_ERROR,
    _propose,
    _staircase,
    sample,
)

DRAWS = 40_000
SMALL = (4, 5, 17, 4096, 10**6 + 3)
HUGE = (2**47 + 1, 2**64 + 7, LARGEST_VARIANCE)
SEEDS = range(20)


def drawn(variance: int, seed: int | str = 0, count: int = DRAWS) -> Draws:
    return sample(variance=variance, count=count, key=SeededEntropy(seed)())


@pytest.mark.parametrize("variance", SMALL)
def test_draws_follow_the_exact_probability_mass_function(variance: int) -> None:
    """False alarms: 1e-6 for each variance (chi-square, pools of 50 or more expected draws)."""
    check_masses(drawn(variance), variance)


@pytest.mark.parametrize("variance", [*SMALL, *HUGE])
def test_draws_have_mean_zero_the_variance_and_the_kurtosis_of_a_gaussian(variance: int) -> None:
    """False alarms, for each variance: 1e-6 of mean and of variance, 1e-5 of the kurtosis."""
    draws = drawn(variance)
    check_mean(draws, variance)
    check_variance(draws, variance)
    check_kurtosis(draws)


@pytest.mark.parametrize("variance", HUGE)
def test_draws_of_a_huge_variance_are_normal(variance: int) -> None:
    """False alarms: 1e-6 for each variance (Kolmogorov-Smirnov, exact)."""
    check_normal(drawn(variance), variance)


@pytest.mark.parametrize("variance", [4096, 10**6 + 3, *HUGE])
def test_every_residue_is_equally_likely_so_that_the_grid_has_no_gaps(variance: int) -> None:
    """False alarms: 1e-6 for each variance, shared by five moduli."""
    check_lattice(drawn(variance))


@pytest.mark.parametrize("variance", SMALL)
def test_signs_are_even_and_zero_is_not_counted_twice(variance: int) -> None:
    """False alarms: 1e-6 for each variance (two exact binomial tests)."""
    check_symmetry(drawn(variance), variance)


def test_draws_of_other_keys_have_nothing_in_common() -> None:
    """False alarms: 4,000 draws of deviation 2^40 collide with probability 4000^2 / 2 / 2^41.8,
    2e-6."""
    first = drawn(LARGEST_VARIANCE, "first", 2000)
    second = drawn(LARGEST_VARIANCE, "second", 2000)
    assert len(np.unique(np.concatenate([first, second]))) == 4000


def test_the_same_key_gives_the_same_draws_and_more_draws_stay_reproducible() -> None:
    assert np.array_equal(drawn(10**9), drawn(10**9))
    assert drawn(10**9, count=0).shape == (0,)
    assert drawn(10**9).dtype == np.int64


def test_the_sample_is_large_enough_to_show_three_percent() -> None:
    """The power behind the next test: a chance above 0.999 to notice, at 1e-6 false alarms."""
    assert (FALSE_ALARM, MISS) == (1e-6, 1e-3)
    assert max(draws_needed(1.03), draws_needed(0.97)) <= DRAWS


@pytest.mark.parametrize("ratio", [0.97, 1.03])
@pytest.mark.parametrize("variance", [4096, 2**47 + 1])
def test_a_deviation_that_is_three_percent_off_is_noticed(ratio: float, variance: int) -> None:
    """Chance to miss: below 0.001 a seed; none of 20 seeds is missed."""
    wrong = round(variance * ratio**2)
    for seed in SEEDS:
        with pytest.raises(Detected):
            check_variance(drawn(wrong, seed), variance)


def test_too_little_noise_is_noticed_by_the_one_sided_test_and_more_noise_is_not() -> None:
    """False alarms: 1e-6."""
    check_least_variance(drawn(4096), 4096)
    check_least_variance(drawn(5000), 4096)
    with pytest.raises(Detected):
        check_least_variance(drawn(4096 * 94 // 100), 4096)


def zero_twice(draws: Draws) -> Draws:
    """What a sampler gives that accepts minus zero: P(0) is double, about."""
    again = drawn(17, "again")[: draws.size * 10 // 100]
    return np.concatenate([draws, np.zeros_like(again)])


def uneven(draws: Draws) -> Draws:
    return np.where((np.arange(draws.size) % 20 == 0), np.abs(draws), draws)


def without_tail(draws: Draws) -> Draws:
    return draws[np.abs(draws) <= 2.5 * math.sqrt(17)]


def laplace(draws: Draws) -> Draws:
    generator = np.random.default_rng(5)
    return np.rint(generator.laplace(scale=math.sqrt(17 / 2), size=draws.size)).astype(np.int64)


def shifted(draws: Draws) -> Draws:
    return draws + (np.arange(draws.size) % 8 == 0)


def rounded_normal(draws: Draws) -> Draws:
    """A rounded continuous Gaussian has the variance 1/12 too large: told from a discrete one."""
    generator = np.random.default_rng(5)
    return np.rint(generator.normal(scale=2.0, size=10 * draws.size)).astype(np.int64)


def scaled_after(draws: Draws) -> Draws:
    return 3 * (drawn(4096) // 3)


@pytest.mark.parametrize(
    ("wrong", "notices"),
    [
        (zero_twice, lambda draws: check_symmetry(draws, 17)),
        (zero_twice, lambda draws: check_masses(draws, 17)),
        (uneven, lambda draws: check_symmetry(draws, 17)),
        (uneven, lambda draws: check_masses(draws, 17)),
        (without_tail, lambda draws: check_masses(draws, 17)),
        (without_tail, check_kurtosis),
        (laplace, check_kurtosis),
        (laplace, lambda draws: check_masses(draws, 17)),
        (laplace, lambda draws: check_normal(draws, 17)),
        (shifted, lambda draws: check_mean(draws, 17)),
        (rounded_normal, lambda draws: check_masses(draws, 4)),
        (scaled_after, check_lattice),
    ],
)
def test_a_wrong_sampler_is_noticed(
    wrong: Callable[[Draws], Draws], notices: Callable[[Draws], None]
) -> None:
    with pytest.raises(Detected):
        notices(wrong(drawn(17)))


def test_the_reference_masses_add_up_to_one_and_have_the_variance() -> None:
    for variance in SMALL:
        masses = exact_masses(variance)
        squares = np.arange(len(masses), dtype=np.float64) ** 2
        assert math.isclose(masses[0] + 2 * masses[1:].sum(), 1.0, abs_tol=1e-12)
        assert math.isclose(2 * float(masses @ squares), variance, rel_tol=1e-9)


@pytest.mark.parametrize("variance", [3, 0, -4, 2**80 + 1, 4.0, True, math.nan])
def test_a_variance_that_is_not_a_whole_number_in_range_is_refused(variance: int) -> None:
    with pytest.raises(PrivacyError, match="whole noise variance"):
        sample(variance=variance, count=1, key=bytes(32))


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(PrivacyError, match="32 bytes"):
        sample(variance=4096, count=1, key=bytes(length))


class _Scripted:
    """A keystream that says what it is told."""

    def __init__(self, words: list[int]) -> None:
        self.left = words

    def words(self, count: int) -> np.ndarray:
        taken, self.left = self.left[:count], self.left[count:]
        return np.array(taken, dtype=np.uint64)


@pytest.mark.parametrize("variance", [4, 4096, 10**6 + 3, 2**80])
def test_a_word_on_the_edge_of_a_step_is_decided_by_its_lower_half(variance: int) -> None:
    stairs = _staircase(variance)
    for place in (0, 1, 5):
        upper, lower = divmod(stairs.thresholds[place], 2**64)
        word = np.array([upper], dtype=np.uint64)
        for low, expected in ((lower, place + 1), (lower - 1, place), (2**64 - 1, place + 1)):
            stream = _Scripted([low])
            assert stairs.steps(word, stream)[0] == expected
            assert stream.left == []
        # Off the edge nothing more is drawn.
        untouched = _Scripted([])
        assert stairs.steps(word - np.uint64(1), untouched)[0] == place
        assert stairs.steps(word + np.uint64(1), untouched)[0] == place + 1


def test_steps_are_as_likely_as_the_law_says_to_thirty_digits() -> None:
    for variance in (4, 17, 4096, 2**40 + 1):
        stairs = _staircase(variance)
        width = 2**stairs.bits
        with mpmath.workdps(50):
            count = len(stairs.thresholds) + 1
            masses = [
                mpmath.exp(-mpmath.mpf((h * width) ** 2) / (2 * variance)) for h in range(count)
            ]
            reached = mpmath.mpf(0)
            for threshold, mass in zip(stairs.thresholds, masses, strict=False):
                reached += mass
                assert abs(threshold / mpmath.mpf(2) ** 128 - reached / sum(masses)) < 2**-126
            tail = (count * width) / mpmath.sqrt(variance)
            assert tail >= 12.5


def test_a_proposal_is_kept_with_its_probability_to_fifty_three_bits() -> None:
    variance = 10**6 + 3
    stairs = _staircase(variance)
    for place in (1, 37, 100):
        first_step = 0  # a word of zero falls in the first step
        with mpmath.workdps(30):
            kept = mpmath.exp(-mpmath.mpf(place**2) / (2 * variance))
        edge = int(kept * 2**53)
        for uniform, expected in ((edge - 16, [place]), (edge + 16, [])):
            words = _Scripted([first_step, place << 1, uniform << 11])
            drawn = _propose(words, stairs, variance, tries=1)
            assert list(drawn) == expected


@pytest.mark.parametrize("variance", [4, 17, 4096, 10**6 + 3, LARGEST_VARIANCE])
def test_the_certificate_covers_the_table_and_the_tail(variance: int) -> None:
    """Proposed with the wrong step or never: what is lost, before a fifth of it is not kept."""
    stairs = _staircase(variance)
    width = 2**stairs.bits
    with mpmath.workdps(70):
        masses = [
            mpmath.exp(-mpmath.mpf((h * width) ** 2) / (2 * variance))
            for h in range(2 * len(stairs.thresholds) + 50)
        ]
        edges = [0, *(threshold / mpmath.mpf(2) ** 128 for threshold in stairs.thresholds), 1]
        exact = [mass / sum(masses) for mass in masses]
        off = [abs(edges[h + 1] - edges[h] - exact[h]) for h in range(len(edges) - 1)]
        lost = sum(off) + sum(exact[len(off) :])
        assert 0 < lost / mpmath.mpf("0.6") <= LOST_MASS


def test_the_certificate_covers_float64() -> None:
    """At the end of every step, where the least is kept and the exponent is rounded the most."""
    worst = 0.0
    for variance in (17, 4096, 10**6 + 3, 2**40 + 1, LARGEST_VARIANCE):
        stairs = _staircase(variance)
        width = 1 << stairs.bits
        for step in range(len(stairs.thresholds) + 1):
            place = width - 1
            found = np.exp(-float(place) * (2.0 * step * width + place) / (2.0 * variance))
            with mpmath.workdps(40):
                exponent = mpmath.mpf(place * (2 * step * width + place)) / (2 * variance)
                assert exponent <= 3.2
                kept = mpmath.ceil(mpmath.mpf(float(found)) * 2**53) / 2**53
                worst = max(worst, float(abs(mpmath.log(kept) + exponent)))
    assert 2.0**-60 < worst <= RELATIVE_ERROR


def test_draws_that_a_proposal_did_not_fill_are_drawn_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One proposal fills all of them but once in billions of calls: here three at a time do."""
    asked = []

    def few(stream: object, stairs: object, variance: int, *, tries: int) -> np.ndarray:
        asked.append(tries)
        return np.arange(3) + 10 * len(asked)

    monkeypatch.setattr(discrete_gaussian, "_propose", few)
    assert sample(variance=17, count=8, key=bytes(32)).tolist() == [
        *(11 - 1, 11, 12),
        *(20, 21, 22),
        *(30, 31),
    ]
    assert asked == [28, 23, 19]
