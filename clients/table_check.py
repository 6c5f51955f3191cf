"""Checks of the schema, the whole table against it, and the space that a snapshot needs."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from clients.columns import check_not_held
from clients.configuration import DaemonConfiguration
from clients.finding import Finding, failed, looked_at, passed, warned
from clients.premises import Premises
from clients.table import ContractReader
from federation.schema import ROW_AS_KEY, Schema

_SPARE_BYTES: Final = 64 * 2**20
"""For ledger, records and logs of a plan."""


def schema(
    configuration: DaemonConfiguration, read_schema: Callable[[Path], Schema]
) -> tuple[Finding, Schema | None]:
    """Returns whether the schema is one and fits the configuration; and the schema if so."""
    read: list[Schema] = []

    def look() -> Finding:
        found = read_schema(Path(configuration.schema))
        check_not_held(found, frozenset(configuration.not_held))
        if found.person_key == ROW_AS_KEY and configuration.held_out_fraction > 0:
            return failed(
                "schema",
                'person_key = "row", but the federation holds people out',
                "Name a key column in the schema, or join a federation that holds nobody out.",
            )
        read.append(found)
        return passed("schema", f"{found.name!r}, digest {found.digest[:16]}...")

    advice = f"Put the federation's schema at `{configuration.schema}` and correct `not_held`."
    return looked_at("schema", look, advice), (read[0] if read else None)


def table(
    configuration: DaemonConfiguration,
    schema: Schema,
    premises: Premises,
    on_rows: Callable[[int], None],
) -> tuple[Finding, int | None]:
    """Reads the whole table as for a snapshot, keeps nothing; returns its rows if it is sound.

    Args:
        configuration: of the institution.
        schema: that the table shall keep.
        premises: where hashes of keys wait meanwhile, if they are many.
        on_rows: told how many rows were read so far.
    """
    rows, people = 0, 0

    def look() -> Finding:
        nonlocal rows, people
        reader = ContractReader(
            schema,
            Path(configuration.table),
            not_held=frozenset(configuration.not_held),
            split=configuration.split,
            mapping={},
        )
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=premises.snapshots) as scratch:
            for batch in reader.batches(Path(scratch)):
                rows += batch.bad.size
                people += int(np.count_nonzero(batch.starts))
                on_rows(rows)
        if people > configuration.most_people:
            return failed(
                "table",
                f"{people:,} people are more than the public most_people = "
                f"{configuration.most_people:,}",
                "Raise `most_people` in the configuration; it is public, so choose a round figure.",
            )
        return passed("table", f"{rows:,} rows keep the contract")

    found = looked_at(
        "table", look, "Correct the table, or name another one as `table` in the configuration."
    )
    return found, (rows if found.verdict == "pass" else None)


def disk(premises: Premises, schema: Schema, rows: int) -> Finding:
    """Returns whether a snapshot fits: a byte a value, once as read and once as a plan packs it."""
    needed = 2 * rows * (len(schema.grids) + 2)
    free = shutil.disk_usage(premises.snapshots).free
    text = f"{free / 2**20:,.0f} MiB are free, a snapshot needs about {needed / 2**20:,.1f} MiB"
    advice = f"Free some space on the disk of {premises.snapshots}."
    if free < needed + _SPARE_BYTES:
        return failed("disk", text, advice)
    if free < 2 * needed + _SPARE_BYTES:
        return warned("disk", text, f"{advice} A table that grows will not fit.")
    return passed("disk", text)
