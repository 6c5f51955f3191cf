"""Can whoever has nothing but the released model tell who was trained on? The attack LiRA.

Carlini et al. 2022, "Membership Inference Attacks From First Principles" (arXiv 2112.03570, online
attack). The attacker knows how trainings are made and can repeat them: in each of many shadow
trainings every target takes part by a fair coin. From the scores that these models give a target,
signed so that higher is closer to its outcome, two Gaussians follow, with and without it; the
likelihood ratio of the score that the real release gives is the guess. Ordinary targets are drawn
like everybody. Outliers stand alone in a cell, turned bad, and everything else about them is good.

Promised is what mu of Gaussian differential privacy allows to whoever has no noise of his own, and
so the release alone: TPR <= Phi(Phi^-1(FPR) + mu), AUC <= Phi(mu / sqrt 2). Sums are plain here,
noise is the product's; nobody but the attacker's arithmetic is simulated.
"""

import math
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.attacks.likelihood import Array, Coins, Rate, ideal, likelihood_ratios, resampled
from experiments.audit.membership_crowd import (
    CELLS,
    NAMES,
    NETWORK,
    SCHEMA,
    brought_by,
    noise_times,
    plan_for,
)
from experiments.entropy import SeededEntropy
from experiments.experiment import Setting, Work
from experiments.trial import People, people_of
from federation import door
from federation.asking import sum_for
from federation.door import Gridded
from federation.errors import PrivacyError
from federation.fits import Fit
from federation.learning import NetworkModel, ScorecardModel
from federation.messages import Model
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan
from federation.pricing import price_of
from federation.privacy.units import UNITS_PER_MU_SQUARED
from federation.query import Question
from federation.schema import Schema, load_schema
from fedscore.planning import SCORECARD

EPSILONS: Final = (0.5, 1.0, 4.0, 16.0)
NO_NOISE: Final = math.inf
"""In place of an epsilon: the plan of the largest one, and a build that adds no noise."""

PEOPLE: Final = 1200
ORDINARY: Final = 40
OUTLIERS: Final = 6
ROUNDS: Final = 10
SHADOWS: Final = 200
ATTACKED: Final = 300
FALSE_POSITIVES: Final = (0.01, 0.001)
MODELS: Final[dict[str, ScorecardModel | NetworkModel]] = {
    "scorecard": SCORECARD,
    "network": NETWORK,
}
_AT_ONCE: Final = 100
_FEATURES: Final = 8
_IDEALS: Final = 200
_LEAST_BEYOND: Final = 2
"""Non-members that must lie above a threshold for a rate there to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    """Everybody.

    Attributes:
        schema: of all.
        known: who always takes part.
        targets: who takes part by a coin; first the ordinary ones, then the outliers.
    """

    schema: Schema
    known: People
    targets: People


@lru_cache(maxsize=1)
def town() -> Town:
    """Returns always the same people. Nobody but one outlier is in a feature's last cell."""
    generator, schema = np.random.default_rng(4), load_schema(SCHEMA)
    known, everybody = PEOPLE + ORDINARY, PEOPLE + ORDINARY + OUTLIERS
    values = generator.integers(0, CELLS - 1, (_FEATURES, everybody))
    odds = 1 / (1 + np.exp(3.0 - 0.1 * (values[0] + values[1] - CELLS)))
    bad = generator.random(everybody) < odds
    values[:2, known:], bad[known:] = 0, True
    for number in range(OUTLIERS):
        values[2 + number, known + number] = CELLS - 1
    columns = {f"f{number}": pa.array(of + 0.5) for number, of in enumerate(values)}
    table = pa.table(
        {
            "person": pa.array(np.arange(everybody)),
            "bad": pa.array(bad.astype(np.int64)),
            **columns,
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "town.parquet"
        pq.write_table(table, path)
        people = people_of(schema, path)
    return Town(
        schema=schema,
        known=People(codes=people.codes[:, :PEOPLE], bad=people.bad[:PEOPLE]),
        targets=People(codes=people.codes[:, PEOPLE:], bad=people.bad[PEOPLE:]),
    )


@lru_cache(maxsize=16)
def planned(model: str, epsilon: float) -> Plan:
    """Returns the plan of a model; without noise it is that of the largest epsilon."""
    return plan_for(
        town().schema,
        epsilon=min(epsilon, max(EPSILONS)),
        rounds=ROUNDS,
        people=PEOPLE + 100,
        model=MODELS[model],
    )


def released(plan: Plan, members: People, seed: str) -> Model | None:
    """Returns what is released; None if the noise hides everybody, and so nothing is."""
    entropy, schema = SeededEntropy(seed), town().schema

    def ask(question: Question, model: Model | None) -> Array:
        query = sum_for(plan, schema, question, model)
        brought = brought_by(plan, schema, members, model, bytes(32))  # all take part
        total = door.sum_of(query, brought).total
        nobody = Gridded(total=np.zeros(query.length, dtype=np.int64))
        for _ in NAMES:
            total = total + door.add_noise(nobody, query, noise_key=entropy()).total
        return total / question.bound

    try:
        fit = Fit.begin(plan, schema, ask(Question.BINS, None), len(NAMES))
    except PrivacyError:
        return None
    for _ in range(plan.rounds):
        fit = fit.after(ask(plan.training_question, fit.to_ask()), len(NAMES))
    return fit.finished()


def scores(plan: Plan, model: Model | None, targets: People) -> Array:
    """Returns float64[targets], log-odds of the outcome that each of them had."""
    if model is None:
        return np.zeros(len(targets.bad))
    if isinstance(model, AdditiveCard):
        log_odds = -model.scores(targets.codes) / plan.scale.factor
    else:
        log_odds = model.log_odds(targets.codes)
    signed: Array = np.where(targets.bad, log_odds, -log_odds)
    return signed


def coins_of(seed: int) -> Coins:
    """Returns bool[targets], who takes part in a training."""
    return np.random.default_rng([2112, seed]).random(ORDINARY + OUTLIERS) < 0.5


def scored(model: str, epsilon: float, first: int, trainings: int) -> list[list[float]]:
    """Returns of each training the scores of all targets.

    Args:
        model: of `MODELS`.
        epsilon: of the plan, or `NO_NOISE`.
        first: seed of coins and noise.
        trainings: seeds from there on.
    """
    plan, everybody = planned(model, epsilon), town()
    found = []
    with noise_times(0) if epsilon == NO_NOISE else nullcontext():
        for seed in range(first, first + trainings):
            coins, targets = coins_of(seed), everybody.targets
            members = People(
                codes=np.concatenate([everybody.known.codes, targets.codes[:, coins]], axis=1),
                bad=np.concatenate([everybody.known.bad, targets.bad[coins]]),
            )
            release = released(plan, members, f"lira {seed}")
            found.append(scores(plan, release, targets).tolist())
    return found


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """How well LiRA does against one model at one epsilon.

    Attributes:
        model: "scorecard" or "network".
        epsilon: that the plan claims, against the coordinator and one institution; None: no noise.
        mu: that whoever has the release alone is left with; None: no noise.
        who: "ordinary" or "outliers".
        auc: over targets and trainings.
        true_positives: at each of `FALSE_POSITIVES`; None where too few did not take part.
        ideal: the AUC of the same attack on scores that give away all that mu allows; None: no
            noise.
    """

    model: str
    epsilon: float | None
    mu: float | None
    who: str
    auc: Rate
    true_positives: tuple[Rate | None, ...]
    ideal: Rate | None = None


class Lira(msgspec.Struct, frozen=True, kw_only=True):
    """What `run lira` found.

    Attributes:
        shadows: trainings that the attacker repeats, of each model and epsilon.
        attacked: trainings that it attacks.
        attacks: all of them.
    """

    shadows: int
    attacked: int
    attacks: tuple[Attack, ...]


def run_lira(setting: Setting) -> Lira:
    """Attacks each model at each epsilon."""
    shadows, attacked, at_once, ideals = (SHADOWS, ATTACKED, _AT_ONCE, _IDEALS)
    chosen: tuple[float, ...] = (*EPSILONS, NO_NOISE)
    if setting.quick:
        shadows, attacked, at_once, ideals, chosen = 20, 20, 20, 20, (1.0, NO_NOISE)
    parts = [
        (model, epsilon, first, at_once)
        for model in MODELS
        for epsilon in chosen
        for first in range(0, shadows + attacked, at_once)
    ]
    setting.expect(len(parts))
    works = [
        Work(
            made_from={
                "what": "lira",
                "part": [str(one) for one in part],
            },
            compute=scored,
            arguments=part,
        )
        for part in parts
    ]
    found = dict(zip(parts, setting.steps(list[list[float]], works), strict=True))
    attacks: list[Attack] = []
    for model in MODELS:
        for epsilon in chosen:
            seen = np.concatenate(
                [np.array(of) for part, of in found.items() if part[:2] == (model, epsilon)]
            )
            attacks += _attacks(model, epsilon, seen, shadows, ideals)
    return Lira(shadows=shadows, attacked=attacked, attacks=tuple(attacks))


def _attacks(model: str, epsilon: float, seen: Array, shadows: int, ideals: int) -> list[Attack]:
    coins = np.array([coins_of(seed) for seed in range(len(seen))])
    ratios = likelihood_ratios(seen[:shadows], coins[:shadows], seen[shadows:])
    groups = {"ordinary": slice(0, ORDINARY), "outliers": slice(ORDINARY, None)}
    units = price_of(planned(model, epsilon), town().schema).alone.trained
    mu = math.sqrt(units / UNITS_PER_MU_SQUARED) if epsilon != NO_NOISE else None
    return [
        Attack(
            model=model,
            epsilon=None if mu is None else epsilon,
            mu=mu,
            who=who,
            auc=resampled(ratios[:, of], coins[shadows:, of], None),
            true_positives=tuple(
                resampled(ratios[:, of], coins[shadows:, of], rate)
                if np.sum(~coins[shadows:, of]) * rate >= _LEAST_BEYOND
                else None
                for rate in FALSE_POSITIVES
            ),
            ideal=None if mu is None else ideal(mu, coins[:, of], shadows, ideals),
        )
        for who, of in groups.items()
    ]
