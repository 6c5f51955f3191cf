"""What reports about attacks say follows from what was found, and hides nothing."""

import numpy as np

from experiments.attacks import differencing, differencing_report, inversion_report
from experiments.attacks.inversion import Inversion, Seen


def test_a_gain_is_paired_so_that_what_differs_between_people_hides_nothing():
    base = tuple(np.linspace(0, 0.9, 100))
    right = tuple(one + 0.001 for one in base)
    assert inversion_report.gain(right, base) == "+0.10 +-0.00"
    cell = Seen(
        model="scorecard",
        answer="total",
        rounds=20,
        people=1,
        right=right,
        base=base,
        largest=base,
        chance=(0.45,) * 100,
    )
    row = inversion_report.table(Inversion(cells=(cell,))).splitlines()[2]
    assert "| 45.1% | 45.0% | +0.10 +-0.00 | 45.0% | 45.0% | -0.00 +-5.23 |" in row


def test_victims_count_alike_however_many_turns_they_had():
    """Of ten turns four victims have two, and two have one."""
    errors = (0.0,) * 6 + (10.0,) * 4
    assert differencing._by_victim([errors, errors]) == (5.0, 5.0, 5.0, 5.0, 0.0, 0.0)


def test_a_count_of_refusals_is_one_attempts_and_says_where_attempts_differ():
    assert differencing_report.each_time((5, 5), (5, 5)) == "5 of 5"
    assert differencing_report.each_time((5, 4), (5, 5)) == "4 of 5 or 5 of 5"
