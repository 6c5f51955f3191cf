"""Where an institution's table is, and how it is opened: a file, or a table of PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from clients.columns import Table
from clients.table_file import TableFile
from federation.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlTable:
    """Where a table or view of PostgreSQL is.

    Attributes:
        connection_file: holds a connection string of libpq, password included; only its owner may
            read it.
        table: "table" or "schema.table", letter by letter as the database has it.
    """

    connection_file: Path
    table: str


TableSource = Path | PostgresqlTable
"""A .parquet or .csv file, or a table of PostgreSQL."""


@contextmanager
def opened(source: TableSource, order_by: str | None) -> Iterator[Table]:
    """Yields an open table; all that is read of it is one consistent state.

    Args:
        source: where it is.
        order_by: the table's column of person keys, by which rows of PostgreSQL are ordered; a
            file has an order of its own.

    Raises:
        DataError: there is no such file, or it is not the format that its name says.
        ConfigurationError: PostgreSQL cannot be reached or has no such table.
    """
    if isinstance(source, Path):
        yield TableFile(source)
        return
    if find_spec("psycopg") is None:
        raise ConfigurationError(
            "Reading PostgreSQL needs psycopg: install fedscore with its extra, "
            "`fedscore[postgresql]`."
        )
    from clients.postgresql import opened_table  # noqa: PLC0415  an extra that few need

    with opened_table(source.connection_file, source.table, order_by=order_by) as table:
        yield table
