"""Bins are a partition that noise cannot break, and evidence is what its definition says."""

import numpy as np
import pytest

from federation.errors import ConfigurationError
from federation.model.binning import (
    FeatureBins,
    choose_bins,
    evidence,
    merge,
    most_bins,
    smallest_bin,
)

CELLS, ORDERED, PEOPLE = 24, 20, 10_000.0


def _noisy_counts(seed: int, stddev: float) -> tuple[np.ndarray, np.ndarray]:
    """A skewed feature of 20 ordered cells, a large code, a small one, two empty cells; noise."""
    random = np.random.default_rng(seed)
    shares = np.concatenate([0.7 ** np.arange(ORDERED), [0.8, 0.01, 0.0, 0.0]])
    people = PEOPLE * shares / shares.sum()
    return 0.9 * people + stddev * random.normal(size=CELLS), 0.1 * people + stddev * random.normal(
        size=CELLS
    )


@pytest.mark.parametrize("stddev", [0.0, 5.0, 50.0, 500.0, 5000.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_bin_that_has_a_choice_is_smaller_than_the_floor(seed: int, stddev: float) -> None:
    good, bad = _noisy_counts(seed, stddev)
    bins = choose_bins(
        ordered_cells=ORDERED, good=good, bad=bad, stddev=stddev, people=PEOPLE, most=12
    )
    counts = merge(bins, good + bad)
    floor = smallest_bin(stddev=stddev, people=PEOPLE)
    assert bins.ordered_bins <= 12
    if bins.ordered_bins > 1:
        assert counts[: bins.ordered_bins].min() >= floor
    assert (counts[bins.ordered_bins : -2] >= floor).all()


def test_without_noise_a_large_special_code_has_its_own_bin_and_empty_ones_share_the_last() -> None:
    good, bad = _noisy_counts(0, 0.0)
    bins = choose_bins(
        ordered_cells=ORDERED, good=good, bad=bad, stddev=0.0, people=PEOPLE, most=12
    )
    first = bins.ordered_bins
    assert bins.bin_of_cell[ORDERED:] == (first, first + 1, first + 2, first + 2)
    assert bins.last_is_silent


def test_counts_that_are_all_noise_make_one_ordered_bin() -> None:
    random = np.random.default_rng(3)
    good, bad = -np.abs(random.normal(size=(2, CELLS))) * 100
    bins = choose_bins(
        ordered_cells=ORDERED, good=good, bad=bad, stddev=100.0, people=PEOPLE, most=12
    )
    assert (bins.ordered_bins, bins.bins) == (1, 2)


def test_a_feature_of_categories_only_has_no_ordered_bin() -> None:
    good, bad = np.array([900.0, 800.0, -3.0]), np.array([90.0, 80.0, 2.0])
    bins = choose_bins(ordered_cells=0, good=good, bad=bad, stddev=4.0, people=1800.0, most=8)
    assert bins == FeatureBins(
        ordered_cells=0, ordered_bins=0, bin_of_cell=(0, 1, 2), last_is_silent=True
    )


def test_more_noise_never_allows_more_bins_or_smaller_ones() -> None:
    allowed = [most_bins(stddev=stddev, people=PEOPLE) for stddev in (0.0, 10.0, 100.0, 1000.0)]
    floors = [smallest_bin(stddev=stddev, people=PEOPLE) for stddev in (0.0, 10.0, 100.0, 1000.0)]
    assert allowed == sorted(allowed, reverse=True)
    assert floors == sorted(floors)


def test_unordered_cells_that_the_noise_explains_share_a_silent_bin_and_others_do_not() -> None:
    good, bad = np.array([900.0, 800.0, 9.0, 9.0]), np.array([90.0, 80.0, 2.0, 0.0])
    for stddev, silent in ((3.4, True), (3.3, False)):  # 20 people against 3 sqrt(2 x 2) stddev
        bins = choose_bins(
            ordered_cells=0, good=good, bad=bad, stddev=stddev, people=1900.0, most=8
        )
        assert bins.bin_of_cell == (0, 1, 2, 2)
        assert bins.last_is_silent is silent
        assert bins.evident.tolist() == [True, True, not silent]


def test_without_noise_one_person_is_evidence_and_nobody_is_none() -> None:
    for people, silent in ((1.0, False), (0.0, True)):
        good, bad = np.array([900.0, people]), np.array([90.0, 0.0])
        bins = choose_bins(ordered_cells=0, good=good, bad=bad, stddev=0.0, people=991.0, most=8)
        assert bins.last_is_silent is silent


def test_a_silent_bin_has_no_weight_of_evidence_and_no_part_in_the_information() -> None:
    bins = FeatureBins(ordered_cells=2, ordered_bins=2, bin_of_cell=(0, 1, 2), last_is_silent=True)
    two = FeatureBins(ordered_cells=2, ordered_bins=2, bin_of_cell=(0, 1), last_is_silent=False)
    good, bad = np.array([600.0, 300.0, 40.0]), np.array([20.0, 80.0, -3.0])
    found = evidence(bins, good=good, bad=bad, stddev=10.0)
    expected = evidence(two, good=good[:2], bad=bad[:2], stddev=10.0)
    np.testing.assert_allclose(found.weight, [*expected.weight, 0.0])
    assert found.standard_error[2] == np.inf
    assert found.information_value == pytest.approx(expected.information_value)


def test_a_silent_bin_of_ordered_cells_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        FeatureBins(ordered_cells=2, ordered_bins=2, bin_of_cell=(0, 1), last_is_silent=True)


def test_merging_keeps_negative_counts_and_the_total() -> None:
    bins = FeatureBins(
        ordered_cells=3, ordered_bins=2, bin_of_cell=(0, 0, 1, 2, 2), last_is_silent=False
    )
    assert merge(bins, np.array([5.0, -7.0, 1.0, 2.0, -0.5])).tolist() == [-2.0, 1.0, 1.5]
    assert bins.cells_per_bin.tolist() == [2.0, 1.0, 2.0]


def test_evidence_without_noise_is_the_textbook_weight_and_information_value() -> None:
    bins = FeatureBins(ordered_cells=2, ordered_bins=2, bin_of_cell=(0, 1), last_is_silent=False)
    found = evidence(bins, good=np.array([600.0, 300.0]), bad=np.array([20.0, 80.0]), stddev=0.0)
    weight = np.log(np.array([(600 / 900) / (20 / 100), (300 / 900) / (80 / 100)]))
    np.testing.assert_allclose(found.weight, weight)
    np.testing.assert_allclose(found.standard_error, np.sqrt([1 / 600 + 1 / 20, 1 / 300 + 1 / 80]))
    assert found.information_value == pytest.approx(
        (600 / 900 - 20 / 100) * weight[0] + (300 / 900 - 80 / 100) * weight[1]
    )


def test_the_standard_error_of_evidence_is_its_spread_over_repeated_samples_and_noise() -> None:
    bins = FeatureBins(
        ordered_cells=40,
        ordered_bins=20,
        bin_of_cell=tuple(cell // 2 for cell in range(40)),
        last_is_silent=False,
    )
    good, bad, stddev = np.full(20, 5000.0), np.linspace(400.0, 900.0, 20), 30.0
    random = np.random.default_rng(11)

    def again(mean: np.ndarray) -> np.ndarray:
        return random.poisson(mean) + stddev * np.sqrt(bins.cells_per_bin) * random.normal(size=20)

    found = [evidence(bins, good=again(good), bad=again(bad), stddev=stddev) for _ in range(1500)]
    spread = np.array([one.weight for one in found]).std(axis=0)
    # 1,500 repeats give each spread to 1 / sqrt(3000) = 1.8 %; the totals of 20 bins add 2.5 %
    np.testing.assert_allclose(
        np.mean([one.standard_error for one in found], axis=0), spread, rtol=0.1
    )


def test_evidence_of_negative_counts_is_finite_and_says_so_with_a_large_error() -> None:
    bins = FeatureBins(ordered_cells=2, ordered_bins=2, bin_of_cell=(0, 1), last_is_silent=False)
    found = evidence(bins, good=np.array([-40.0, 900.0]), bad=np.array([-5.0, 100.0]), stddev=30.0)
    assert np.isfinite(found.weight).all()
    assert found.standard_error[0] > 1 > found.standard_error[1]


@pytest.mark.parametrize(
    ("ordered_cells", "ordered_bins", "bin_of_cell"),
    [
        pytest.param(0, 0, (), id="no cell"),
        pytest.param(3, 1, (0, 0), id="more ordered cells than cells"),
        pytest.param(3, 2, (0, 1, 0), id="an ordered bin that is not a run"),
        pytest.param(3, 3, (0, 2, 1), id="ordered bins out of order"),
        pytest.param(2, 2, (0, 1, 1), id="an unordered cell in an ordered bin"),
        pytest.param(1, 1, (0, 2), id="a bin without a cell"),
        pytest.param(1, 1, (-1, 0), id="a negative bin"),
    ],
)
def test_bins_that_are_no_partition_are_refused(
    ordered_cells: int, ordered_bins: int, bin_of_cell: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigurationError):
        FeatureBins(
            ordered_cells=ordered_cells,
            ordered_bins=ordered_bins,
            bin_of_cell=bin_of_cell,
            last_is_silent=False,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"good": np.array([1.0, np.nan])},
        {"good": np.ones(3)},
        {"stddev": -1.0},
        {"people": 0.0},
        {"most": 0},
        {"ordered_cells": 3},
    ],
)
def test_choosing_bins_refuses_what_no_plan_can_have(wrong: dict[str, object]) -> None:
    settings: dict[str, object] = {
        "ordered_cells": 2,
        "good": np.ones(2),
        "bad": np.ones(2),
        "stddev": 1.0,
        "people": 10.0,
        "most": 4,
    }
    with pytest.raises(ConfigurationError):
        choose_bins(**(settings | wrong))  # type: ignore[arg-type]  # the point is to pass what the types forbid


def test_merging_refuses_counts_of_another_grid() -> None:
    bins = FeatureBins(ordered_cells=2, ordered_bins=1, bin_of_cell=(0, 0), last_is_silent=False)
    for counts in (np.ones(3), np.array([1.0, np.inf])):
        with pytest.raises(ConfigurationError):
            merge(bins, counts)


def test_a_rare_category_that_the_noise_cannot_explain_is_not_mixed_with_those_it_can() -> None:
    good, bad = np.array([90_000.0, 60.0, 8.0, -9.0]), np.array([900.0, 60.0, -2.0, 4.0])
    bins = choose_bins(ordered_cells=0, good=good, bad=bad, stddev=10.0, people=91_000.0, most=8)
    assert bins.bin_of_cell == (0, 1, 2, 2)
    assert bins.last_is_silent
