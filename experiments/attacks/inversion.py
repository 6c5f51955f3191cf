"""What can a coordinator read off an answer about the few people behind it?

From plain sums without noise, people's features can be read: the gradient of a linear layer is
signals times inputs, so that a single person's row over the bias is the input itself (Zhu, Liu and
Han 2019; Geiping et al. 2020), and a scorecard's residual stands in the person's own bins. Sums
over a few people are taken apart by what recurs: somebody who is alone in a bin of several features
leaves the same number there. The product's answers are noised and masked; the attacker then is told
everything else: everybody else's records, and the very signal of the person.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments.attacks.taken_apart import share_right, taken_apart
from experiments.audit.membership_crowd import contribution, vectors
from experiments.datasets import TAIWAN
from experiments.division import INSTITUTIONS, Divided, divided
from experiments.entropy import SeededEntropy
from experiments.experiment import Setting
from experiments.quality.utility import CLIPS, network
from experiments.trial import People, Terms, people_of, plan_of
from federation import door
from federation.asking import sum_for
from federation.fits import Fit
from federation.messages import Model
from federation.model.network import NO_BIN, Network
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan
from federation.query import BoundedSum, Question
from federation.schema import Schema
from federation.secure_aggregation.words import Masks, from_words, word_bits
from fedscore.planning import SCORECARD

EPSILON: Final = 1.0
ROUNDS: Final = 20
TOGETHER: Final = (1, 4, 16)
_GROUPS: Final = {1: 400, 4: 100, 16: 30}
_NOISED: Final = 400
NOISED: Final = (
    ("little", ROUNDS),
    ("plain", 1),
    ("plain", ROUNDS),
    ("masked", ROUNDS),
    ("total", ROUNDS),
)
"""Kinds of noised answers, and how many rounds of them."""

_LITTLE: Final = 10_000
"""What the variance is divided by in a build that adds a hundredth of the noise."""

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What one attack made of one kind of answer.

    Attributes:
        model: "scorecard" or "network".
        answer: what the coordinator has.
        rounds: whose answers it has.
        people: in each answer whom it does not know.
        right: of each group of people, the share of features whose bin it found.
        base: of the same groups, the share that is right if the most common bin is said always.
        largest: of each group, the share where it says the bin of the largest number; none
            without noise.
        chance: of the same, what numbers without any meaning would give.
    """

    model: str
    answer: str
    rounds: int
    people: int
    right: tuple[float, ...]
    base: tuple[float, ...]
    largest: tuple[float, ...]
    chance: tuple[float, ...]


class Inversion(msgspec.Struct, frozen=True, kw_only=True):
    """What `run inversion` found."""

    cells: tuple[Seen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where bins stand in the numbers of a training answer.

    Attributes:
        plan: of the training.
        schema: of everybody.
        models: at which the rounds ask, in order.
        columns: per feature int64[bins], the place of each of its bins in a row of numbers.
        bin_of_cell: per feature int64[256], the bin of each code; NO_BIN where there is none.
        common: int64[features], the most common bin.
        logs: per feature float64[bins], the logarithm of the share of people in each bin.
        width: numbers of a row; the last of them is the bias or the intercept.
        height: rows of numbers in one answer that hold bins.
    """

    plan: Plan
    schema: Schema
    models: tuple[Model, ...]
    columns: tuple[Whole, ...]
    bin_of_cell: tuple[Whole, ...]
    common: Whole
    logs: tuple[Array, ...]
    width: int
    height: int

    def query(self, model: Model) -> BoundedSum:
        """Returns the training question at a model."""
        return sum_for(self.plan, self.schema, self.plan.training_question, model)

    def rows(self, total: NDArray[np.number]) -> NDArray[np.number]:
        """Returns [height, width]: the part of an answer in which bins are."""
        return total[: self.height * self.width].reshape(self.height, self.width)

    def bins(self, people: People) -> Whole:
        """Returns int64[features, people]."""
        return np.stack(
            [table[codes] for table, codes in zip(self.bin_of_cell, people.codes, strict=True)]
        )


def layouts(data: Divided) -> Iterator[tuple[str, Layout]]:
    """Yields the scorecard and the network of a division, trained with the plan's noise."""
    everybody = people_of(data.schema, data.everyone)
    deep = network(data.schema, CLIPS[data.dataset.name], hidden=(16,), rate=0.03)
    for name, model in (("scorecard", SCORECARD), ("network", deep)):
        terms = Terms(
            epsilon=EPSILON,
            rounds=ROUNDS,
            people=data.train.num_rows,
            most_per_institution=data.train.num_rows // 5,
            model=model,
        )
        yield name, layout_of(plan_of(data.federation, terms), data.schema, everybody)


def layout_of(plan: Plan, schema: Schema, everybody: People) -> Layout:
    """Returns where bins stand in a training's answers, run once with noise.

    Args:
        plan: of the training.
        schema: of everybody.
        everybody: all trained people.
    """
    entropy = SeededEntropy("inversion")

    def ask(question: Question, model: Model | None) -> Array:
        query = sum_for(plan, schema, question, model)
        total = door.sum_of(query, [contribution(plan, everybody, model)])
        for _ in INSTITUTIONS:
            noised = door.add_noise(total, query, noise_key=entropy())
            total = door.Gridded(total=noised.total)
        return total.total / question.bound

    fit = Fit.begin(plan, schema, ask(Question.BINS, None), len(INSTITUTIONS))
    models = []
    for _ in range(plan.rounds):
        models.append(fit.to_ask())
        fit = fit.after(ask(plan.training_question, models[-1]), len(INSTITUTIONS))
    last = models[-1]
    shape = last.shape if isinstance(last, Network) else last
    if not isinstance(last, Network | AdditiveCard):
        raise TypeError("Only scorecards and networks are attacked.")
    ends = np.cumsum((0, *shape.bins))
    tables = []
    for cells in shape.bin_of_cell:
        table = np.full(256, NO_BIN)
        table[: len(cells)] = cells
        tables.append(table)
    shares = [
        np.bincount(table[codes][table[codes] >= 0], minlength=bins) + 1.0
        for table, codes, bins in zip(tables, everybody.codes, shape.bins, strict=True)
    ]
    return Layout(
        plan=plan,
        schema=schema,
        models=tuple(models),
        columns=tuple(np.arange(*ends[place : place + 2]) for place in range(len(tables))),
        bin_of_cell=tuple(tables),
        common=np.array([int(np.argmax(one)) for one in shares]),
        logs=tuple(np.log(one / one.sum()) for one in shares),
        width=last.shape.inputs + 1 if isinstance(last, Network) else sum(last.bins) + 1,
        height=1 + last.shape.hidden[0] if isinstance(last, Network) else 1,
    )


# With noise: one person, whose signal the attacker is told.


def likeliest(layout: Layout, along: Array, variance: float) -> tuple[Whole, Whole]:
    """Returns the likeliest bin of each feature, and that of the largest number alone.

    Args:
        layout: of the numbers.
        along: float64[width], each column times what the person would add to it, added up over
            all rows of all rounds.
        variance: of the noise on each number.
    """
    with_shares = [
        int(np.argmax(along[columns] / variance + logs))
        for columns, logs in zip(layout.columns, layout.logs, strict=True)
    ]
    largest = [int(np.argmax(along[columns])) for columns in layout.columns]
    return np.array(with_shares), np.array(largest)


def _attacked(layout: Layout, name: str, people: People, *, quick: bool) -> list[Seen]:
    part = 10 if quick else 1
    found = [
        _without_noise(layout, name, people, together, _GROUPS[together] // part)
        for together in TOGETHER
    ]
    entropy = SeededEntropy(f"inversion of {name}")
    some = _chosen(people, _NOISED // part)
    for kind, rounds in NOISED:
        found.append(_with_noise(layout, name, some, kind=kind, rounds=rounds, entropy=entropy))
    return found


def _chosen(people: People, count: int) -> People:
    return People(codes=people.codes[:, :count], bad=people.bad[:count])


def _answers(layout: Layout, people: People, model: Model) -> tuple[BoundedSum, Whole]:
    """Returns a question and int64[people, length]: what each person brings to it."""
    query = layout.query(model)
    return query, vectors(query, contribution(layout.plan, people, model)).astype(np.int64)


def _without_noise(layout: Layout, name: str, people: People, together: int, groups: int) -> Seen:
    # A network's answer has a row for each hidden unit; a card's has one, so all rounds are used.
    rounds = 1 if name == "network" else ROUNDS
    chosen = _chosen(people, groups * together)
    sums = [
        _answers(layout, chosen, model)[1].reshape(groups, together, -1).sum(axis=1)
        for model in layout.models[:rounds]
    ]
    bins = layout.bins(chosen)
    right, base = [], []
    for group in range(groups):
        truth = bins[:, group * together : (group + 1) * together]
        exact = np.concatenate([layout.rows(of_round[group]) for of_round in sums])
        right.append(
            share_right(taken_apart(layout.columns, layout.common, exact, together), truth)
        )
        base.append(share_right(np.repeat(layout.common[:, np.newaxis], together, axis=1), truth))
    return Seen(
        model=name,
        answer="exact",
        rounds=rounds,
        people=together,
        right=tuple(right),
        base=tuple(base),
        largest=(),
        chance=(),
    )


def _with_noise(
    layout: Layout,
    name: str,
    people: People,
    *,
    kind: str,
    rounds: int,
    entropy: SeededEntropy,
) -> Seen:
    bins = layout.bins(people)
    count = bins.shape[1]
    along, squares, numbers = np.zeros((count, layout.width)), 0.0, 0
    for model in layout.models[:rounds]:
        query, brought = _answers(layout, people, model)
        for person, alone in enumerate(brought):
            seen = layout.rows(noised_answer(layout, query, alone, kind, entropy))
            signals = layout.rows(alone)[:, -1].astype(np.float64)
            along[person] += signals @ seen.astype(np.float64)
            squares += float(np.sum(seen.astype(np.float64) ** 2))
            numbers += seen.size
    right, base, largest, chance = [], [], [], []
    for person in range(count):
        truth = bins[:, person]
        counts = truth >= 0
        # What anybody brings is little beside the noise: the numbers' spread is the noise's.
        one, other = likeliest(layout, along[person], squares / numbers)
        right.append(float((one == truth)[counts].mean()))
        base.append(float((layout.common == truth)[counts].mean()))
        largest.append(float((other == truth)[counts].mean()))
        chance.append(float(np.mean([1 / len(of) for of in layout.columns], where=counts)))
    return Seen(
        model=name,
        answer=kind,
        rounds=rounds,
        people=1,
        right=tuple(right),
        base=tuple(base),
        largest=tuple(largest),
        chance=tuple(chance),
    )


def noised_answer(
    layout: Layout, query: BoundedSum, alone: Whole, kind: str, entropy: SeededEntropy
) -> Whole:
    """Returns int64[length]: what the coordinator has of a person, all others subtracted.

    Args:
        layout: names the plan.
        query: the question.
        alone: int64[length], what the person brings.
        kind: "plain" under one share of noise, "little" under a hundredth of it, "masked" as it is
            sent, "total" as it is opened: under the shares of all but a colluder.
        entropy: of noise and masks.
    """
    plan = layout.plan
    # The noise of several shares is drawn at once, as one of their common variance.
    shares = plan.honest_shares if kind == "total" else 1
    variance = shares * query.share_variance // (_LITTLE if kind == "little" else 1)
    together = replace(query, share_variance=variance)
    noised = door.add_noise(door.Gridded(total=alone), together, noise_key=entropy())
    if kind != "masked":
        return noised.total
    bits = word_bits(
        query,
        most_people=plan.people.most_per_institution,
        institutions=len(INSTITUTIONS),
    )
    # The own mask, and one of each pair, as the last of the institutions has them.
    masks = Masks(
        bits=bits, added=(entropy(),), subtracted=tuple(entropy() for _ in INSTITUTIONS[1:])
    )
    return from_words(door.mask(noised, masks).words)


def run_inversion(setting: Setting) -> Inversion:
    """Attacks answers about a scorecard and a network."""
    made_from = {
        "what": "inversion",
        "quick": setting.quick,
    }
    setting.expect(2)
    cells: list[Seen] = []
    with divided(TAIWAN, 0) as data:
        for name, layout in layouts(data):
            attack = partial(_attacked, layout, name, data.people, quick=setting.quick)
            made = made_from | {"model": name, "data": data.digest}
            cells += setting.step(made, list[Seen], attack)
    return Inversion(cells=tuple(cells))
