"""What an institution computes at home in local mode, from noised sums of its own alone."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from clients.audit import sample_key
from clients.taking import Taking
from federation import door
from federation.door import Brought, LocalRelease, Noised
from federation.learning import NetworkModel
from federation.messages import Model
from federation.model.network import LARGEST_PARAMETER, Network
from federation.model.optimiser import Adam
from federation.privacy.entropy import Entropy
from federation.query import BoundedSum, Question


def local_release(
    taking: Taking, query: BoundedSum, model: Model | None, *, noise_entropy: Entropy
) -> LocalRelease:
    """Returns the answer to a question of a plan in local mode, which has been paid.

    Counts, residuals and score bands: the sum, with all of the noise. A network's round: DP-SGD
    (Abadi et al. 2016) from the network that was asked about, with Adam (Kingma and Ba 2015), each
    step on a noised sum of its own; then the parameters, in units of 1 / `question.bound`.

    Args:
        taking: the plan.
        query: as the plan asks it.
        model: that it is about; None for bins.
        noise_entropy: 32 fresh secret bytes a call: one for each sum.
    """
    plan, question = taking.plan, query.question

    def people(at: Model | None, noise_key: bytes) -> Iterable[Brought]:
        return taking.people(question, at, sample_key=sample_key(noise_key))

    settings = plan.model
    if (
        question is not Question.GRADIENT
        or not isinstance(model, Network)
        or not isinstance(settings, NetworkModel)
    ):
        noise_key = noise_entropy()
        return door.release_one(query, people(model, noise_key), noise_key=noise_key)
    shape = model.shape
    # Public figures alone: Adam does not heed the unit of a gradient, so a bound does as well.
    unit = question.bound * settings.sampling_rate * plan.people.most_per_institution

    def after(adam: Adam, noised: Noised) -> Adam:
        moved = adam.after(noised.total / unit, settings.learning_rate)
        return replace(moved, vector=np.clip(moved.vector, -LARGEST_PARAMETER, LARGEST_PARAMETER))

    return door.release_after(
        query,
        Adam.at(model.vector),
        noise_keys=(noise_entropy() for _ in range(plan.steps_per_round)),
        people=lambda adam, noise_key: people(Network.of(shape, adam.vector), noise_key),
        after=after,
        numbers=lambda adam: np.rint(adam.vector * question.bound).astype(np.int64),
    )
