import numpy as np
import pyarrow as pa
import pytest

from experiments.division import Score, reach
from experiments.loans import features_of, institutions_of, synthetic_loans
from experiments.quality import comparison_report
from experiments.quality.bank_results import Gain
from experiments.quality.comparison import Row, Set
from experiments.quality.confirmation import Confirmation, differences
from experiments.tables import markdown


def of_split(split, ours, theirs):
    return Set(
        dataset="taiwan",
        data="",
        schema="",
        split=split,
        rounds=20,
        trained=1,
        tested=1,
        rows=(
            Row(
                epsilon=1.0,
                fedscore=Score(auc=ours),
                dp_ebm=Score(auc=theirs),
            ),
        ),
    )


def test_a_difference_is_paired_by_split():
    found = Confirmation(
        commit="c" * 40,
        versions={},
        sets=(of_split(1, (0.7, 0.8), (0.7, 0.7)), of_split(2, (0.9, 0.9), (0.8, 0.8))),
    )
    (one,) = differences(found)
    assert one.splits == pytest.approx((0.05, 0.1))
    assert one.mean == pytest.approx(0.075)
    assert one.reach == pytest.approx(
        12.706 * 0.025 * (1 + 2 / 3) ** 0.5, rel=1e-3
    )  # one degree of freedom
    assert "+0.0750" in comparison_report.confirmation(found)
    assert "cccccccccccc" in comparison_report.confirmation(found)


def test_the_interval_of_a_mean_is_students():
    assert reach([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert reach([1.0]) == float("inf")


def test_the_interval_over_repeated_splits_allows_for_their_overlap():
    values = [0.01, 0.02, 0.03, 0.04]
    gain = Gain.of(values, 0.25)
    error = np.sqrt((1 / 4 + 1 / 3) * np.var(values, ddof=1))
    assert gain.mean == pytest.approx(0.025)
    assert gain.high - gain.mean == pytest.approx(3.1824 * error, rel=1e-3)


def test_the_eight_largest_banks_stand_alone_and_the_rest_are_dealt_by_name():
    names = [f"BANK {number}" for number in range(12) for _ in range(20 - number)] + [None]
    owners, largest = institutions_of(pa.chunked_array([names]))
    assert largest == tuple(f"BANK {number}" for number in range(8))
    by_name = {}
    for name, owner in zip(names, owners.tolist(), strict=True):
        by_name.setdefault(name, set()).add(owner)
    assert all(len(of) == 1 for of in by_name.values())
    assert by_name["BANK 0"] == {0}
    assert min(by_name["BANK 8"] | by_name[None]) >= 8


def test_a_bank_makes_its_features_of_its_own_row():
    rows = features_of(synthetic_loans(50)).to_pylist()
    for row in rows:
        assert row["sector"] == row["NAICS"] // 10_000
        assert row["franchise"] == int(row["FranchiseCode"] > 1)
        assert row["guaranteed"] == pytest.approx(row["SBA_Appv"] / row["GrAppv"])


def test_a_table_is_markdown():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
