"""A real PostgreSQL for `make live`, a benchmark or a test: for a while, on a Unix socket only."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_ACCESS: Final = """
local all reader scram-sha-256
local all all trust
"""


def installed() -> Path | None:
    """Returns the directory of the server's programs, the newest there is."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    found = Path("/").glob("usr/lib/postgresql/*/bin/initdb")
    return max((path.parent for path in found), default=None)


@contextmanager
def running_server(programs: Path) -> Iterator[Path]:
    """Yields the directory of a server's socket; the server is gone afterwards.

    The role `postgres` may do all and needs no password; a role `reader` would need one.

    Args:
        programs: the directory of initdb and pg_ctl.
    """
    # A socket's path may have 107 bytes, fewer than many a temporary directory.
    place = Path(tempfile.mkdtemp(prefix="fedscore-pg-"))
    data = place / "data"
    try:
        if os.getuid() == 0:  # it refuses to run as root
            shutil.chown(place, "postgres", "postgres")
        _as_server(programs / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "--no-sync")
        (data / "pg_hba.conf").write_text(_ACCESS)
        settings = f"-c listen_addresses= -c unix_socket_directories={place} -c fsync=off"
        log, control = place / "log", programs / "pg_ctl"
        _as_server(control, "start", "-w", "-D", data, "-l", log, "-o", settings)
        try:
            yield place
        finally:
            _as_server(control, "stop", "-w", "-m", "immediate", "-D", data)
    finally:
        shutil.rmtree(place)


def load_table(connection: str, name: str, path: Path) -> None:
    """Makes a table of the rows of a Parquet file, in columns of its types.

    Args:
        connection: string of libpq.
        name: of the new table.
        path: of the file.
    """
    import psycopg  # noqa: PLC0415  an extra that few need
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415
    from psycopg import sql  # noqa: PLC0415

    table = pq.read_table(path)
    types = {
        pa.int8(): "smallint",
        pa.int32(): "integer",
        pa.int64(): "bigint",
        pa.float64(): "double precision",
        pa.string(): "text",
    }
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(one.name), sql.SQL(types[one.type]))
        for one in table.schema
    )
    named = sql.Identifier(name)
    with psycopg.connect(connection) as server, server.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(named, columns))
        with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(named)) as copy:
            for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
                copy.write_row(row)


def _as_server(*words: object) -> None:
    """Runs a program of the server, as the user `postgres` if we are root."""
    other = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    subprocess.run([*other, *map(str, words)], check=True, capture_output=True, cwd="/")  # noqa: S603
