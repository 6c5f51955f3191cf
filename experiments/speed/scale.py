"""How long a nation takes: 3 to 400 institutions, 10,000 people to a billion.

An institution's answer grows with its people: it is measured from 1,000 to 10 million, a law is
fitted, and 100 million, which the fit has not seen, show how far it can be trusted. Masks and the
coordinator's part grow with the institutions and are measured up to the most that a plan may have.
Noise follows from the plan alone. Beside the parts, the whole product as `fedscore simulate
--no-inspect` runs it, all in one process, one institution after the other, each answer durable in a
ledger of its own: an upper bound for everything but masks.

Nothing is kept in the cache: a time is measured when it is asked for. Each size runs in a process
of its own, so that its peak of memory is its own.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from experiments.entropy import SeededEntropy
from experiments.experiment import Setting, read_result
from experiments.made_up import KEY, PEOPLE_EACH, made_up, plan_of_size
from experiments.plain import plain_sums
from experiments.speed.alone import Runner, alone, here
from experiments.speed.growth import Law, Point, fitted
from experiments.speed.live_daemon import CARRYING, LOOKING, WAITING
from experiments.speed.live_rounds import LiveRounds
from experiments.speed.scale_parts import (
    Answering,
    Kept,
    Masking,
    Noise,
    answering,
    kept,
    load_before,
    masking,
    noise_of,
)
from federation.errors import ConfigurationError
from fedscore.bench import peak_bytes
from fedscore.dealing import deal_table
from fedscore.simulation import simulate

SIZES: Final[tuple[int, ...]] = (10, 30, 100, 400)
ROUNDS: Final = 30

PEOPLE: Final[tuple[int, ...]] = (10**3, 10**4, 10**5, 10**6, 10**7)
UNSEEN: Final = 10**8
"""People of one institution that are measured, but that no law is fitted to."""

GROUPS: Final[tuple[int, ...]] = (3, 10, 30, 100, 400)
NATIONS: Final[tuple[int, ...]] = (10**4, 10**5, 10**6, 10**7, 10**8, 10**9)
RUNS: Final = 3
_INTAKE_UP_TO: Final = 10**6
"""People up to which each run also reads a table; beyond, one of them does."""


class OfSize(msgspec.Struct, frozen=True, kw_only=True):
    """One federation.

    Attributes:
        institutions: all invited; three in four of them must answer.
        people: of all institutions, a quarter of them held out.
        setting_up: seconds to deal the table, make ledgers, and take snapshots.
        training: seconds from the invitation until every institution has closed the plan.
        cpu: seconds of this process and the system on its behalf, for both.
        peak_bytes: most memory that the process ever held, its libraries included.
    """

    institutions: int
    people: int
    setting_up: float
    training: float
    cpu: float
    peak_bytes: int


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """What a round of real processes took, from the committed result of `run live_rounds`.

    Attributes:
        round: seconds of a round by institutions, all of them on one machine.
        cores: of that machine.
        polling: seconds of a round that the mean institution of the smallest federation carried
            messages, asked for them, and waited until it asked again.
        other: seconds that it spent on its ledger, records, envelopes and checks, in the largest.
        memory: bytes of an institution's daemon, the largest.
    """

    round: Law
    cores: int
    polling: float
    other: float
    memory: int


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """What `run scale` found.

    Attributes:
        answering: an institution's answer, by its people; laws are fitted to these.
        unseen: the same for people that no law was fitted to; None in a small version.
        step: CPU seconds of an answer by people.
        first_pass: CPU seconds from a snapshot to packed bins.
        intake: CPU seconds from a table to a snapshot.
        masking: masked rounds, by institutions.
        institution: CPU seconds of an institution's part in a masked round, by institutions.
        coordinator: CPU seconds of the coordinator's.
        kept: files, by institutions.
        noise: by people and institutions.
        live: a round of real processes.
        rounds: of whole trainings in one process, beside one of bins and one of evaluation.
        cores: of the machine; one thread does nearly all the work.
        load: of the machine in the minute before the run.
        sizes: whole trainings, from small to large.
    """

    answering: tuple[Answering, ...]
    unseen: Answering | None
    step: Law
    first_pass: Law
    intake: Law
    masking: tuple[Masking, ...]
    institution: Law
    coordinator: Law
    kept: tuple[Kept, ...]
    noise: tuple[Noise, ...]
    live: Live
    rounds: int
    cores: int
    load: float
    sizes: tuple[OfSize, ...]

    def each(self, one: OfSize) -> float:
        """Returns seconds of training for each round and institution."""
        return one.training / (self.rounds * one.institutions)


def run_scale(setting: Setting) -> Scale:
    """Measures the parts of a round by their size, and whole trainings."""
    sizes, rounds, people, groups, runs = SIZES, ROUNDS, PEOPLE, GROUPS, RUNS
    nations, unseen = NATIONS, UNSEEN
    keeping: tuple[int, ...] = (10, 20)
    by: Runner = alone
    if setting.quick:
        sizes, rounds, people, groups, runs = (4,), 2, (10**3, 10**4), (3, 5), 2
        nations, keeping, unseen, by = (10**4,), (4,), 0, here
    setting.expect(len(people) + bool(unseen) + len(groups) + len(keeping) + len(sizes))
    of_processes = live()
    load = load_before()
    found: list[OfSize] = []
    for institutions in sizes:
        found.append(by(OfSize, measured, institutions, rounds))
        setting.advance()
    answers = []
    for count in people:
        intake = runs if count <= _INTAKE_UP_TO else 1
        answers.append(answering(count, runs, intake=intake, by=by))
        setting.advance()
    beyond = None
    if unseen:
        beyond = answering(unseen, 1, intake=0, by=by)
        setting.advance()
    masks = []
    for institutions in groups:
        masks.append(by(Masking, masking, institutions, runs))
        setting.advance()
    files = []
    for institutions in keeping:
        files.append(by(Kept, kept, institutions, 2))
        setting.advance()
    return Scale(
        answering=tuple(answers),
        unseen=beyond,
        step=_law_of_people(answers, "step"),
        first_pass=_law_of_people(answers, "first_pass"),
        intake=_law_of_people(answers, "intake"),
        masking=tuple(masks),
        institution=_law_of_groups(masks, "institution", (0, 1)),
        coordinator=_law_of_groups(masks, "coordinator", (1, 2)),
        kept=tuple(files),
        noise=tuple(noise_of(count, group) for count in nations for group in groups),
        live=of_processes,
        rounds=rounds,
        cores=os.cpu_count() or 1,
        load=load,
        sizes=tuple(found),
    )


def live() -> Live:
    """Returns what the committed result of `run live_rounds` says about a round.

    Raises:
        ConfigurationError: there is no such result.
    """
    result = read_result("live_rounds", LiveRounds)
    if result is None:
        raise ConfigurationError("Run this first: python -m experiments run live_rounds.")
    found = result.found
    rounds = [
        Point(size=one.institutions, value=seconds) for one in found.ours for seconds in one.rounds
    ]
    parts = [one.institution.parts for one in found.ours if one.institution is not None]
    carrying = (CARRYING, LOOKING, WAITING)
    return Live(
        round=fitted(rounds, (0, 1)),
        cores=found.cores,
        polling=sum(parts[0][name] for name in carrying),
        other=sum(seconds for name, seconds in parts[-1].items() if name not in carrying),
        memory=max(memory.once for one in found.ours for memory in one.memory),
    )


def _law_of_people(answers: Sequence[Answering], name: str) -> Law:
    points = [
        Point(size=one.people, value=seconds) for one in answers for seconds in getattr(one, name)
    ]
    return fitted(points, (0, 1))


def _law_of_groups(masks: Sequence[Masking], name: str, powers: tuple[float, ...]) -> Law:
    points = [
        Point(size=one.institutions, value=seconds)
        for one in masks
        for seconds in getattr(one, name)
    ]
    return fitted(points, powers)


def measured(institutions: int, rounds: int) -> OfSize:
    """Returns what one federation of made-up people takes in this process."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        schema, table = made_up(directory, institutions)
        plan = plan_of_size(schema, institutions, rounds)
        entropy = SeededEntropy("scale")
        started, cpu = time.perf_counter(), time.process_time()
        (directory / "dealt").mkdir()
        done = simulate(
            plan=plan,
            schema=schema,
            members=deal_table(plan, schema, table, directory / "dealt"),
            key=KEY,
            out=directory / "run",
            watch=lambda _: None,
            inspect=False,
            noise_entropy=entropy,
            plain=plain_sums(entropy),
        )
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return OfSize(
        institutions=institutions,
        people=institutions * PEOPLE_EACH,
        setting_up=seconds - done.seconds,
        training=done.seconds,
        cpu=cpu,
        peak_bytes=peak_bytes(),
    )
