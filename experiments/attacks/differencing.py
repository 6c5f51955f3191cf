"""Does opening a round over two sets of survivors give one institution's own sum away?

Each attempt at a round is masked once. A coordinator that opened it over everybody, and over
everybody but one, would take the difference: that institution's sum under its own share of the
noise alone. Institutions say at most one set an attempt, so the second opening is refused; in a
build that forgets what it said, it is not. What the real one allows is another round over another
set: paid for, under fresh noise of all of them.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest.mock import patch

import msgspec
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from clients import sessions
from clients.records import Records
from experiments.attacks.attack_stage import (
    NAMES,
    ROUNDS,
    STAGE,
    Stage,
    Whole,
    opened,
    stage_plan,
    staged,
)
from experiments.audit.one_run_audit import CONFIDENCE
from experiments.cache import digest_of_files, digest_of_product
from experiments.datasets import TAIWAN
from experiments.division import reach, schema_of
from experiments.experiment import PERSON, Setting, Work
from experiments.tables import markdown
from federation.messages import Open, Refuse, Reply
from federation.model.scorecard import AdditiveCard
from federation.pricing import price_of, stddev_of_total
from federation.privacy.units import BudgetUnits, Delta
from federation.query import UNITS_PER_ONE, Question
from federation.schema import Schema
from federation.secure_aggregation.attempt import (
    Released,
    Signed,
    Undecided,
    on_signatures,
    on_survivors,
)
from fedscore.planning import SCORECARD

PROMISE: Final = (
    f"{PERSON} The epsilon of one share of the noise is that of the same questions, were every "
    "total of the plan opened with it."
)
DIFFERENCING: Final = Path(__file__)
"""What results depend on besides the product."""

_FEDERATIONS: Final = 5
_EVERYBODY: Final = tuple(range(len(NAMES)))


class Trials(msgspec.Struct, frozen=True, kw_only=True):
    """What some attempts at rounds gave.

    Attributes:
        second: of each, whether a second total could be opened.
        asked: requests that would have led to it.
        refused: of those, how many were.
        errors: of each estimate of one institution's sum, the root of the mean squared error over
            its cells, in people; none where nothing can be estimated.
    """

    second: tuple[bool, ...]
    asked: int
    refused: int
    errors: tuple[float, ...]


class OneFederation(msgspec.Struct, frozen=True, kw_only=True):
    """What one federation's rounds gave.

    Attributes:
        trials: of its rounds.
        average: as in `Differencing`.
        square: mean square of the victims' true sums.
    """

    trials: Trials
    average: tuple[float, ...] = ()
    square: float = 0.0


class Differencing(msgspec.Struct, frozen=True, kw_only=True):
    """What `run differencing` found.

    Attributes:
        broken: the same attempt opened twice, by institutions that forget what they said.
        real: the same attempt asked for twice, in three orders, of the product.
        rounds: two rounds of the product at one model, one of them without the victim.
        average: errors of taking the opened total, divided by the institutions.
        size: root of the mean square of the victim's true sums, people: the error of saying 0.
        share: standard deviation of one institution's share of the noise, people.
        epsilon: of a trained person, as the plan promises.
        epsilon_of_share: were all totals opened under one share.
    """

    broken: Trials
    real: Trials
    rounds: Trials
    average: tuple[float, ...]
    size: float
    share: float
    epsilon: float
    epsilon_of_share: float


@contextmanager
def forgetful() -> Iterator[None]:
    """Breaks the institutions within: each answers every set of survivors as if it were the first.

    Both of the product's guards are gone: what an attempt stands at, and the durable record.
    """

    def survivors(_standing: object, of: tuple[int, ...], **named: int) -> Signed | Released:
        return on_survivors(Undecided(), of, **named)

    def signatures(standing: Signed | Released, signers: int, *, threshold: int) -> Released:
        return on_signatures(Signed(standing.survivors), signers, threshold=threshold)

    with (
        patch.object(sessions, "on_survivors", survivors),
        patch.object(sessions, "on_signatures", signatures),
        patch.object(Records, "say", lambda *_, **__: None),
    ):
        yield


def plain_card(schema: Schema) -> AdditiveCard:
    """Returns a card that knows nothing, of two to ten neighbouring cells a bin."""
    cells = [len(grid.labels) for grid in schema.scored_grids]
    bins = [min(size, 10) for size in cells]
    return AdditiveCard(
        base=-5000,  # log-odds of bad in 1/4096: about the base rate
        bin_of_cell=tuple(
            tuple(cell * of // size for cell in range(size))
            for size, of in zip(cells, bins, strict=True)
        ),
        weights=tuple((0,) * of for of in bins),
    )


def twice(stage: Stage, round_: int, order: int) -> tuple[list[Whole], int, int]:
    """Asks for two totals of one attempt: over everybody, and over everybody but the victim.

    Args:
        stage: the institutions.
        round_: of training; the victim is the institution whose turn it is.
        order: 0 everybody first, 1 without the victim first, 2 half of the others each, at once.

    Returns:
        The totals that could be opened; requests for a second set, and how many were refused.
    """
    victim = round_ % len(NAMES)
    others = tuple(place for place in _EVERYBODY if place != victim)
    request = stage.opening(round_, plain_card(stage.schema))
    uploads = stage.uploads(dict.fromkeys(_EVERYBODY, request))
    whole = stage.collected(request, uploads)
    part = stage.collected(request, {place: uploads[place] for place in others})
    half = len(others) // 2
    first, second = {
        0: (((whole, _EVERYBODY),), ((part, others),)),
        1: (((part, others),), ((whole, others),)),
        2: (
            ((whole, others[:half]), (part, others[half:])),
            ((part, others[:half]), (whole, (*others[half:], victim))),
        ),
    }[order]
    replies: dict[int, dict[int, Reply]] = {id(whole): {}, id(part): {}}
    asked = refused = 0
    for sets in (first, second):
        for shown, places in sets:
            found = stage.told(shown, places)
            replies[id(shown)] |= found
            again = [place for place in places if sets is second and place != victim]
            asked += len(again)
            refused += sum(isinstance(found[place], Refuse) for place in again)
        replies[id(part)] |= stage.released(part, replies[id(part)])
    totals = (opened(one, replies[id(one)]) for one in (whole, part))
    return [total for total in totals if total is not None], asked, refused


def trials_of(name: str, seed: int, rounds: int) -> OneFederation:
    """Returns what the rounds of one federation give.

    Args:
        name: "broken", "real" or "rounds", as in `Differencing`.
        seed: of noise and masks.
        rounds: that are attacked.
    """
    with staged(SCORECARD, f"differencing {name} {seed}") as stage:
        if name == "rounds":
            return _two_rounds(stage, rounds)
        if name == "broken":
            with forgetful():
                return _one_attempt(stage, (0,), rounds)
        return _one_attempt(stage, (0, 1, 2), rounds)


def _one_attempt(stage: Stage, orders: tuple[int, ...], rounds: int) -> OneFederation:
    second, errors, asked, refused = [], [], 0, 0
    for round_ in range(rounds):
        totals, of, no = twice(stage, round_, orders[round_ % len(orders)])
        asked, refused = asked + of, refused + no
        second.append(len(totals) == 2)
        if len(totals) == 2:
            errors.append(_error((totals[0] - totals[1]) / UNITS_PER_ONE, _truth(stage, round_)))
    trials = Trials(second=tuple(second), asked=asked, refused=refused, errors=tuple(errors))
    return OneFederation(trials=trials)


def _two_rounds(stage: Stage, rounds: int) -> OneFederation:
    errors, average, squares = [], [], []
    for round_ in range(0, rounds, 2):
        victim = round_ // 2 % len(NAMES)
        others = tuple(place for place in _EVERYBODY if place != victim)
        whole = _total(stage, stage.opening(round_, plain_card(stage.schema)), _EVERYBODY)
        part = _total(stage, stage.opening(round_ + 1, plain_card(stage.schema)), others)
        truth = _truth(stage, victim)
        errors.append(_error(whole - part, truth))
        average.append(_error(whole / len(NAMES), truth))
        squares.append(float(np.mean(truth**2)))
    trials = Trials(second=(False,) * len(errors), asked=0, refused=0, errors=tuple(errors))
    return OneFederation(trials=trials, average=tuple(average), square=float(np.mean(squares)))


def _total(stage: Stage, request: Open, places: tuple[int, ...]) -> NDArray[np.float64]:
    collected = stage.collected(request, stage.uploads(dict.fromkeys(places, request)))
    replies = stage.told(collected, places)
    if len(places) < len(NAMES):
        replies = stage.released(collected, replies)
    total = opened(collected, replies)
    if total is None:
        raise RuntimeError("An honest total was not opened: the stage is at fault.")
    return total / UNITS_PER_ONE


def _truth(stage: Stage, round_: int) -> NDArray[np.float64]:
    card = plain_card(stage.schema)
    query = stage.asking(stage.opening(0, card)).query
    return stage.truth(round_ % len(NAMES), query, card)


def _error(estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.mean((estimate - truth) ** 2)))


def run_differencing(setting: Setting) -> Differencing:
    """Attacks the product and one broken build."""
    federations, rounds = (1, 6) if setting.quick else (_FEDERATIONS, ROUNDS)
    names = ("broken", "real", "rounds")
    setting.expect(len(names) * federations)
    code = digest_of_files([DIFFERENCING, STAGE])
    found = setting.steps(
        OneFederation,
        [
            Work(
                made_from={
                    "what": "differencing",
                    "product": digest_of_product(),
                    "code": code,
                    "build": name,
                    "seed": seed,
                    "rounds": rounds,
                },
                compute=trials_of,
                arguments=(name, seed, rounds),
            )
            for name in names
            for seed in range(federations)
        ],
    )
    by_name = {
        name: found[place * federations : (place + 1) * federations]
        for place, name in enumerate(names)
    }
    schema = schema_of(TAIWAN)
    plan = stage_plan(schema, SCORECARD)
    price = price_of(plan, schema)
    return Differencing(
        **{name: _together([one.trials for one in by_name[name]]) for name in names},
        average=tuple(error for one in by_name["rounds"] for error in one.average),
        size=math.sqrt(float(np.mean([one.square for one in by_name["rounds"]]))),
        share=stddev_of_total(plan, Question.STEP, 1),
        epsilon=price.trained,
        epsilon_of_share=price.epsilon_of(
            BudgetUnits(price.price.trained * plan.honest_shares), Delta(plan.privacy.delta)
        ),
    )


def _together(of: list[Trials]) -> Trials:
    return Trials(
        second=tuple(one for trials in of for one in trials.second),
        asked=sum(trials.asked for trials in of),
        refused=sum(trials.refused for trials in of),
        errors=tuple(one for trials in of for one in trials.errors),
    )


def counted(hits: int, of: int) -> str:
    """Returns a count with the exact 95 % interval of its share."""
    exact = stats.binomtest(hits, of).proportion_ci(CONFIDENCE)
    return f"{hits:,} of {of:,} ({exact.low:.1%} to {exact.high:.1%})"


def table(found: Differencing) -> str:
    """What each way of subtracting gives."""
    rows = [
        [
            "one attempt opened twice, institutions that forget",
            counted(sum(found.broken.second), len(found.broken.second)),
            counted(found.broken.refused, found.broken.asked),
            _of_attempts(found.broken.errors),
        ],
        [
            "the same, the product",
            counted(sum(found.real.second), len(found.real.second)),
            counted(found.real.refused, found.real.asked),
            _of_attempts(found.real.errors),
        ],
        ["two rounds, the product", "both are paid for", "", _of_attempts(found.rounds.errors)],
        ["one round over everybody / 6, the product", "", "", _of_attempts(found.average)],
        ["saying 0", "", "", f"{found.size:.1f}"],
    ]
    heads = [
        "what is subtracted",
        "second totals opened",
        "requests refused",
        "error of one institution's sums, people",
    ]
    return (
        f"{markdown(heads, rows)}\n\nRoot mean squared error over the cells of one round; means "
        "with 95 % intervals over attempts (Student), shares with exact ones. One share of the "
        f"noise has a standard deviation of {found.share:.1f} people: were all totals of the plan "
        f"opened under it, a trained person's epsilon would be {found.epsilon_of_share:.2f} "
        f"instead of {found.epsilon:.2f}."
    )


def _of_attempts(values: tuple[float, ...]) -> str:
    return f"{np.mean(values):.1f} +-{reach(values):.1f}" if values else "nothing to subtract"


def answer(found: Differencing) -> str:
    """One sentence."""
    return (
        f"the product opened {sum(found.real.second)} second totals in {len(found.real.second)} "
        f"attempts ({found.real.refused:,} of {found.real.asked:,} requests refused); a build that "
        f"forgets opened {sum(found.broken.second)} of {len(found.broken.second)} and gave one "
        f"institution's sums to within {_of_attempts(found.broken.errors)} people a cell, which "
        f"two paid rounds give to within {_of_attempts(found.rounds.errors)}"
    )


def plot(found: Differencing) -> Figure:
    """Errors of each way."""
    figure = Figure(figsize=(6.2, 2.8), layout="constrained")
    axes = figure.add_subplot()
    ways = {
        "one attempt twice,\nbroken build": found.broken.errors,
        "two paid rounds,\nthe product": found.rounds.errors,
        "total / institutions,\nthe product": found.average,
    }
    for place, (values, marker) in enumerate(zip(ways.values(), "os^", strict=True)):
        spread = np.random.default_rng(place).uniform(-0.2, 0.2, len(values))
        axes.plot(values, place + spread, marker, color="black", fillstyle="none", markersize=4)
    axes.axvline(found.size, color="black", linewidth=0.8, linestyle="--", label="saying 0")
    axes.set_yticks(range(len(ways)), list(ways))
    axes.set_xlim(left=0)
    axes.set_xlabel("error of one institution's sums, people a cell")
    axes.legend(frameon=False)
    return figure
