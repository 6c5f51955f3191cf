"""Trainings in the other two modes, as an auditor sees them.

Local mode: nothing is masked, so the auditor has each institution's noised sums one by one, and of
a network also those of its steps at home, which never leave it: the promise is about those, and
what leaves follows from them. Institution mode: the canaries are whole institutions, each with
people that are all alike, so that updates point apart; by its coin it has these people or nobody.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, cast
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from clients.dense import update
from clients.local_training import local_release
from clients.taking import Taking
from experiments.audit.canaries import Opened
from experiments.audit.held import held
from experiments.audit.membership_crowd import (
    NAMES,
    Crowd,
    Whole,
    brought_by,
    masked_total,
    vectors,
)
from experiments.entropy import SeededEntropy
from experiments.trial import People
from federation import door
from federation.asking import sum_for
from federation.door import Brought, Gridded, Noised, Products
from federation.errors import ConfigurationError
from federation.fits import Fit
from federation.learning import Institution, NetworkModel
from federation.messages import Model
from federation.model.network import Network
from federation.plan import Plan
from federation.pricing import stddev_of_total
from federation.query import BoundedSum, Question
from federation.schema import Schema

_ALIKE: Final = 20
"""People of an institution that is a canary."""


@dataclass(slots=True, kw_only=True)
class _Home:
    """An institution in local mode, in the place of `Taking`, that notes what it is asked.

    Attributes:
        plan: of the training.
        schema: of its people.
        trained: its people.
        asked: the model of each sum, and the key that sampled people for it.
    """

    plan: Plan
    schema: Schema
    trained: People
    asked: list[tuple[Model | None, bytes]] = field(default_factory=list)

    def people(
        self, _question: Question, model: Model | None, *, sample_key: bytes
    ) -> Iterable[Brought]:
        """Returns what people bring to a sum."""
        self.asked.append((model, sample_key))
        return brought_by(self.plan, self.schema, self.trained, model, sample_key)


@contextmanager
def _noised() -> Iterator[list[Whole]]:
    """Gives every sum that has got its noise, in order."""
    found: list[Whole] = []
    honest = door.add_noise

    def add_noise(total: Gridded, query: BoundedSum, *, noise_key: bytes) -> Noised:
        noised = honest(total, query, noise_key=noise_key)
        found.append(noised.total)
        return noised

    with patch.object(door, "add_noise", add_noise):
        yield found


def local_training(crowd: Crowd, plan: Plan, coins: NDArray[np.bool_], seed: str) -> list[Opened]:
    """Returns every noised sum of a training in local mode, of one institution each.

    Args:
        crowd: its people; there is no colluder.
        plan: of `plan_for`, in local mode.
        coins: bool[canaries], who takes part.
        seed: of all noise.
    """
    members, entropy = crowd.members(coins), SeededEntropy(seed)
    seen: list[Opened] = []

    def ask(question: Question, model: Model | None) -> NDArray[np.float64]:
        query = sum_for(plan, crowd.schema, question, model)
        total = np.zeros(query.length, dtype=np.int64)
        for place, name in enumerate(NAMES):
            home = _Home(plan=plan, schema=crowd.schema, trained=members[name])
            with _noised() as sums:
                given = local_release(cast(Taking, home), query, model, noise_entropy=entropy)
            total += given.numbers
            for noised, (at, key) in zip(sums, home.asked, strict=True):
                known = brought_by(plan, crowd.schema, crowd.others[name], at, key)
                sight = crowd.sight(plan, query, at, noised, [known])
                own = np.where(crowd.owners == place, 1.0, 0.0)[:, np.newaxis]
                seen.append(
                    Opened(
                        contributions=own * sight.contributions,
                        remainder=sight.remainder,
                        stddev=sight.stddev,
                    )
                )
        return total / question.bound

    fit = Fit.begin(plan, crowd.schema, ask(Question.BINS, None), len(NAMES))
    for _ in range(plan.rounds):
        fit = fit.after(ask(plan.training_question, fit.to_ask()), len(NAMES))
    return seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Institutions:
    """Institutions of which the first colludes and the others are canaries.

    Attributes:
        schema: of their people.
        people: of each.
    """

    schema: Schema
    people: tuple[People, ...]

    @staticmethod
    def drawn(schema: Schema, count: int, cells: int) -> "Institutions":
        """Returns always the same institutions; the people of one are all alike, and all bad.

        Args:
            schema: of numeric features.
            count: of institutions.
            cells: of each feature.
        """
        generator = np.random.default_rng(0)
        features = len(schema.scored_grids)
        codes = generator.integers(0, cells, (count, features, 1), dtype=np.uint8)
        return Institutions(
            schema=schema,
            people=tuple(
                People(codes=np.repeat(one, _ALIKE, axis=1), bad=np.ones(_ALIKE, dtype=np.bool_))
                for one in codes
            ),
        )


def institution_training(
    crowd: Institutions, plan: Plan, coins: NDArray[np.bool_], seed: str
) -> list[Opened]:
    """Returns all sums of updates as coordinator and colluder see them, in order.

    Args:
        crowd: its institutions.
        plan: of `plan_for`, in institution mode.
        coins: bool[institutions - 1], which of the others bring an update, not zeros.
        seed: of all noise and masks.
    """
    entropy, count = SeededEntropy(seed), len(crowd.people)
    takes_part = np.concatenate([[True], coins])
    seen = []

    def ask(model: Network) -> NDArray[np.float64]:
        query = sum_for(plan, crowd.schema, plan.training_question, model)
        updates = [_update(crowd.schema, plan, model, people) for people in crowd.people]
        brought = [
            [one if takes else _update(crowd.schema, plan, model, _nobody(people))]
            for one, takes, people in zip(updates, takes_part, crowd.people, strict=True)
        ]
        noise_keys = [entropy() for _ in brought]
        total, colluder = masked_total(query, brought, noise_keys, entropy)
        seen.append(
            Opened(
                contributions=np.concatenate([vectors(query, one) for one in updates[1:]]),
                remainder=(total - colluder).astype(np.float64),
                stddev=query.question.bound * stddev_of_total(plan, query.question, count - 1),
            )
        )
        return total / query.question.bound

    fit = Fit.begin(plan, crowd.schema, None, count)
    for _ in range(plan.rounds):
        model = fit.to_ask()
        if not isinstance(model, Network):
            raise ConfigurationError("Institution mode trains a network.")
        fit = fit.after(ask(model), count)
    return seen


def _nobody(people: People) -> People:
    return People(codes=people.codes[:, :0], bad=people.bad[:0])


def _update(schema: Schema, plan: Plan, model: Network, people: People) -> Products:
    if not isinstance(plan.model, NetworkModel) or not isinstance(plan.mode, Institution):
        raise ConfigurationError("Only institution mode sums updates.")
    return update(schema, held(people), model, plan.model, plan.mode)
