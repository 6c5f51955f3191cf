import resource

import pytest

from experiments.speed.alone import alone, here
from experiments.speed.growth import Expected, Point, fitted
from experiments.speed.scale_nation import added, of_repeats, ranged, times
from experiments.speed.scale_parts import benched, noise_of
from fedscore.bench import peak_bytes


def test_intervals_are_added_end_to_end():
    one = Expected(value=2.0, low=1.0, high=4.0)
    assert added((one, times(one, 2))) == Expected(value=6.0, low=3.0, high=12.0)
    assert ranged((3.0, 1.0, 2.0)) == Expected(value=2.0, low=1.0, high=3.0)


def test_what_was_measured_once_is_given_the_interval_of_another_measurement():
    points = [Point(size=size, value=value) for size, value in ((1, 1.1), (10, 9.0), (100, 105.0))]
    law = fitted(points, (1,))
    once = of_repeats((105.0,), law, 100)
    assert once.value == 105.0
    assert once.low < law.at(100).value < 105.0 < once.high
    assert of_repeats((300.0,), law, 100).high == 300.0
    assert of_repeats((3.0, 1.0, 2.0), law, 100) == ranged((3.0, 1.0, 2.0))


def test_noise_follows_from_quorum_and_colluders_and_from_people_through_delta_alone():
    small, large, many = noise_of(10**4, 10), noise_of(10**5, 10), noise_of(10**4, 400)
    assert small.delta == large.delta == 1e-6
    assert small.step == large.step
    expected = (400 / (300 - 133) / (10 / (7 - 3))) ** 0.5
    assert many.step / small.step == pytest.approx(expected, rel=1e-5)
    assert noise_of(10**9, 10).step > small.step  # a smaller delta


@pytest.mark.slow
def test_a_process_of_its_own_does_not_inherit_the_peak_of_the_one_that_asks_for_it():
    held = bytearray(2**29)
    assert peak_bytes() > len(held)
    assert alone(int, peak_bytes) < len(held) < resource.getrusage(0).ru_maxrss * 1024


@pytest.mark.slow
def test_what_is_computed_here_and_alone_is_of_the_same_kind():
    found = here(type(benched(100, False)), benched, 100, False)
    assert found.packed == 100 * 13
    assert found.intake is None
