"""One table or view of PostgreSQL, read by COPY in one consistent transaction, in bounded memory.

All that is read between opening and closing is the database at one moment: REPEATABLE READ, and
READ ONLY, so that a right to SELECT is all that the role needs. Rows come in the order of the
person key. Numbers and dates travel as PostgreSQL holds them; `numeric` becomes the nearest double
and every other type its text.

**No message of the server is repeated once rows may be read:** the server quotes them.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from clients.copy_rows import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTEGER,
    REAL,
    SMALLINT,
    TEXT,
    TIMESTAMP,
    FieldKind,
    record_batches,
)
from federation.errors import ConfigurationError, DataError

_CONNECT_SECONDS: Final = 10
_BATCH_ROWS: Final = 8_192
"""Fields are picked from rows column by column: this many rows stay in a core's own cache."""

_AS_STORED: Final = {
    "bool": BOOLEAN,
    "int2": SMALLINT,
    "int4": INTEGER,
    "int8": BIGINT,
    "float4": REAL,
    "float8": DOUBLE,
    "date": DATE,
    "timestamp": TIMESTAMP,
    "text": TEXT,
    "varchar": TEXT,
}
_CAST: Final = {
    "numeric": (DOUBLE, sql.SQL("{}::float8")),
    "timestamptz": (TIMESTAMP, sql.SQL("{} AT TIME ZONE 'UTC'")),
}

_COLUMNS: Final = """
SELECT a.attname, coalesce(base.typname, t.typname)
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type base ON t.typtype = 'd' AND base.oid = t.typbasetype
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

_ADVICE: Final = {
    "22003": "a number is beyond what double precision holds",
    "22021": "it holds text that is not in the encoding of the database",
    "25006": "reading it writes something, which a read-only connection refuses",
    "42501": "the role may not read it: GRANT SELECT on the table and USAGE on its schema",
    "42703": "a column has gone since it was looked at",
    "42P01": "it has gone since it was looked at",
    "53100": "the disk of the database is full",
    "57014": "the server cancelled the read: raise its statement_timeout for this role",
    "57P01": "the server is shutting down",
}
"""What is said of an SQLSTATE (PostgreSQL 15 documentation, appendix A)."""


class OpenedTable:
    """A table of an open connection. It keeps `clients.columns.Table`."""

    def __init__(
        self, connection: psycopg.Connection[tuple[object, ...]], table: str, order_by: str | None
    ) -> None:
        """Looks at the table's columns.

        Args:
            connection: in a transaction, which every read is a part of.
            table: "table" or "schema.table".
            order_by: the column that rows are ordered by; None if any order will do.

        Raises:
            ConfigurationError: there is no such table, or the server refused.
        """
        self.name = table
        self.is_csv = False
        self._connection = connection
        self._order_by = order_by
        self._identifier = sql.Identifier(*table.split(".", 1))
        with _refusals(table):
            self._oid = self._found()
            columns = connection.execute(_COLUMNS, (self._oid,)).fetchall()
        self._types = {str(name): str(kind) for name, kind in columns}
        self.names: tuple[str, ...] = tuple(self._types)
        """The columns, in order."""

    def _found(self) -> object:
        quoted = self._identifier.as_string(self._connection)
        row = self._connection.execute("SELECT to_regclass(%s)::oid", (quoted,)).fetchone()
        if row is None or row[0] is None:
            raise ConfigurationError(
                f"The database has no table {self.name} that this role may see. Name it "
                "as schema.table, letter by letter."
            )
        return row[0]

    def type_of(self, column: str) -> pa.DataType:
        """Returns the Arrow type in which a column is read."""
        return self._kind(column)[0].arrow

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yields the rows of some columns in order, in batches of up to 8,192 rows.

        Raises:
            DataError: a value cannot be read as what the column holds.
            ConfigurationError: the server refused, or is gone.
        """
        query = sql.SQL("COPY (SELECT {} FROM {}{}) TO STDOUT (FORMAT binary)").format(
            sql.SQL(", ").join(self._kind(column)[1] for column in columns),
            self._identifier,
            self._order(),
        )
        kinds = {column: self._kind(column)[0] for column in columns}
        with (
            _refusals(self.name),
            self._connection.cursor() as cursor,
            cursor.copy(query) as copy,
        ):
            yield from record_batches(copy, kinds, _BATCH_ROWS)

    def rows(self) -> int:
        """Returns the server's own estimate; it counts where it has none, as for a view."""
        with _refusals(self.name):
            found = self._connection.execute(
                "SELECT reltuples::int8 FROM pg_catalog.pg_class WHERE oid = %s", (self._oid,)
            ).fetchone()
            if found is None or int(str(found[0])) <= 0:
                query = sql.SQL("SELECT count(*) FROM {}").format(self._identifier)
                found = self._connection.execute(query).fetchone()
        return 0 if found is None else int(str(found[0]))

    def _kind(self, column: str) -> tuple[FieldKind, sql.Composable]:
        """Returns how a column's fields are read, and the expression that selects them."""
        kind, name = self._types[column], sql.Identifier(column)
        if kind in _AS_STORED:
            return _AS_STORED[kind], name
        if kind in _CAST:
            read, cast = _CAST[kind]
            return read, cast.format(name)
        return TEXT, sql.SQL("{}::text").format(name)

    def _order(self) -> sql.Composable:
        """Returns the order of rows: byte by byte for text, whatever the database's language."""
        if self._order_by not in self._types:
            return sql.SQL("")  # that the key is missing is said with all else that is wrong
        read, key = self._kind(self._order_by)
        collate = sql.SQL(' COLLATE "C"' if read is TEXT else "")
        return sql.SQL(" ORDER BY {}{}").format(key, collate)


@contextmanager
def opened_table(
    connection_file: Path, table: str, *, order_by: str | None
) -> Iterator[OpenedTable]:
    """Yields a table as it is at this moment, until the connection is closed.

    Args:
        connection_file: holds a connection string of libpq; only its owner may read it.
        table: "table" or "schema.table".
        order_by: the column that rows are ordered by; None if any order will do.

    Raises:
        ConfigurationError: the connection file is not private or does not fit, or the server is
            not there, refuses, or has no such table.
    """
    connection = _connected(connection_file)
    try:
        yield OpenedTable(connection, table, order_by)
    finally:
        connection.close()


def _connected(file: Path) -> psycopg.Connection[tuple[object, ...]]:
    content = _connection_string(file)
    try:
        settings = conninfo_to_dict(content)
    except psycopg.Error:  # its message may quote a password
        raise ConfigurationError(
            f"{file} holds no connection string of libpq: host=... dbname=... user=... "
            "password=... sslmode=verify-full"
        ) from None
    defaults = {"connect_timeout": str(_CONNECT_SECONDS), "application_name": "fedscore"}
    chosen = {name: value for name, value in defaults.items() if name not in settings}
    try:
        connection = psycopg.connect(make_conninfo(content, **chosen, client_encoding="utf8"))
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
    except psycopg.Error as error:  # no row has been read: what the server says names none
        said = str(error).strip().replace("\n", "; ")
        raise ConfigurationError(f"Cannot connect to PostgreSQL with {file}: {said}.") from None
    return connection


def _connection_string(file: Path) -> str:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(handle, encoding="utf-8") as opened:
            if stat.S_IMODE(os.fstat(handle).st_mode) & 0o077:
                raise ConfigurationError(f"Others may read {file}: run `chmod 600 {file}`.")
            return opened.read().strip()
    except OSError as error:
        raise ConfigurationError(f"Cannot read {file}: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not a text file in UTF-8.") from None


@contextmanager
def _refusals(table: str) -> Iterator[None]:
    """Turns what the server refuses into our errors, by its SQLSTATE and never by its words."""
    try:
        yield
    except psycopg.DataError as error:
        raise DataError(
            f"PostgreSQL cannot read the table {table} ({_advice(error)}). What it holds is not "
            "quoted here; the log of the server may."
        ) from None
    except psycopg.Error as error:
        raise ConfigurationError(
            f"PostgreSQL did not hand over the table {table} ({_advice(error)})."
        ) from None


def _advice(error: psycopg.Error) -> str:
    if error.sqlstate is None:
        return "the connection was lost"
    known = _ADVICE.get(error.sqlstate)
    return f"SQLSTATE {error.sqlstate}" + (f": {known}" if known else "")
