"""Turns a finished training of a network into a release."""

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from federation.model.network import Network
from federation.model.network_release import (
    MEAN_INPUTS,
    NETWORK_FORMAT,
    NamedArray,
    NetworkRelease,
)
from federation.plan import UNSIGNED, Plan
from federation.pricing import PlanPrice
from federation.schema import Schema
from server.release_parts import report_of, rounded, statement_of, with_parity


def make_network_release(
    *,
    plan: Plan,
    schema: Schema,
    price: PlanPrice,
    network: Network,
    mean_inputs: NDArray[np.float64],
    people: float,
    bad_rate: float,
    histogram: NDArray[np.float64] | None,
    histogram_stddev: float,
    institutions: int,
    now: datetime,
) -> NetworkRelease:
    """Returns the unsigned release of one training.

    Args:
        plan: that was run.
        schema: that it names.
        price: of the plan.
        network: the finished network.
        mean_inputs: float64[D], of `federation.model.attributions.population_mean`.
        people: noisy number of trained people.
        bad_rate: noisy share of bad people among them.
        histogram: the total of the question EVALUATION in people; None if nobody is held out.
        histogram_stddev: of the noise in each of its cells, people.
        institutions: fewest answers in any round.
        now: date of issue.

    Raises:
        ConfigurationError: the network was made for another schema.
    """
    matrices = network.matrices.items()
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
            bin_of_cell=network.shape.bin_of_cell,
            arrays=(
                *(NamedArray.of(name, matrix) for name, matrix in matrices),
                NamedArray.of(MEAN_INPUTS, mean_inputs),
            ),
            people=rounded(people),
            bad_rate=rounded(bad_rate),
            institutions=institutions,
            rounds=plan.rounds,
            statement=statement_of(plan, schema, price),
            report=report_of(plan, schema, histogram, histogram_stddev),
            parity=(),
            coordinator=plan.coordinator,
            signature=UNSIGNED,
        )
    )
