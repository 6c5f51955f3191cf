"""Bins of each feature follow the people whose institutions hold it, and noise decides nothing."""

import numpy as np
import pytest

from federation.model.binning import choose_bins, most_bins
from federation.model.card_fit import CardFit
from federation.model.fitting import model_at
from federation.model.score_scale import ScoreScale
from federation.schema import load_schema
from tests.federations import wide_schema

GRIDS = wide_schema(features=3, cells=40).scored_grids
CELLS = len(GRIDS[0].labels)
STDDEV = 20.0


def _counts(people: tuple[float, ...], seed: int) -> np.ndarray:
    """Noisy counts, shape (features, cells, outcomes): people evenly in 40 cells, a tenth bad."""
    exact = np.zeros((len(people), CELLS, 2))
    exact[:, :40] = np.multiply.outer(people, [[0.9 / 40, 0.1 / 40]] * 40)
    return exact + np.random.default_rng(seed).normal(0.0, STDDEV, exact.shape)


def _begun(counts: np.ndarray) -> CardFit:
    return CardFit.begin(
        grids=GRIDS, counts=counts.ravel(), count_stddev=STDDEV, residual_stddev=40.0, rounds=5
    )


@pytest.mark.parametrize("seed", range(20))
def test_where_everybody_holds_everything_noise_in_the_totals_changes_no_bin(seed):
    counts = _counts((20_000.0,) * 3, seed)
    people = float(counts.sum(axis=(1, 2)).max())
    expected = tuple(
        choose_bins(
            ordered_cells=grid.ordered_cells,
            good=part[:, 0],
            bad=part[:, 1],
            stddev=STDDEV,
            people=people,
            most=most_bins(stddev=STDDEV, people=people),
        )
        for grid, part in zip(GRIDS, counts, strict=True)
    )
    assert _begun(counts).settings.bins == expected


def test_a_feature_that_few_hold_has_bins_of_its_holders_size():
    few = 8_000.0  # 200 people a cell: less than 0.5 % of the nation, more than the noise
    bins = _begun(_counts((200_000.0, 200_000.0, few), seed=1)).settings.bins
    assert [own.bins for own in bins] == [40 + (CELLS > 40)] * 3


def test_a_feature_that_nobody_holds_has_few_bins():
    bins = _begun(_counts((200_000.0, 200_000.0, 0.0), seed=1)).settings.bins
    assert bins[2].bins <= 2


SCALE = ScoreScale(points=660, odds=30.0, points_to_double=40, least=300, most=850)
CATEGORY = load_schema(
    """
format = 1
name = "two features"
person_key = "row"
rows_per_person = "one"
outcome = {column = "bad", window = "12 months"}
[[feature]]
name = "late"
role = "scored"
kind = "count"
unit = "payments"
reason = "Late payments"
lower = 0
upper = 9
direction = "rising"
missing = true
[[feature]]
name = "region"
role = "scored"
kind = "category"
categories = ["north", "south"]
other = true
reason = "Region"
"""
).grids


@pytest.mark.parametrize("seed", range(12))
def test_a_value_that_nobody_has_gives_no_points_whatever_the_noise(seed: int) -> None:
    """Nobody misses `late`, nobody's region is OTHER; ten thousand people have the rest."""
    random = np.random.default_rng(seed)
    late = np.concatenate([[5000.0, 2000, 1000, 500, 400, 300, 300, 200, 200, 100], [0.0]])
    rate = np.append(np.linspace(0.05, 0.5, 10), 0.0)
    region, regional = np.array([6000.0, 4000.0, 0.0]), np.array([0.1, 0.14, 0.0])
    exact = np.concatenate(
        [np.stack([n * (1 - r), n * r], 1).ravel() for n, r in ((late, rate), (region, regional))]
    )
    fit = CardFit.begin(
        grids=CATEGORY,
        counts=exact + random.normal(0.0, STDDEV, exact.shape),
        count_stddev=STDDEV,
        residual_stddev=30.0,
        rounds=10,
    )
    people = [
        np.bincount(b.bin_of_cell, n)
        for b, n in zip(fit.settings.bins, (late, region), strict=True)
    ]
    bad = [
        np.bincount(b.bin_of_cell, n * r)
        for b, n, r in zip(fit.settings.bins, (late, region), (rate, regional), strict=True)
    ]
    for _ in range(10):
        intercept, weights = model_at(fit.state, fit.settings)
        sums = [
            told - many / (1 + np.exp(-intercept - own))
            for told, many, own in zip(bad, people, weights, strict=True)
        ]
        exact_sums = np.append(np.concatenate(sums), sums[0].sum())
        fit = fit.after(exact_sums + random.normal(0.0, 30.0, exact_sums.shape))
    card = fit.in_points(SCALE)
    points = [
        np.array(own)[list(cells)]
        for own, cells in zip(card.weights, card.bin_of_cell, strict=True)
    ]
    assert points[0][-1] == points[1][-1] == 0
    assert (np.diff(points[0][:10]) <= 0).all()
    assert points[0][0] > 0 > points[0][9]
    assert points[1][0] > points[1][1]
