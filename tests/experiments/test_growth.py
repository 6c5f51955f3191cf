import numpy as np
import pytest

from experiments.speed.growth import Point, fitted
from federation.errors import ConfigurationError

SIZES = (10**4, 10**5, 10**6, 10**7)


def points(generator, *, fixed=0.002, each=3e-8, scatter=0.0, repeats=3):
    return [
        Point(
            size=size,
            value=(fixed + each * size) * (1 + scatter * generator.standard_normal()),
        )
        for size in SIZES
        for _ in range(repeats)
    ]


def test_a_law_without_scatter_is_found_exactly_and_known_far_beyond_its_points():
    law = fitted(points(np.random.default_rng(0)), (0, 1))
    assert law.coefficients == pytest.approx((0.002, 3e-8), rel=1e-9)
    assert law.largest == 10**7
    expected = law.at(10**9)
    assert expected.value == pytest.approx(30.002, rel=1e-9)
    assert expected.high - expected.low < 1e-6


def test_powers_of_the_size_are_told_apart():
    found = [Point(size=n, value=1e-4 * n + 2e-5 * n**2) for n in (3, 10, 30, 100, 400)]
    assert fitted(found, (1, 2)).coefficients == pytest.approx((1e-4, 2e-5), rel=1e-9)


def test_one_further_measurement_lies_in_the_interval_as_often_as_it_says():
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        expected = fitted(points(generator, scatter=0.1), (0, 1)).at(10**8)
        measured = (0.002 + 3e-8 * 10**8) * (1 + 0.1 * generator.standard_normal())
        inside += expected.low <= measured <= expected.high
    assert 0.92 <= inside / 400 <= 0.98  # 95 %, three of its standard errors


def test_coefficients_lie_in_their_intervals_as_often_as_they_say():
    generator = np.random.default_rng(2)
    laws = [fitted(points(generator, scatter=0.1), (0, 1)) for _ in range(400)]
    inside = [abs(law.coefficients[1] - 3e-8) <= law.reach_of(1) for law in laws]
    assert 0.92 <= np.mean(inside) <= 0.98


def test_small_sizes_count_as_much_as_large_ones():
    law = fitted(points(np.random.default_rng(3), scatter=0.02), (0, 1))
    assert law.coefficients[0] == pytest.approx(0.002, rel=0.1)
    assert law.largest_error < 0.1


def test_a_law_needs_more_points_than_terms_and_as_many_sizes():
    with pytest.raises(ConfigurationError, match="more measurements"):
        fitted([Point(size=1, value=1.0), Point(size=2, value=2.0)], (0, 1))
    with pytest.raises(ConfigurationError, match="more measurements"):
        fitted([Point(size=1, value=1.0)] * 3, (0, 1))
