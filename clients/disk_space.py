"""Whether the disk has room for a snapshot and what a training makes of it, before either is made.

An upper bound from the table's rows and the schema's features, which no value of a row changes.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from clients.configuration import DaemonConfiguration
from clients.policy import Rule
from clients.premises import Premises
from clients.sources import opened
from federation.errors import ConfigurationError, DataError
from federation.messages import RefusalCode
from federation.schema import RowsPerPerson, Schema

_HASH_BYTES: Final = 8


def snapshot_bytes(schema: Schema, rows: int) -> int:
    """Returns the most bytes that a table of so many rows takes until its plan ends.

    The codes, once more while somebody is taken out, the packed bins of its rounds, where at least
    two features share two bytes (`federation.model.step`), the keyed hashes of its people, and
    their hashes while the table is read.
    """
    beside = 1 + (schema.rows_per_person is RowsPerPerson.MANY)
    features = len(schema.grids)
    codes, packed = features + beside, features + 2 + beside
    return rows * (2 * codes + packed + 3 * _HASH_BYTES)


def space_rule(configuration: DaemonConfiguration, premises: Premises, schema: Schema) -> Rule:
    """Returns the rule that the snapshots' directory has room, in words for the operator.

    What lies there already is counted as free: it is replaced, or is the snapshot itself. Nothing
    is written; a table of PostgreSQL is asked for its number of rows.
    """
    directory = premises.snapshots
    try:
        with opened(configuration.source, order_by=None) as table:
            rows = table.rows()
        free = shutil.disk_usage(directory).free + _bytes_below(directory)
    except (ConfigurationError, DataError) as error:
        text = f"the space that a snapshot needs cannot be told: {error}"
        return Rule(text=text, holds=False, code=RefusalCode.UNAVAILABLE)
    except OSError as error:
        text = f"the space in {directory} cannot be told: {error.strerror}"
        return Rule(text=text, holds=False, code=RefusalCode.UNAVAILABLE)
    needed = snapshot_bytes(schema, rows)
    return Rule(
        text=f"the snapshot needs up to {_megabytes(needed)} for about {rows:,} rows, "
        f"{_megabytes(free)} are free in {directory}",
        holds=needed <= free,
        code=RefusalCode.UNAVAILABLE,
    )


def _bytes_below(directory: Path) -> int:
    return sum(
        (Path(place) / name).stat().st_size
        for place, _, names in os.walk(directory)
        for name in names
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
