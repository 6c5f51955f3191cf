"""Who gains: groups of institutions and people, made from results."""

import pytest

from experiments.quality import gain_report
from experiments.quality.bank_results import gain_of
from experiments.quality.catalogue import BANKS, GAINS
from experiments.quality.gains import BOTH, INSTITUTIONS, THIN, TWO, gains_of_nation


def test_thirds_hold_every_real_institution_once_and_have_its_gain():
    text = gain_report.by_size(None)
    found = BANKS.load()
    smallest = sorted(found.variants[0].banks, key=lambda bank: bank.loans)[:6]
    gain = gain_of(found, smallest, 0, "federated", "alone")
    first = text.splitlines()[2]
    assert f"{smallest[0].loans:,} to {smallest[-1].loans:,} | 6 |" in first
    assert f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" in first
    assert len(text.splitlines()) == 2 + 3 * len(found.epsilons) * len(found.variants)
    assert gain_report.by_risk(None).splitlines()[2].startswith("| 9.4%")


@pytest.mark.slow
def test_groups_of_a_nation_are_measured_by_what_their_institution_holds():
    found = gains_of_nation(8_000, 0)
    groups = {(one.institution, one.group): one for one in found.groups}
    platform = groups["platform", "all"]
    assert platform.people == groups["platform", THIN].people + groups["platform", BOTH].people
    assert groups["bank-0", "all"].alone > platform.alone  # repayment tells most
    assert 0 < groups["bank-0", TWO].people < groups["bank-0", "all"].people
    assert found.rows[1] > found.rows[-1]


def test_the_committed_tables_have_every_institution_and_intervals():
    found = GAINS.load()
    text = gain_report.by_institution(found)
    for name in INSTITUTIONS:
        assert text.count(f"| {name} |") == len(found.epsilons)
    assert "nan" not in text + gain_report.by_history(found) + gain_report.by_columns(found)
    assert "inf" not in gain_report.by_history(found)
    assert GAINS.answer(found).count("(") == pytest.approx(4)
