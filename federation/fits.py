"""A plan's training in the making, as the coordinator does it and an auditor repeats it."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError
from federation.grid import FeatureGrid
from federation.learning import Institution, Joint, Local, NetworkModel, ServerOptimiser
from federation.messages import Model
from federation.model.binning import evidence
from federation.model.card_fit import CardFit
from federation.model.fitting import FitSettings
from federation.model.network import Network, Shape, start
from federation.model.network_fit import NetworkFit, Step
from federation.plan import Plan
from federation.pricing import stddev_of_total
from federation.query import Question
from federation.schema import Schema

EVIDENCE_SHARE = 0.4
"""Part of its weight of evidence that each bin starts with: features repeat one another."""

EVIDENCE_DOUBT = 0.5
"""Standard error of a weight, in log-odds, at which half of it is believed."""

MOST_PUBLIC_BINS = 8
"""Ordered bins of a feature where nobody may be counted."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Where the training of a plan's model stands; each transition returns a new one.

    Attributes:
        plan: that is run.
        counts: the total of the question BINS in people; None where nobody was counted.
        settings: bins and noisy counts that follow from it; None likewise.
        model: a card or a network in the making.
    """

    plan: Plan
    counts: Array | None
    settings: FitSettings | None
    model: CardFit | NetworkFit

    @staticmethod
    def begin(plan: Plan, schema: Schema, counts: Array | None, answers: int) -> "Fit":
        """Returns the start of a plan's training.

        Args:
            plan: of the training.
            schema: that it names.
            counts: the total of the question BINS in people; None if the plan asks none.
            answers: institutions in it.

        Raises:
            ConfigurationError: counts are missing, needless or of another schema.
            PrivacyError: they say that there is nobody: the noise hides everybody.
        """
        if (counts is None) == plan.asks_bins:
            raise ConfigurationError(
                "A training begins with counts of people if its plan asks them."
            )
        grids = schema.scored_grids
        if counts is None:
            public = _network_fit(plan, _public_start(plan, grids))
            return Fit(plan=plan, counts=None, settings=None, model=public)
        card = CardFit.begin(
            grids=grids,
            counts=counts,
            count_stddev=stddev_of_total(plan, Question.BINS, answers),
            residual_stddev=stddev_of_total(plan, Question.STEP, answers),
            rounds=plan.rounds,
        )
        model: CardFit | NetworkFit = card
        if isinstance(plan.model, NetworkModel):
            model = _network_fit(plan, _counted_start(plan, plan.model, grids, card.settings))
        return Fit(plan=plan, counts=counts, settings=card.settings, model=model)

    def to_ask(self) -> Model:
        """Returns the model about which the next training question is asked."""
        return self.model.to_ask()

    def after(self, values: Array, answers: int) -> "Fit":
        """Returns the training one round further.

        Args:
            values: the total of the training question, in people or clip norms; in local mode of
                the networks' parameters.
            answers: institutions in it.
        """
        if isinstance(self.model, CardFit):
            return replace(self, model=self.model.after(values))
        return replace(self, model=self.model.after(values * self._unit(answers)))

    def _unit(self, answers: int) -> float:
        """Returns what makes a mean, over people or institutions, of a total."""
        plan = self.plan
        if not isinstance(plan.model, NetworkModel) or isinstance(plan.mode, Local):
            return 1 / answers
        if isinstance(plan.mode, Institution) or self.settings is None:
            return plan.model.clip / answers
        return plan.model.clip / (plan.model.sampling_rate * self.settings.people)

    @property
    def people(self) -> float:
        """Trained people: as counted, with noise; the plan's public figure where nobody was."""
        trained = 1 - self.plan.people.held_out_fraction
        return (
            self.plan.people.national * trained if self.settings is None else self.settings.people
        )

    @property
    def base_rate(self) -> float:
        """The share of bad people: as counted, with noise; else as the plan's scale has it."""
        return 1 / (1 + self.plan.scale.odds) if self.settings is None else self.settings.base_rate

    def counts_or_even(self, schema: Schema) -> Array:
        """Returns `counts`, or one good and one bad person in each cell where nobody was counted.

        Args:
            schema: of the plan.
        """
        if self.counts is not None:
            return self.counts
        return np.ones(sum(2 * len(one.labels) for one in schema.scored_grids))

    def finished(self) -> Model:
        """Returns the trained model: a card in points, or a network."""
        if isinstance(self.model, CardFit):
            return self.model.in_points(self.plan.scale)
        return self.model.finished()


def _network_fit(plan: Plan, network: Network) -> NetworkFit:
    if not isinstance(plan.model, NetworkModel):
        raise ConfigurationError("A plan that counts nobody trains a network.")
    step = {
        Joint: Step.GRADIENT,
        Local: Step.NETWORK,
        Institution: Step.UPDATE,
    }[type(plan.mode)]
    if isinstance(plan.mode, Institution) and plan.mode.optimiser is ServerOptimiser.FEDADAM:
        step = Step.PSEUDO_GRADIENT
    return NetworkFit.begin(
        network, step=step, learning_rate=plan.model.learning_rate, rounds=plan.rounds
    )


def _counted_start(
    plan: Plan, model: NetworkModel, grids: tuple[FeatureGrid, ...], counts: FitSettings
) -> Network:
    rate = counts.base_rate
    intercept, evidence = math.log(rate / (1 - rate)), _evidence(counts)
    shape = Shape.of(
        grids=grids, bins=counts.bins, hidden=model.hidden, activation=model.activation
    )
    if model.module is not None:
        counted, shape = shape, public_shape(model, grids)
        evidence = _carried_over(evidence, counted, shape)
    return start(shape, _seed(plan), intercept, evidence)


def _evidence(counts: FitSettings) -> Array:
    """Returns what the noisy counts alone say of each bin: a share of its weight of evidence.

    A weight that noise may have made is shrunk: times d^2 / (d^2 + its variance).
    """
    parts = []
    for number, bins in enumerate(counts.bins):
        found = evidence(
            bins, good=counts.good[number], bad=counts.bad[number], stddev=counts.count_stddev
        )
        seen = np.array(bins.evident)
        weights, errors = found.weight[seen], found.standard_error[seen]
        parts.append(-EVIDENCE_SHARE * weights / (1 + (errors / EVIDENCE_DOUBT) ** 2))
    return np.concatenate(parts)


def _carried_over(evidence: Array, counted: Shape, public: Shape) -> Array:
    """Returns for each public bin the mean evidence of its cells, 0 of one without a bin."""
    found, start = [], 0
    for of_counted, of_public, bins in zip(
        counted.bin_of_cell, public.bin_of_cell, counted.bins, strict=True
    ):
        of_bin = np.append(evidence[start : start + bins], 0.0)  # the last: a cell without a bin
        cells = np.array(of_public)
        sums = np.bincount(cells, weights=of_bin[list(of_counted)])
        found.append(sums / np.bincount(cells))
        start += bins
    return np.concatenate(found)


def _public_start(plan: Plan, grids: tuple[FeatureGrid, ...]) -> Network:
    """Returns where a training starts that knows nothing: public bins, the scale's own odds."""
    if not isinstance(plan.model, NetworkModel):
        raise ConfigurationError("A plan that counts nobody trains a network.")
    return start(public_shape(plan.model, grids), _seed(plan), -math.log(plan.scale.odds))


def public_shape(model: NetworkModel, grids: tuple[FeatureGrid, ...]) -> Shape:
    """Returns the shape of a network over public bins, which need nobody counted.

    Args:
        model: of the plan.
        grids: of the scored features.
    """
    return Shape(
        bin_of_cell=tuple(_public_bins(grid) for grid in grids),
        ordered_cells=tuple(grid.ordered_cells for grid in grids),
        hidden=model.hidden,
        activation=model.activation,
        module=model.module,
    )


def public_network(model: NetworkModel, schema: Schema) -> Network:
    """Returns a network of a plan's model over public bins, all of its parameters 0."""
    scored = schema.scored_grids
    shape = public_shape(model, scored)
    return Network.of(shape, np.zeros(shape.parameters))


def _public_bins(grid: FeatureGrid) -> tuple[int, ...]:
    """Returns the bin of each cell: runs of equally many ordered cells, every other for itself."""
    ordered = min(grid.ordered_cells, MOST_PUBLIC_BINS)
    runs = tuple(cell * ordered // grid.ordered_cells for cell in range(grid.ordered_cells))
    return (*runs, *range(ordered, ordered + len(grid.labels) - grid.ordered_cells))


def _seed(plan: Plan) -> bytes:
    return bytes.fromhex(plan.digest)
