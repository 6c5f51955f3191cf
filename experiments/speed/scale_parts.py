"""The parts of a round, each measured in a process of its own: answers, masks, whole trainings.

CPU seconds, which other programs on the machine change little. What an answer takes grows with an
institution's people, and is measured by the product's own bench (`fedscore bench step`); what masks
take grows with the institutions (`experiments.speed.mask_rounds`).
"""

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.blocks import BlockFile
from experiments.made_up import made_up
from experiments.speed.alone import Runner
from experiments.speed.mask_rounds import Party, begun, most_colluders, run_round
from federation.canonical import public_key_of
from federation.plan import Plan
from federation.pricing import stddev_of_total
from federation.query import Question
from federation.schema import Schema
from federation.secure_aggregation.words import WORD_BITS
from fedscore.bench import CELLS, bench_step, made_up_schema, peak_bytes
from fedscore.dealing import deal_table
from fedscore.machine import system_clock
from fedscore.planning import default_delta, new_plan, smallest_threshold
from fedscore.simulation import LEDGERS, RECORDS, TRANSCRIPT_FILE, simulate

FEATURES: Final = 20
BINS: Final = 10
NUMBERS: Final = FEATURES * BINS + 1
"""In the sum of a training round."""

OF_BINS: Final = 2 * CELLS * FEATURES
"""In the sum that bins are made of: good and bad people in each fine cell."""

HASH_BYTES: Final = 8
"""Of each person beside the snapshot's codes, so that a withdrawal finds its rows."""

EPSILON: Final = 1.0
ROUNDS: Final = 20
_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))


class Answering(msgspec.Struct, frozen=True, kw_only=True):
    """One institution's answer to a training round, by its people.

    Attributes:
        people: trained, one row each.
        step: CPU seconds of an answer, one figure a run, each the median of five.
        first_pass: CPU seconds from the snapshot to packed bins, once a training; one figure a run.
        intake: CPU seconds from a Parquet file to a snapshot, once a training; empty if it was not
            measured at this size.
        packed: bytes on disk that an answer reads.
        snapshot: bytes on disk, hashes of people included.
        peak_bytes: most memory that the process ever held, its libraries included, by run.
    """

    people: int
    step: tuple[float, ...]
    first_pass: tuple[float, ...]
    intake: tuple[float, ...]
    packed: int
    snapshot: int
    peak_bytes: tuple[int, ...]


class Masking(msgspec.Struct, frozen=True, kw_only=True):
    """What a masked round takes, by the number of institutions; nobody drops out.

    Attributes:
        institutions: n.
        threshold: t.
        institution: CPU seconds of the mean institution in a round, by round.
        coordinator: CPU seconds of the coordinator, by round.
        sent: bytes that an institution sends in a round.
        received: bytes that it receives.
        session: CPU seconds of an institution, once a session.
        session_bytes: that it receives then.
        peak_bytes: most memory that the process ever held with all parties in it.
    """

    institutions: int
    threshold: int
    institution: tuple[float, ...]
    coordinator: tuple[float, ...]
    sent: int
    received: int
    session: float
    session_bytes: int
    peak_bytes: int


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Files after a whole masked training.

    Attributes:
        institutions: n.
        questions: that were answered.
        transcript: bytes at the coordinator.
        institution: bytes of an institution's ledger and records.
    """

    institutions: int
    questions: int
    transcript: int
    institution: int


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """Noise in the totals of a plan, everybody in; exact.

    Attributes:
        people: N of the plan.
        institutions: n.
        quorum: m.
        colluders: c.
        delta: of the plan.
        step: standard deviation of each number in a training round's total, in people.
        bins: of each count that bins are made of, in people.
    """

    people: int
    institutions: int
    quorum: int
    colluders: int
    delta: float
    step: float
    bins: float


def answering(people: int, runs: int, *, intake: int, by: Runner) -> Answering:
    """Measures an institution's answer.

    Args:
        people: of it.
        runs: of the bench.
        intake: in how many of them a table is read, too.
        by: runs it.
    """
    found = [by(_Bench, benched, people, run < intake) for run in range(runs)]
    snapshot = BlockFile(path=Path(), block_rows=(people,), width=FEATURES, many=False)
    return Answering(
        people=people,
        step=tuple(one.step for one in found),
        first_pass=tuple(one.first_pass for one in found),
        intake=tuple(one.intake for one in found if one.intake is not None),
        packed=found[0].packed,
        snapshot=snapshot.size + HASH_BYTES * people,
        peak_bytes=tuple(one.peak_bytes for one in found),
    )


class _Bench(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the product's bench."""

    step: float
    first_pass: float
    intake: float | None
    packed: int
    peak_bytes: int


def benched(people: int, intake: bool) -> _Bench:
    """Runs the product's bench in this process."""
    bench = bench_step(people=people, features=FEATURES, bins=BINS, law=False, parquet=intake)
    (one,) = bench.sizes
    return _Bench(
        step=one.step.cpu,
        first_pass=one.first_pass.cpu,
        intake=None if one.from_parquet is None else one.from_parquet.cpu,
        packed=one.bytes_read,
        peak_bytes=one.peak_bytes,
    )


def masking(institutions: int, runs: int) -> Masking:
    """Measures masked rounds of so many institutions, all in this process."""
    joint = begun(institutions)
    rounds = [
        run_round(joint, parameters=NUMBERS, bits=WORD_BITS[-1], dropped=0, attempt=run)
        for run in range(runs)
    ]
    one = rounds[-1].institution
    return Masking(
        institutions=institutions,
        threshold=rounds[-1].threshold,
        institution=tuple(_seconds(found.institution) for found in rounds),
        coordinator=tuple(_seconds(found.coordinator) for found in rounds),
        sent=sum(one.sent.values()),
        received=sum(one.received.values()),
        session=_seconds(joint.institution),
        session_bytes=sum(joint.institution.received.values()),
        peak_bytes=peak_bytes(),
    )


def _seconds(party: Party) -> float:
    return sum(party.seconds.values())


def kept(institutions: int, rounds: int) -> Kept:
    """Runs a whole masked training of made-up people and looks at its files."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        schema, table = made_up(directory, institutions)
        plan = plan_over(schema, institutions=institutions, people=10**6, rounds=rounds).signed(
            _KEY
        )
        (directory / "dealt").mkdir()
        out = directory / "run"
        simulate(
            plan=plan,
            schema=schema,
            members=deal_table(plan, schema, table, directory / "dealt"),
            key=_KEY,
            out=out,
            watch=lambda _: None,
            inspect=False,
        )
        states = [path for of in (LEDGERS, RECORDS) for path in (out / of).iterdir()]
        return Kept(
            institutions=institutions,
            questions=rounds + 2,
            transcript=(out / TRANSCRIPT_FILE).stat().st_size,
            institution=sum(path.stat().st_size for path in states) // institutions,
        )


def noise_of(people: int, institutions: int) -> Noise:
    """Returns the noise in a total that everybody is in, at epsilon 1."""
    schema = made_up_schema(FEATURES, person_key="person")
    plan = plan_over(schema, institutions=institutions, people=people, rounds=ROUNDS)
    return Noise(
        people=people,
        institutions=institutions,
        quorum=plan.participation.quorum,
        colluders=plan.participation.colluders,
        delta=plan.privacy.delta,
        step=stddev_of_total(plan, Question.STEP, institutions),
        bins=stddev_of_total(plan, Question.BINS, institutions),
    )


def plan_over(schema: Schema, *, institutions: int, people: int, rounds: int) -> Plan:
    """Returns an unsigned plan of many: just under a third may conspire, three in four must answer.

    Args:
        schema: of the tables.
        institutions: n.
        people: N; delta follows from it.
        rounds: of training.
    """
    colluders = most_colluders(institutions)
    threshold = smallest_threshold(institutions, colluders)
    return new_plan(
        schema=schema,
        name="scale",
        federation="scale",
        purpose="scale",
        coordinator=public_key_of(_KEY),
        invited=tuple(f"bank-{number:03}" for number in range(institutions)),
        quorum=max(threshold, colluders + 2, institutions * 3 // 4),
        colluders=colluders,
        spare_attempts=2,
        rounds=rounds,
        people=people,
        most_per_institution=people,
        held_out_fraction=0.25,
        epsilon=EPSILON,
        delta=default_delta(people),
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=1,
        salt="0" * 64,
    )


def load_before() -> float:
    """Returns the load of the machine in the minute before, as `uptime` says it."""
    return os.getloadavg()[0]
