"""How fast an institution's table is read, from where, and in how much memory.

Random doubles, every twentieth a NULL, beside a key and an outcome. Two ways to fetch them from
PostgreSQL: the product's COPY, and a server-side cursor in blocks of the same rows; both in the
order of the key and both into numbers. Then the product's whole way from a source to a snapshot.
Each runs in a process of its own, so that its peak of memory is its own; the server's time is in
the seconds, its memory is not in the peak. Nothing is kept in the cache: a time is measured when
it is asked for.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from clients.snapshot import take_snapshot
from clients.sources import PostgresqlTable, TableSource, opened
from clients.table_file import BATCH_ROWS
from experiments.experiment import Setting
from experiments.postgresql_server import installed, running_server
from federation.errors import ConfigurationError
from federation.population import Split
from federation.schema import Schema, load_schema
from fedscore.bench import peak_bytes

ROWS: Final = 200_000
COLUMNS: Final = 24
REPEATS: Final = 3
_SCHEMA: Final = """
format = 1
name = "Sources"
person_key = "person"
rows_per_person = "one"
[outcome]
column = "bad"
window = "made up"
"""
_FEATURE: Final = """
[[feature]]
name = "f{number}"
role = "scored"
kind = "number"
unit = "1"
reason = "Made up"
lower = 0
upper = 1
cells = 64
missing = true
"""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to read the table.

    Attributes:
        name: for people.
        seconds: of wall time, the least of the repeats, each in a process of its own.
        cpu: seconds of this process in that repeat.
        peak_bytes: most memory that the process ever held, its libraries included.
        idle_bytes: the same of a process that only loads the libraries.
    """

    name: str
    seconds: float
    cpu: float
    peak_bytes: int
    idle_bytes: int


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """What `run sources` found.

    Attributes:
        rows: of the table.
        columns: of doubles.
        server: version of PostgreSQL.
        ways: to fetch from PostgreSQL, then to a snapshot.
    """

    rows: int
    columns: int
    server: str
    ways: tuple[Way, ...]

    def rate(self, one: Way) -> float:
        """Returns rows a second."""
        return self.rows / one.seconds


def run_sources(setting: Setting) -> Sources:
    """Reads one table in all ways.

    Raises:
        ConfigurationError: PostgreSQL is not installed.
    """
    programs = installed()
    if programs is None:
        raise ConfigurationError("This needs PostgreSQL, installed on this machine.")
    rows, columns, repeats = (3_000, 3, 1) if setting.quick else (ROWS, COLUMNS, REPEATS)
    setting.expect(6 * repeats)
    with tempfile.TemporaryDirectory() as scratch, running_server(programs) as socket:
        directory = Path(scratch)
        connection = f"host={socket} dbname=postgres user=postgres"
        file = directory / "postgresql.conninfo"
        file.touch(mode=0o600)
        file.write_text(connection)
        server = _make_tables(directory, connection, rows, columns)
        postgresql = PostgresqlTable(connection_file=file, table="people")

        def best(work: Callable[..., None], *arguments: object) -> tuple[float, float, int]:
            found = []
            for _ in range(repeats):
                if setting.quick:  # memory is of no interest: no process of its own
                    found.append(_measured(work, *arguments))
                else:
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                        found.append(alone.submit(_measured, work, *arguments).result())
                setting.advance()
            return min(found)

        idle = best(_nothing)[2]
        ways = [
            ("PostgreSQL, COPY", best(_by_copy, postgresql, columns)),
            ("PostgreSQL, server-side cursor", best(_by_cursor, connection, columns)),
            ("snapshot from PostgreSQL", best(_snapshot, postgresql, columns, directory)),
            ("snapshot from Parquet", best(_snapshot, directory / "t.parquet", columns, directory)),
            ("snapshot from CSV", best(_snapshot, directory / "t.csv", columns, directory)),
        ]
    return Sources(
        rows=rows,
        columns=columns,
        server=server,
        ways=tuple(
            Way(name=name, seconds=seconds, cpu=cpu, peak_bytes=peak, idle_bytes=idle)
            for name, (seconds, cpu, peak) in ways
        ),
    )


def _make_tables(directory: Path, connection: str, rows: int, columns: int) -> str:
    """Writes the same rows three times; returns the server's version."""
    generator = np.random.default_rng(1)
    content = {"person": pa.array(np.arange(rows)), "bad": pa.array(np.arange(rows) % 10 == 0)}
    content["bad"] = content["bad"].cast(pa.int64())
    for name in _names(columns):
        values = generator.random(rows)
        content[name] = pa.array(values, mask=generator.random(rows) < 0.05)
    table = pa.table(content)
    pq.write_table(table, directory / "t.parquet")
    pa.csv.write_csv(table, directory / "t.csv")
    listed = ", ".join(f"{name} float8" for name in _names(columns))
    with psycopg.connect(connection, autocommit=True) as opened_connection:
        opened_connection.execute(
            f"CREATE TABLE people (person int8 PRIMARY KEY, bad int8, {listed})".encode()
        )
        with (
            opened_connection.cursor() as cursor,
            cursor.copy("COPY people FROM STDIN (FORMAT csv, HEADER)") as copy,
        ):
            copy.write((directory / "t.csv").read_bytes())
        opened_connection.execute("VACUUM ANALYZE people")
        return str(opened_connection.info.server_version // 10_000)


def _measured(work: Callable[..., None], *arguments: object) -> tuple[float, float, int]:
    started, cpu = time.perf_counter(), time.process_time()
    work(*arguments)
    return time.perf_counter() - started, time.process_time() - cpu, peak_bytes()


def _nothing() -> None:
    pass


def _by_copy(table: PostgresqlTable, columns: int) -> None:
    with opened(table, order_by="person") as found:
        for batch in found.batches(["person", "bad", *_names(columns)]):
            for name in _names(columns):
                batch.column(name).to_numpy(zero_copy_only=False)


def _by_cursor(connection: str, columns: int) -> None:
    listed = ", ".join(["person", "bad", *_names(columns)])
    with (
        psycopg.connect(connection) as found,
        found.cursor("reading", binary=True) as cursor,
    ):
        cursor.execute(f"SELECT {listed} FROM people ORDER BY person".encode())  # noqa: S608  ours
        while rows := cursor.fetchmany(BATCH_ROWS):
            np.array(rows, dtype=np.float64)


def _snapshot(source: TableSource, columns: int, directory: Path) -> None:
    take_snapshot(
        _schema(columns),
        source,
        not_held=frozenset(),
        split=Split(salt="0" * 64, held_out_fraction=0.25),
        directory=directory / "snapshot",
    ).delete()


def _schema(columns: int) -> Schema:
    return load_schema(_SCHEMA + "".join(_FEATURE.format(number=n) for n in range(columns)))


def _names(columns: int) -> list[str]:
    return [f"f{number}" for number in range(columns)]
