"""Turns a finished training into a release: table, statement, quality, parity vectors."""

from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation.grid import FeatureGrid, Kind, Role
from federation.model.binning import evidence
from federation.model.evaluation import BANDS, quality
from federation.model.fitting import FitSettings
from federation.model.release import (
    FORMAT,
    Bin,
    CardFeature,
    GroupQuality,
    ParityVector,
    Release,
    Report,
    Statement,
)
from federation.model.scorecard import AdditiveCard
from federation.model.scoring import Scorer
from federation.plan import UNSIGNED, Plan
from federation.pricing import PlanPrice
from federation.schema import ROW_AS_KEY, Schema

PARITY_VECTORS: Final = 24


def make_release(
    *,
    plan: Plan,
    schema: Schema,
    price: PlanPrice,
    settings: FitSettings,
    points: AdditiveCard,
    histogram: NDArray[np.float64] | None,
    histogram_stddev: float,
    institutions: int,
    now: datetime,
) -> Release:
    """Returns the unsigned release of one training.

    Args:
        plan: that was run.
        schema: that it names.
        price: of the plan.
        settings: bins and noisy counts of the training.
        points: the finished card.
        histogram: the total of the question EVALUATION in people; None if nobody is held out.
        histogram_stddev: of the noise in each of its cells, people.
        institutions: fewest answers in any round.
        now: date of issue.
    """
    grids = tuple(grid for grid in schema.grids if grid.role is Role.SCORED)
    release = Release(
        format=FORMAT,
        federation=plan.federation,
        plan_name=plan.name,
        plan=plan.digest,
        purpose=plan.purpose,
        issued_at=now,
        schema=schema,
        scale=plan.scale,
        base=points.base,
        features=tuple(
            _feature(grid, settings, number, points.weights[number])
            for number, grid in enumerate(grids)
        ),
        people=_rounded(settings.people),
        bad_rate=_rounded(settings.base_rate),
        institutions=institutions,
        rounds=plan.rounds,
        statement=_statement(plan, schema, price),
        report=_report(plan, schema, histogram, histogram_stddev),
        parity=(),
        coordinator=plan.coordinator,
        signature=UNSIGNED,
    )
    return _with_parity(release, grids)


def _feature(
    grid: FeatureGrid, settings: FitSettings, number: int, points: tuple[int, ...]
) -> CardFeature:
    bins = settings.bins[number]
    good, bad = settings.good[number], settings.bad[number]
    found = evidence(bins, good=good, bad=bad, stddev=settings.count_stddev)
    people = settings.counts(number)
    return CardFeature(
        name=grid.name,
        information_value=_rounded(found.information_value),
        mean_points=_rounded(float(np.dot(points, people)) / max(float(people.sum()), 1.0)),
        bin_of_cell=bins.bin_of_cell,
        bins=tuple(
            Bin(
                label=_label(grid, [c for c, b in enumerate(bins.bin_of_cell) if b == one]),
                points=points[one],
                good=_rounded(float(good[one])),
                bad=_rounded(float(bad[one])),
                weight_of_evidence=_rounded(float(found.weight[one])) if evident else None,
                standard_error=_rounded(float(found.standard_error[one])) if evident else None,
            )
            for one, evident in enumerate(bins.evident)
        ),
    )


def _label(grid: FeatureGrid, cells: list[int]) -> str:
    """Returns one text for a run of ordered cells, or the list of unordered ones."""
    if cells[0] >= grid.ordered_cells or len(cells) == 1:
        return ", ".join(grid.labels[cell] for cell in cells)
    first, last = grid.labels[cells[0]], grid.labels[cells[-1]]
    if grid.kind is Kind.NUMBER:
        return f"{first.partition(',')[0]},{last.partition(',')[2]}"
    return f"{first.partition(' to ')[0]} to {last.rpartition(' to ')[2]}"


def _statement(plan: Plan, schema: Schema, price: PlanPrice) -> Statement:
    return Statement(
        epsilon=_rounded_up(price.trained),
        held_out_epsilon=_rounded_up(price.held_out),
        delta=price.delta,
        unit=(
            "one row, which the schema takes for one person, at one institution"
            if schema.person_key == ROW_AS_KEY
            else "one person at one institution, with all rows of that person there"
        ),
        neighbours="add or remove that person",
        against=(
            f"the coordinator together with any {plan.participation.colluders} of the institutions"
        ),
        epsilon_coordinator_alone=_rounded_up(price.trained_coordinator_alone),
        held_out_epsilon_coordinator_alone=_rounded_up(price.held_out_coordinator_alone),
        assumption=(
            "Computational: masks and noise are expanded by AES-256, keys agreed by X25519. Totals "
            "are opened by secure aggregation (PROTOCOL.md); who was in each is in the transcript."
        ),
    )


def _report(
    plan: Plan, schema: Schema, histogram: NDArray[np.float64] | None, stddev: float
) -> Report:
    if histogram is None:
        return Report(overall=None, groups=(), noise_per_band=0.0)
    width = 2 * BANDS
    groups = []
    start = width
    for grid in schema.grids:
        if grid.role is not Role.PROTECTED:
            continue
        for label in grid.labels:
            part = histogram[start : start + width]
            groups.append(
                GroupQuality(
                    feature=grid.name,
                    group=label,
                    quality=quality(part, stddev=stddev, scale=plan.scale),
                )
            )
            start += width
    return Report(
        overall=quality(histogram[:width], stddev=stddev, scale=plan.scale),
        groups=tuple(groups),
        noise_per_band=_rounded(stddev),
    )


def _with_parity(release: Release, grids: tuple[FeatureGrid, ...]) -> Release:
    """Returns the release with synthetic people that visit the cells of every feature in turn."""
    codes = np.array(
        [
            [(7 * number + 13 * one) % len(grid.labels) for one in range(PARITY_VECTORS)]
            for number, grid in enumerate(grids)
        ],
        dtype=np.uint8,
    )
    scorer = Scorer(release)
    scores = scorer.score(codes)
    vectors = tuple(
        ParityVector(
            values={
                grid.name: _example(grid, int(codes[number, one]))
                for number, grid in enumerate(grids)
            },
            points=int(scores.points[one]),
            shown=int(scores.shown[one]),
            reasons=scorer.reason_texts(scores.reasons[one]),
        )
        for one in range(PARITY_VECTORS)
    )
    return msgspec.structs.replace(release, parity=vectors)


def _example(grid: FeatureGrid, cell: int) -> float | str | None:
    """Returns a value that falls in a cell."""
    if cell < grid.ordered_cells:
        return grid.edges[cell]
    if cell == grid.missing_cell:
        return None
    if cell < grid.first_category_cell:
        return grid.special_codes[cell - grid.ordered_cells]
    if cell != grid.other_cell:
        return grid.categories[cell - grid.first_category_cell]
    numbers = [one for one in grid.categories if isinstance(one, int)]
    return max(numbers) + 1 if numbers else "".join(str(one) for one in grid.categories) + "?"


def _rounded(number: float) -> float:
    """Returns six significant digits: no reader can use more, and noise hides the rest."""
    return float(f"{number:.6g}")


def _rounded_up(epsilon: float) -> float:
    """Returns epsilon with six significant digits, never smaller than it is."""
    shown = _rounded(epsilon)
    return shown if shown >= epsilon else float(f"{epsilon * (1 + 1e-5):.6g}")
