"""Scores and reasons from a released card: exact whole numbers, whatever the order or block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError, DataError
from federation.grid import NOT_HELD, FeatureGrid, code_of
from federation.model.network_release import NetworkRelease
from federation.model.network_scoring import NetworkScorer
from federation.model.release import AnyRelease, CardFeature, Release
from federation.model.scorecard import LARGEST_WEIGHT
from federation.model.scores import (
    LOSS_UNITS_PER_POINT,
    MOST_REASONS,
    Leading,
    Scores,
    places_of,
    texts_of,
)

_BLOCK_ROWS = 8_192  # a dozen vectors of this many rows stay in a core's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lookup:
    """One feature: what each of the 256 codes gives; a code that names no cell gives zero.

    Attributes:
        feature: its place among the scored features.
        points: int32[256].
        loss: int32 or int64[256], points lost in hundredths, times `Scorer._places`.
    """

    feature: int
    points: NDArray[np.int32]
    loss: NDArray[np.signedinteger]


class Scorer:
    """Scores rows of fine cell codes by a release.

    A reason is named if its features cost a point at least against the population means of those
    features (from the noisy counts of the release: no privacy is spent). Losses of features that
    share a reason are added up; what one of them gains does not hide what another costs. A feature
    that is not held costs nothing and is never a reason, nor is a bin without evidence. Of two
    reasons that cost the same to the hundredth of a point, the one first in the schema leads.
    """

    __slots__ = ("_base", "_lookups", "_places", "_scale", "reasons")

    def __init__(self, release: Release) -> None:
        """Prepares the tables of one release.

        Raises:
            ConfigurationError: a feature's mean lies beyond the public bound on points.
        """
        reason_of = {feature.name: feature.reason for feature in release.schema.features}
        self.reasons: tuple[str, ...] = tuple(
            dict.fromkeys(reason_of[feature.name] for feature in release.features)
        )
        """The texts of all reasons, the one first in the schema first."""
        self._base = release.base
        self._scale = release.scale
        self._places = places_of(self.reasons)
        points = [_points_of_codes(feature) for feature in release.features]
        losses = [
            _losses_of_codes(feature, of_feature) * self._places
            for feature, of_feature in zip(release.features, points, strict=True)
        ]
        largest_key = sum(int(np.abs(loss).max()) for loss in losses) + self._places
        key_type = np.int32 if largest_key <= np.iinfo(np.int32).max else np.int64
        self._lookups: tuple[tuple[_Lookup, ...], ...] = tuple(
            tuple(
                _Lookup(feature=number, points=points[number], loss=losses[number].astype(key_type))
                for number, feature in enumerate(release.features)
                if reason_of[feature.name] == reason
            )
            for reason in self.reasons
        )

    def score(self, codes: NDArray[np.uint8]) -> Scores:
        """Returns the scores of rows of codes, each row for itself.

        Args:
            codes: uint8[features, rows], fine cell codes of the scored features in schema order.
        """
        rows = codes.shape[1]
        points = np.full(rows, self._base, dtype=np.int32)
        reasons = np.empty((MOST_REASONS, rows), dtype=np.int16)
        for start in range(0, rows, _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            self._score_block(codes[:, block], points[block], reasons[:, block])
        shown = np.clip(points, np.int32(self._scale.least), np.int32(self._scale.most))
        return Scores(points=points, shown=shown, reasons=reasons.T)

    def _score_block(
        self,
        codes: NDArray[np.uint8],
        points: NDArray[np.int32],
        reasons: NDArray[np.int16],
    ) -> None:
        """Adds points to `points`, int32[rows], and writes `reasons`, int16[4, rows]."""
        rows = codes.shape[1]
        key_type = self._lookups[0][0].loss.dtype
        index = np.empty(rows, dtype=np.intp)
        some_points = np.empty(rows, dtype=np.int32)
        some_loss, key = (np.empty(rows, dtype=key_type) for _ in range(2))
        leading = Leading(rows, self._places, key_type.type)
        for number, lookups in enumerate(self._lookups):
            key.fill(self._places - 1 - number)
            for lookup in lookups:
                index[:] = codes[lookup.feature]
                # "wrap" only spares numpy a check: every byte is a place in a table of 256.
                lookup.points.take(index, out=some_points, mode="wrap")
                lookup.loss.take(index, out=some_loss, mode="wrap")
                points += some_points
                key += some_loss
            leading.offer(key)
        leading.write(reasons)

    def reason_texts(self, reasons: NDArray[np.int16]) -> tuple[str, ...]:
        """Returns the texts behind one row of `Scores.reasons`."""
        return texts_of(self.reasons, reasons)


AnyScorer = Scorer | NetworkScorer


def scorer_of(release: AnyRelease) -> AnyScorer:
    """Returns what scores by a release of either kind.

    Raises:
        ConfigurationError: a mean in the release lies beyond the public bound on points.
    """
    match release:
        case Release():
            return Scorer(release)
        case NetworkRelease():
            return NetworkScorer(release)
        case _:
            assert_never(release)


def require_parity(release: AnyRelease) -> None:
    """Returns only if this program scores the release's synthetic people as the release says.

    Raises:
        ConfigurationError: it does not, or there are none: another implementation made the
            release, or this one is broken. Do not score with it.
    """
    scorer = scorer_of(release)
    if not release.parity:
        raise ConfigurationError(
            "The release holds no parity vectors: nothing shows that this program scores as its "
            "maker does. Do not score with it."
        )
    for number, vector in enumerate(release.parity):
        try:
            codes = _codes_of_person(release.grids, vector.values)
        except DataError as error:
            raise ConfigurationError(
                f"Parity vector {number} breaks the release's own schema: {error} Do not score "
                "with this release."
            ) from error
        scores = scorer.score(codes)
        points, shown = int(scores.points[0]), int(scores.shown[0])
        reasons = scorer.reason_texts(scores.reasons[0])
        if (points, shown, reasons) != (vector.points, vector.shown, vector.reasons):
            raise ConfigurationError(
                f"Parity vector {number} of the release has {points} points, shown {shown}, and "
                f"reasons {list(reasons)} here; the release says {vector.points}, {vector.shown} "
                f"and {list(vector.reasons)}. Do not score with this program and this release."
            )


def _codes_of_person(
    grids: tuple[FeatureGrid, ...], values: Mapping[str, float | str | None]
) -> NDArray[np.uint8]:
    """Returns uint8[features, 1]; a feature that has no value at all is not held."""
    unknown = sorted(set(values) - {grid.name for grid in grids})
    if unknown:
        raise DataError(f"not scored: {', '.join(unknown)}.")
    codes = [
        code_of(grid, values[grid.name]) if grid.name in values else NOT_HELD for grid in grids
    ]
    return np.array(codes, dtype=np.uint8)[:, np.newaxis]


def _points_of_codes(feature: CardFeature) -> NDArray[np.int32]:
    points = np.zeros(NOT_HELD + 1, dtype=np.int32)
    points[: len(feature.bin_of_cell)] = [feature.bins[one].points for one in feature.bin_of_cell]
    return points


def _losses_of_codes(feature: CardFeature, points: NDArray[np.int32]) -> NDArray[np.int64]:
    """Returns int64[256], points lost against the feature's mean, in hundredths, or 0."""
    if not abs(feature.mean_points) <= LARGEST_WEIGHT:
        raise ConfigurationError(
            f"Feature {feature.name}: the mean points of the release are beyond the public bound."
        )
    mean = round(feature.mean_points * LOSS_UNITS_PER_POINT)
    losses = np.zeros(NOT_HELD + 1, dtype=np.int64)
    cells = len(feature.bin_of_cell)
    lost = mean - LOSS_UNITS_PER_POINT * points[:cells].astype(np.int64)
    evident = [feature.bins[one].weight_of_evidence is not None for one in feature.bin_of_cell]
    losses[:cells] = np.where(evident, np.maximum(lost, 0), 0)
    return losses
