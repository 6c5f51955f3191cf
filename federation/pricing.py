"""What a plan asks in figures, what it costs each person, and the noise that a target needs."""

import math
from dataclasses import dataclass

from federation.course import Course, Events, cells_of
from federation.errors import ConfigurationError, PrivacyError
from federation.grid import Role
from federation.learning import Institution, Joint, Local, NetworkModel, ScorecardModel
from federation.model.evaluation import evaluation_columns
from federation.model.scorecard import AdditiveCard
from federation.plan import Noise, Participation, Plan
from federation.privacy.accountant import (
    Opinions,
    SamplerSlack,
    epsilon_of,
    opinions,
    require_target,
    units_within,
)
from federation.privacy.events import LEAST_SHARE_VARIANCE, GaussianEvents, variance_for
from federation.privacy.sampled import (
    sampled_variance_for,
)
from federation.privacy.units import BudgetUnits, Delta, Epsilon, Population, Price
from federation.query import BoundedSum, Question, sensitivity_squared
from federation.schema import ROW_AS_KEY, Schema


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


def dense_sum(plan: Plan, parameters: int) -> BoundedSum:
    """Returns the question GRADIENT or UPDATE about a network of so many parameters."""
    return BoundedSum(
        question=plan.training_question, columns=(parameters,), share_variance=plan.noise.step
    )


def evaluation_sum(plan: Plan, schema: Schema) -> BoundedSum:
    """Returns the question EVALUATION: score bands by outcome, and by protected group."""
    return BoundedSum(
        question=Question.EVALUATION,
        columns=evaluation_columns(cells_of(schema, Role.PROTECTED)),
        share_variance=plan.noise.evaluation,
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
        institution: epsilon of a whole institution in institution mode; None in the others.
        promised_alone: what the plan promises against the coordinator alone must be no less.
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
    institution: Epsilon | None
    promised_alone: Epsilon
    events: dict[Population, tuple[Events, ...]]

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
    course = Course.of(schema, plan.participation, plan.mode, plan.model, plan.rounds)
    epsilon, delta = require_target(plan.privacy.epsilon, plan.privacy.delta)
    slack = course.slack(epsilon, delta)
    found = {shares: _events(plan, course, shares) for shares in (plan.honest_shares, plan.shares)}
    totals = {shares: _totals(plan, course, shares) for shares in found}

    def price(shares: int) -> Price:
        of_trained, of_held_out = (totals[shares][one] for one in Population)
        return Price(trained=of_trained, held_out=of_held_out)

    def stated(shares: int, population: Population) -> Epsilon:
        return _stated(totals[shares][population], delta, slack)

    def of_institution(shares: int) -> Epsilon:
        """One whole update instead of none: half as far as one update instead of another."""
        quarter = -(-totals[shares][Population.TRAINED] // 4)
        return _stated(BudgetUnits(quarter), delta, slack)

    is_by_institution = isinstance(plan.mode, Institution)
    honest, quorum = plan.honest_shares, plan.shares
    priced = PlanPrice(
        price=price(honest),
        alone=price(quorum),
        delta=delta,
        slack=slack,
        trained=stated(honest, Population.TRAINED),
        held_out=stated(honest, Population.HELD_OUT),
        trained_coordinator_alone=stated(quorum, Population.TRAINED),
        held_out_coordinator_alone=stated(quorum, Population.HELD_OUT),
        institution=of_institution(honest) if is_by_institution else None,
        promised_alone=max(
            of_institution(quorum) if is_by_institution else stated(quorum, Population.TRAINED),
            stated(quorum, Population.HELD_OUT),
        ),
        events=found[honest],
    )
    trained = priced.trained if priced.institution is None else priced.institution
    dearest = max(trained, priced.held_out)
    if not dearest <= epsilon:
        raise PrivacyError(
            f"The noise of this plan gives epsilon {dearest:.6g} at delta {delta:g}, more than the "
            f"{epsilon:g} that it promises. Make the plan anew with `fedscore plan new`."
        )
    alone = priced.promised_alone
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


def _events(plan: Plan, course: Course, shares: int) -> dict[Population, tuple[Events, ...]]:
    def counts(question: Question, columns: int, share_variance: int) -> GaussianEvents:
        return GaussianEvents(
            sensitivity_squared=sensitivity_squared(question, columns),
            variance=share_variance * shares,
            times=1,
        )

    before = [counts(Question.BINS, course.scored, plan.noise.bins)] if plan.asks_bins else []
    evaluation = counts(Question.EVALUATION, 1 + course.protected, plan.noise.evaluation)
    return {
        Population.TRAINED: (*before, course.training(plan.noise.step * shares, course.steps)),
        Population.HELD_OUT: (evaluation,) if plan.evaluates else (),
    }


def _totals(plan: Plan, course: Course, shares: int) -> dict[Population, BudgetUnits]:
    events = _events(plan, course, shares)
    *before, _ = events[Population.TRAINED]
    training = course.training_units(plan.noise.step * shares)
    trained = training + sum(event.units() for event in before)
    held_out = sum(event.units() for event in events[Population.HELD_OUT])
    return {
        Population.TRAINED: BudgetUnits(trained),
        Population.HELD_OUT: BudgetUnits(held_out),
    }


def charge_of(plan: Plan, schema: Schema, query: BoundedSum, *, is_first: bool) -> BudgetUnits:
    """Returns what the ledger charges for one answer to a question of the plan.

    All answers together are never more than the plan's price.

    Args:
        plan: of the question.
        schema: that it names.
        query: the question.
        is_first: whether no answer to this question is paid for yet.
    """
    variance = query.share_variance * plan.honest_shares
    if query.question is not plan.training_question:
        events = GaussianEvents(
            sensitivity_squared=query.sensitivity_squared, variance=variance, times=1
        )
        return events.units()
    course = Course.of(schema, plan.participation, plan.mode, plan.model, plan.rounds)
    if not course.is_sampled:
        return course.training(variance, plan.steps_per_round).units()
    return course.training(variance, course.steps).units() if is_first else BudgetUnits(1)


def noise_for(
    *,
    schema: Schema,
    participation: Participation,
    mode: Joint | Local | Institution,
    model: ScorecardModel | NetworkModel,
    rounds: int,
    epsilon: float,
    delta: float,
    bins_share: float,
) -> Noise:
    """Returns the least noise that keeps the target, always rounded toward more.

    Trained people pay for the bins and for rounds + spare attempts; held-out people pay the same
    total for the one evaluation. Each sum that is opened carries the noise of at least
    quorum - colluders shares that the adversary does not know, so one share has that fraction; in
    local mode a share is all of it. In institution mode the target is an institution's, and only
    the updates cost anything.

    Args:
        schema: its scored and protected features set the sensitivities.
        participation: quorum, colluders and spare attempts.
        mode: of the plan.
        model: of the plan.
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
    course = Course.of(schema, participation, mode, model, rounds)
    slack = course.slack(target, failure)
    if slack.epsilon >= target or slack.delta >= failure:
        raise PrivacyError(
            f"Over {course.coordinates:,} noisy numbers the sampler's own error uses up epsilon "
            f"{target:g} at delta {failure:g}: ask fewer rounds or cells, a smaller epsilon or a "
            "larger delta." + (" Sampling alone takes 1e-10 of delta." if course.is_sampled else "")
        )
    total = units_within(Epsilon(target - slack.epsilon), Delta(failure - slack.delta))
    shares = 1 if isinstance(mode, Local) else participation.honest_shares

    def share(variance: int) -> int:
        return max(-(-variance // shares), LEAST_SHARE_VARIANCE)

    def counts(question: Question, columns: int, units: BudgetUnits) -> int:
        squared = sensitivity_squared(question, columns)
        return share(variance_for(sensitivity_squared=squared, units_each=units))

    def training(units: BudgetUnits) -> int:
        squared = course.step_sensitivity_squared()
        if isinstance(model, NetworkModel) and course.is_sampled:
            return share(
                sampled_variance_for(
                    sensitivity_squared=squared,
                    sampling_rate=model.sampling_rate,
                    times=course.steps,
                    units=BudgetUnits(units - course.answers),
                )
            )
        each = BudgetUnits(units // course.steps)
        return share(variance_for(sensitivity_squared=squared, units_each=each))

    if isinstance(mode, Institution):  # nothing else is asked
        return Noise(
            bins=LEAST_SHARE_VARIANCE,
            step=training(BudgetUnits(4 * total)),
            evaluation=LEAST_SHARE_VARIANCE,
        )
    for_bins = BudgetUnits(int(total * bins_share))
    return Noise(
        bins=counts(Question.BINS, course.scored, for_bins),
        step=training(BudgetUnits(total - for_bins)),
        evaluation=counts(Question.EVALUATION, 1 + course.protected, total),
    )


def stddev_of_total(plan: Plan, question: Question, answers: int) -> float:
    """Returns the noise in a sum of `answers` institutions, in people or clip norms, not units."""
    return math.sqrt(plan.noise.of(question) * answers) / question.bound
