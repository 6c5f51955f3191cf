"""A real PostgreSQL for tests: empty, in a directory of its own, on a Unix socket only."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import pyarrow as pa
from psycopg import sql

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
_ACCESS: Final = """
local all reader scram-sha-256
local all all trust
"""


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
    programs = outside.require("postgresql").parent
    # A socket's path may have 107 bytes, fewer than a directory of pytest.
    place = Path(tempfile.mkdtemp(prefix="fedscore-pg-"))
    data = place / "data"
    try:
        if os.getuid() == 0:  # it refuses to run as root
            shutil.chown(place, "postgres", "postgres")
        _as_server(programs / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--no-sync")
        settings = f"-c listen_addresses= -c unix_socket_directories={place} -c fsync=off"
        log = place / "log"
        control = programs / "pg_ctl"
        (data / "pg_hba.conf").write_text(_ACCESS)
        _as_server(control, "start", "-w", "-D", data, "-l", log, "-o", settings)
        try:
            server = Server(directory=place)
            server.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
            yield server
        finally:
            _as_server(control, "stop", "-w", "-m", "immediate", "-D", data)
    finally:
        shutil.rmtree(place)


def _as_server(*words: object) -> None:
    """Runs a program of the server, as the user `postgres` if we are root."""
    other = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    subprocess.run([*other, *map(str, words)], check=True, capture_output=True, cwd="/")
