"""What a plan asks in figures, what it costs each person, and the noise that a target needs."""

import math
from dataclasses import dataclass

from federation.errors import ConfigurationError, PrivacyError
from federation.grid import Role
from federation.model.evaluation import evaluation_columns
from federation.model.scorecard import AdditiveCard
from federation.plan import Noise, Participation, Plan
from federation.privacy.accountant import (
    Opinions,
    SamplerSlack,
    epsilon_of,
    opinions,
    require_target,
    sampler_slack,
    units_within,
)
from federation.privacy.events import LEAST_SHARE_VARIANCE, GaussianEvents, variance_for
from federation.privacy.units import BudgetUnits, Delta, Epsilon, Population, Price
from federation.query import UNITS_PER_ONE, BoundedSum, Question, sensitivity_squared
from federation.schema import ROW_AS_KEY, Schema


def cells_of(schema: Schema, role: Role) -> tuple[int, ...]:
    """Returns the number of fine cells of each feature of one role, in schema order."""
    return tuple(len(grid.labels) for grid in schema.grids if grid.role is role)


def bins_sum(plan: Plan, schema: Schema) -> BoundedSum:
    """Returns the question BINS: good and bad people per fine cell of each scored feature."""
    return BoundedSum(
        question=Question.BINS,
        columns=tuple(2 * cells for cells in cells_of(schema, Role.SCORED)),
        share_variance=plan.noise.bins,
    )


def step_sum(plan: Plan, card: AdditiveCard) -> BoundedSum:
    """Returns the question STEP: residuals per bin of each scored feature, and over everybody."""
    return BoundedSum(
        question=Question.STEP, columns=(*card.bins, 1), share_variance=plan.noise.step
    )


def evaluation_sum(plan: Plan, schema: Schema) -> BoundedSum:
    """Returns the question EVALUATION: score bands by outcome, and by protected group."""
    return BoundedSum(
        question=Question.EVALUATION,
        columns=evaluation_columns(cells_of(schema, Role.PROTECTED)),
        share_variance=plan.noise.evaluation,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What the price depends on besides the noise: columns and lengths of the questions."""

    scored: int
    protected: int
    coordinates: int

    @classmethod
    def of(cls, schema: Schema, participation: Participation, rounds: int) -> "_Shape":
        scored, protected = cells_of(schema, Role.SCORED), cells_of(schema, Role.PROTECTED)
        answers = rounds + participation.spare_attempts
        steps = answers * (sum(scored) + 1)
        length = 2 * sum(scored) + steps + sum(evaluation_columns(protected))
        return cls(
            scored=len(scored),
            protected=len(protected),
            coordinates=length * len(participation.invited),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPrice:
    """What a plan costs each person at one institution; neighbours: with or without that person.

    Attributes:
        price: what the ledger charges, by population, against the coordinator and c institutions.
        alone: the same against the coordinator alone.
        delta: the plan's.
        slack: what the sampler's distance from the exact distribution adds to every statement.
        trained: epsilon of a trained person at `delta`, the sampler's slack included.
        held_out: epsilon of a held-out person, 0 if nobody is held out.
        trained_coordinator_alone: the same if no institution conspires with the coordinator.
        held_out_coordinator_alone: likewise.
        events: what is answered, by population, as the accountants see it.
    """

    price: Price
    alone: Price
    delta: Delta
    slack: SamplerSlack
    trained: Epsilon
    held_out: Epsilon
    trained_coordinator_alone: Epsilon
    held_out_coordinator_alone: Epsilon
    events: dict[Population, tuple[GaussianEvents, ...]]

    def epsilon_of(self, units: BudgetUnits, delta: Delta) -> Epsilon:
        """Returns the epsilon to state for budget units of this plan: the sampler's slack is in it.

        Args:
            units: what was, or will be, charged; 0 costs nothing.
            delta: at which to state it, any that a policy chooses.
        """
        return _stated(units, delta, self.slack)

    def opinions(self, population: Population) -> Opinions:
        """Returns three ways of counting the same events (slow to import; see accountant)."""
        return opinions(self.events[population], self.delta)


def price_of(plan: Plan, schema: Schema) -> PlanPrice:
    """Returns the price of everything that the plan may ask, T + R training rounds included.

    Raises:
        ConfigurationError: the plan was made for another schema.
        PrivacyError: the price exceeds the target that the plan itself states, or people are held
            out whom nothing but their place in the table names.
    """
    if plan.schema != schema.digest:
        raise ConfigurationError(
            f"The plan was made for schema {plan.schema[:16]}..., this is {schema.digest[:16]}..."
        )
    if schema.person_key == ROW_AS_KEY and plan.people.held_out_fraction > 0:
        raise PrivacyError(
            'With person_key = "row" nobody can be held out: without one row all rows after it '
            "would have other places, and other people would be trained on. Name a key, or set "
            "held_out_fraction = 0."
        )
    shape = _Shape.of(schema, plan.participation, plan.rounds)
    epsilon, delta = require_target(plan.privacy.epsilon, plan.privacy.delta)
    slack = sampler_slack(shape.coordinates, epsilon=epsilon, delta=delta)
    found: dict[int, dict[Population, tuple[GaussianEvents, ...]]] = {}
    totals: dict[int, dict[Population, BudgetUnits]] = {}
    honest, quorum = plan.participation.honest_shares, plan.participation.quorum
    for shares in (honest, quorum):
        found[shares] = _events(plan, shape, shares)
        totals[shares] = {
            population: BudgetUnits(sum(event.units() for event in events))
            for population, events in found[shares].items()
        }

    def stated(shares: int, population: Population) -> Epsilon:
        return _stated(totals[shares][population], delta, slack)

    priced = PlanPrice(
        price=Price(
            trained=totals[honest][Population.TRAINED],
            held_out=totals[honest][Population.HELD_OUT],
        ),
        alone=Price(
            trained=totals[quorum][Population.TRAINED],
            held_out=totals[quorum][Population.HELD_OUT],
        ),
        delta=delta,
        slack=slack,
        trained=stated(honest, Population.TRAINED),
        held_out=stated(honest, Population.HELD_OUT),
        trained_coordinator_alone=stated(quorum, Population.TRAINED),
        held_out_coordinator_alone=stated(quorum, Population.HELD_OUT),
        events=found[honest],
    )
    dearest = max(priced.trained, priced.held_out)
    if not dearest <= epsilon:
        raise PrivacyError(
            f"The noise of this plan gives epsilon {dearest:.6g} at delta {delta:g}, more than the "
            f"{epsilon:g} that it promises. Make the plan anew with `fedscore plan new`."
        )
    alone = max(priced.trained_coordinator_alone, priced.held_out_coordinator_alone)
    if not alone <= plan.privacy.epsilon_coordinator_alone:
        raise PrivacyError(
            f"The noise of this plan gives epsilon {alone:.6g} against the coordinator alone, more "
            f"than the {plan.privacy.epsilon_coordinator_alone:g} that it promises."
        )
    return priced


def _stated(units: BudgetUnits, delta: Delta, slack: SamplerSlack) -> Epsilon:
    if units == 0:
        return Epsilon(0.0)
    if slack.delta >= delta:
        return Epsilon(math.inf)
    return Epsilon(epsilon_of(units, Delta(delta - slack.delta)) + slack.epsilon)


def _events(plan: Plan, shape: _Shape, shares: int) -> dict[Population, tuple[GaussianEvents, ...]]:
    def events(columns: int, share_variance: int, times: int) -> GaussianEvents:
        return GaussianEvents(
            sensitivity_squared=sensitivity_squared(columns),
            variance=share_variance * shares,
            times=times,
        )

    answers = plan.rounds + plan.participation.spare_attempts
    evaluations = 1 if plan.people.held_out_fraction > 0 else 0
    return {
        Population.TRAINED: (
            events(shape.scored, plan.noise.bins, 1),
            events(shape.scored + 1, plan.noise.step, answers),
        ),
        Population.HELD_OUT: (events(1 + shape.protected, plan.noise.evaluation, evaluations),),
    }


def noise_for(
    *,
    schema: Schema,
    participation: Participation,
    rounds: int,
    epsilon: float,
    delta: float,
    bins_share: float,
) -> Noise:
    """Returns the least noise that keeps the target, always rounded toward more.

    Trained people pay for the bins and for rounds + spare attempts; held-out people pay the same
    total for the one evaluation. Each sum that is opened carries the noise of at least
    quorum - colluders shares that the adversary does not know, so one share has that fraction.

    Args:
        schema: its scored and protected features set the sensitivities.
        participation: quorum, colluders and spare attempts.
        rounds: training rounds T.
        epsilon: the target, in (0, 100].
        delta: the target, in (0, 1).
        bins_share: the part of mu^2 that the binning sum gets, in (0, 1).

    Raises:
        PrivacyError: no noise gives this target.
    """
    target, failure = require_target(epsilon, delta)
    if rounds < 1:
        raise ConfigurationError(f"Expected rounds={rounds} of at least 1.")
    if not 0 < bins_share < 1:
        raise ConfigurationError(f"Expected bins_share={bins_share!r} in (0, 1).")
    shape = _Shape.of(schema, participation, rounds)
    slack = sampler_slack(shape.coordinates, epsilon=target, delta=failure)
    if slack.epsilon >= target or slack.delta >= failure:
        raise PrivacyError(
            f"Over {shape.coordinates:,} noisy numbers the sampler's own error uses up epsilon "
            f"{target:g} at delta {failure:g}: ask fewer rounds or cells, a smaller epsilon or a "
            "larger delta."
        )
    total = units_within(Epsilon(target - slack.epsilon), Delta(failure - slack.delta))
    for_bins = BudgetUnits(int(total * bins_share))
    for_step = BudgetUnits((total - for_bins) // (rounds + participation.spare_attempts))

    def share(columns: int, units: BudgetUnits) -> int:
        needed = variance_for(sensitivity_squared=sensitivity_squared(columns), units_each=units)
        each = -(-needed // participation.honest_shares)
        return max(each, LEAST_SHARE_VARIANCE)

    return Noise(
        bins=share(shape.scored, for_bins),
        step=share(shape.scored + 1, for_step),
        evaluation=share(1 + shape.protected, total),
    )


def stddev_of_total(share_variance: int, answers: int) -> float:
    """Returns the noise in a sum of `answers` institutions, in people (ones, not grid units)."""
    return math.sqrt(share_variance * answers) / UNITS_PER_ONE
