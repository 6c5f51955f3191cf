"""What reports about attacks say follows from what was found, and hides nothing."""

import numpy as np

from experiments.attacks import inversion_report
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
