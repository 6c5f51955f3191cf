"""How long a nation takes: 10 to 400 institutions in one process, 30 rounds.

The whole product as `fedscore simulate --no-inspect` runs it: one table dealt to all, signed plan,
policies, snapshots, a ledger of its own on disk for each, the door, the evaluation on held-out
people, the release. Institutions answer one after the other and each answer waits until its ledger
has reached the disk; in a real federation all of them work at the same time, each on a machine of
its own. Nothing is kept in the cache: a time is measured when it is asked for. Each size runs in a
process of its own, so that its peak of memory is its own.
"""

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from experiments.division import SCHEMAS
from experiments.entropy import SeededEntropy
from experiments.experiment import Setting
from experiments.nation import BEHAVIOUR, COMMON, REPAYMENT, nation
from experiments.plain import plain_sums
from federation.canonical import public_key_of
from federation.plan import Plan
from federation.schema import Schema, load_schema
from fedscore.bench import peak_bytes
from fedscore.dealing import deal_table
from fedscore.machine import system_clock
from fedscore.planning import default_delta, new_plan
from fedscore.simulation import simulate

SIZES: Final[tuple[int, ...]] = (10, 30, 100, 400)
ROUNDS: Final = 30
PEOPLE_EACH: Final = 500
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))


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


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """What `run scale` found.

    Attributes:
        rounds: of training, beside one of bins and one of evaluation.
        cores: of the machine; one thread does nearly all the work.
        sizes: from small to large.
    """

    rounds: int
    cores: int
    sizes: tuple[OfSize, ...]

    def each(self, one: OfSize) -> float:
        """Returns seconds of training for each round and institution."""
        return one.training / (self.rounds * one.institutions)


def run_scale(setting: Setting) -> Scale:
    """Runs federations of growing size."""
    sizes, rounds = ((4, 8), 2) if setting.quick else (SIZES, ROUNDS)
    setting.expect(len(sizes))
    found = []
    for institutions in sizes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            found.append(alone.submit(measured, institutions, rounds).result())
        setting.advance()
    return Scale(rounds=rounds, cores=os.cpu_count() or 1, sizes=tuple(found))


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


def made_up(directory: Path, institutions: int) -> tuple[Schema, Path]:
    """Returns a schema and a table, written there, of 500 made-up people for each institution."""
    table = directory / "everybody.parquet"
    blocks = (
        block.table(np.ones(block.people, np.bool_), COMMON + BEHAVIOUR + REPAYMENT)
        for block in nation(institutions * PEOPLE_EACH, seed=0)
    )
    pq.write_table(pa.concat_tables(blocks), table)
    return load_schema((SCHEMAS / "nation.toml").read_text()), table


def plan_of_size(schema: Schema, institutions: int, rounds: int) -> Plan:
    """Returns a signed plan: three in four must answer, a quarter of the people is held out."""
    people = institutions * PEOPLE_EACH
    return new_plan(
        schema=schema,
        name="scale",
        federation="scale",
        purpose="scale",
        coordinator=public_key_of(KEY),
        invited=tuple(f"bank-{number:03}" for number in range(institutions)),
        quorum=institutions * 3 // 4,
        colluders=1,
        spare_attempts=2,
        rounds=rounds,
        people=people,
        most_per_institution=2 * PEOPLE_EACH,
        held_out_fraction=0.25,
        epsilon=1.0,
        delta=default_delta(people),
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=1,
        salt="0" * 64,
    ).signed(KEY)
