"""Turns a finished training into a release."""

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError
from federation.fits import Fit
from federation.grid import FeatureGrid, Kind
from federation.model.attributions import population_mean
from federation.model.binning import evidence
from federation.model.fitting import FitSettings
from federation.model.network import Network
from federation.model.network_release import (
    MEAN_INPUTS,
    NETWORK_FORMAT,
    NamedArray,
    NetworkRelease,
)
from federation.model.release import FORMAT, AnyRelease, Bin, CardFeature, Release
from federation.model.scorecard import AdditiveCard
from federation.model.signed_release import Report, Statement
from federation.plan import UNSIGNED, Plan
from federation.pricing import PlanPrice
from federation.schema import Schema
from server.release_parts import report_of, rounded, statement_of, with_parity


def make_release(
    *,
    schema: Schema,
    price: PlanPrice,
    fit: Fit,
    histogram: NDArray[np.float64] | None,
    histogram_stddev: float,
    institutions: int,
    now: datetime,
) -> AnyRelease:
    """Returns the unsigned release of one training.

    Args:
        schema: that the plan names.
        price: of the plan.
        fit: the training, all of its rounds done.
        histogram: the total of the question EVALUATION in people; None if nobody is held out.
        histogram_stddev: of the noise in each of its cells, people.
        institutions: fewest answers in any round.
        now: date of issue.
    """
    plan, model = fit.plan, fit.finished()
    report = report_of(plan, schema, histogram, histogram_stddev)
    statement = statement_of(plan, schema, price)
    if isinstance(model, AdditiveCard) and fit.settings is not None:
        grids = schema.scored_grids
        return with_parity(
            Release(
                format=FORMAT,
                federation=plan.federation,
                plan_name=plan.name,
                plan=plan.digest,
                purpose=plan.purpose,
                issued_at=now,
                schema=schema,
                scale=plan.scale,
                base=model.base,
                features=tuple(
                    _feature(grid, fit.settings, number, model.weights[number])
                    for number, grid in enumerate(grids)
                ),
                people=rounded(fit.settings.people),
                bad_rate=rounded(fit.settings.base_rate),
                institutions=institutions,
                rounds=plan.rounds,
                statement=statement,
                report=report,
                parity=(),
                coordinator=plan.coordinator,
                signature=UNSIGNED,
            )
        )
    if not isinstance(model, Network):
        raise ConfigurationError("A card without counts cannot be released.")
    return network_release(
        plan=plan,
        schema=schema,
        network=model,
        mean_inputs=population_mean(model.shape, fit.counts_or_even(schema)),
        people=fit.people,
        bad_rate=fit.base_rate,
        institutions=institutions,
        statement=statement,
        report=report,
        now=now,
    )


def network_release(
    *,
    plan: Plan,
    schema: Schema,
    network: Network,
    mean_inputs: NDArray[np.float64],
    people: float,
    bad_rate: float,
    institutions: int,
    statement: Statement,
    report: Report,
    now: datetime,
) -> NetworkRelease:
    """Returns the unsigned release of a network.

    Args:
        plan: that was run.
        schema: that it names.
        network: the trained one.
        mean_inputs: float64[D], of `federation.model.attributions.population_mean`.
        people: noisy number of trained people.
        bad_rate: noisy share of bad people among them.
        institutions: fewest answers in any round.
        statement: the promise.
        report: the quality.
        now: date of issue.
    """
    return with_parity(
        NetworkRelease(
            format=NETWORK_FORMAT,
            federation=plan.federation,
            plan_name=plan.name,
            plan=plan.digest,
            purpose=plan.purpose,
            issued_at=now,
            schema=schema,
            scale=plan.scale,
            hidden=network.shape.hidden,
            activation=network.shape.activation,
            module=network.shape.module,
            bin_of_cell=network.shape.bin_of_cell,
            arrays=(
                *(NamedArray.of(name, matrix) for name, matrix in network.matrices.items()),
                NamedArray.of(MEAN_INPUTS, mean_inputs),
            ),
            people=rounded(people),
            bad_rate=rounded(bad_rate),
            institutions=institutions,
            rounds=plan.rounds,
            statement=statement,
            report=report,
            parity=(),
            coordinator=plan.coordinator,
            signature=UNSIGNED,
        )
    )


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
