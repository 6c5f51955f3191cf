"""What an institution corrects of a released score by its own people, at home: nothing leaves.

A national score says what holds on average over the country. Here an institution learns, of its own
trained people, what that leaves unexplained:

    log-odds of bad = national log-odds + level + sum over features of change[the person's bin]

with a ridge penalty on every change (le Cessie and van Houwelingen 1992, Applied Statistics 41).
Few people correct little, many correct all; held-out people are never read. The national score was
trained on these people too, among many others; that makes the correction a little too small.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients.blocks import Block
from clients.ridge import Array, Rows, fitted, losses
from clients.snapshot import Snapshot
from federation.errors import ConfigurationError, FedscoreError
from federation.grid import NOT_HELD, Role
from federation.model.network import NO_BIN
from federation.model.release import AnyRelease, Release
from federation.model.score_scale import ScoreScale
from federation.model.scorecard import LARGEST_WEIGHT, AdditiveCard
from federation.privacy.units import Population
from federation.schema import Schema

FORMAT: Final = 1

LEVEL_PENALTY: Final = 4.0
"""The level of an institution differs from the country's by half a unit of log-odds, or so."""

PENALTIES: Final = (16.0, 64.0, 256.0, 1024.0, 4096.0)
"""Changes are expected to be about 1 / sqrt(penalty) in log-odds: 0.25 down to 0.016. Larger ones
are learnt all the same where there are many people."""

LEAST_OUTCOMES: Final = 10
"""Fewer good or fewer bad people than this correct nothing."""

FOLDS: Final = 5
MOST_CHOOSING: Final = 20_000
"""About as many people choose the penalty. It says how much bins differ, which has nothing to do
with how many people there are; more would tell it no better and take longer."""


class Correction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An institution's own card, to be added to the points of a release. Private to it.

    Attributes:
        format: version of this layout.
        schema: digest of the schema that both score by.
        release: digest of the release that it corrects, and of no other.
        penalty: on the square of each change, in log-odds; None if nothing is corrected.
        card: in points of the release's scale, higher is safer; what is not held adds nothing.
        remark: why nothing is corrected; empty if something is.
    """

    format: int
    schema: str
    release: str
    penalty: float | None
    card: AdditiveCard
    remark: str

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigurationError(f"Expected a correction of format {FORMAT}.")
        if self.penalty is None:
            if self.card.base or any(any(of_feature) for of_feature in self.card.weights):
                raise ConfigurationError("A correction without a penalty changes nothing.")
        elif self.penalty not in PENALTIES:
            raise ConfigurationError("Expected one of the penalties that are tried.")

    def require_for(self, release: AnyRelease) -> None:
        """Returns only if this corrects exactly this release.

        Raises:
            ConfigurationError: it was made for another one.
        """
        if (self.release, self.schema) != (release.digest, release.schema.digest):
            raise ConfigurationError(
                f"This correction was made for release {self.release[:16]}..., this is release "
                f"{release.digest[:16]}...: make one for it by `fedscore institution report`."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class National:
    """A released score, as much as a correction needs of it.

    Attributes:
        points: from uint8[scored features, rows] to the points of each row, unclipped.
        scale: of the points.
        bin_of_cell: for each scored feature, the bin of each public fine cell.
    """

    points: Callable[[NDArray[np.uint8]], NDArray[np.int64]]
    scale: ScoreScale
    bin_of_cell: tuple[tuple[int, ...], ...]


def correction_at_home(schema: Schema, snapshot: Snapshot, release: AnyRelease) -> Correction:
    """Returns what the snapshot's trained people correct of a release.

    In memory: one block, one number for each pair of bins, and 20,000 people or so.
    """
    scored = schema.places(Role.SCORED)

    def trained() -> Iterator[Block]:
        for block in snapshot.blocks(Population.TRAINED):
            yield replace(block, codes=block.codes[scored])

    national = National(points=release.points, scale=release.scale, bin_of_cell=_bins_of(release))
    penalty, found, remark = corrected(national, trained)
    return Correction(
        format=FORMAT,
        schema=schema.digest,
        release=release.digest,
        penalty=penalty,
        card=found,
        remark=remark,
    )


def _bins_of(release: AnyRelease) -> tuple[tuple[int, ...], ...]:
    """Returns the bin of each cell; those of which a network says nothing are one bin more."""
    if isinstance(release, Release):
        return release.card.bin_of_cell
    return tuple(
        tuple(max(cells) + 1 if one == NO_BIN else one for one in cells)
        for cells in release.bin_of_cell
    )


def corrected(
    national: National, trained: Callable[[], Iterable[Block]]
) -> tuple[float | None, AdditiveCard, str]:
    """Returns the penalty, the card to be added in points, and why it is nothing if it is.

    By five folds of whole persons, each told by a fit without them: the penalty is the largest
    under which they are not told clearly worse than under the best one, and nothing is corrected
    unless that one tells them clearly better than the national score. Clearly is by more than one
    standard error of the difference (Breiman, Friedman, Olshen and Stone 1984, section 3.4.3).

    Args:
        national: the score.
        trained: begins to read the institution's trained people anew, codes of scored features
            only.
    """
    reading = _Reading(national)
    people, outcomes = 0, np.zeros(2, dtype=np.int64)
    for block in trained():
        people += _people_in(block)
        outcomes += np.bincount(block.bad, minlength=2)
    if outcomes.min() < LEAST_OUTCOMES:
        return (
            None,
            reading.card(None),
            f"{outcomes[0]:,} good and {outcomes[1]:,} bad are trained on: fewer than "
            f"{LEAST_OUTCOMES} of either can correct nothing.",
        )
    penalty = _choosing(reading, trained, people).penalty(reading.size)
    if penalty is None:
        return (
            None,
            reading.card(None),
            "No correction told our own people clearly better than the national score: there is "
            "none.",
        )

    def rows() -> Iterator[Rows]:
        return (reading.rows(block) for block in trained())

    found = fitted(rows, _penalties(penalty, reading.size), np.zeros(reading.size))
    return penalty, reading.card(found), ""


def load_correction(data: bytes) -> Correction:
    """Returns the correction in a JSON file.

    Raises:
        ConfigurationError: it is none, or not a whole one.
    """
    try:
        return msgspec.json.decode(data, type=Correction)
    except (msgspec.DecodeError, ValueError, RecursionError, FedscoreError) as error:
        raise ConfigurationError(
            f"This is not a whole correction of format {FORMAT}: {error}. Make it again by "
            "`fedscore institution report`."
        ) from error


def correction_json(correction: Correction) -> bytes:
    """Returns indented JSON that `load_correction` reads back to an equal correction."""
    return msgspec.json.format(msgspec.json.encode(correction), indent=1) + b"\n"


class _Reading:
    """From an institution's codes to the rows of a fit, and from the fit to points."""

    def __init__(self, national: National) -> None:
        self._national = national
        bins = [max(cells) + 1 for cells in national.bin_of_cell]
        *self._starts, self.size = accumulate(bins, initial=1)
        tables = []
        for start, cells in zip(self._starts, national.bin_of_cell, strict=True):
            table = np.full(NOT_HELD + 1, self.size, dtype=np.intp)
            table[: len(cells)] = start + np.array(cells)
            tables.append(table)
        self._tables = tuple(tables)
        self._bins = tuple(bins)

    def rows(self, block: Block) -> Rows:
        """Returns a block's rows, with what the national score says of them."""
        scale = self._national.scale
        points = self._national.points(block.codes)
        return Rows(
            coefficients=np.stack(
                [table[codes] for table, codes in zip(self._tables, block.codes, strict=True)]
            ),
            given=-np.log(scale.odds) - (points - scale.points) / scale.factor,
            bad=block.bad.astype(bool),
        )

    def card(self, coefficients: Array | None) -> AdditiveCard:
        """Returns coefficients in whole points, higher is safer; None are zeros."""
        found = np.zeros(self.size) if coefficients is None else coefficients
        points = np.rint(-self._national.scale.factor * found)
        whole = np.clip(points, -LARGEST_WEIGHT, LARGEST_WEIGHT).astype(int).tolist()
        return AdditiveCard(
            base=whole[0],
            bin_of_cell=self._national.bin_of_cell,
            weights=tuple(
                tuple(whole[start : start + size])
                for start, size in zip(self._starts, self._bins, strict=True)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choosing:
    """Rows that choose the penalty.

    Attributes:
        rows: of about MOST_CHOOSING people, or of all.
        persons: int64[rows], whose each row is, from 0.
        folds: int64[rows], the same for all rows of a person.
    """

    rows: Rows
    persons: NDArray[np.int64]
    folds: NDArray[np.int64]

    def penalty(self, size: int) -> float | None:
        """Returns the penalty that `corrected` describes; None if nothing is to be corrected."""
        nothing = losses(self.rows, np.zeros(size))
        starts = [np.zeros(size)] * FOLDS
        gains: dict[float, Array] = {}
        for penalty in reversed(PENALTIES):
            told = np.zeros(self.folds.size)
            for fold in range(FOLDS):
                out = self.folds == fold
                starts[fold] = _fitted_to(self.rows.where(~out), penalty, starts[fold])
                told[out] = losses(self.rows.where(out), starts[fold])
            gains[penalty] = np.bincount(self.persons, nothing - told).astype(np.float64)
        best = max(gains.values(), key=np.sum)
        if not _is_clear(best):
            return None
        return max(one for one, gain in gains.items() if not _is_clear(best - gain))


def _choosing(reading: _Reading, trained: Callable[[], Iterable[Block]], people: int) -> _Choosing:
    """Returns who chooses the penalty, and in which fold.

    Both by a hash of a person's place among the trained people: no two runs differ.
    """
    parts, places, before = [], [], 0
    for block in trained():
        of_block = before + _person_of_row(block)
        before += _people_in(block)
        lots = _hashes(of_block) >> np.uint64(32)
        enters = lots * np.uint64(people) < np.uint64(MOST_CHOOSING << 32)
        parts.append(reading.rows(block).where(enters))
        places.append(of_block[enters])
    found, persons = np.unique(np.concatenate(places), return_inverse=True)
    return _Choosing(
        rows=Rows(
            coefficients=np.concatenate([part.coefficients for part in parts], axis=1),
            given=np.concatenate([part.given for part in parts]),
            bad=np.concatenate([part.bad for part in parts]),
        ),
        persons=persons,
        folds=(_hashes(found) % np.uint64(FOLDS)).astype(np.int64)[persons],
    )


def _fitted_to(rows: Rows, penalty: float, start: Array) -> Array:
    return fitted(lambda: (rows,), _penalties(penalty, start.size), start)


def _is_clear(gains: Array) -> bool:
    """Returns whether the sum of the gains of persons is above its standard error."""
    return bool(gains.sum() > gains.std() * np.sqrt(gains.size))


def _penalties(penalty: float, size: int) -> Array:
    return np.append(LEVEL_PENALTY, np.full(size - 1, penalty))


def _people_in(block: Block) -> int:
    return int(block.bad.size if block.person_starts is None else block.person_starts.size)


def _person_of_row(block: Block) -> NDArray[np.int64]:
    """Returns int64[rows], the number of each row's person, from 0."""
    rows = np.arange(block.bad.size)
    if block.person_starts is None:
        return rows
    return np.searchsorted(block.person_starts, rows, side="right") - 1


def _hashes(places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Returns the mixing of SplitMix64 (Steele, Lea and Flood 2014) of each place."""
    mixed = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
