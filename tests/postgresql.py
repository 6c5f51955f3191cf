"""A real PostgreSQL for tests: empty, in a directory of its own, on a Unix socket only."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import pyarrow as pa
from psycopg import sql

from fedscore.demo.postgresql_server import running_server
from tests import outside

PASSWORD: Final = "correct horse"  # noqa: S105  of a server that lives for one test run

_TYPES: Final = {
    pa.bool_(): "boolean",
    pa.int64(): "bigint",
    pa.int32(): "integer",
    pa.float64(): "double precision",
    pa.float32(): "real",
    pa.string(): "text",
    pa.date32(): "date",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server; `postgres` may do all, `reader` needs `PASSWORD` and a grant."""

    directory: Path

    def connection_string(self, user: str = "postgres", password: str = "") -> str:
        """Returns what an institution's people write into a file."""
        secret = f" password='{password}'" if password else ""
        return f"host={self.directory} dbname=postgres user={user}{secret}"

    def execute(self, statement: str) -> None:
        """Runs one statement as `postgres`."""
        with psycopg.connect(self.connection_string(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def load(self, name: str, table: pa.Table) -> None:
        """Makes a table of the same columns and rows."""
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(_TYPES[field.type]))
            for field in table.schema
        )
        named = sql.Identifier(name)
        with psycopg.connect(self.connection_string()) as connection:
            connection.execute(sql.SQL("CREATE TABLE {} ({})").format(named, columns))
            with (
                connection.cursor() as cursor,
                cursor.copy(sql.SQL("COPY {} FROM STDIN").format(named)) as copy,
            ):
                for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
                    copy.write_row(row)


@contextmanager
def running() -> Iterator[Server]:
    """Yields a server of PostgreSQL, or skips the test; it is gone afterwards."""
    with running_server(outside.require("postgresql").parent) as directory:
        server = Server(directory=directory)
        server.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
        yield server
