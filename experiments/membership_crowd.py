"""Three institutions with canaries among their people, and trainings whose every sum is seen.

The product's own pieces answer: what people bring, the door with noise and masks, the card's fit.
Left out are messages, ledgers and disk. Canaries are people with random features who all turned
bad: where most are good, that is close to as much as one person can bring.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from clients.network_gradients import NetworkGradients
from experiments.canaries import Opened
from experiments.entropy import SeededEntropy
from experiments.trial import People, people_of
from federation import door
from federation.asking import sum_for
from federation.canonical import public_key_of
from federation.door import Brought, Products
from federation.errors import ConfigurationError
from federation.fits import Fit
from federation.messages import Model
from federation.model.network import Activation, inputs
from federation.model.scorecard import AdditiveCard, count_contribution
from federation.model.step import Packing, Step
from federation.plan import NetworkModel, Plan, ScorecardModel
from federation.pricing import stddev_of_total
from federation.privacy import discrete_gaussian
from federation.privacy.entropy import Entropy
from federation.query import BoundedSum, Question
from federation.schema import Schema, load_schema
from federation.secure_aggregation.words import Masks, from_words
from fedscore.machine import system_clock
from fedscore.planning import SCORECARD, new_plan

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
NAMES: Final = ("bank-0", "bank-1", "bank-2")
"""The first one colludes: it tells the coordinator its people and its noise."""
DELTA: Final = 1e-6
_FEATURES: Final = 8
_CELLS: Final = 16
_HEAD: Final = """
format = 1
name = "Membership"
person_key = "person"
rows_per_person = "one"
[outcome]
column = "bad"
window = "default within a year"
"""
_FEATURE: Final = """
[[feature]]
name = "f{number}"
role = "scored"
kind = "number"
unit = "units"
reason = "Feature {number}"
lower = 0
upper = {cells}
cells = {cells}
"""

SCHEMA: Final = _HEAD + "".join(
    _FEATURE.format(number=number, cells=_CELLS) for number in range(_FEATURES)
)
"""Eight numeric features of 16 cells."""

Whole = NDArray[np.int64]


NETWORK: Final = NetworkModel(
    hidden=(8,),
    activation=Activation.TANH,
    clip=0.5,
    sampling_rate=1.0,
    learning_rate=0.02,
    most_parameters=2_000,
)
"""Of which every canary brings as much as is allowed: its gradient is longer than the clip norm."""


def plan_for(
    schema: Schema,
    *,
    epsilon: float,
    rounds: int,
    people: int,
    model: ScorecardModel | NetworkModel = SCORECARD,
) -> Plan:
    """Returns a signed plan: all three must answer, one may collude, nobody is held out."""
    return new_plan(
        schema=schema,
        name="membership",
        federation="membership",
        purpose="audit",
        coordinator=public_key_of(KEY),
        invited=NAMES,
        quorum=len(NAMES),
        colluders=1,
        spare_attempts=0,
        model=model,
        rounds=rounds,
        people=people,
        most_per_institution=people,
        held_out_fraction=0.0,
        epsilon=epsilon,
        delta=DELTA,
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=1,
        salt="0" * 64,
    ).signed(KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """People whom the guesser knows, and canaries of whom it knows all but the coin.

    Attributes:
        schema: of all.
        others: of each institution, by name.
        canaries: one after the other.
        owners: int64[canaries], the place in `NAMES` of each canary's institution; never the
            colluder's, who knows its people.
        table: of all of them: the others of one institution after the other, then the canaries.
    """

    schema: Schema
    others: Mapping[str, People]
    canaries: People
    owners: Whole
    table: pa.Table

    @staticmethod
    def drawn(*, people_each: int, canaries: int) -> "Crowd":
        """Returns always the same crowd.

        Args:
            people_each: of each institution, canaries not counted; about one in ten is bad.
            canaries: how many.
        """
        contract, generator = load_schema(SCHEMA), np.random.default_rng(0)
        known = len(NAMES) * people_each
        table = _table(generator, known, canaries)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "everybody.parquet"
            pq.write_table(table, path)
            everybody = people_of(contract, path)
        return Crowd(
            schema=contract,
            others={
                name: _chosen(everybody, slice(place * people_each, (place + 1) * people_each))
                for place, name in enumerate(NAMES)
            },
            canaries=_chosen(everybody, slice(known, None)),
            owners=1 + np.arange(canaries) % 2,
            table=table,
        )

    def members(self, coins: NDArray[np.bool_]) -> dict[str, People]:
        """Returns everybody who takes part, by institution, canaries among them."""
        return {
            name: _with(one, self.canaries, coins & (self.owners == place))
            for place, (name, one) in enumerate(self.others.items())
        }

    def table_of(self, place: int, coins: NDArray[np.bool_]) -> pa.Table:
        """Returns the rows of whoever takes part at the institution with this place in `NAMES`."""
        each = len(self.others[NAMES[place]].bad)
        known = np.repeat(np.arange(len(NAMES)), each) == place
        return self.table.filter(pa.array(np.concatenate([known, coins & (self.owners == place)])))

    def sight(
        self, plan: Plan, query: BoundedSum, model: Model | None, total: Whole, names: Sequence[str]
    ) -> Opened:
        """Returns one sum as whoever knows all records sees it.

        Args:
            plan: of the training.
            query: the question.
            model: that it was asked at; None for bins.
            total: int64[length], opened, less what others than `names` put in.
            names: of the institutions whose people and unknown noise are in it.
        """
        known = door.sum_of(query, [contribution(plan, self.others[name], model) for name in names])
        return Opened(
            contributions=vectors(query, contribution(plan, self.canaries, model)),
            remainder=(total - known.total).astype(np.float64),
            stddev=query.question.bound * stddev_of_total(plan, query.question, len(names)),
        )


def contribution(plan: Plan, people: People, model: Model | None) -> Brought:
    """Returns what people bring to the training question at a model; without one, to BINS."""
    bad = people.bad.astype(np.uint8)
    if model is None:
        return count_contribution(people.codes, bad, None)
    if isinstance(model, AdditiveCard):
        packing = Packing.of(model, frozenset())
        return Step.at(model, packing).contribution(packing.pack(people.codes), bad, None)
    if not isinstance(plan.model, NetworkModel):
        raise ConfigurationError("The plan trains a scorecard, it was asked about a network.")
    gradients = NetworkGradients(
        model.vector,
        inputs=model.shape.inputs,
        hidden=model.shape.hidden,
        activation=model.shape.activation,
        clip_norm=plan.model.clip,
    )
    return Products(
        layers=gradients.of(inputs(model.shape, people.codes), bad), rows_of_person=None
    )


def vectors(query: BoundedSum, brought: Brought) -> NDArray[np.float64]:
    """Returns float64[rows, length]: the vector that each row alone brings to the sum."""
    if isinstance(brought, Products):
        parts = [
            layer.signals[:, :, np.newaxis] * layer.inputs[:, np.newaxis]
            for layer in brought.layers
        ]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    ends = np.cumsum((0, *query.columns))
    found = np.zeros((len(brought.values), query.length))
    for cells in brought.cells:
        places = tuple(query.columns[column] + 1 for column in cells.columns)
        for column, of in zip(cells.columns, np.unravel_index(cells.numbers, places), strict=True):
            inside = of < query.columns[column]
            found[inside, ends[column] + of[inside]] = brought.values[inside]
    return found


def watched_training(crowd: Crowd, plan: Plan, coins: NDArray[np.bool_], seed: str) -> list[Opened]:
    """Returns all sums of a training as coordinator and colluder see them, in order.

    Args:
        crowd: its people.
        plan: of `plan_for`.
        coins: bool[canaries], who takes part.
        seed: of all noise and masks.
    """
    members, entropy = crowd.members(coins), SeededEntropy(seed)
    seen = []

    def ask(question: Question, model: Model | None) -> NDArray[np.float64]:
        query = sum_for(plan, crowd.schema, question, model)
        brought = [contribution(plan, members[name], model) for name in NAMES]
        total, colluder = _opened(query, brought, entropy)
        seen.append(crowd.sight(plan, query, model, total - colluder, NAMES[1:]))
        return total / question.bound

    fit = Fit.begin(plan, crowd.schema, ask(Question.BINS, None), len(NAMES))
    for _ in range(plan.rounds):
        fit = fit.after(ask(plan.training_question, fit.to_ask()), len(NAMES))
    return seen


def _opened(query: BoundedSum, brought: Sequence[Brought], entropy: Entropy) -> tuple[Whole, Whole]:
    """Returns the sum of all masked answers, and what the first institution put into it."""
    keys = [entropy() for _ in NAMES]
    words, colluder = [], np.zeros(query.length, dtype=np.int64)
    for place, people in enumerate(brought):
        noise_key = entropy()
        # Each adds one mask and takes off its neighbour's: in a circle, so that all cancel.
        masks = Masks(bits=64, added=(keys[place],), subtracted=(keys[place - 1],))
        words.append(door.answer(query, [people], noise_key=noise_key, masks=masks).words)
        if place == 0:
            own = door.sum_of(query, [people])
            colluder = door.add_noise(own, query, noise_key=noise_key).total
    return from_words(np.sum(words, axis=0, dtype=words[0].dtype)), colluder


@contextmanager
def noise_times(factor: float) -> Iterator[None]:
    """Breaks the door within: its noise is `factor` times what it should be, 0 for none at all."""

    def drawn(*, variance: int, count: int, key: bytes) -> Whole:
        right = discrete_gaussian.sample(variance=variance, count=count, key=key)
        wrong: Whole = np.rint(factor * right).astype(np.int64)
        return wrong

    with patch.object(door, "sample", drawn):
        yield


def _table(generator: np.random.Generator, known: int, canaries: int) -> pa.Table:
    people = known + canaries
    values = generator.integers(0, _CELLS, (_FEATURES, people))
    odds = 1 / (1 + np.exp(3.0 - 0.1 * (values[0] + values[1] - _CELLS)))
    bad = (generator.random(people) < odds) | (np.arange(people) >= known)
    columns = {f"f{number}": pa.array(of + 0.5) for number, of in enumerate(values)}
    return pa.table(
        {"person": pa.array(np.arange(people)), "bad": pa.array(bad.astype(np.int64)), **columns}
    )


def _chosen(people: People, places: slice) -> People:
    return People(codes=people.codes[:, places], bad=people.bad[places])


def _with(people: People, canaries: People, taking_part: NDArray[np.bool_]) -> People:
    return People(
        codes=np.concatenate([people.codes, canaries.codes[:, taking_part]], axis=1),
        bad=np.concatenate([people.bad, canaries.bad[taking_part]]),
    )
