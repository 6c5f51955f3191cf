"""A table of made-up people for a federation of any size, and a plan for it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from experiments.cache import SCHEMAS
from experiments.nation import BEHAVIOUR, COMMON, REPAYMENT, nation
from federation.canonical import public_key_of
from federation.plan import Plan
from federation.schema import Schema, load_schema
from fedscore.machine import system_clock
from fedscore.planning import default_delta, new_plan

PEOPLE_EACH: Final = 500
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))


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
