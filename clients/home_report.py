"""How the national card does on one institution's own people, beside two that were made at home.

One was trained at home alone. The other is the national card with what the institution's own
trained people correct of it (`clients.correction`): what that adds is the local gain.

For the eyes of this institution's own people: every figure is exact, made of their own table, and
without noise. Nothing of it is sent, priced or kept.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients.configuration import DaemonConfiguration
from clients.correction import Correction, correction_at_home
from clients.home import train_at_home
from clients.snapshot import Snapshot
from federation.errors import ConfigurationError
from federation.grid import Role
from federation.model.evaluation import Figure
from federation.model.exact_auc import auc_difference, auc_of
from federation.model.release import AnyRelease
from federation.model.score_scale import ScoreScale
from federation.privacy.units import Population
from federation.schema import RowsPerPerson, Schema

LEAST_OUTCOMES: Final = 10
"""Fewer good or fewer bad people than this say nothing about a card."""

LEAST_OF_BAND: Final = 50
BANDS: Final = 10

_NORMAL_975: Final = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnScores:
    """Held-out people of one institution, scored by both cards.

    Attributes:
        national: int64[rows], points of the released model.
        alone: int64[rows], points of the card that was trained at home.
        bad: bool[rows].
        trained_bad: bool[trained rows].
    """

    national: NDArray[np.int64]
    alone: NDArray[np.int64]
    bad: NDArray[np.bool_]
    trained_bad: NDArray[np.bool_]


def scored_at_home(schema: Schema, snapshot: Snapshot, release: AnyRelease) -> OwnScores:
    """Trains a card at home and scores the held-out people by it and by the release.

    In memory: about 20 bytes a held-out row. A person with several rows counts with each.

    Raises:
        ConfigurationError: there are no trained people.
    """
    home = train_at_home(schema, snapshot, release.scale)
    return OwnScores(
        national=_scores(schema, snapshot, release.points),
        alone=_scores(schema, snapshot, home.scores),
        bad=_outcomes(snapshot, Population.HELD_OUT),
        trained_bad=_outcomes(snapshot, Population.TRAINED),
    )


def _outcomes(snapshot: Snapshot, population: Population) -> NDArray[np.bool_]:
    blocks = [block.bad.astype(bool) for block in snapshot.blocks(population)]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=bool)


def _scores(
    schema: Schema,
    snapshot: Snapshot,
    points_of: Callable[[NDArray[np.uint8]], NDArray[np.int64]],
) -> NDArray[np.int64]:
    scored = schema.places(Role.SCORED)
    blocks = [points_of(b.codes[scored]) for b in snapshot.blocks(Population.HELD_OUT)]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.int64)


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """People with neighbouring scores: what was promised of them, and what happened.

    Attributes:
        least: lowest points among them.
        most: highest points among them.
        people: exact number of rows.
        expected_bad_rate: mean of what their scores promise, in (0, 1).
        observed_bad_rate: what happened, with Wilson's 95 % interval.
    """

    least: int
    most: int
    people: int
    expected_bad_rate: float
    observed_bad_rate: Figure


class CardAtHome(msgspec.Struct, frozen=True, kw_only=True):
    """One card on this institution's own held-out people; None where there are too few.

    Attributes:
        auc: with DeLong's interval.
        brier: mean squared distance of promise and outcome, lower is better.
        calibration_ratio: bad people observed for each one expected: above 1 the card is too kind.
        calibration: ten bands of equal size, fewer if a band would have under 50 people.
    """

    auc: Figure | None
    brier: Figure | None
    calibration_ratio: Figure | None
    calibration: tuple[Band, ...]


class HomeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one institution may know of a release and nobody else. Intervals are 95 %.

    Attributes:
        institution: its id.
        release: digest of the release.
        plan_name: that it came of.
        trained: people that the card at home was trained on.
        held_out: people that all cards are judged by; none has seen them.
        held_out_bad: bad rows among them.
        national: the released card or network.
        alone: the card trained at home.
        corrected: the released card with the correction at home on top.
        gain: AUC of the released card less that of the card trained at home, paired.
        local_gain: AUC of the corrected card less that of the released one, paired.
        penalty: of the correction; None if nothing is corrected, and `remarks` says why.
        remarks: why a figure is missing, or what to mind when reading it.
    """

    institution: str
    release: str
    plan_name: str
    trained: int
    held_out: int
    held_out_bad: int
    national: CardAtHome
    alone: CardAtHome
    corrected: CardAtHome
    gain: Figure | None
    local_gain: Figure | None
    penalty: float | None
    remarks: tuple[str, ...]


def home_report(
    configuration: DaemonConfiguration,
    *,
    schema: Schema,
    release: AnyRelease,
    read_table: Callable[[Path], Snapshot],
    directory: Path,
) -> tuple[HomeReport, Correction]:
    """Reads the institution's table once more, and returns what the cards do on its own people.

    The correction is returned beside the report; it is made of trained people alone, and judged
    like the others by held-out people.

    Args:
        configuration: of the institution.
        schema: of its federation.
        release: signed by the coordinator that the policy trusts: checked before.
        read_table: takes a snapshot into a directory, as the daemon does.
        directory: for a snapshot that is deleted again, in a private one. What is there is taken
            for what a killed process has left.

    Raises:
        ConfigurationError: the release is another federation's or made for another schema; there
            are no trained people.
        DataError: the table breaks its contract.
    """
    if release.federation != configuration.federation:
        raise ConfigurationError(f"This is a release of the federation {release.federation!r}.")
    if release.schema.digest != schema.digest:
        raise ConfigurationError(
            f"The release scores by schema {release.schema.digest[:16]}..., {configuration.schema} "
            f"is schema {schema.digest[:16]}...: name the schema that the release was made for."
        )
    shutil.rmtree(directory, ignore_errors=True)
    snapshot = read_table(directory)
    try:
        scores = scored_at_home(schema, snapshot, release)
        correction = correction_at_home(schema, snapshot, release)
        corrected = scores.national + _scores(schema, snapshot, correction.card.scores)
        comparable = min(scores.bad.sum(), (~scores.bad).sum()) >= LEAST_OUTCOMES
        report = HomeReport(
            institution=configuration.id,
            release=release.digest,
            plan_name=release.plan_name,
            trained=snapshot.people(Population.TRAINED),
            held_out=snapshot.people(Population.HELD_OUT),
            held_out_bad=int(scores.bad.sum()),
            national=card_at_home(scores.national, scores.bad, release.scale),
            alone=card_at_home(scores.alone, scores.bad, release.scale),
            corrected=card_at_home(corrected, scores.bad, release.scale),
            gain=auc_difference(scores.national, scores.alone, scores.bad) if comparable else None,
            local_gain=auc_difference(corrected, scores.national, scores.bad)
            if comparable
            else None,
            penalty=correction.penalty,
            remarks=(*_remarks(schema, scores.bad), *filter(None, [correction.remark])),
        )
        return report, correction
    finally:
        snapshot.delete()


def card_at_home(
    points: NDArray[np.int64], bad: NDArray[np.bool_], scale: ScoreScale
) -> CardAtHome:
    """Returns what can be said of one card from exact scores and outcomes.

    Args:
        points: int64[people], unclipped scores.
        bad: bool[people].
        scale: of the card.
    """
    if min(bad.sum(), (~bad).sum()) < LEAST_OUTCOMES:
        return CardAtHome(auc=None, brier=None, calibration_ratio=None, calibration=())
    promised = _promised(points, scale)
    return CardAtHome(
        auc=auc_of(points, bad),
        brier=_mean((promised - bad) ** 2),
        calibration_ratio=_observed_for_each_expected(promised, bad),
        calibration=tuple(_bands(points, promised, bad)),
    )


def _promised(points: NDArray[np.int64], scale: ScoreScale) -> NDArray[np.float64]:
    different, which = np.unique(points, return_inverse=True)
    rates = np.array([scale.bad_rate_at(float(one)) for one in different])
    return np.asarray(rates[which], dtype=np.float64)


def _mean(values: NDArray[np.float64]) -> Figure:
    """Returns a mean with its normal interval."""
    reach = _NORMAL_975 * float(values.std(ddof=1) / np.sqrt(len(values)))
    value = float(values.mean())
    return Figure(value=value, low=max(0.0, value - reach), high=value + reach)


def _observed_for_each_expected(promised: NDArray[np.float64], bad: NDArray[np.bool_]) -> Figure:
    """Returns sum(bad) / sum(promised); the promise is given, the outcomes vary."""
    observed, expected = _mean(bad.astype(np.float64)), float(promised.mean())
    return Figure(
        value=observed.value / expected,
        low=observed.low / expected,
        high=observed.high / expected,
    )


def _bands(
    points: NDArray[np.int64], promised: NDArray[np.float64], bad: NDArray[np.bool_]
) -> list[Band]:
    """Returns bands of about equal size, lowest scores first; equal scores stay together."""
    number = max(1, min(BANDS, len(points) // LEAST_OF_BAND))
    order = np.argsort(points, kind="stable")
    ranks = np.arange(1, number) * len(points) // number
    cuts = np.unique(np.searchsorted(points[order], points[order][ranks], side="left"))
    parts = [part for part in np.split(order, cuts) if part.size]
    return [
        Band(
            least=int(points[part].min()),
            most=int(points[part].max()),
            people=int(part.size),
            expected_bad_rate=float(promised[part].mean()),
            observed_bad_rate=_share(int(bad[part].sum()), int(part.size)),
        )
        for part in parts
    ]


def _share(hits: int, of: int) -> Figure:
    """Returns a share with its score interval (Wilson 1927), which fits shares near 0 as well."""
    square = _NORMAL_975**2
    middle = (hits + square / 2) / (of + square)
    reach = _NORMAL_975 / (of + square) * float(np.sqrt(hits * (of - hits) / of + square / 4))
    return Figure(value=hits / of, low=max(0.0, middle - reach), high=min(1.0, middle + reach))


def _remarks(schema: Schema, bad: NDArray[np.bool_]) -> tuple[str, ...]:
    remarks = []
    bads = int(bad.sum())
    goods = len(bad) - bads
    if min(bads, goods) < LEAST_OUTCOMES:
        remarks.append(
            f"{goods:,} good and {bads:,} bad are held out: fewer than {LEAST_OUTCOMES} of either "
            "say nothing about a card, so there are no figures."
        )
    elif len(bad) < BANDS * LEAST_OF_BAND:
        remarks.append(
            f"{len(bad):,} held-out people are too few for {BANDS} bands of {LEAST_OF_BAND}: there "
            "are fewer bands."
        )
    if schema.rows_per_person is RowsPerPerson.MANY:
        remarks.append(
            "People have several rows here and each row counts: the intervals are too narrow."
        )
    return tuple(remarks)
