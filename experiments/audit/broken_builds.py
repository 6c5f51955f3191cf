"""Does a named test notice each way in which the noise may be broken, and leave the product alone?

A build is the product with one line changed. It answers questions of all three kinds on the real
way (`experiments/audit/opened_sums.py`), and tests look at the sums. What each test may cost in
false alarms is fixed beforehand (`experiments/audit/detections.py`); how many numbers there are is
what makes the weakest of these faults, one share missing of three, show. The same tests and builds
run in tests/statistical/test_broken_builds.py, on other seeds: there nothing may fail, here it may.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

import msgspec
import numpy as np
from scipy import stats

from experiments.audit.detections import (
    FALSE_ALARM,
    Detected,
    check_one_person,
    check_uncorrelated,
    check_variance,
)
from experiments.audit.opened_sums import INSTITUTIONS, QUERIES, Answered, Whole, answered
from experiments.entropy import SeededEntropy
from experiments.experiment import Setting, Work
from federation import door
from federation.door import Clipped, ClippedProducts, Contribution, Products
from federation.privacy import discrete_gaussian
from federation.query import BoundedSum, Question

BROKEN_RUNS: Final = 100
REAL_RUNS: Final = 1000
FIRST_BROKEN_SEED: Final = 20_000
FIRST_REAL_SEED: Final = 30_000
"""Seeds from here on were looked at by no test before this count."""

_AT_ONCE: Final = 100
_PAIR: Final = 2 * float(stats.norm.sf(5.0))

REAL: Final = "the product"
VARIANCE: Final = "variance"
ROUNDS: Final = "two rounds"
SHARED: Final = "two institutions"
ONE_PERSON: Final = "one person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the tests see of one run.

    Attributes:
        answers: to BINS, to STEP in two rounds, to GRADIENT.
        changes: what somebody hostile adds to an opened sum of STEP and of GRADIENT; the noise is
            the same with and without, and falls out.
    """

    answers: Mapping[Question, tuple[Answered, ...]]
    changes: Mapping[Question, Whole]


def run(seed: int) -> Run:
    """Returns one run of the build as it stands, of fresh people, noise and masks."""

    def ask(question: Question, round_: int, *, hostile: bool = False) -> Answered:
        entropy = SeededEntropy(f"noise {question} {round_} {seed}")
        return answered(question, seed, round_=round_, hostile=hostile, entropy=entropy)

    found = {
        Question.BINS: (ask(Question.BINS, 0),),
        Question.STEP: (ask(Question.STEP, 0), ask(Question.STEP, 1)),
        Question.GRADIENT: (ask(Question.GRADIENT, 0),),
    }
    changes = {
        question: _people_of(ask(question, 0, hostile=True)) - _people_of(found[question][0])
        for question in (Question.STEP, Question.GRADIENT)
    }
    return Run(answers=found, changes=changes)


def _people_of(one: Answered) -> Whole:
    return one.opened + one.exact


def check_opened_variance(run: Run) -> None:
    """The opened sums of each question vary as three shares of noise do. FALSE_ALARM each."""
    for question, answers in run.answers.items():
        opened = np.concatenate([one.opened for one in answers])
        check_variance(opened, INSTITUTIONS * QUERIES[question].share_variance)


def check_rounds(run: Run) -> None:
    """The opened sums of two rounds do not correlate. False alarms: 5.7e-7."""
    check_uncorrelated(np.array([one.opened for one in run.answers[Question.STEP]]))


def check_institutions(run: Run) -> None:
    """The noise of no two institutions correlates. False alarms: 5.7e-7 for each of 12 pairs."""
    for answers in run.answers.values():
        for one in answers:
            check_uncorrelated(one.noise)


def check_person(run: Run) -> None:
    """Nobody changes a sum by more than its sensitivity. Exact."""
    for question, change in run.changes.items():
        check_one_person(change, QUERIES[question].sensitivity_squared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """A test with a name.

    Attributes:
        looks_at: what it compares.
        check: raises `Detected`.
        level: false alarms that it may have in a run, by design.
    """

    looks_at: str
    check: Callable[[Run], None]
    level: float


TESTS: Final[dict[str, Test]] = {
    VARIANCE: Test(
        looks_at="opened sums less the known people: chi-square on both sides",
        check=check_opened_variance,
        level=3 * FALSE_ALARM,
    ),
    ROUNDS: Test(
        looks_at="correlation of the opened sums of two rounds",
        check=check_rounds,
        level=_PAIR,
    ),
    SHARED: Test(
        looks_at="correlation of two institutions' answers, masks taken off",
        check=check_institutions,
        level=12 * _PAIR,
    ),
    ONE_PERSON: Test(
        looks_at="an opened sum with and without somebody hostile, in whole numbers",
        check=check_person,
        level=0.0,
    ),
}


def _sampler(change: Callable[..., Whole]) -> Callable[[], AbstractContextManager[Any]]:
    """Returns a build whose noise is `change(place, variance, count, key)`, by institution."""

    def broken() -> AbstractContextManager[Any]:
        calls = itertools.count()

        def sample(*, variance: int, count: int, key: bytes) -> Whole:
            return change(next(calls) % INSTITUTIONS, variance, count, key)

        return patch.object(door, "sample", sample)

    return broken


def _drawn(variance: int, count: int, key: bytes) -> Whole:
    return discrete_gaussian.sample(variance=variance, count=count, key=key)


def _none(_place: int, _variance: int, count: int, _key: bytes) -> Whole:
    return np.zeros(count, dtype=np.int64)


def _half(_place: int, variance: int, count: int, key: bytes) -> Whole:
    return _drawn(variance // 4, count, key)


def _all_but_one(place: int, variance: int, count: int, key: bytes) -> Whole:
    found = _drawn(variance, count, key)
    return found * 0 if place == INSTITUTIONS - 1 else found


def _same_in_rounds() -> AbstractContextManager[Any]:
    first: list[bytes] = []

    def change(place: int, variance: int, count: int, key: bytes) -> Whole:
        first.append(key)
        return _drawn(variance, count, first[0] if place == 0 else key)

    return _sampler(change)()


def _same_at_two() -> AbstractContextManager[Any]:
    last: list[bytes] = [b""]

    def change(place: int, variance: int, count: int, key: bytes) -> Whole:
        last[0] = key if place == 0 else last[0]
        return _drawn(variance, count, last[0] if place == 1 else key)

    return _sampler(change)()


def _numbers_unclipped() -> AbstractContextManager[Any]:
    def clip(block: Contribution, _query: BoundedSum) -> Clipped:
        return Clipped(values=block.values, cells=block.cells, person_starts=block.person_starts)

    return patch.object(door, "clip", clip)


def _vectors_unclipped() -> AbstractContextManager[Any]:
    def clip_products(block: Products, _query: BoundedSum) -> ClippedProducts:
        return ClippedProducts(layers=block.layers)

    return patch.object(door, "clip_products", clip_products)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The product with one line changed.

    Attributes:
        broken: changes it while a context is open.
        line: what is changed.
        test: the name of the test that must notice.
    """

    broken: Callable[[], AbstractContextManager[Any]]
    line: str
    test: str


_NOISE = "`add_noise`: `sample(...)` "

BUILDS: Final[dict[str, Build]] = {
    "no noise": Build(broken=_sampler(_none), line=f"{_NOISE}gives zeros", test=VARIANCE),
    "half noise": Build(
        broken=_sampler(_half), line=f"{_NOISE}has half the standard deviation", test=VARIANCE
    ),
    "one share missing": Build(
        broken=_sampler(_all_but_one),
        line=f"{_NOISE}gives zeros at one of {INSTITUTIONS}",
        test=VARIANCE,
    ),
    "key used in two rounds": Build(
        broken=_same_in_rounds,
        line=f"{_NOISE}has the first key again, at one of {INSTITUTIONS}",
        test=ROUNDS,
    ),
    "key shared by two institutions": Build(
        broken=_same_at_two,
        line=f"{_NOISE}has another's key, at one of {INSTITUTIONS}",
        test=SHARED,
    ),
    "no clip of numbers": Build(
        broken=_numbers_unclipped, line="`clip`: `np.clip(...)` is left out", test=ONE_PERSON
    ),
    "no clip of vectors": Build(
        broken=_vectors_unclipped, line="`clip_products`: `fits` is always true", test=ONE_PERSON
    ),
}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How often the tests raised on one build.

    Attributes:
        build: its name.
        runs: of it, each with a seed of its own.
        raised: in how many of them, by the test's name.
        by_any: in how many at least one test raised.
    """

    build: str
    runs: int
    raised: dict[str, int]
    by_any: int


class BrokenBuilds(msgspec.Struct, frozen=True, kw_only=True):
    """What `run broken_builds` found: each broken build, then the product."""

    verdicts: tuple[Verdict, ...]

    def of(self, build: str) -> Verdict:
        """Returns the verdict on a build."""
        return next(one for one in self.verdicts if one.build == build)


def alarms(seed: int) -> set[str]:
    """Returns the names of the tests that raise in one run of the build as it stands."""
    seen, found = run(seed), set()
    for name, test in TESTS.items():
        try:
            test.check(seen)
        except Detected:
            found.add(name)
    return found


def judged(build: str, first: int, runs: int) -> Verdict:
    """Returns how often the tests raise on a build.

    Args:
        build: of `BUILDS`, or `REAL`.
        first: seed.
        runs: seeds from there on.
    """

    def one(seed: int) -> set[str]:  # a fault keeps nothing, such as a key, from run to run
        with nullcontext() if build == REAL else BUILDS[build].broken():
            return alarms(seed)

    found = [one(seed) for seed in range(first, first + runs)]
    raised = Counter(name for names in found for name in names)
    return Verdict(
        build=build,
        runs=runs,
        raised={name: raised[name] for name in TESTS},
        by_any=sum(bool(names) for names in found),
    )


def run_broken_builds(setting: Setting) -> BrokenBuilds:
    """Judges every build."""
    broken, real = (2, 5) if setting.quick else (BROKEN_RUNS, REAL_RUNS)
    parts = [(build, FIRST_BROKEN_SEED, broken) for build in BUILDS]
    parts += [
        (REAL, FIRST_REAL_SEED + start, min(_AT_ONCE, real)) for start in range(0, real, _AT_ONCE)
    ]
    setting.expect(len(parts))
    works = [
        Work(
            made_from={
                "what": "broken_builds",
                "part": list(part),
            },
            compute=judged,
            arguments=part,
        )
        for part in parts
    ]
    found = setting.steps(Verdict, works)
    of_product = [one for one in found if one.build == REAL]
    product = Verdict(
        build=REAL,
        runs=sum(one.runs for one in of_product),
        raised={name: sum(one.raised[name] for one in of_product) for name in TESTS},
        by_any=sum(one.by_any for one in of_product),
    )
    return BrokenBuilds(verdicts=(*(one for one in found if one.build != REAL), product))
