"""What releases of every kind are made of: promise, quality, and synthetic people with scores."""

from typing import Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation.grid import FeatureGrid, Role
from federation.learning import Local
from federation.model.evaluation import BANDS, quality
from federation.model.network_release import NetworkRelease
from federation.model.release import Release
from federation.model.scoring import scorer_of
from federation.model.signed_release import GroupQuality, ParityVector, Report, Statement
from federation.plan import Plan
from federation.pricing import PlanPrice
from federation.schema import ROW_AS_KEY, Schema

PARITY_VECTORS: Final = 24

R = TypeVar("R", Release, NetworkRelease)


def statement_of(plan: Plan, schema: Schema, price: PlanPrice) -> Statement:
    """Returns what a plan promises each person.

    Args:
        plan: that was run.
        schema: that it names.
        price: of the plan.
    """
    by_institution = price.institution is not None
    if by_institution:
        unit = "one institution, with all people and rows there"
    elif schema.person_key == ROW_AS_KEY:
        unit = "one row, which the schema takes for one person, at one institution"
    else:
        unit = "one person at one institution, with all rows of that person there"
    is_local = isinstance(plan.mode, Local)
    return Statement(
        epsilon=rounded_up(price.trained if price.institution is None else price.institution),
        held_out_epsilon=rounded_up(price.held_out),
        delta=price.delta,
        unit=unit,
        neighbours=(
            "replace that institution's updates by zero"
            if by_institution
            else "add or remove that person"
        ),
        against=(
            "the coordinator together with all other institutions"
            if is_local
            else "the coordinator together with any "
            f"{plan.participation.colluders} of the institutions"
        ),
        epsilon_coordinator_alone=rounded_up(
            price.promised_alone if by_institution else price.trained_coordinator_alone
        ),
        held_out_epsilon_coordinator_alone=rounded_up(price.held_out_coordinator_alone),
        assumption=(
            "Computational: noise is expanded by AES-256. Each institution adds all of it itself."
            if is_local
            else "Computational: masks and noise are expanded by AES-256, keys agreed by X25519. "
            "Totals are opened by secure aggregation (PROTOCOL.md); who was in each is in the "
            "transcript."
        ),
    )


def report_of(
    plan: Plan, schema: Schema, histogram: NDArray[np.float64] | None, stddev: float
) -> Report:
    """Returns the quality of a model on held-out people.

    Args:
        plan: that was run.
        schema: that it names.
        histogram: the total of the question EVALUATION in people; None if nobody is held out.
        stddev: of the noise in each of its cells, people.
    """
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
        noise_per_band=rounded(stddev),
    )


def with_parity(release: R) -> R:
    """Returns the release with synthetic people that visit the cells of every feature in turn."""
    codes = np.array(
        [
            [(7 * number + 13 * one) % len(grid.labels) for one in range(PARITY_VECTORS)]
            for number, grid in enumerate(release.grids)
        ],
        dtype=np.uint8,
    )
    scorer = scorer_of(release)
    scores = scorer.score(codes)
    vectors = tuple(
        ParityVector(
            values={
                grid.name: _example(grid, int(codes[number, one]))
                for number, grid in enumerate(release.grids)
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


def rounded(number: float) -> float:
    """Returns six significant digits: no reader can use more, and noise hides the rest."""
    return float(f"{number:.6g}")


def rounded_up(epsilon: float) -> float:
    """Returns epsilon with six significant digits, never smaller than it is."""
    shown = rounded(epsilon)
    return shown if shown >= epsilon else float(f"{epsilon * (1 + 1e-5):.6g}")
