"""What reports about attacks say follows from what was found, and hides nothing."""

import numpy as np
import pytest

from experiments.attacks import (
    differencing,
    differencing_report,
    different_models,
    inversion_report,
)
from experiments.attacks.different_models import single_out
from experiments.attacks.inversion import Inversion, Seen
from experiments.attacks.poisoned_training import trained


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


def test_published_rows_of_a_conspiracy_have_their_conspirator(monkeypatch):
    """Whoever conspires is not among the honest who are asked about a second set."""
    assert differencing.trials_of("real", 0, 1).trials.asked == (5,)
    assert differencing.trials_of("conspired", 0, 1).trials.asked == (4,)
    conspirators = []

    def watched(*arguments, **named):
        conspirators.append(named["conspirators"])
        return single_out(*arguments, **named)

    monkeypatch.setattr(different_models, "single_out", watched)
    for build in different_models.BUILDS:
        different_models.singled("scorecard", build, 0, 1)
    assert conspirators == [0, 0, 1]


@pytest.mark.soak  # two trainings of 22,500 people
def test_a_table_made_up_to_spoil_the_card_does_more_than_one_with_outcomes_turned_round():
    cells, labels = (
        trained("scorecard", attack, "product", 0.2, 0).auc for attack in ("cells", "labels")
    )
    assert cells < labels - 0.05
