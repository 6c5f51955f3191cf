"""Can whoever sees every noised sum tell who took part? On the product, and on broken ones.

The audit of one run (`experiments/audit/one_run_audit.py`), many times over and in every mode:
canaries take part by a fair coin each, in a training through door, noise and masks. The guesser
knows everybody's records, the noise of one institution that colludes, every model and every noised
sum; it guesses all coins (`experiments/audit/canaries.py`). Broken programs add less noise than
their plan says, in code: no setting does that.

A plan promises two things: an epsilon at a delta, and, of which that follows, a Gaussian trade-off
curve of some mu. Right guesses give a lower bound on epsilon for any mechanism, and a lower bound
on mu, shown as epsilon at that delta; the latter refutes no epsilon unless the program's own curve
is Gaussian: without noise it is not.

All bounds of the table hold together with confidence 95 %: half of the 5 % is shared out evenly
among what is said about all trainings of a row, half among the single trainings of all rows.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from experiments.audit import membership_crowd
from experiments.audit.canaries import Opened, right_guesses
from experiments.audit.membership_crowd import (
    CELLS,
    DELTA,
    NETWORK,
    Crowd,
    noise_times,
    plan_for,
    watched_training,
)
from experiments.audit.membership_modes import Institutions, institution_training, local_training
from experiments.audit.one_run_audit import (
    CONFIDENCE,
    least_epsilon,
    least_mu,
    least_mu_of_runs,
    stake_for,
)
from experiments.experiment import PERSON, Setting, Work
from federation.learning import Institution, Local, ServerOptimiser
from federation.plan import Plan
from federation.pricing import price_of
from federation.privacy.accountant import epsilon_of
from federation.privacy.units import UNITS_PER_MU_SQUARED, BudgetUnits, Delta

PROMISE: Final = (
    f"{PERSON} In local mode it is against everybody outside that institution; in institution mode "
    "it is that of a whole institution, whose update is replaced by zeros."
)
EPSILON: Final = 1.0
OF_INSTITUTION: Final = 8.0
ROUNDS: Final = 5
PEOPLE_EACH: Final = 400
CANARIES: Final = 128
INSTITUTIONS: Final = 25
REAL_RUNS: Final = 500
BROKEN_RUNS: Final = 200
SHARES_OF_NOISE: Final = (0.0, 0.1, 0.5, 1.0)
_PEOPLE: Final = 1300
"""The plan's public figure for everyone."""

_AT_ONCE: Final = 100
_STATEMENTS: Final = 3
"""Bounds of a row that rest on all of its trainings."""

SCORECARD_JOINT: Final = "scorecard, joint"
NETWORK_JOINT: Final = "network, joint"
NETWORK_SAMPLED: Final = "network, joint, half sampled"
SCORECARD_LOCAL: Final = "scorecard, local"
NETWORK_LOCAL: Final = "network, local"
NETWORK_INSTITUTION: Final = "network, institution"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of training that is audited.

    Attributes:
        plan: that it runs.
        epsilon: that the plan claims, of a person, or of an institution in institution mode.
        mu: likewise, of Gaussian differential privacy; what sampling adds to delta (10^-10) is
            far below what the audit can see.
        canaries: in a training.
        watch: runs it with these coins and this seed; returns all sums that are seen.
    """

    plan: Plan
    epsilon: float
    mu: float
    canaries: int
    watch: Callable[[NDArray[np.bool_], str], list[Opened]]


@lru_cache(maxsize=1)
def kinds() -> dict[str, Kind]:
    """Returns everything that is audited, by name."""
    crowd = Crowd.drawn(people_each=PEOPLE_EACH, canaries=CANARIES)

    def planned(**changes: object) -> Plan:
        return plan_for(
            crowd.schema,
            **{"epsilon": EPSILON, "rounds": ROUNDS, "people": _PEOPLE, **changes},  # type: ignore[arg-type]
        )

    def of_people(
        plan: Plan, training: Callable[[Crowd, Plan, NDArray[np.bool_], str], list[Opened]]
    ) -> Kind:
        price = price_of(plan, crowd.schema)
        return Kind(
            plan=plan,
            epsilon=price.trained,
            mu=_mu(price.price.trained),
            canaries=CANARIES,
            watch=lambda coins, seed: training(crowd, plan, coins, seed),
        )

    sampled = msgspec.structs.replace(NETWORK, sampling_rate=0.5)
    return {
        SCORECARD_JOINT: of_people(planned(), watched_training),
        NETWORK_JOINT: of_people(planned(model=NETWORK), watched_training),
        NETWORK_SAMPLED: of_people(planned(model=sampled), watched_training),
        SCORECARD_LOCAL: of_people(planned(mode=Local(steps=1)), local_training),
        NETWORK_LOCAL: of_people(
            planned(model=NETWORK, mode=Local(steps=2), rounds=3), local_training
        ),
        NETWORK_INSTITUTION: _of_institutions(crowd),
    }


def _of_institutions(crowd: Crowd) -> Kind:
    of = Institutions.drawn(crowd.schema, INSTITUTIONS, CELLS)
    plan = plan_for(
        crowd.schema,
        epsilon=OF_INSTITUTION,
        rounds=2,
        people=_PEOPLE,
        names=tuple(f"bank-{number:02d}" for number in range(INSTITUTIONS)),
        model=msgspec.structs.replace(NETWORK, hidden=(), clip=1.0, learning_rate=1.0),
        mode=Institution(steps=10, step_length=1.0, proximal=0.0, optimiser=ServerOptimiser.FEDAVG),
    )
    price = price_of(plan, crowd.schema)
    return Kind(
        plan=plan,
        epsilon=OF_INSTITUTION if price.institution is None else price.institution,
        mu=_mu(price.price.trained) / 2,  # zeros instead of an update: half of another update
        canaries=INSTITUTIONS - 1,
        watch=lambda coins, seed: institution_training(of, plan, coins, seed),
    )


def _mu(units: BudgetUnits) -> float:
    return math.sqrt(units / UNITS_PER_MU_SQUARED)


def epsilon_at(mu: float) -> float:
    """Returns the epsilon of a mu at the claims' delta."""
    return epsilon_of(BudgetUnits(int(mu**2 * UNITS_PER_MU_SQUARED)), Delta(DELTA))


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """One program, attacked in many trainings.

    Attributes:
        kind: of `kinds`.
        epsilon: that the plan claims.
        mu: of the Gaussian curve that the plan claims.
        canaries: in each training.
        noise: share of the plan's noise (its standard deviation) that it adds; 1 is the product.
        right: of each training, how many coins were guessed right.
    """

    kind: str
    epsilon: float
    mu: float
    canaries: int
    noise: float
    right: tuple[int, ...]

    @property
    def share(self) -> float:
        """The mean share of right guesses."""
        return fmean(self.right) / self.canaries


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit would prove if every guess were right, at the levels of `Bounds`.

    Attributes:
        any_of_one: bound on epsilon of any mechanism, from a single training.
        curve_of_one: bound on the Gaussian curve, likewise.
        any_of_all: bound on epsilon of any mechanism, from all trainings.
    """

    any_of_one: float
    curve_of_one: float
    any_of_all: float


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Lower bounds from the guesses about a build, all of a table's together with confidence 95 %.

    Attributes:
        any_mechanism: on epsilon, whatever the mechanism; all trainings as one audit.
        one: on the Gaussian curve, as epsilon, and so the next two; the largest that a single
            training gives.
        alone: how many single trainings give more than the plan's epsilon.
        f_dp: all trainings as one audit.
        runs: all trainings as independent runs.
        visible: the share of noise below which `runs` would refute the plan's curve, at the
            guesser's measured skill; 0 if that is less than was tried.
        power: what could be proved at all.
    """

    any_mechanism: float
    one: float
    alone: int
    f_dp: float
    runs: float
    visible: float
    power: Power

    @property
    def curve(self) -> float:
        """The best bound on the Gaussian curve, as epsilon."""
        return max(self.one, self.f_dp, self.runs)


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What `run membership` found.

    Attributes:
        delta: of the claims.
        people: in a training of people, canaries not counted.
        builds: of each kind, from no noise to the product's.
        bounds: of each build.
    """

    delta: float
    people: int
    builds: tuple[Build, ...]
    bounds: tuple[Bounds, ...]

    def rows(self) -> list[tuple[Build, Bounds]]:
        """Returns builds with their bounds."""
        return list(zip(self.builds, self.bounds, strict=True))


def attacked(kind: Kind, seed: int) -> int:
    """Returns how many coins are guessed right in one training.

    Args:
        kind: of training.
        seed: of coins, noise and masks.
    """
    coins = np.random.default_rng([2305, seed]).random(kind.canaries) < 0.5
    return right_guesses(kind.watch(coins, f"membership {seed}"), coins)


def attacked_often(name: str, noise: float, first: int, runs: int) -> tuple[int, ...]:
    """Returns of each training how many coins are guessed right.

    Args:
        name: of `kinds`.
        noise: share of the plan's; 1 is the product, untouched.
        first: seed.
        runs: seeds from there on.
    """
    kind = kinds()[name]
    with nullcontext() if noise == 1 else noise_times(noise):
        return tuple(attacked(kind, seed) for seed in range(first, first + runs))


def run_membership(setting: Setting) -> Membership:
    """Attacks the product and broken ones."""
    real, broken, at_once = (3, 2, 3) if setting.quick else (REAL_RUNS, BROKEN_RUNS, _AT_ONCE)
    parts = [
        (name, noise, first, min(at_once, real if noise == 1 else broken))
        for name in kinds()
        for noise in SHARES_OF_NOISE
        for first in range(0, real if noise == 1 else broken, at_once)
    ]
    setting.expect(len(parts))
    works = [
        Work(
            made_from={
                "what": "membership",
                "terms": [EPSILON, OF_INSTITUTION, ROUNDS, PEOPLE_EACH, CANARIES, INSTITUTIONS],
                "plan": kinds()[part[0]].plan.digest,
                "part": list(part),
            },
            compute=attacked_often,
            arguments=part,
        )
        for part in parts
    ]
    found = dict(zip(parts, setting.steps(tuple[int, ...], works), strict=True))
    builds = tuple(
        Build(
            kind=name,
            epsilon=kind.epsilon,
            mu=kind.mu,
            canaries=kind.canaries,
            noise=noise,
            right=sum((right for part, right in found.items() if part[:2] == (name, noise)), ()),
        )
        for name, kind in kinds().items()
        for noise in SHARES_OF_NOISE
    )
    return Membership(
        delta=DELTA,
        people=PEOPLE_EACH * len(membership_crowd.NAMES),
        builds=builds,
        bounds=bounds_of(builds),
    )


def bounds_of(builds: tuple[Build, ...]) -> tuple[Bounds, ...]:
    """Returns all bounds of a table, which hold together with confidence 95 %."""
    half = (1 - CONFIDENCE) / 2
    level = half / (_STATEMENTS * len(builds))
    level_of_one = half / sum(len(one.right) for one in builds)
    return tuple(_bounds(one, level, level_of_one, _skills(builds, one.kind)) for one in builds)


def _skills(builds: tuple[Build, ...], kind: str) -> dict[float, float]:
    """Returns by share of noise the mu at which a perfect guesser guesses as ours did."""
    return {
        one.noise: 2 * float(special.ndtri(np.clip(one.share, 0.5, 1 - 1e-9)))
        for one in builds
        if one.kind == kind
    }


def _bounds(build: Build, level: float, level_of_one: float, skills: dict[float, float]) -> Bounds:
    each, right = build.canaries, sum(build.right)
    coins = each * len(build.right)

    def of_one(count: int) -> float:
        mu = least_mu(right=count, guesses=each, canaries=each, level=level_of_one)
        return epsilon_at(mu)

    def of_any(count: int, of: int, level: float) -> float:
        return least_epsilon(right=count, guesses=of, canaries=of, delta=DELTA, level=level)

    alone = {count: of_one(count) for count in set(build.right)}
    return Bounds(
        any_mechanism=of_any(right, coins, level),
        one=max(alone.values()),
        alone=sum(alone[count] > build.epsilon for count in build.right),
        f_dp=epsilon_at(least_mu(right=right, guesses=coins, canaries=coins, level=level)),
        runs=epsilon_at(least_mu_of_runs(build.right, canaries=each, level=level)),
        visible=_visible(build, level, skills),
        power=Power(
            any_of_one=of_any(each, each, level_of_one),
            curve_of_one=of_one(each),
            any_of_all=of_any(coins, coins, level),
        ),
    )


def _visible(build: Build, level: float, skills: dict[float, float]) -> float:
    """Returns the share of noise at which so many runs would be expected to refute the curve.

    Args:
        build: of which the number of runs and canaries count.
        level: of the test.
        skills: measured, by share of noise; what lies between them is interpolated in logarithms.

    Returns:
        0 where it is less than the smallest measured one, or none.
    """
    claimed = float(special.ndtr(build.mu / 2))
    stake = stake_for(claimed, runs=len(build.right), canaries=build.canaries, level=level)
    needed = math.log(1 / level) / (stake * len(build.right)) + stake / (8 * build.canaries)
    shares = sorted((share for share in skills if share > 0), reverse=True)
    known = np.log([max(skills[share], 1e-9) for share in shares])
    if claimed + needed >= 1 or (mu := 2 * float(special.ndtri(claimed + needed))) <= 0:
        return 0.0
    if math.log(mu) > known[-1]:
        return 0.0
    return float(np.exp(np.interp(math.log(mu), known, np.log(shares))))
