"""How fast an institution's table is read, from where, and in how much memory.

Random doubles, every twentieth a NULL, beside a key and an outcome. Two ways to fetch them from
PostgreSQL: the product's COPY, and a server-side cursor in blocks of the same rows; both in the
order of the key and both into numbers. Then the product's whole way from a source to a snapshot.
Each runs in a process of its own, so that its peak of memory is its own; the server's time is in
the seconds, its memory is not in the peak. Nothing is kept in the cache: a time is measured when
it is asked for.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from experiments.cache import ROOT
from experiments.experiment import Setting
from experiments.speed.source_ways import CONNECTION, WAYS, Taken, names
from federation.errors import ConfigurationError
from fedscore.demo.postgresql_server import installed, running_server

ROWS: Final = 200_000
COLUMNS: Final = 24
REPEATS: Final = 5


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to read the table.

    Attributes:
        name: for people.
        seconds: of wall time, the least of the repeats.
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
    setting.expect(len(WAYS) + 1)
    with tempfile.TemporaryDirectory() as scratch, running_server(programs) as socket:
        directory = Path(scratch)
        connection = f"host={socket} dbname=postgres user=postgres"
        file = directory / CONNECTION
        file.touch(mode=0o600)
        file.write_text(connection)
        server = _make_tables(directory, connection, rows, columns)

        def alone(way: str) -> Taken:
            found = _alone(way, directory, columns, repeats)
            setting.advance()
            return found

        idle = alone("nothing").peak_bytes
        ways = [(title, alone(way)) for way, title in WAYS.items()]
    return Sources(
        rows=rows,
        columns=columns,
        server=server,
        ways=tuple(
            Way(
                name=title,
                seconds=one.seconds,
                cpu=one.cpu,
                peak_bytes=one.peak_bytes,
                idle_bytes=idle,
            )
            for title, one in ways
        ),
    )


def _alone(way: str, directory: Path, columns: int, repeats: int) -> Taken:
    """Returns what one way takes in a process of its own, which loads nothing else."""
    arguments = [way, str(directory), str(columns), str(repeats)]
    words = [sys.executable, "-m", "experiments.speed.source_ways", *arguments]
    done = subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
    return msgspec.json.decode(done.stdout, type=Taken)


def _make_tables(directory: Path, connection: str, rows: int, columns: int) -> str:
    """Writes the same rows three times; returns the server's version."""
    generator = np.random.default_rng(1)
    content = {"person": pa.array(np.arange(rows)), "bad": pa.array(np.arange(rows) % 10 == 0)}
    content["bad"] = content["bad"].cast(pa.int64())
    for name in names(columns):
        values = generator.random(rows)
        content[name] = pa.array(values, mask=generator.random(rows) < 0.05)
    table = pa.table(content)
    pq.write_table(table, directory / "t.parquet")
    pa.csv.write_csv(table, directory / "t.csv")
    listed = ", ".join(f"{name} float8" for name in names(columns))
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
