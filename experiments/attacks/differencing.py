"""Does opening a round over two sets of survivors give one institution's own sum away?

Each attempt at a round is masked once. A coordinator that opened it over everybody, and over
everybody but one, would take the difference: that institution's sum under its own share of the
noise alone. Institutions say at most one set an attempt, so the second opening is refused; in a
build that forgets what it said, it is not. Of six, one institution may conspire with the
coordinator and forget alone. What the product allows is another round over another set: paid for,
under fresh noise of all of them.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Final
from unittest.mock import patch

import msgspec
import numpy as np
from numpy.typing import NDArray

from clients import sessions
from clients.records import Records
from experiments.attacks.attack_stage import (
    NAMES,
    ROUNDS,
    Stage,
    Whole,
    opened,
    reveal_of,
    stage_plan,
    staged,
)
from experiments.datasets import TAIWAN
from experiments.division import schema_of
from experiments.experiment import PERSON, Setting, Work
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
from federation.secure_aggregation.opening import Collected
from federation.secure_aggregation.survivors import Revealed
from fedscore.planning import SCORECARD

PROMISE: Final = (
    f"{PERSON} The epsilon of one share of the noise is that of the same questions, were every "
    "total of the plan opened with it."
)

ORDERS: Final = (0, 1, 2)
"""0: the total of everybody first; 1: that without the victim first; 2: half of them each."""

_FEDERATIONS: Final = 5
_EVERYBODY: Final = tuple(range(len(NAMES)))


class Trials(msgspec.Struct, frozen=True, kw_only=True):
    """What some attempts at rounds gave, one after the other.

    Attributes:
        orders: of each, in which order totals were asked for: one of `ORDERS`.
        second: of each, whether a second total could be opened.
        asked: of each, requests for a second set to honest institutions other than the victim.
        refused: of those, how many were.
        errors: of each estimate of one institution's sum, the root of the mean squared error over
            its cells, in people; none where nothing can be estimated.
    """

    orders: tuple[int, ...]
    second: tuple[bool, ...]
    asked: tuple[int, ...]
    refused: tuple[int, ...]
    errors: tuple[float, ...]


class OneFederation(msgspec.Struct, frozen=True, kw_only=True):
    """What one federation's rounds gave.

    Attributes:
        trials: of its rounds.
        average: of each pair of rounds, the victims in turn, the error of the opened total divided
            by the institutions.
        sizes: of the same, the root of the mean square of the victim's true sums.
    """

    trials: Trials
    average: tuple[float, ...] = ()
    sizes: tuple[float, ...] = ()


class Differencing(msgspec.Struct, frozen=True, kw_only=True):
    """What `run differencing` found.

    Attributes:
        broken: attempts asked for twice, of institutions that all forget what they said.
        real: the same of the product.
        conspired: the same of the product and one institution that forgets, not the victim.
        rounds: two rounds of the product at one model, one of them without the victim.
        average: of each victim, the mean error of taking the opened total, divided by the
            institutions.
        sizes: of each victim, the error of saying 0, people.
        share: standard deviation of one institution's share of the noise, people.
        epsilon: of a trained person, as the plan promises.
        epsilon_of_share: were all totals opened under one share.
    """

    broken: Trials
    real: Trials
    conspired: Trials
    rounds: Trials
    average: tuple[float, ...]
    sizes: tuple[float, ...]
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


def twice(
    stage: Stage, round_: int, order: int, *, conspirators: int = 0
) -> tuple[list[Whole], int, int]:
    """Asks for two totals of one attempt: over everybody, and over everybody but the victim.

    Args:
        stage: the institutions.
        round_: of training; the victim is the institution whose turn it is.
        order: one of `ORDERS`.
        conspirators: institutions that forget what they said, none of them the victim.

    Returns:
        The totals that could be opened; requests for a second set to honest institutions other than
        the victim, and how many of those were refused.
    """
    victim = round_ % len(NAMES)
    others = tuple((victim + step) % len(NAMES) for step in range(1, len(NAMES)))
    # Conspirators say both sets. Those who are asked for everybody first are honest: with them,
    # the victim and a conspirator, four of six have shares of that total.
    forgetting = others[len(others) - conspirators :]
    stage = replace(stage, conspirators=dict.fromkeys(forgetting, forgetful))
    request = stage.opening(round_, plain_card(stage.schema))
    uploads = stage.uploads(dict.fromkeys(_EVERYBODY, request))
    whole = stage.collected(request, uploads)
    part = stage.collected(request, {place: uploads[place] for place in others})
    half = len(others) // 2
    first, second = {
        0: (((whole, _EVERYBODY),), ((part, others),)),
        1: (((part, others),), ((whole, (*others, victim)),)),
        2: (
            ((whole, others[:half]), (part, others[half:])),
            ((part, others[:half]), (whole, (*others[half:], victim))),
        ),
    }[order]
    replies: dict[int, dict[int, Reply]] = {id(whole): {}, id(part): {}}
    released: dict[int, Reply] = {}
    asked = refused = 0
    for sets in (first, second):
        for shown, places in sets:
            found = stage.told(shown, places)
            replies[id(shown)] |= found
            again = [
                place
                for place in places
                if sets is second and place != victim and place not in forgetting
            ]
            asked += len(again)
            refused += sum(isinstance(found[place], Refuse) for place in again)
        released |= _released(stage, part, replies[id(part)], released)
    totals = (opened(whole, replies[id(whole)]), opened(part, released))
    return [total for total in totals if total is not None], asked, refused


def _released(
    stage: Stage, part: Collected, replies: Mapping[int, Reply], before: Mapping[int, Reply]
) -> dict[int, Reply]:
    """Returns what is released for a set by those who signed it and have not released it before.

    Whoever was told of another set since then is told of this one again.
    """
    reveal = reveal_of(part, replies)
    found: dict[int, Reply] = {}
    for place in reveal.signers:
        if isinstance(before.get(place), Revealed):
            continue
        found[place] = stage.send(place, reveal)
        if isinstance(found[place], Refuse):
            stage.told(part, [place])
            found[place] = stage.send(place, reveal)
    return found


def trials_of(name: str, seed: int, rounds: int) -> OneFederation:
    """Returns what the rounds of one federation give.

    Args:
        name: "broken", "real", "conspired" or "rounds", as in `Differencing`.
        seed: of noise and masks.
        rounds: that are attacked.
    """
    with staged(SCORECARD, f"differencing {name} {seed}") as stage:
        if name == "rounds":
            return _two_rounds(stage, rounds)
        with forgetful() if name == "broken" else nullcontext():
            return _one_attempt(stage, rounds, conspirators=int(name == "conspired"))


def _one_attempt(stage: Stage, rounds: int, *, conspirators: int) -> OneFederation:
    orders = tuple(ORDERS[round_ % len(ORDERS)] for round_ in range(rounds))
    second, errors, asked, refused = [], [], [], []
    for round_, order in enumerate(orders):
        totals, of, no = twice(stage, round_, order, conspirators=conspirators)
        asked.append(of)
        refused.append(no)
        second.append(len(totals) == 2)
        if len(totals) == 2:
            errors.append(error_of((totals[0] - totals[1]) / UNITS_PER_ONE, _truth(stage, round_)))
    trials = Trials(
        orders=orders,
        second=tuple(second),
        asked=tuple(asked),
        refused=tuple(refused),
        errors=tuple(errors),
    )
    return OneFederation(trials=trials)


def _two_rounds(stage: Stage, rounds: int) -> OneFederation:
    errors, average, sizes = [], [], []
    for round_ in range(0, rounds, 2):
        victim = round_ // 2 % len(NAMES)
        others = tuple(place for place in _EVERYBODY if place != victim)
        whole = _total(stage, stage.opening(round_, plain_card(stage.schema)), _EVERYBODY)
        part = _total(stage, stage.opening(round_ + 1, plain_card(stage.schema)), others)
        truth = _truth(stage, victim)
        errors.append(error_of(whole - part, truth))
        average.append(error_of(whole / len(NAMES), truth))
        sizes.append(error_of(np.zeros(len(truth)), truth))
    trials = Trials(orders=(), second=(), asked=(), refused=(), errors=tuple(errors))
    return OneFederation(trials=trials, average=tuple(average), sizes=tuple(sizes))


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


def error_of(estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Returns the root of the mean squared error over the numbers of a sum."""
    return math.sqrt(float(np.mean((estimate - truth) ** 2)))


def run_differencing(setting: Setting) -> Differencing:
    """Attacks the product and one broken build."""
    federations, rounds = (1, 6) if setting.quick else (_FEDERATIONS, ROUNDS)
    names = ("broken", "real", "conspired", "rounds")
    setting.expect(len(names) * federations)
    found = setting.steps(
        OneFederation,
        [
            Work(
                made_from={
                    "what": "differencing",
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
        average=_by_victim([one.average for one in by_name["rounds"]]),
        sizes=_by_victim([one.sizes for one in by_name["rounds"]]),
        share=stddev_of_total(plan, Question.STEP, 1),
        epsilon=price.trained,
        epsilon_of_share=price.epsilon_of(
            BudgetUnits(price.price.trained * plan.honest_shares), Delta(plan.privacy.delta)
        ),
    )


def _by_victim(of: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Returns each victim's mean: some had a turn more than others."""
    return tuple(
        float(np.mean([error for errors in of for error in errors[victim :: len(NAMES)]]))
        for victim in range(min(len(NAMES), len(of[0])))
    )


def _together(of: list[Trials]) -> Trials:
    return Trials(
        orders=tuple(one for trials in of for one in trials.orders),
        second=tuple(one for trials in of for one in trials.second),
        asked=tuple(one for trials in of for one in trials.asked),
        refused=tuple(one for trials in of for one in trials.refused),
        errors=tuple(one for trials in of for one in trials.errors),
    )
