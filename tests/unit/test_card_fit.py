"""Bins of each feature follow the people whose institutions hold it, and noise decides nothing."""

import numpy as np
import pytest

from federation.grid import Role
from federation.model.binning import choose_bins, most_bins
from federation.model.card_fit import CardFit
from tests.federations import wide_schema

GRIDS = tuple(g for g in wide_schema(features=3, cells=40).grids if g.role is Role.SCORED)
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
