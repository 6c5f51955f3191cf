"""What quorum, tolerated colluders, spare attempts and stragglers cost: accuracy, budget, time.

Three answers. What the price of a plan says is exact (`experiments.budget.quorums`). Whole masked
trainings on two data sets, in which institutions are late at a stated rate, show test AUC. Whole
masked trainings on made-up people, in which any message may be lost, show how many end, and what
they have spent by their ledgers; one run with five spare attempts tells for any fewer, for draws of
losses do not depend on them.
"""

import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pyarrow.parquet as pq

from experiments.budget.losing import Choice, Loss, Lost, plan_for, train_losing
from experiments.budget.quorums import Cost, Course, cheapest, cost_of, course_of
from experiments.cache import SCHEMAS, digest_of_files
from experiments.datasets import DATASETS, TAIWAN
from experiments.division import KNOWN, Divided, divided, schema_of
from experiments.experiment import Setting, Work
from experiments.made_up import made_up
from experiments.tables import exact_interval
from experiments.trial import People
from federation.schema import Schema, load_schema
from fedscore.planning import smallest_threshold

EPSILON: Final = 1.0
ROUNDS: Final = 20
RATES: Final[tuple[float, ...]] = (0.0, 0.05, 0.1, 0.2)
INSTITUTIONS: Final = 10
MANY: Final = 100
SEEDS: Final = 4
LOST_SEEDS: Final = 12
SPARE: Final[tuple[int, ...]] = (0, 2, 5)
DEADLINE_SECONDS: Final = 60.0
"""What `fedscore coordinator train` waits for an answer unless told otherwise."""


class Once(msgspec.Struct, frozen=True, kw_only=True):
    """One training under losses.

    Attributes:
        auc: on the test people; None if it did not end, or if nobody was tested.
        ended: whether there is a model.
        retries: spare attempts used.
        attempts: at all questions.
        fewest: institutions in the smallest total that was opened, 0 if none was.
        reserved: epsilon of a trained person that the plan promises.
        spent: epsilon of one that ledgers say, at the institution that paid most.
    """

    auc: float | None
    ended: bool
    retries: int
    attempts: int
    fewest: int
    reserved: float
    spent: float


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """All seeds of one case.

    Attributes:
        dataset: name; empty for made-up people, whom nothing is tested on.
        choice: n, m, c, R.
        loss: how institutions were lost.
        rate: of each, see `experiments.budget.losing.Wire`.
        runs: by seed.
    """

    dataset: str
    choice: Choice
    loss: Loss
    rate: float
    runs: tuple[Once, ...]

    def ended(self, spare: int) -> int:
        """Returns how many would have ended with so many spare attempts, at most the plan's."""
        return sum(one.ended and one.retries <= spare for one in self.runs)


class Cheapest(msgspec.Struct, frozen=True, kw_only=True):
    """The choice with the least noise with which 95 % of trainings end; exact.

    Attributes:
        institutions: n.
        colluders: c.
        rate: of those that are late at each attempt, or that leave.
        late: for the first; None if nothing suffices.
        gone: for the second.
    """

    institutions: int
    colluders: int
    rate: float
    late: Course | None
    gone: Course | None


class Dropouts(msgspec.Struct, frozen=True, kw_only=True):
    """What `run dropouts` found.

    Attributes:
        epsilon: of a trained person, bins and spare attempts included, at delta 1e-6, against the
            coordinator and c institutions.
        rounds: of training, after one question for bins.
        deadline: seconds that the coordinator waits for whoever is late.
        costs: of choices, if nobody is late.
        courses: of the same, by rate.
        cheapest: by institutions and rate.
        trained: on data sets, institutions late.
        lost: on made-up people, messages lost.
    """

    epsilon: float
    rounds: int
    deadline: float
    costs: tuple[Cost, ...]
    courses: tuple[Course, ...]
    cheapest: tuple[Cheapest, ...]
    trained: tuple[Cell, ...]
    lost: tuple[Cell, ...]


def run_dropouts(setting: Setting) -> Dropouts:
    """Computes what is exact, and trains the rest."""
    known, rates, rounds = KNOWN, RATES, ROUNDS
    sizes: tuple[int, ...] = (INSTITUTIONS, MANY)
    seeds, lost_seeds = SEEDS, LOST_SEEDS
    if setting.quick:
        known, rates, rounds, sizes, seeds, lost_seeds = (TAIWAN,), (0.0, 0.1), 1, (8,), 1, 1
    choices = [choice for size in sizes for choice in _listed(size)]
    cases = _cases(sizes[0], rates)
    losses = [(choice, rate) for choice in _lossy(sizes[0]) for rate in rates if rate]
    if setting.quick:
        cases, losses = cases[:: len(cases) - 1], losses[:1]
    setting.expect(len(known) * len(cases) * seeds + len(losses) * lost_seeds)
    trained: list[Cell] = []
    for dataset in known:
        with divided(dataset, 0) as data:
            trained += _trained(setting, data, cases, seeds, rounds)
    return Dropouts(
        epsilon=EPSILON,
        rounds=rounds,
        deadline=DEADLINE_SECONDS,
        costs=tuple(
            cost_of(schema_of(TAIWAN), choice, rounds=rounds, epsilon=EPSILON) for choice in choices
        ),
        courses=tuple(
            course_of(choice, rate, rounds=rounds) for choice in choices for rate in rates if rate
        ),
        cheapest=tuple(
            Cheapest(
                institutions=size,
                colluders=1,
                rate=rate,
                late=cheapest(size, 1, rate, rounds=rounds, gone=False),
                gone=cheapest(size, 1, rate, rounds=rounds, gone=True),
            )
            for size in sizes
            for rate in rates
        ),
        trained=tuple(trained),
        lost=_lost(setting, losses, sizes[0], lost_seeds, rounds),
    )


def share_ended(cell: Cell, spare: int) -> tuple[float, float, float]:
    """Returns the share of trainings that ended with so many spare attempts, and its 95 % interval.

    The interval is Clopper's and Pearson's.
    """
    runs, ended = len(cell.runs), cell.ended(spare)
    return ended / runs, *exact_interval(ended, runs)


# What is looked at.


def _listed(size: int) -> list[Choice]:
    """Returns choices for the exact tables: quorums, spare attempts, colluders."""
    third = (size - 1) // 3
    quorums = sorted({smallest_threshold(size, 1), -(-3 * size // 4), -(-9 * size // 10), size})
    listed = [(quorum, 1, spare) for quorum in quorums for spare in SPARE]
    listed += [
        (quorum, colluders, SPARE[1])
        for colluders in sorted({2, third})
        for quorum in sorted({smallest_threshold(size, colluders), size})
        if quorum - colluders >= 2
    ]
    return [
        Choice(institutions=size, quorum=quorum, colluders=colluders, spare_attempts=spare)
        for quorum, colluders, spare in listed
    ]


def _cases(size: int, rates: Sequence[float]) -> list[tuple[Choice, float]]:
    """Returns what is trained on data: late institutions, and choices that only change noise."""
    usual = SPARE[1]

    def choice(quorum: int, colluders: int = 1, spare: int = usual) -> Choice:
        return Choice(institutions=size, quorum=quorum, colluders=colluders, spare_attempts=spare)

    third = (size - 1) // 3
    cases = [(choice(size), 0.0), (choice(size, spare=0), 0.0), (choice(size, spare=SPARE[2]), 0.0)]
    cases += [(choice(size, third), 0.0), (choice(smallest_threshold(size, third), third), 0.0)]
    return cases + list(product((choice(size - 2), choice(smallest_threshold(size, 1))), rates))


def _lossy(size: int) -> list[Choice]:
    """Returns what is tried while any message may be lost."""
    return [
        Choice(institutions=size, quorum=quorum, colluders=1, spare_attempts=SPARE[-1])
        for quorum in (smallest_threshold(size, 1), size - 2)
    ]


# Trainings.


def _trained(
    setting: Setting,
    data: Divided,
    cases: Sequence[tuple[Choice, float]],
    seeds: int,
    rounds: int,
) -> list[Cell]:
    listed = [_Case(choice, Loss.LATE, rate, rounds) for choice, rate in cases]
    arguments = (data.dataset.name, str(data.everyone), data.people)
    return _cells(setting, listed, seeds, _Tried(data.digest, _on_data, arguments))


def _lost(
    setting: Setting,
    cases: Sequence[tuple[Choice, float]],
    size: int,
    seeds: int,
    rounds: int,
) -> tuple[Cell, ...]:
    with tempfile.TemporaryDirectory() as scratch:
        _, table = made_up(Path(scratch), size)
        listed = [_Case(choice, Loss.LOST, rate, rounds) for choice, rate in cases]
        tried = _Tried(digest_of_files([table]), _on_made_up, (str(table),))
        return tuple(_cells(setting, listed, seeds, tried))


class _Case(NamedTuple):
    """What is tried with each seed."""

    choice: Choice
    loss: Loss
    rate: float
    rounds: int


class _Tried(NamedTuple):
    """On whom: the digest of their tables, and a function of a case, a seed, and arguments."""

    digest: str
    compute: Callable[..., Once]
    arguments: tuple[object, ...]


def _cells(setting: Setting, cases: Sequence[_Case], seeds: int, tried: _Tried) -> list[Cell]:
    works = [
        Work(
            made_from={
                "what": "dropouts",
                "data": tried.digest,
                "case": msgspec.to_builtins(tuple(case)),
                "epsilon": EPSILON,
                "seed": seed,
            },
            compute=tried.compute,
            arguments=(case, seed, *tried.arguments),
        )
        for case in cases
        for seed in range(seeds)
    ]
    found = setting.steps(Once, works)
    return [
        Cell(
            dataset=str(tried.arguments[0]) if case.loss is Loss.LATE else "",
            choice=case.choice,
            loss=case.loss,
            rate=case.rate,
            runs=tuple(found[place * seeds : (place + 1) * seeds]),
        )
        for place, case in enumerate(cases)
    ]


def _on_data(case: _Case, seed: int, dataset: str, table: str, tested: People) -> Once:
    """Returns a training in which institutions are late, and its AUC on the test people."""
    done = _done(case, seed, schema_of(DATASETS[dataset]), table)
    return _once(done, None if done.card is None else tested.auc(done.card))


def _on_made_up(case: _Case, seed: int, table: str) -> Once:
    """Returns a training in which messages are lost; nobody is tested."""
    schema = load_schema((SCHEMAS / "nation.toml").read_text())
    return _once(_done(case, seed, schema, table), None)


def _done(case: _Case, seed: int, schema: Schema, table: str) -> Lost:
    people = pq.read_metadata(table).num_rows
    plan = plan_for(
        schema,
        case.choice,
        rounds=case.rounds,
        people=people,
        epsilon=EPSILON,
        most_per_institution=people,
    )
    return train_losing(plan, schema, Path(table), loss=case.loss, rate=case.rate, seed=seed)


def _once(done: Lost, auc: float | None) -> Once:
    return Once(
        auc=auc,
        ended=done.ended,
        retries=done.retries,
        attempts=done.attempts,
        fewest=min(done.answers, default=0),
        reserved=done.reserved,
        spent=done.spent,
    )
