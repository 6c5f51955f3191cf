"""Turns a finished training of a scorecard into a release."""

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from federation.grid import FeatureGrid, Kind, Role
from federation.model.binning import evidence
from federation.model.fitting import FitSettings
from federation.model.release import FORMAT, Bin, CardFeature, Release
from federation.model.scorecard import AdditiveCard
from federation.plan import UNSIGNED, Plan
from federation.pricing import PlanPrice
from federation.schema import Schema
from server.release_parts import report_of, rounded, statement_of, with_parity


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
        people=rounded(settings.people),
        bad_rate=rounded(settings.base_rate),
        institutions=institutions,
        rounds=plan.rounds,
        statement=statement_of(plan, schema, price),
        report=report_of(plan, schema, histogram, histogram_stddev),
        parity=(),
        coordinator=plan.coordinator,
        signature=UNSIGNED,
    )
    return with_parity(release)


def _feature(
    grid: FeatureGrid, settings: FitSettings, number: int, points: tuple[int, ...]
) -> CardFeature:
    bins = settings.bins[number]
    good, bad = settings.good[number], settings.bad[number]
    found = evidence(bins, good=good, bad=bad, stddev=settings.count_stddev)
    people = settings.counts(number)
    return CardFeature(
        name=grid.name,
        information_value=rounded(found.information_value),
        mean_points=rounded(float(np.dot(points, people)) / max(float(people.sum()), 1.0)),
        bin_of_cell=bins.bin_of_cell,
        bins=tuple(
            Bin(
                label=_label(grid, [c for c, b in enumerate(bins.bin_of_cell) if b == one]),
                points=points[one],
                good=rounded(float(good[one])),
                bad=rounded(float(bad[one])),
                weight_of_evidence=rounded(float(found.weight[one])) if evident else None,
                standard_error=rounded(float(found.standard_error[one])) if evident else None,
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
