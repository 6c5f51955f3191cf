"""Can a coordinator single one institution out by asking each about another model?

Secure aggregation hides one sum among others. A coordinator that shows the others a model at which
they bring nothing, and the victim the true one, would open the victim's sum in the total of all
(Pasquini, Francati and Ateniese 2022, "Eluding Secure Aggregation in Federated Learning via Model
Inconsistency"). Here what everybody signs, derives masks from and checks of the others is bound to
the model, so that no total with the victim in it opens; a build without that binding opens it. One
institution of six may conspire with the coordinator and answer about both models.

A network's others are shown hidden units that never fire: their gradients in the hidden and in the
output layer are exactly zero. A card's others are shown bins of which all but the first of each
feature are empty. Only these numbers are judged.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Final
from unittest.mock import patch

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients import sessions
from clients.ledger import Head
from clients.records import Records
from clients.taking import Attempt, Taking
from experiments.attacks.attack_stage import NAMES, ROUNDS, Stage, opened, staged
from experiments.attacks.differencing import error_of, forgetful, plain_card
from experiments.experiment import Setting, Work
from federation import asking
from federation.canonical import Digest
from federation.errors import ProtocolError
from federation.learning import NetworkModel, ScorecardModel
from federation.messages import Model, Refuse, Reply
from federation.model.network import Activation, Network, Shape, start
from federation.model.scorecard import AdditiveCard
from federation.pricing import stddev_of_total
from federation.query import BoundedSum
from federation.schema import Schema
from federation.secure_aggregation.attempt import Signed
from federation.secure_aggregation.opening import require_fits
from federation.secure_aggregation.upload import Upload
from federation.secure_aggregation.words import from_words, word_type
from fedscore.planning import SCORECARD

BUILDS: Final = ("unbound", "bound", "conspired")

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
        build: "unbound", "bound" (the product), or "conspired" (the product and one conspirator).
        opened: of each round, whether a total opened with the victim in it.
        asked: of each round, requests to honest institutions to release something for such a total.
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
    asked: tuple[int, ...]
    refused: tuple[int, ...]
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


@contextmanager
def two_faced() -> Iterator[None]:
    """Breaks one institution within: it answers an attempt about any model, and signs any set.

    It pays nothing and notes nothing, so that nothing stands in the way of a second answer.
    """

    def pay(_: Taking, attempt: Attempt, __: BoundedSum) -> Head:
        return attempt[1] + 1, Digest("0" * 64)  # peers believe a ledger that grows with each round

    def survivors(_standing: object, of: tuple[int, ...], **_: int) -> Signed:
        return Signed(of)

    with (
        forgetful(),
        patch.object(sessions, "on_survivors", survivors),
        patch.object(Records, "begin_attempt", lambda *_, **__: None),
        patch.object(Taking, "pay", pay),
    ):
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


def single_out(stage: Stage, round_: int, model: str, victim: int, *, conspirators: int = 0) -> Try:
    """Shows one institution another model than the others, and tries to open their total.

    Args:
        stage: the institutions.
        round_: of training.
        model: "scorecard" or "network".
        victim: its place.
        conspirators: institutions that take part in the victim's attempt and in that of the others.
    """
    helpers = tuple((victim + step) % len(NAMES) for step in range(1, 1 + conspirators))
    stage = replace(stage, conspirators=dict.fromkeys(helpers, two_faced))
    true, elsewhere, _ = shown(stage.schema, model)
    one, other = stage.opening(round_, true), stage.opening(round_, elsewhere)
    asked = {place: one if place == victim else other for place in _EVERYBODY}
    uploads = stage.uploads({place: asked[place] for place in asked if place not in helpers})
    said: list[Reply] = []
    # Each side is asked in the name of its own attempt, else it would not even know of it. Whoever
    # takes part in both has one of them at a time, and the victim's comes first.
    uploads |= stage.uploads(dict.fromkeys(helpers, one))
    few = None
    if helpers:
        together = stage.collected(one, {place: uploads[place] for place in (victim, *helpers)})
        signed = stage.told(together, (victim, *helpers))
        said.append(signed[victim])
        few = opened(together, signed | stage.released(together, signed))
    of_victim = stage.told(stage.collected(one, uploads), (victim, *helpers))
    uploads |= stage.uploads(dict.fromkeys(helpers, other))
    together = stage.collected(other, uploads)
    replies = stage.told(together, [place for place in _EVERYBODY if place != victim])
    replies[victim] = of_victim[victim]
    said += [reply for place, reply in replies.items() if place not in helpers]
    total = opened(together, replies)
    found = stage.asking(other)
    nbytes = found.query.length * found.bits // 8
    left = total if total is not None else few
    return Try(
        opened=left is not None,
        asked=len(said),
        refused=sum(isinstance(reply, Refuse) for reply in said),
        passes=_fits(stage, victim, uploads, found.context, nbytes),
        left=_sum_of_words(uploads, found.bits) if left is None else left,
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
        build: as in `Singled`.
        seed: of noise and masks; also says who is the victim.
        rounds: that are attacked.
    """
    victim = seed % len(NAMES)
    with (
        unbound() if build == "unbound" else nullcontext(),
        staged(MODELS[model], f"different {model} {build} {seed}") as stage,
    ):
        true, _, judged = shown(stage.schema, model)
        question = stage.plan.training_question
        query = stage.asking(stage.opening(0, true)).query
        truths = [stage.truth(place, query, true)[judged] for place in _EVERYBODY]
        stddev = stddev_of_total(stage.plan, question, len(NAMES))
        tries = [
            single_out(stage, round_, model, victim, conspirators=int(build == "conspired"))
            for round_ in range(rounds)
        ]
    truth = truths[victim]
    seen = np.mean([one.left[judged] / question.bound for one in tries], axis=0)
    drawn = np.random.default_rng([71, seed]).normal(0, stddev, (rounds, len(truth)))
    honest = np.sum(truths, axis=0) + drawn.mean(axis=0)
    are_open = all(one.opened for one in tries)
    return Singled(
        model=model,
        build=build,
        opened=tuple(one.opened for one in tries),
        asked=tuple(one.asked for one in tries),
        refused=tuple(one.refused for one in tries),
        misfits=sum(one.passes for one in tries),
        likeness=(_cosine(seen, truth),),
        usual=(_cosine(honest, truth),),
        errors=(error_of(seen, truth),) if are_open else (),
        usual_errors=(error_of(honest / len(NAMES), truth),),
        sizes=(error_of(np.zeros(len(truth)), truth),),
    )


def _cosine(one: Array, other: Array) -> float:
    return float(one @ other / math.sqrt(float(one @ one) * float(other @ other)))


def run_different_models(setting: Setting) -> DifferentModels:
    """Attacks the product, alone and with one conspirator, and one broken build."""
    federations, rounds = (1, 6) if setting.quick else (_FEDERATIONS, ROUNDS)
    cells = [(model, build) for model in MODELS for build in BUILDS]
    if setting.quick:
        cells = cells[: len(BUILDS)]
    setting.expect(len(cells) * federations)
    found = setting.steps(
        Singled,
        [
            Work(
                made_from={
                    "what": "different models",
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
        asked=tuple(one for each in of for one in each.asked),
        refused=tuple(one for each in of for one in each.refused),
        misfits=sum(each.misfits for each in of),
        likeness=tuple(one for each in of for one in each.likeness),
        usual=tuple(one for each in of for one in each.usual),
        errors=tuple(one for each in of for one in each.errors),
        usual_errors=tuple(one for each in of for one in each.usual_errors),
        sizes=tuple(one for each in of for one in each.sizes),
    )
