"""Can whoever sees every opened sum tell who took part? On the product, and on broken ones.

The audit of one run (`experiments/one_run_audit.py`), many times over: 64 canaries take part by a
fair coin each in a training of three institutions, of a scorecard or of a network. The coordinator
and one institution that colludes with it know everybody's records, every opened sum and every
model, and guess all coins (`experiments/canaries.py`). Right guesses give a lower bound on epsilon
with confidence 95 %; one above the plan's claim says that the program is broken. Broken programs
add less noise than their plan says, in code: no setting does that.
"""

from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Final

import msgspec
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments import canaries, membership_crowd
from experiments.cache import digest_of_files, digest_of_product
from experiments.canaries import right_guesses
from experiments.division import reach
from experiments.experiment import Setting
from experiments.membership_crowd import (
    DELTA,
    NETWORK,
    Crowd,
    noise_times,
    plan_for,
    watched_training,
)
from experiments.one_run_audit import CONFIDENCE, least_epsilon
from experiments.tables import markdown
from federation.plan import NetworkModel, Plan, ScorecardModel
from federation.pricing import price_of
from fedscore.planning import SCORECARD

EPSILON: Final = 1.0
ROUNDS: Final = 5
PEOPLE_EACH: Final = 400
CANARIES: Final = 64
REAL_SEEDS: Final = 1000
BROKEN_SEEDS: Final = 100
MODELS: Final[dict[str, ScorecardModel | NetworkModel]] = {
    "scorecard": SCORECARD,
    "network": NETWORK,
}
SHARES_OF_NOISE: Final = (0.0, 0.01, 0.1, 1.0)
_PEOPLE: Final = 1300
"""The plan's public figure for everyone."""


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """One program, attacked in many trainings.

    Attributes:
        model: "scorecard" or "network".
        epsilon: that the plan claims, against the coordinator and one institution.
        noise: share of the plan's noise (its standard deviation) that it adds; 1 is the product.
        right: of each training, how many coins were guessed right.
    """

    model: str
    epsilon: float
    noise: float
    right: tuple[int, ...]


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What `run membership` found.

    Attributes:
        delta: of the claims.
        rounds: of each training.
        people: in it, canaries not counted.
        canaries: in each training.
        builds: of each model, from no noise to the product's.
    """

    delta: float
    rounds: int
    people: int
    canaries: int
    builds: tuple[Build, ...]

    def bounds(self, build: Build) -> tuple[float, ...]:
        """Returns the lower bound on epsilon that each training gives."""
        known = {right: self.bound([right]) for right in set(build.right)}
        return tuple(known[right] for right in build.right)

    def bound(self, right: list[int]) -> float:
        """Returns the lower bound that trainings give together.

        Each coin belongs to one person in one training, so that all of them are one audit.
        """
        guesses = len(right) * self.canaries
        return least_epsilon(right=sum(right), guesses=guesses, canaries=guesses, delta=self.delta)

    def accused(self, build: Build) -> int:
        """Returns in how many trainings the bound is above the claim."""
        return sum(bound > build.epsilon for bound in self.bounds(build))


def audited_plan(crowd: Crowd, model: str) -> Plan:
    """Returns the plan that the figures of a model are of."""
    return plan_for(
        crowd.schema, epsilon=EPSILON, rounds=ROUNDS, people=_PEOPLE, model=MODELS[model]
    )


def audited_crowd() -> Crowd:
    """Returns the people that the figures are of."""
    return Crowd.drawn(people_each=PEOPLE_EACH, canaries=CANARIES)


def attacked(crowd: Crowd, plan: Plan, seed: int) -> int:
    """Returns how many coins are guessed right in one training.

    Args:
        crowd: its people.
        plan: its plan.
        seed: of coins, noise and masks.
    """
    coins = np.random.default_rng([2305, seed]).random(len(crowd.owners)) < 0.5
    return right_guesses(watched_training(crowd, plan, coins, f"membership {seed}"), coins)


def run_membership(setting: Setting) -> Membership:
    """Attacks the product and three broken ones."""
    real, broken = (6, 3) if setting.quick else (REAL_SEEDS, BROKEN_SEEDS)
    crowd = audited_crowd()
    code = digest_of_files(
        Path(one.__file__) for one in (canaries, membership_crowd) if one.__file__ is not None
    )
    setting.expect(len(MODELS) * len(SHARES_OF_NOISE))

    def build(model: str, noise: float) -> Build:
        seeds = real if noise == 1 else broken
        made_from = {
            "what": "membership",
            "product": digest_of_product(),
            "code": code,
            "terms": [EPSILON, ROUNDS, PEOPLE_EACH, CANARIES, _PEOPLE],
            "model": model,
            "noise": noise,
            "seeds": seeds,
        }
        return setting.step(made_from, Build, lambda: _attacked(crowd, model, noise, seeds))

    return Membership(
        delta=DELTA,
        rounds=ROUNDS,
        people=PEOPLE_EACH * len(crowd.others),
        canaries=CANARIES,
        builds=tuple(build(model, noise) for model in MODELS for noise in SHARES_OF_NOISE),
    )


def _attacked(crowd: Crowd, model: str, noise: float, seeds: int) -> Build:
    plan = audited_plan(crowd, model)
    with nullcontext() if noise == 1 else noise_times(noise):  # 1: the product, untouched
        right = tuple(attacked(crowd, plan, seed) for seed in range(seeds))
    claim = price_of(plan, crowd.schema).trained
    return Build(model=model, epsilon=claim, noise=noise, right=right)


def table(found: Membership) -> str:
    """Right guesses, bounds and verdicts of each program."""
    rows = []
    for one in found.builds:
        shares = [right / found.canaries for right in one.right]
        bounds = found.bounds(one)
        accused, trainings = found.accused(one), len(one.right)
        exact = stats.binomtest(accused, trainings).proportion_ci(CONFIDENCE)
        rows.append(
            [
                one.model,
                _title(one),
                f"{trainings:,}",
                f"{fmean(shares):.1%} +-{reach(shares):.1%}",
                f"{fmean(bounds):.2f}",
                f"{max(bounds):.2f}",
                f"{found.bound(list(one.right)):.2f}",
                f"{accused:,} of {trainings:,} ({exact.low:.1%} to {exact.high:.1%})",
            ]
        )
    heads = [
        "model",
        "noise",
        "trainings",
        "right guesses",
        "epsilon at least, mean",
        "largest",
        "all trainings together",
        f"found to break epsilon {EPSILON:g} (95 % interval)",
    ]
    return markdown(heads, rows)


def answer(found: Membership) -> str:
    """One sentence with the counts."""

    def counts(chosen: list[Build]) -> str:
        accused = sum(found.accused(one) for one in chosen)
        return f"{accused:,} of {sum(len(one.right) for one in chosen):,}"

    real = [one for one in found.builds if one.noise == 1]
    shares = " and ".join(f"{fmean(one.right) / found.canaries:.1%} ({one.model})" for one in real)
    return (
        f"at epsilon {EPSILON:g} builds without noise are caught in "
        f"{counts([one for one in found.builds if one.noise == 0])} trainings, the real one is "
        f"accused in {counts(real)}; there {shares} of the guesses are right"
    )


def plot(found: Membership) -> Figure:
    """How many guesses are right in each training, beside what the claim allows on average."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(found.builds):
        shares = np.array(one.right) / found.canaries
        spread = np.random.default_rng(place).uniform(-0.3, 0.3, len(shares))
        axes.plot(shares, place + spread, ".", markersize=2)
    axes.axvline(1 / (1 + np.exp(-EPSILON)), color="black", linewidth=0.8)
    axes.set_yticks(
        range(len(found.builds)), [f"{one.model}, {_title(one)}" for one in found.builds]
    )
    axes.set_xlabel(f"share of right guesses; line: what epsilon {EPSILON:g} allows")
    return figure


def _title(build: Build) -> str:
    if build.noise == 1:
        return "as planned"
    return f"{build.noise:g} of it" if build.noise else "none"
