"""Checks of the schema, the whole table against it, and the space that a snapshot needs."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clients.columns import check_not_held
from clients.configuration import DaemonConfiguration
from clients.disk_space import space_rule
from clients.finding import Finding, failed, looked_at, passed
from clients.premises import Premises
from clients.reading import Reading
from federation.schema import ROW_AS_KEY, Schema


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
    reading: Reading,
    premises: Premises,
    on_rows: Callable[[int], None],
) -> Finding:
    """Reads the whole table as for a snapshot and keeps nothing.

    Args:
        configuration: of the institution.
        reading: of its table.
        premises: where hashes of keys wait meanwhile, if they are many.
        on_rows: told how many rows were read so far.
    """

    def look() -> Finding:
        rows, people = 0, 0
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=premises.snapshots) as scratch:
            for batch in reading.batches(Path(scratch)):
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
        return passed("table", f"keeps the contract; {rows:,} rows enter")

    return looked_at(
        "table", look, "Correct the table, or name another one as `table` in the configuration."
    )


def disk(configuration: DaemonConfiguration, premises: Premises, schema: Schema) -> Finding:
    """Returns whether a snapshot fits."""
    rule = space_rule(configuration, premises, schema)
    if rule.holds:
        return passed("disk", rule.text)
    return failed("disk", rule.text, f"Free some space on the disk of {premises.snapshots}.")
