import pytest
from scipy.stats import binom

from experiments.speed.gradient_steps import GradientSteps, Turn, Way
from experiments.tables import error_bars, in_brackets, middle, ratio


def test_of_fewer_than_six_values_the_range_is_the_lowest_and_the_highest():
    found = middle([3.0, 1.0, 5.0, 2.0, 4.0])
    assert (found.median, found.low, found.high) == (3.0, 1.0, 5.0)
    assert (middle([7.0]).low, middle([7.0]).high) == (7.0, 7.0)


@pytest.mark.parametrize(
    ("count", "kth"), [(6, 1), (7, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6)]
)
def test_the_interval_is_that_of_the_tables_of_the_sign_test(count, kth):
    found = middle(range(count, 0, -1))
    assert (found.low, found.high) == (kth, count + 1 - kth)


@pytest.mark.parametrize("count", [6, 7, 15, 59, 60])
def test_the_interval_is_the_narrowest_that_holds_the_median_often_enough(count):
    found = middle(range(1, count + 1))
    kth = int(found.low)
    assert found.high == count + 1 - kth
    held = binom.pmf(range(kth, count + 1 - kth), count, 0.5).sum()
    narrower = binom.pmf(range(kth + 1, count - kth), count, 0.5).sum()
    assert held >= 0.95 > narrower


def test_a_ratio_is_taken_turn_by_turn():
    found = ratio([2.0, 30.0, 400.0], [1.0, 10.0, 100.0])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0, 2.0], [1.0])


def test_a_way_that_sits_turns_out_is_compared_in_those_it_has():
    plain = [Turn(number=n, seconds=1.0, cpu=float(1 + n)) for n in range(4)]
    slow = [Turn(number=n, seconds=1.0, cpu=float(10 + 10 * n)) for n in (0, 3)]
    found = GradientSteps(
        batch=1,
        hidden=1,
        load=0.0,
        cores=1,
        ways=(Way(way="plain", turns=tuple(plain)), Way(way="closed", turns=tuple(slow))),
    )
    times = found.times_plain(found.ways[1])
    assert (times.low, times.high) == (10.0, 10.0)


def test_a_middle_is_shown_with_its_range_and_the_caption_says_which():
    assert f"{middle([1000.0, 2000.0, 3000.0]):,.0f}" == "2,000 (1,000 to 3,000)"
    assert error_bars([middle([1.0, 2.0, 4.0])]) == ([1.0], [2.0])
    assert in_brackets(5, 1) == "the lowest and the highest"
    assert "95 %" in in_brackets(6)
    assert "lowest" not in in_brackets(6, 60)
    assert "95 %" in in_brackets(3, 6)
    assert "fewer than 6" in in_brackets(3, 6)
