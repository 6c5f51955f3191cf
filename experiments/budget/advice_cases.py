"""Trainings that the law of `fedscore plan advise` is fitted on, or held against.

A training is done by the product's own plan, bins and steps (`CardFit`) on exact sums over the
people, with Gaussian noise of the standard deviation that the plan's totals have when all
institutions answer. How people are dealt to institutions changes neither, so it is left out: what
runs is arithmetic, and hundreds of institutions cost what three do. A test shows that without noise
the card is the product's own; `advice` holds whole trainings of the product against the law too.

Synthetic federations differ in what nobody knows beforehand: how many features there are, how
unequally they tell, how they hang together, whether risk rises smoothly, by a step or by category,
how rare telling values are, the bad rate, and how well anybody could score.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import ndtr

from clients.home import ROUNDS_AT_HOME
from experiments.cache import SCHEMAS
from experiments.datasets import DATASETS
from experiments.division import divided
from experiments.nation import BEHAVIOUR, COMMON, REPAYMENT, nation
from experiments.quality.thin_files import auc_against
from experiments.trial import people_of
from federation.grid import Kind, Role
from federation.model.card_fit import CardFit
from federation.model.scorecard import WEIGHTS_PER_LOG_ODDS, AdditiveCard
from federation.plan import Plan
from federation.pricing import stddev_of_total
from federation.query import Question
from federation.schema import Feature, Schema, load_schema
from fedscore.advice import Wish, draft_of, nominal_schema, signals_of
from fedscore.planning import STANDARD_SCALE

LEAST_PEOPLE: Final = 3_000
MOST_PEOPLE: Final = 150_000
LEAST_FEATURES: Final = 4
MOST_FEATURES: Final = 40
LEAST_EPSILON: Final = 0.1
MOST_EPSILON: Final = 4.0
INSTITUTIONS: Final = (3, 300)
SYNTHETIC: Final = "synthetic"
NATION: Final = "nation"
_TESTED: Final = 20_000
_CELLS: Final = 40

Array = NDArray[np.float64]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One training beside one without privacy on the same people.

    Attributes:
        data: SYNTHETIC, NATION, or the name of a data set.
        seed: of the federation, or of the part of a data set, and of the noise.
        people: trained.
        features: scored.
        institutions: all of them answer, one may collude.
        epsilon: of each trained person, at delta min(1e-6, 1 / (10 people)).
        bad_rate: of the trained people.
        alone: AUC without privacy, of a card of the same kind from all records in one place.
        auc: AUC with it, on the same people.
        noise_to_signal: the ratio of the law.
    """

    data: str
    seed: int
    people: int
    features: int
    institutions: int
    epsilon: float
    bad_rate: float
    alone: float
    auc: float
    noise_to_signal: float

    @property
    def loss(self) -> float:
        """AUC that was lost."""
        return self.alone - self.auc


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """People to train on, and others to test on.

    Attributes:
        schema: of them.
        codes: uint8[scored features, people].
        bad: bool[people].
        tested: uint8[scored features, others].
        odds: float64[others]: the true odds of bad, or 0 and 1 where only outcomes are known.
    """

    schema: Schema
    codes: NDArray[np.uint8]
    bad: NDArray[np.bool_]
    tested: NDArray[np.uint8]
    odds: Array

    def auc(self, card: AdditiveCard) -> float:
        """Returns the AUC of a card in points on the others."""
        return auc_against(self.odds, -card.scores(self.tested).astype(np.float64))

    def train(self, plan: Plan, seed: int) -> AdditiveCard:
        """Returns the card that a plan would release, in points."""
        answers = len(plan.participation.invited)
        return self._fitted(
            stddev_of_total(plan, Question.BINS, answers),
            stddev_of_total(plan, Question.STEP, answers),
            plan.rounds,
            np.random.default_rng(seed),
        )

    def train_without_privacy(self) -> AdditiveCard:
        """Returns the card that an institution would train at home if it held all records."""
        return self._fitted(0.0, 0.0, ROUNDS_AT_HOME, np.random.default_rng(0))

    def _fitted(
        self, count_stddev: float, stddev: float, rounds: int, noise: np.random.Generator
    ) -> AdditiveCard:
        grids = self.schema.scored_grids
        counts = np.concatenate(
            [
                np.bincount(2 * of_feature.astype(np.int64) + self.bad, minlength=512)[
                    : 2 * len(grid.labels)
                ]
                for of_feature, grid in zip(self.codes, grids, strict=True)
            ]
        )
        fit = CardFit.begin(
            grids=grids,
            counts=counts + count_stddev * noise.normal(size=len(counts)),
            count_stddev=count_stddev,
            residual_stddev=stddev,
            rounds=rounds,
        )
        for _ in range(rounds):
            sums = self._residuals(fit.to_ask())
            fit = fit.after(sums + stddev * noise.normal(size=len(sums)))
        return fit.in_points(STANDARD_SCALE)

    def _residuals(self, card: AdditiveCard) -> Array:
        """Returns float64[bins + 1], the sums of outcome less probability, as the door has them."""
        log_odds = card.scores(self.codes) / WEIGHTS_PER_LOG_ODDS
        left = self.bad - _logistic(log_odds)
        sums = []
        for of_feature, cells, bins in zip(self.codes, card.bin_of_cell, card.bins, strict=True):
            of_cell = np.bincount(of_feature, weights=left, minlength=256)[: len(cells)]
            sums.append(np.bincount(cells, weights=of_cell, minlength=bins))
        return np.concatenate([*sums, [left.sum()]])


def cases_of(
    crowd: Crowd, data: str, seed: int, terms: tuple[tuple[int, float], ...]
) -> tuple[Case, ...]:
    """Returns a training for each (institutions, epsilon)."""
    alone, people = crowd.auc(crowd.train_without_privacy()), len(crowd.bad)
    found = []
    for number, (institutions, epsilon) in enumerate(terms):
        wish = Wish(
            schema=crowd.schema,
            people=people,
            institutions=institutions,
            quorum=institutions,
            held_out=0.0,
        )
        plan = draft_of(wish, epsilon)
        rate = float(crowd.bad.mean())
        signals = signals_of(plan, features=wish.features, bad_rate=rate, auc=alone)
        card = crowd.train(plan, 1_000 * seed + number)
        found.append(
            Case(
                data=data,
                seed=seed,
                people=people,
                features=wish.features,
                institutions=institutions,
                epsilon=epsilon,
                bad_rate=rate,
                alone=alone,
                auc=crowd.auc(card),
                noise_to_signal=signals.noise_to_signal,
            )
        )
    return tuple(found)


def synthetic_cases(seed: int, trainings: int, most_people: int) -> tuple[Case, ...]:
    """Returns trainings of one synthetic federation, of sizes and epsilons drawn from its seed."""
    draw = np.random.default_rng([seed, 1])
    people = round(_between(draw, LEAST_PEOPLE, most_people))
    features = round(_between(draw, LEAST_FEATURES, MOST_FEATURES))
    crowd = synthetic_crowd(seed, people, features)
    terms = tuple(
        (round(_between(draw, *INSTITUTIONS)), _between(draw, LEAST_EPSILON, MOST_EPSILON))
        for _ in range(trainings)
    )
    return cases_of(crowd, SYNTHETIC, seed, terms)


def real_cases(
    name: str, sizes: tuple[int, ...], seed: int, terms: tuple[tuple[int, float], ...]
) -> tuple[Case, ...]:
    """Returns trainings on parts of a data set, of the given sizes or all of it, tested on split 0.

    Parts and noise differ by seed.
    """
    found: list[Case] = []
    with divided(DATASETS[name], 0) as data:
        trained = people_of(data.schema, data.everyone)
        order = np.random.default_rng(seed).permutation(len(trained.bad))
        for size in sizes:
            part = order[:size]
            crowd = Crowd(
                schema=data.schema,
                codes=trained.codes[:, part],
                bad=trained.bad[part],
                tested=data.people.codes,
                odds=data.people.bad.astype(np.float64),
            )
            found += cases_of(crowd, name, seed, terms)
    return tuple(found)


def nation_cases(
    sizes: tuple[int, ...], seed: int, terms: tuple[tuple[int, float], ...]
) -> tuple[Case, ...]:
    """Returns trainings on the first people of a synthetic nation, tested on its last 20,000.

    Everybody is at one institution, and all columns are held everywhere.
    """
    schema = load_schema((SCHEMAS / "nation.toml").read_text())
    blocks = list(nation(max(sizes) + _TESTED, seed))
    everybody = [
        block.table(np.ones(block.people, np.bool_), COMMON + BEHAVIOUR + REPAYMENT)
        for block in blocks
    ]
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "nation.parquet"
        pq.write_table(pa.concat_tables(everybody), table)
        people = people_of(schema, table)
    odds = np.concatenate([block.odds for block in blocks])
    found: list[Case] = []
    for size in sizes:
        crowd = Crowd(
            schema=schema,
            codes=people.codes[:, :size],
            bad=people.bad[:size],
            tested=people.codes[:, -_TESTED:],
            odds=odds[-_TESTED:],
        )
        found += cases_of(crowd, NATION, seed, terms)
    return tuple(found)


def synthetic_crowd(seed: int, people: int, features: int) -> Crowd:
    """Returns a synthetic federation's people, with 20,000 others whose true odds are known."""
    draw = np.random.default_rng([seed, 0])
    count = people + _TESTED
    common = draw.normal(size=count)
    inequality, togetherness, roughness = draw.uniform(0, [3, 0.8, 0.6])
    drawn = [_feature(draw, common, togetherness, roughness) for _ in range(features)]
    strength = draw.exponential(size=features) ** inequality
    risk = np.sum(
        [one * effect for one, (_, _, effect) in zip(strength, drawn, strict=True)], axis=0
    )
    odds = _odds(risk / risk.std(), draw.uniform(0.62, 0.88), _between(draw, 0.03, 0.3))
    bad = draw.uniform(size=count) < odds
    codes = np.stack([code for code, _, _ in drawn])
    nominal = nominal_schema(features)
    kinds = tuple(
        _category(feature) if is_category else feature
        for feature, (_, is_category, _) in zip(nominal.features, drawn, strict=True)
    )
    return Crowd(
        schema=msgspec.structs.replace(nominal, features=kinds),
        codes=codes[:, :people],
        bad=bad[:people],
        tested=codes[:, people:],
        odds=odds[people:],
    )


def _feature(
    draw: np.random.Generator, common: Array, togetherness: float, roughness: float
) -> tuple[NDArray[np.uint8], bool, Array]:
    """Returns codes, whether they are categories, and an effect on risk of about unit size."""
    shared = draw.uniform(0, togetherness)
    hidden = math.sqrt(shared) * common + math.sqrt(1 - shared) * draw.normal(size=len(common))
    match draw.integers(4):
        case 0:  # as many people in each cell
            cells = ndtr(hidden) * _CELLS
        case 1:  # most people in the middle
            cells = (hidden + 3) / 6 * _CELLS
        case _:  # a count, or an amount: most people at the lower end, the telling ones rare
            cells = np.exp(draw.uniform(0.8, 1.6) * hidden - 0.5)
    codes = np.clip(cells, 0, _CELLS - 1).astype(np.uint8)
    is_category = False
    if draw.uniform() >= roughness:
        effect = hidden + draw.uniform(-0.5, 0.5) * (hidden**2 - 1)
    elif draw.integers(2):
        effect, is_category = draw.normal(size=_CELLS)[codes], True
    else:
        effect = (hidden > draw.uniform(-1, 2)).astype(np.float64)
    return codes, is_category, effect / max(float(effect.std()), 0.1)


def _category(feature: Feature) -> Feature:
    return Feature(
        name=feature.name,
        role=Role.SCORED,
        kind=Kind.CATEGORY,
        reason=feature.reason,
        categories=tuple(range(_CELLS)),
    )


def _odds(risk: Array, auc: float, rate: float) -> Array:
    """Returns the probabilities that rank by `risk`, with the mean `rate` and an AUC of `auc`."""
    seen = risk[:_TESTED]

    def base(slope: float) -> float:
        low, high = -20.0, 10.0
        for _ in range(30):
            middle = (low + high) / 2
            is_low = float(_logistic(middle + slope * seen).mean()) < rate
            low, high = (middle, high) if is_low else (low, middle)
        return low

    low, high = 0.05, 8.0
    for _ in range(14):
        middle = (low + high) / 2
        is_low = auc_against(_logistic(base(middle) + middle * seen), seen) < auc
        low, high = (middle, high) if is_low else (low, middle)
    return _logistic(base(low) + low * risk)


def _between(draw: np.random.Generator, low: float, high: float) -> float:
    """Returns a number that is as likely in each octave between two."""
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def _logistic(log_odds: Array) -> Array:
    odds: Array = 1 / (1 + np.exp(-log_odds))
    return odds
