"""`make demo`: eight institutions train a scorecard together, on real people, in this process."""

import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.configuration import Configuration
from clients.policy import Peers, Policy
from federation.canonical import public_key_of
from federation.errors import FedscoreError
from federation.plan import MOST_ROUNDS, Plan
from federation.privacy.entropy import Entropy
from federation.schema import Schema, load_schema
from fedscore.demo.nation import (
    EPSILON_LIFETIME,
    EPSILON_PER_PLAN,
    EPSILON_PER_YEAR,
    HOLDERS,
    SCHEMA,
    Columns,
    deal_tables,
    not_held,
)
from fedscore.demo.report import Demo, write_report
from fedscore.machine import system_clock, system_entropy
from fedscore.planning import default_delta, new_plan
from fedscore.progress import watching
from fedscore.showing import console
from fedscore.simulation import Simulation, simulate
from fedscore.tables import members_table, quality_table, statement_table

PURPOSE: Final = "credit-scoring"
PEOPLE: Final = 30_000
ROUNDS: Final = 20
SALT: Final = "7d" * 32
OUT: Final = Path("demo-output")


def run_demo(out: Path, *, entropy: Entropy = system_entropy) -> Demo:
    """Returns the demo's three trainings: columns as staged, shared only, everything.

    Args:
        out: a directory that does not exist yet.
        entropy: the operating system's, but for experiments that seed it.
    """
    schema = load_schema(SCHEMA.read_text())
    key = Ed25519PrivateKey.generate()
    plan = new_plan(
        schema=schema,
        name="demo",
        federation="taiwan-demo",
        purpose=PURPOSE,
        coordinator=public_key_of(key),
        invited=tuple(holder.id for holder in HOLDERS),
        quorum=len(HOLDERS),
        colluders=1,
        spare_attempts=2,
        rounds=ROUNDS,
        people=PEOPLE,
        most_per_institution=10_000,
        held_out_fraction=0.25,
        epsilon=EPSILON_PER_PLAN,
        delta=default_delta(PEOPLE),
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=1,
        salt=SALT,
    ).signed(key)
    runs = {
        columns: _train(columns, plan, schema, key, out=out / str(columns), entropy=entropy)
        for columns in Columns
    }
    return Demo(
        plan=plan,
        schema=schema,
        as_staged=runs[Columns.AS_STAGED],
        shared_only=runs[Columns.SHARED_ONLY],
        everything=runs[Columns.EVERYTHING],
    )


def _train(
    columns: Columns,
    plan: Plan,
    schema: Schema,
    key: Ed25519PrivateKey,
    *,
    out: Path,
    entropy: Entropy,
) -> Simulation:
    policy = Policy(
        coordinator=plan.coordinator,
        approved_peers=Peers.ROSTER,
        purposes=(PURPOSE,),
        least_participants=3,
        least_quorum=3,
        least_threshold=3,
        least_colluders=1,
        least_audited_share=0.0,
        longest_validity_days=3650,
        rounds_per_hour=MOST_ROUNDS,
        delta=plan.privacy.delta,
        epsilon_per_plan=EPSILON_PER_PLAN,
        epsilon_per_year=EPSILON_PER_YEAR,
        epsilon_lifetime=EPSILON_LIFETIME,
    )
    with (
        tempfile.TemporaryDirectory() as tables_directory,
        watching(f"Columns {columns}", plan.rounds) as watch,
    ):
        tables = deal_tables(Path(tables_directory), columns)
        return simulate(
            plan=plan,
            schema=schema,
            members=tuple(
                Configuration(
                    id=holder.id,
                    title=holder.title,
                    most_people=plan.people.most_per_institution,
                    table=str(tables[holder.id]),
                    not_held=not_held(holder, columns),
                    policy=policy,
                )
                for holder in HOLDERS
            ),
            key=key,
            out=out,
            watch=watch,
            noise_entropy=entropy,
        )


def main() -> int:
    """Runs the demo, prints what happened and writes the report."""
    out = console()
    out.print(
        "Eight institutions hold 30,000 real people (credit cards, Taiwan 2005). None shows its\n"
        "records to anybody. They train one national scorecard together."
    )
    shutil.rmtree(OUT, ignore_errors=True)
    try:
        demo = run_demo(OUT)
        path = write_report(demo, OUT / "report.html")
    except FedscoreError as error:
        out.print(f"[red]{error}[/red]")
        return error.exit_code
    out.print(members_table(demo.as_staged))
    out.print(statement_table(demo.as_staged.release))
    out.print(quality_table(demo.as_staged.release))
    out.print(f"The whole story, with plots: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
