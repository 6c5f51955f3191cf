"""Deals one table to many institutions, for simulations that have no natural ones."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from clients.configuration import Configuration
from clients.policy import Peers, Policy
from clients.table_file import TableFile
from federation.errors import ConfigurationError
from federation.plan import MOST_ROUNDS, Plan
from federation.schema import ROW_AS_KEY, Schema


def deal_table(
    plan: Plan, schema: Schema, table: Path, directory: Path
) -> tuple[Configuration, ...]:
    """Writes one table for each invited institution: every person to one, by a hash of the key.

    Args:
        plan: names the institutions, and makes up their policies: each accepts this very plan.
        schema: names the person key.
        table: Parquet or CSV; read as a whole.
        directory: exists; gets one Parquet file an institution.

    Returns:
        One configuration for each institution.

    Raises:
        ConfigurationError: an institution would get more people than the plan says.
    """
    file = TableFile(table)
    people = pa.Table.from_batches(file.batches(list(file.names)))
    names = plan.participation.invited
    keys = (
        range(people.num_rows)
        if schema.person_key == ROW_AS_KEY
        else people.column(schema.person_key).to_pylist()
    )
    owners = np.fromiter((_owner(key, len(names)) for key in keys), np.int64)
    most = max(Counter(_owner(key, len(names)) for key in set(keys)).values(), default=0)
    if most > plan.people.most_per_institution:
        raise ConfigurationError(
            f"Dealt to {len(names)} institutions, this table gives one {most:,} people, more "
            f"than the plan's most_per_institution = {plan.people.most_per_institution:,}. Draft a "
            "plan with a larger --most-per-institution."
        )
    policy = Policy(
        coordinator=plan.coordinator,
        approved_peers=Peers.ROSTER,
        purposes=(plan.purpose,),
        modes=(plan.mode_name,),
        least_participants=3,
        least_quorum=3,
        least_threshold=3,
        least_colluders=1,
        least_audited_share=0.0,
        longest_validity_days=3650,
        rounds_per_hour=MOST_ROUNDS,
        delta=plan.privacy.delta,
        epsilon_per_plan=plan.privacy.epsilon,
        epsilon_per_year=plan.privacy.epsilon,
        epsilon_lifetime=plan.privacy.epsilon,
    )
    members = []
    for number, name in enumerate(names):
        own = directory / f"{name}{table.suffix.lower()}"
        write = pacsv.write_csv if file.is_csv else pq.write_table
        write(people.filter(pa.array(owners == number)), own)
        members.append(
            Configuration(
                id=name,
                title=name,
                most_people=plan.people.most_per_institution,
                table=str(own),
                policy=policy,
            )
        )
    return tuple(members)


def _owner(key: object, institutions: int) -> int:
    drawn = hashlib.sha256(f"deal:{key}".encode()).digest()
    return int.from_bytes(drawn[:8], "little") % institutions
