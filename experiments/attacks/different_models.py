"""Can a coordinator single one institution out by asking each about another model?

Secure aggregation hides one sum among others. A coordinator that shows the others a model at which
they bring nothing, and the victim the true one, would open the victim's sum in the total of all
(Pasquini, Francati and Ateniese 2022, "Eluding Secure Aggregation in Federated Learning via Model
Inconsistency"). Here what everybody signs, derives masks from and checks of the others is bound to
the model, so that no total with the victim in it opens; a build without that binding opens it.

A network's others are shown hidden units that never fire: their gradients in the hidden and in the
output layer are exactly zero. A card's others are shown bins of which all but the first of each
feature are empty. Only these numbers are judged.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest.mock import patch

import msgspec
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.attacks.attack_stage import NAMES, ROUNDS, STAGE, Stage, opened, staged
from experiments.attacks.differencing import DIFFERENCING, counted, plain_card
from experiments.cache import digest_of_files, digest_of_product
from experiments.division import reach
from experiments.experiment import Setting, Work
from experiments.tables import markdown
from federation import asking
from federation.errors import ProtocolError
from federation.learning import NetworkModel, ScorecardModel
from federation.messages import Model, Refuse, Reply
from federation.model.network import Activation, Network, Shape, start
from federation.model.scorecard import AdditiveCard
from federation.pricing import stddev_of_total
from federation.schema import Schema
from federation.secure_aggregation.opening import require_fits
from federation.secure_aggregation.upload import Upload
from federation.secure_aggregation.words import from_words, word_type
from fedscore.planning import SCORECARD

_FEDERATIONS: Final = 6
_EVERYBODY: Final = tuple(range(len(NAMES)))
_NETWORK: Final = NetworkModel(
    hidden=(8,),
    activation=Activation.RELU,
    clip=1.0,
    sampling_rate=1.0,
    learning_rate=0.03,
    most_parameters=4_000,
)
MODELS: Final[dict[str, ScorecardModel | NetworkModel]] = {
    "scorecard": SCORECARD,
    "network": _NETWORK,
}

Array = NDArray[np.float64]


class Singled(msgspec.Struct, frozen=True, kw_only=True):
    """Rounds in which one institution was shown another model than the others.

    Attributes:
        model: "scorecard" or "network".
        build: "bound" (the product) or "unbound".
        opened: of each round, whether a total opened with the victim in it.
        asked: requests to honest institutions to release something for such a total.
        refused: of those, how many were.
        misfits: uploads of the victim that the coordinator's own check would let pass.
        likeness: of each federation, the cosine of the mean over its rounds of what the attacker
            has, to the victim's true sums.
        usual: likewise, of as many honest totals.
        errors: likewise, the attacker's root mean squared error, people or clip norms; none where
            no total opened.
        usual_errors: of honest totals, divided by the institutions.
        sizes: of the victim's true sums: the error of saying 0.
    """

    model: str
    build: str
    opened: tuple[bool, ...]
    asked: int
    refused: int
    misfits: int
    likeness: tuple[float, ...]
    errors: tuple[float, ...]
    usual: tuple[float, ...]
    usual_errors: tuple[float, ...]
    sizes: tuple[float, ...]


class DifferentModels(msgspec.Struct, frozen=True, kw_only=True):
    """What `run different_models` found.

    Attributes:
        cells: of each model and build.
    """

    cells: tuple[Singled, ...]


@contextmanager
def unbound() -> Iterator[None]:
    """Breaks everybody within: what binds an attempt does not say which model it is about."""
    with patch.object(asking, "model_digest", lambda _: bytes(32)):
        yield


def shown(schema: Schema, model: str) -> tuple[Model, Model, NDArray[np.bool_]]:
    """Returns what the victim and what the others are shown, and which numbers are judged.

    Args:
        schema: of all.
        model: "scorecard" or "network".

    Returns:
        Two models with a question of the same length, and bool[length]: where the others, at
        theirs, bring nothing.
    """
    card = plain_card(schema)
    if model == "scorecard":
        elsewhere = AdditiveCard(
            base=card.base,
            bin_of_cell=tuple((0,) * len(cells) for cells in card.bin_of_cell),
            weights=card.weights,
        )
        judged = np.concatenate([np.arange(size) > 0 for size in card.bins] + [np.zeros(1)])
        return card, elsewhere, judged.astype(bool)
    grids = schema.scored_grids
    shape = Shape(
        bin_of_cell=card.bin_of_cell,
        ordered_cells=tuple(grid.ordered_cells for grid in grids),
        hidden=_NETWORK.hidden,
        activation=_NETWORK.activation,
    )
    true = start(shape, bytes(32), -1.2)
    first = shape.inputs + 1
    (width, columns) = shape.matrices["hidden_0"]
    vector = true.vector.copy()
    hidden = vector[first : first + width * columns].reshape(width, columns)
    hidden[:, :-1], hidden[:, -1] = 0.0, -1.0
    return true, Network.of(shape, vector), np.arange(shape.parameters) >= first


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One round in which the victim was shown another model.

    Attributes:
        opened: whether a total opened with the victim in it.
        asked: requests to release something for it.
        refused: of those, how many were.
        passes: whether the victim's upload passes for one of the others' attempt.
        left: int64[length], what the attacker has: the total, or else the sum of masked words.
    """

    opened: bool
    asked: int
    refused: int
    passes: bool
    left: NDArray[np.int64]


def single_out(stage: Stage, round_: int, model: str, victim: int) -> Try:
    """Shows one institution another model than the others, and tries to open their total.

    Args:
        stage: the institutions.
        round_: of training.
        model: "scorecard" or "network".
        victim: its place.
    """
    true, elsewhere, _ = shown(stage.schema, model)
    one, other = stage.opening(round_, true), stage.opening(round_, elsewhere)
    uploads = stage.uploads({place: one if place == victim else other for place in _EVERYBODY})
    found = stage.asking(other)
    passes = _fits(stage, victim, uploads, found.context, found.query.length * found.bits // 8)
    replies: dict[int, Reply] = {}
    # Each side is asked in the name of its own attempt, else it would not even know of it.
    for request, places in (
        (other, tuple(place for place in _EVERYBODY if place != victim)),
        (one, (victim,)),
    ):
        together = stage.collected(request, uploads)
        replies |= stage.told(together, places)
    refused = sum(isinstance(reply, Refuse) for reply in replies.values())
    together = stage.collected(other, uploads)
    total = opened(together, replies)
    left = _sum_of_words(uploads, found.bits) if total is None else total
    return Try(
        opened=total is not None, asked=len(replies), refused=refused, passes=passes, left=left
    )


def _fits(
    stage: Stage, victim: int, uploads: Mapping[int, Upload], context: bytes, nbytes: int
) -> bool:
    upload = msgspec.structs.replace(uploads[victim], context=context)
    try:
        require_fits(stage.group, context, victim, upload, nbytes)
    except ProtocolError:
        return False
    return True


def _sum_of_words(uploads: Mapping[int, Upload], bits: int) -> NDArray[np.int64]:
    words = [np.frombuffer(one.words, dtype=word_type(bits)) for one in uploads.values()]
    return from_words(np.sum(words, axis=0, dtype=word_type(bits)))


def singled(model: str, build: str, seed: int, rounds: int) -> Singled:
    """Returns what all rounds of one federation give, spent on one victim at one model.

    Args:
        model: "scorecard" or "network".
        build: "bound" or "unbound".
        seed: of noise and masks; also says who is the victim.
        rounds: that are attacked.
    """
    victim = seed % len(NAMES)
    with (
        nullcontext() if build == "bound" else unbound(),
        staged(MODELS[model], f"different {model} {build} {seed}") as stage,
    ):
        true, _, judged = shown(stage.schema, model)
        question = stage.plan.training_question
        query = stage.asking(stage.opening(0, true)).query
        truths = [stage.truth(place, query, true)[judged] for place in _EVERYBODY]
        stddev = stddev_of_total(stage.plan, question, len(NAMES))
        tries = [single_out(stage, round_, model, victim) for round_ in range(rounds)]
    truth = truths[victim]
    seen = np.mean([one.left[judged] / question.bound for one in tries], axis=0)
    drawn = np.random.default_rng([71, seed]).normal(0, stddev, (rounds, len(truth)))
    honest = np.sum(truths, axis=0) + drawn.mean(axis=0)
    are_open = all(one.opened for one in tries)
    return Singled(
        model=model,
        build=build,
        opened=tuple(one.opened for one in tries),
        asked=sum(one.asked for one in tries),
        refused=sum(one.refused for one in tries),
        misfits=sum(one.passes for one in tries),
        likeness=(_cosine(seen, truth),),
        usual=(_cosine(honest, truth),),
        errors=(_error(seen, truth),) if are_open else (),
        usual_errors=(_error(honest / len(NAMES), truth),),
        sizes=(_error(np.zeros(len(truth)), truth),),
    )


def _error(estimate: Array, truth: Array) -> float:
    return math.sqrt(float(np.mean((estimate - truth) ** 2)))


def _cosine(one: Array, other: Array) -> float:
    return float(one @ other / math.sqrt(float(one @ one) * float(other @ other)))


def run_different_models(setting: Setting) -> DifferentModels:
    """Attacks the product and one broken build."""
    federations, rounds = (1, 6) if setting.quick else (_FEDERATIONS, ROUNDS)
    cells = [(model, build) for model in MODELS for build in ("unbound", "bound")]
    if setting.quick:
        cells = cells[:2]
    setting.expect(len(cells) * federations)
    found = setting.steps(
        Singled,
        [
            Work(
                made_from={
                    "what": "different models",
                    "product": digest_of_product(),
                    "code": digest_of_files([Path(__file__), DIFFERENCING, STAGE]),
                    "cell": cell,
                    "seed": seed,
                    "rounds": rounds,
                },
                compute=singled,
                arguments=(*cell, seed, rounds),
            )
            for cell in cells
            for seed in range(federations)
        ],
    )
    return DifferentModels(
        cells=tuple(
            _together(found[place * federations : (place + 1) * federations])
            for place in range(len(cells))
        )
    )


def _together(of: list[Singled]) -> Singled:
    return Singled(
        model=of[0].model,
        build=of[0].build,
        opened=tuple(one for each in of for one in each.opened),
        asked=sum(each.asked for each in of),
        refused=sum(each.refused for each in of),
        misfits=sum(each.misfits for each in of),
        likeness=tuple(one for each in of for one in each.likeness),
        usual=tuple(one for each in of for one in each.usual),
        errors=tuple(one for each in of for one in each.errors),
        usual_errors=tuple(one for each in of for one in each.usual_errors),
        sizes=tuple(one for each in of for one in each.sizes),
    )


_BUILDS: Final = {"bound": "the product", "unbound": "model not bound"}


def table(found: DifferentModels) -> str:
    """What the attack opens and learns, on each build."""
    heads = [
        "model", "build", "totals opened with the victim", "requests refused",
        "likeness to the victim's sums", "of honest totals", "error", "of honest totals / 6",
        "saying 0",
    ]  # fmt: skip
    rows = [
        [
            one.model,
            _BUILDS[one.build],
            counted(sum(one.opened), len(one.opened)),
            counted(one.refused, one.asked),
            _mean(one.likeness, 2),
            _mean(one.usual, 2),
            _mean(one.errors, 1) if one.errors else "nothing opened",
            _mean(one.usual_errors, 1),
            _mean(one.sizes, 1),
        ]
        for one in found.cells
    ]
    return (
        f"{markdown(heads, rows)}\n\nLikeness is the cosine between what the attacker holds (the "
        "mean of the totals of all rounds, or of the sums of masked words if none opens) and the "
        "victim's sums without noise; errors are root mean squares over the numbers judged, in "
        "people for a scorecard and in clip norms for a network. Means with 95 % intervals over "
        "federations (Student), shares with exact ones."
    )


def _mean(values: tuple[float, ...], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} +-{reach(values):.{digits}f}"


def answer(found: DifferentModels) -> str:
    """One sentence."""
    real = [one for one in found.cells if one.build == "bound"]
    broken = [one for one in found.cells if one.build == "unbound"]
    opened_in = sum(sum(one.opened) for one in real)
    liked = " and ".join(f"{_mean(one.likeness, 2)} ({one.model})" for one in broken)
    return (
        f"the product opened {opened_in} totals with the victim in "
        f"{sum(len(one.opened) for one in real)} rounds "
        f"({sum(one.refused for one in real):,} of {sum(one.asked for one in real):,} requests "
        f"refused); a build that does not bind the model opened "
        f"{sum(sum(one.opened) for one in broken)} of {sum(len(one.opened) for one in broken)}, "
        f"whose likeness to the victim's sums is {liked}"
    )


def plot(found: DifferentModels) -> Figure:
    """How much what the attacker holds is like the victim's sums."""
    figure = Figure(figsize=(6.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(found.cells):
        for values, marker, label in (
            (one.likeness, "o", "the attack"),
            (one.usual, "x", "an honest total"),
        ):
            spread = np.random.default_rng(place).uniform(-0.25, 0.25, len(values))
            axes.plot(
                values,
                place + spread,
                marker,
                color="black",
                fillstyle="none",
                markersize=3,
                label=label if place == 0 else None,
            )
    axes.set_yticks(
        range(len(found.cells)), [f"{one.model}, {_BUILDS[one.build]}" for one in found.cells]
    )
    axes.set_xlabel("cosine to the victim's sums")
    axes.legend(frameon=False)
    return figure
