"""Three institutions with canaries among their people, and trainings whose every sum is seen.

The product's own pieces answer: what people bring, the door with noise and masks, the card's fit.
Left out are messages, ledgers and disk. Canaries are people with random features who all turned
bad: where most are good, that is close to as much as one person can bring. Where people are
sampled, the guesser knows whose coins fell among those whom it knows, but not among the canaries.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

from clients.audit import sample_key
from clients.dense import gradients
from clients.network_gradients import NetworkGradients
from experiments.audit.canaries import Opened
from experiments.audit.held import held
from experiments.entropy import SeededEntropy
from experiments.trial import People, people_of
from federation import door
from federation.asking import sum_for
from federation.canonical import public_key_of
from federation.door import Brought, Products
from federation.errors import ConfigurationError
from federation.fits import Fit
from federation.learning import Institution, Joint, Local, NetworkModel, ScorecardModel
from federation.messages import Model
from federation.model.network import Activation, Network, inputs
from federation.model.scorecard import AdditiveCard, count_contribution
from federation.model.step import Packing, Step
from federation.plan import Plan
from federation.pricing import stddev_of_total
from federation.privacy import discrete_gaussian
from federation.privacy.entropy import Entropy
from federation.query import BoundedSum, Question
from federation.schema import Schema, load_schema
from federation.secure_aggregation.words import Masks, from_words
from fedscore.planning import JOINT, SCORECARD, new_plan

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
NAMES: Final = ("bank-0", "bank-1", "bank-2")
"""The first one colludes: it tells the coordinator its people and its noise."""
DELTA: Final = 1e-6
_SINCE: Final = datetime(2026, 1, 1, tzinfo=UTC)
_FEATURES: Final = 8
CELLS: Final = 16
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
    _FEATURE.format(number=number, cells=CELLS) for number in range(_FEATURES)
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
    mode: Joint | Local | Institution = JOINT,
    names: tuple[str, ...] = NAMES,
) -> Plan:
    """Returns a signed plan: all must answer, one may collude, nobody is held out.

    It is valid for ten years from a fixed day, so that it is always the same: the public start of
    a network is drawn from its digest.
    """
    return new_plan(
        schema=schema,
        name="membership",
        federation="membership",
        purpose="audit",
        coordinator=public_key_of(KEY),
        invited=names,
        quorum=len(names),
        colluders=1,
        spare_attempts=0,
        mode=mode,
        model=model,
        rounds=rounds,
        people=people,
        most_per_institution=people,
        held_out_fraction=0.0,
        epsilon=epsilon,
        delta=DELTA,
        valid_from=_SINCE,
        days=3650,
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
        self,
        plan: Plan,
        query: BoundedSum,
        model: Model | None,
        total: Whole,
        known: Sequence[Iterable[Brought]],
    ) -> Opened:
        """Returns one sum as whoever knows all records sees it.

        Args:
            plan: of the training.
            query: the question.
            model: that it was asked at; None for bins.
            total: int64[length], opened, less what others than those of `known` put in.
            known: of each institution whose unknown noise is in it, what its known people brought.
        """
        rest = total - sum(door.sum_of(query, brought).total for brought in known)
        rate = sampling_rate(plan, query)
        return Opened(
            contributions=rate * vectors(query, contribution(plan, self.canaries, model)),
            remainder=rest.astype(np.float64),
            stddev=query.question.bound * stddev_of_total(plan, query.question, len(known)),
        )


def sampling_rate(plan: Plan, query: BoundedSum) -> float:
    """Returns how likely a person takes part in a sum."""
    if query.question is Question.GRADIENT and isinstance(plan.model, NetworkModel):
        return plan.model.sampling_rate
    return 1.0


def brought_by(
    plan: Plan, schema: Schema, people: People, model: Model | None, coins_key: bytes
) -> Iterable[Brought]:
    """Returns what people bring to a question, those that are sampled where people are.

    Args:
        plan: of the training.
        schema: of the people.
        people: of one institution.
        model: that is asked about; None for bins.
        coins_key: decides who is sampled: of the same first people the same, whoever follows.
    """
    if not isinstance(model, Network) or not isinstance(plan.model, NetworkModel):
        return [contribution(plan, people, model)]
    return gradients(schema, held(people), model, plan.model, sample_key=coins_key)


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
        plan: of `plan_for`, in joint mode.
        coins: bool[canaries], who takes part.
        seed: of all noise and masks.
    """
    members, entropy = crowd.members(coins), SeededEntropy(seed)
    seen = []

    def ask(question: Question, model: Model | None) -> NDArray[np.float64]:
        query = sum_for(plan, crowd.schema, question, model)
        noise_keys = [entropy() for _ in NAMES]

        def all_of(people: Mapping[str, People]) -> list[list[Brought]]:
            return [
                list(brought_by(plan, crowd.schema, people[name], model, sample_key(key)))
                for name, key in zip(NAMES, noise_keys, strict=True)
            ]

        total, colluder = masked_total(query, all_of(members), noise_keys, entropy)
        known = all_of(crowd.others)[1:]
        seen.append(crowd.sight(plan, query, model, total - colluder, known))
        return total / question.bound

    fit = Fit.begin(plan, crowd.schema, ask(Question.BINS, None), len(NAMES))
    for _ in range(plan.rounds):
        fit = fit.after(ask(plan.training_question, fit.to_ask()), len(NAMES))
    return seen


def masked_total(
    query: BoundedSum,
    brought: Sequence[Sequence[Brought]],
    noise_keys: Sequence[bytes],
    entropy: Entropy,
) -> tuple[Whole, Whole]:
    """Returns the sum of all masked answers, and what the first institution put into it.

    Args:
        query: the question.
        brought: of each institution.
        noise_keys: of each institution.
        entropy: of masks.
    """
    keys = [entropy() for _ in brought]
    words = []
    for place, (people, noise_key) in enumerate(zip(brought, noise_keys, strict=True)):
        # Each adds one mask and takes off its neighbour's: in a circle, so that all cancel.
        masks = Masks(bits=64, added=(keys[place],), subtracted=(keys[place - 1],))
        words.append(door.answer(query, people, noise_key=noise_key, masks=masks).words)
    own = door.sum_of(query, brought[0])
    colluder = door.add_noise(own, query, noise_key=noise_keys[0]).total
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
    values = generator.integers(0, CELLS, (_FEATURES, people))
    odds = 1 / (1 + np.exp(3.0 - 0.1 * (values[0] + values[1] - CELLS)))
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
