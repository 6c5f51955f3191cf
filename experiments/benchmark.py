"""The national scorecard on Taiwan credit cards, all 23 columns scored: comparison only.

    python -m experiments.benchmark            runs it and writes results/taiwan.json

Ten institutions, quorum 10, one colluder, the budget for bins included, delta 1e-6, 20
rounds, stratified 75/25 split with seed 0, five noise seeds. The whole product runs: plans,
ledgers, snapshots, the door, the release; only the noise keys are seeded.
"""

import hashlib
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.model_selection import train_test_split

from clients.configuration import Configuration
from clients.policy import Policy
from clients.snapshot import Snapshot, take_snapshot
from experiments.entropy import SeededEntropy
from federation.canonical import public_key_of
from federation.grid import Role
from federation.model.exact_auc import auc_of
from federation.model.release import Release
from federation.population import Split
from federation.privacy.units import Population
from federation.schema import Schema, load_schema
from fedscore.demo.nation import TABLE
from fedscore.planning import new_plan
from fedscore.simulation import simulate, system_clock

HERE: Final = Path(__file__).parent
SCHEMA: Final = HERE / "schemas" / "taiwan_all.toml"
RESULT: Final = HERE / "results" / "taiwan.json"
EPSILONS: Final = (0.1, 0.5, 1.0, 4.0)
SEEDS: Final = 5
INSTITUTIONS: Final = tuple(f"bank-{number}" for number in range(10))
ROUNDS: Final = 20
DELTA: Final = 1e-6
_PURPOSE: Final = "comparison"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The result at one epsilon.

    Attributes:
        epsilon: per trained person, bins and spare attempts included, against the coordinator and
            one institution; neighbours add or remove one person at one institution; delta 1e-6.
        auc: test AUC of each noise seed.
        seconds: of one training with ten institutions in one process, ledgers on disk, median.
    """

    epsilon: float
    auc: tuple[float, ...]
    seconds: float

    @property
    def mean(self) -> float:
        """Mean test AUC."""
        return float(np.mean(self.auc))

    @property
    def standard_error(self) -> float:
        """Of the mean, over noise seeds."""
        return float(np.std(self.auc, ddof=1) / np.sqrt(len(self.auc)))


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `python -m experiments.benchmark` found.

    Attributes:
        data: sha256 of the table.
        schema: digest of the schema.
        rounds: training rounds.
        rows: one for each epsilon.
    """

    data: str
    schema: str
    rounds: int
    rows: tuple[Row, ...]


def main() -> int:
    """Runs the benchmark, prints its table and writes its result."""
    result = measure()
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    table = Table(title=f"Test AUC, mean of {SEEDS} noise seeds")
    for heading in ("Epsilon", "AUC", "Standard error", "Seconds"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        table.add_row(
            f"{row.epsilon:g}", f"{row.mean:.4f}", f"{row.standard_error:.4f}", f"{row.seconds:.1f}"
        )
    Console().print(table)
    return 0


def measure() -> Result:
    """Returns the result of all epsilons and seeds."""
    schema = load_schema(SCHEMA.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        test = _deal(schema, directory)
        runs = [(epsilon, seed) for epsilon in EPSILONS for seed in range(SEEDS)]
        found: dict[float, list[tuple[float, float]]] = {epsilon: [] for epsilon in EPSILONS}
        for epsilon, seed in track(runs, "Training", console=Console(stderr=True)):
            release, seconds = _train(schema, directory, epsilon, seed)
            found[epsilon].append((_test_auc(release, test), seconds))
    return Result(
        data=hashlib.sha256(TABLE.read_bytes()).hexdigest(),
        schema=schema.digest,
        rounds=ROUNDS,
        rows=tuple(
            Row(
                epsilon=epsilon,
                auc=tuple(auc for auc, _ in pairs),
                seconds=float(np.median([seconds for _, seconds in pairs])),
            )
            for epsilon, pairs in found.items()
        ),
    )


def _deal(schema: Schema, directory: Path) -> Snapshot:
    """Writes the institutions' tables; returns the test people."""
    people = pq.read_table(TABLE)
    outcome = people.column("default").to_numpy()
    trained, tested = train_test_split(
        np.arange(len(outcome)), test_size=0.25, stratify=outcome, random_state=0
    )
    owners = np.array([hashlib.sha256(str(one).encode()).digest()[0] % 10 for one in trained])
    for number, name in enumerate(INSTITUTIONS):
        own = people.take(pa.array(trained[owners == number]))
        pq.write_table(own, directory / f"{name}.parquet")
    pq.write_table(people.take(pa.array(tested)), directory / "test.parquet")
    return take_snapshot(
        schema,
        directory / "test.parquet",
        not_held=frozenset(),
        split=Split(salt="0" * 64, held_out_fraction=0.0),
        directory=directory / "test",
    )


def _train(schema: Schema, directory: Path, epsilon: float, seed: int) -> tuple[Release, float]:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    plan = new_plan(
        schema=schema,
        name="comparison",
        federation="comparison",
        purpose=_PURPOSE,
        coordinator=public_key_of(key),
        invited=INSTITUTIONS,
        quorum=10,
        colluders=1,
        spare_attempts=2,
        rounds=ROUNDS,
        people=22_500,
        most_per_institution=5_000,
        held_out_fraction=0.0,
        epsilon=epsilon,
        delta=DELTA,
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=1,
        salt="0" * 64,
    ).signed(key)
    policy = Policy(
        coordinator=plan.coordinator,
        purposes=(_PURPOSE,),
        least_quorum=10,
        least_colluders=1,
        delta=DELTA,
        epsilon_per_plan=epsilon,
        epsilon_per_year=epsilon,
        epsilon_lifetime=epsilon,
    )
    members = tuple(
        Configuration(
            id=name,
            title=name,
            most_people=plan.people.most_per_institution,
            table=str(directory / f"{name}.parquet"),
            policy=policy,
        )
        for name in INSTITUTIONS
    )
    simulation = simulate(
        plan=plan,
        schema=schema,
        members=members,
        key=key,
        out=directory / f"run-{epsilon}-{seed}",
        watch=lambda _: None,
        inspect=False,
        entropy=SeededEntropy(f"{epsilon} {seed}"),
    )
    return simulation.release, simulation.seconds


def _test_auc(release: Release, test: Snapshot) -> float:
    scored = [i for i, grid in enumerate(release.schema.grids) if grid.role is Role.SCORED]
    blocks = list(test.blocks(Population.TRAINED))
    scores = np.concatenate([release.card.scores(block.codes[scored]) for block in blocks])
    return auc_of(scores, np.concatenate([block.bad for block in blocks]).astype(bool)).value


if __name__ == "__main__":
    sys.exit(main())
