"""Scores and reasons from a released network, in numpy alone."""

import numpy as np
from numpy.typing import NDArray

from federation.grid import NOT_HELD
from federation.model.attributions import attributions
from federation.model.network import BLOCK_ROWS, NO_BIN
from federation.model.network_release import NetworkRelease
from federation.model.scorecard import LARGEST_WEIGHT
from federation.model.scores import (
    LOSS_UNITS_PER_POINT,
    MOST_REASONS,
    Leading,
    Scores,
    places_of,
    texts_of,
)

_LARGEST_LOSS = LARGEST_WEIGHT * LOSS_UNITS_PER_POINT


class NetworkScorer:
    """Scores rows of fine cell codes by a released network.

    The points that a feature costs are those of its part of the log-odds against the average
    trained person (`federation.model.attributions`). Reasons then follow as a card's do: losses of
    features that share a reason are added up, what one gains does not hide what another costs, and
    a feature that is not held, or a cell without evidence, costs nothing. Computed in float64 and
    rounded to whole points and whole hundredths: another processor may round a tie the other way.
    """

    __slots__ = ("_evident", "_features", "_mean", "_network", "_places", "_scale", "reasons")

    def __init__(self, release: NetworkRelease) -> None:
        """Prepares the tables of one release."""
        reason_of = {feature.name: feature.reason for feature in release.schema.features}
        of_features = [reason_of[grid.name] for grid in release.grids]
        self.reasons: tuple[str, ...] = tuple(dict.fromkeys(of_features))
        """The texts of all reasons, the one first in the schema first."""
        self._features = tuple(
            [place for place, own in enumerate(of_features) if own == reason]
            for reason in self.reasons
        )
        self._places = places_of(self.reasons)
        self._network = release.network
        self._mean = release.mean_inputs
        self._scale = release.scale
        self._evident = np.zeros((len(of_features), NOT_HELD + 1), dtype=np.bool_)
        for evident, cells in zip(self._evident, release.bin_of_cell, strict=True):
            evident[: len(cells)] = np.array(cells) != NO_BIN

    def score(self, codes: NDArray[np.uint8]) -> Scores:
        """Returns the scores of rows of codes, each row for itself.

        Args:
            codes: uint8[features, rows], fine cell codes of the scored features in schema order.
        """
        rows = codes.shape[1]
        points = self._network.points(codes, self._scale).astype(np.int32)
        reasons = np.empty((MOST_REASONS, rows), dtype=np.int16)
        for start in range(0, rows, BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            self._rank(codes[:, block], reasons[:, block])
        shown = np.clip(points, np.int32(self._scale.least), np.int32(self._scale.most))
        return Scores(points=points, shown=shown, reasons=reasons.T)

    def _rank(self, codes: NDArray[np.uint8], reasons: NDArray[np.int16]) -> None:
        """Writes `reasons`, int16[4, rows]."""
        parts = attributions(self._network, codes, self._mean)
        hundredths = np.rint(parts * (self._scale.factor * LOSS_UNITS_PER_POINT))
        losses = np.clip(hundredths, 0, _LARGEST_LOSS).astype(np.int64).T
        for lost, evident, of_feature in zip(losses, self._evident, codes, strict=True):
            lost[~evident[of_feature]] = 0
        leading = Leading(codes.shape[1], self._places, np.int64)
        for number, features in enumerate(self._features):
            total = losses[features].sum(axis=0)
            leading.offer(total * self._places + (self._places - 1 - number))
        leading.write(reasons)

    def reason_texts(self, reasons: NDArray[np.int16]) -> tuple[str, ...]:
        """Returns the texts behind one row of `Scores.reasons`."""
        return texts_of(self.reasons, reasons)
