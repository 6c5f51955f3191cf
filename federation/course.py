"""What a plan's price depends on besides its noise: who is asked what, how often, how sampled."""

from dataclasses import dataclass

from federation.grid import Role
from federation.learning import (
    Institution,
    Joint,
    Local,
    NetworkModel,
    ScorecardModel,
    question_of,
    steps_of,
)
from federation.model.evaluation import evaluation_columns
from federation.plan import Participation
from federation.privacy.accountant import (
    SamplerSlack,
    sampler_slack,
)
from federation.privacy.events import GaussianEvents
from federation.privacy.sampled import (
    LOST_TO_SAMPLING,
    SampledEvents,
)
from federation.privacy.units import BudgetUnits
from federation.query import Question, sensitivity_squared
from federation.schema import Schema


def cells_of(schema: Schema, role: Role) -> tuple[int, ...]:
    """Returns the number of fine cells of each feature of one role, in schema order."""
    return tuple(len(grid.labels) for grid in schema.grids if grid.role is role)


Events = GaussianEvents | SampledEvents
"""What is answered about one population, as the accountants see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a plan's price depends on besides its noise.

    Attributes:
        scored: scored features.
        protected: protected features.
        mode: of the plan.
        model: of the plan.
        answers: training rounds and spare attempts.
        coordinates: noisy numbers that are ever drawn for it, over all institutions.
    """

    scored: int
    protected: int
    mode: Joint | Local | Institution
    model: ScorecardModel | NetworkModel
    answers: int
    coordinates: int

    @staticmethod
    def of(
        schema: Schema,
        participation: Participation,
        mode: Joint | Local | Institution,
        model: ScorecardModel | NetworkModel,
        rounds: int,
    ) -> "Course":
        """Returns the course of such a plan on a schema."""
        scored, protected = cells_of(schema, Role.SCORED), cells_of(schema, Role.PROTECTED)
        answers = rounds + participation.spare_attempts
        cells = sum(scored) + 1 if isinstance(model, ScorecardModel) else model.most_parameters
        steps = answers * cells * steps_of(mode)
        length = 2 * sum(scored) + steps + sum(evaluation_columns(protected))
        return Course(
            scored=len(scored),
            protected=len(protected),
            mode=mode,
            model=model,
            answers=answers,
            coordinates=length * len(participation.invited),
        )

    @property
    def question(self) -> Question:
        """What trains the model."""
        return question_of(self.mode, self.model)

    @property
    def steps(self) -> int:
        """Noisy sums that train the model, spare attempts included."""
        return self.answers * steps_of(self.mode)

    def slack(self, epsilon: float, delta: float) -> SamplerSlack:
        """Returns what inexact samplers, and sampled people, add to every statement."""
        found = sampler_slack(self.coordinates, epsilon=epsilon, delta=delta)
        if not self.is_sampled:
            return found
        return SamplerSlack(epsilon=found.epsilon, delta=found.delta + LOST_TO_SAMPLING)

    @property
    def is_sampled(self) -> bool:
        """Whether a person takes part in each step by a coin."""
        return isinstance(self.model, NetworkModel) and self.model.sampling_rate < 1

    def step_sensitivity_squared(self) -> int:
        """Returns what one person changes in a training sum at most, squared, in grid units.

        An institution's update lies within the clip norm whoever its people are: with one person
        more it is another update, at most twice the norm away.
        """
        if self.question is Question.UPDATE:
            return 4 * sensitivity_squared(Question.UPDATE, 1)
        columns = self.scored + 1 if self.question is Question.STEP else 1
        return sensitivity_squared(self.question, columns)

    def training(self, variance: int, times: int) -> Events:
        """Returns training sums as the accountants see them.

        Args:
            variance: that the adversary lacks in each, grid units squared.
            times: how many.
        """
        squared = self.step_sensitivity_squared()
        if isinstance(self.model, NetworkModel) and self.is_sampled:
            return SampledEvents(
                sensitivity_squared=squared,
                variance=variance,
                sampling_rate=self.model.sampling_rate,
                times=times,
            )
        return GaussianEvents(sensitivity_squared=squared, variance=variance, times=times)

    def training_units(self, variance: int) -> BudgetUnits:
        """Returns what all training sums cost together.

        Sampled ones are priced as a whole (`federation.privacy.sampled`): the first that is
        answered pays for all, and each after it one unit, for an entry of nothing is refused.
        """
        whole = self.training(variance, self.steps).units()
        return BudgetUnits(whole + (self.answers - 1 if self.is_sampled else 0))
