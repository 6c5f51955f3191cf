"""How fast an institution's table is read, from where, and in how much memory.

Random doubles, every twentieth a NULL, beside a key and an outcome. Two ways to fetch them from
PostgreSQL: the product's COPY, and a server-side cursor in blocks of the same rows; both in the
order of the key and both into numbers. Then the product's whole way from a source to a snapshot.
The ways take turns, so that a busy machine is busy for all; each turn is a process of its own, so
that its peak of memory is its own. The server's time is in the seconds, its memory is not in the
peak. Nothing is kept in the cache: a time is measured when
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
from experiments.tables import Middle, middle, ratio
from federation.errors import ConfigurationError
from fedscore.demo.postgresql_server import installed, running_server

ROWS: Final = 200_000
COLUMNS: Final = 24
TURNS: Final = 7
_CURSOR: Final = list(WAYS).index("cursor")


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to read the table.

    Attributes:
        name: for people.
        turns: those of the same place were taken one after the other.
    """

    name: str
    turns: tuple[Taken, ...]

    @property
    def peak_bytes(self) -> int:
        """Most memory that a process ever held, its libraries included."""
        return max(turn.peak_bytes for turn in self.turns)


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """What `run sources` found.

    Attributes:
        rows: of the table.
        columns: of doubles.
        server: version of PostgreSQL.
        idle_bytes: most memory of a process that only loads the libraries.
        ways: to fetch from PostgreSQL, then to a snapshot.
    """

    rows: int
    columns: int
    server: str
    idle_bytes: int
    ways: tuple[Way, ...]

    @property
    def cursor(self) -> Way:
        """What the others are compared with."""
        return self.ways[_CURSOR]

    @property
    def turns(self) -> int:
        """Of each way."""
        return len(self.cursor.turns)

    def rate(self, one: Way) -> Middle:
        """Returns rows a second."""
        return middle(self.rows / turn.seconds for turn in one.turns)

    def times_cursor(self, one: Way) -> Middle:
        """Returns how many times as many rows a second as the cursor, turn by turn."""
        return ratio(
            (turn.seconds for turn in self.cursor.turns), (turn.seconds for turn in one.turns)
        )


def run_sources(setting: Setting) -> Sources:
    """Reads one table in all ways.

    Raises:
        ConfigurationError: PostgreSQL is not installed.
    """
    programs = installed()
    if programs is None:
        raise ConfigurationError("This needs PostgreSQL, installed on this machine.")
    rows, columns, turns = (3_000, 3, 1) if setting.quick else (ROWS, COLUMNS, TURNS)
    setting.expect(turns)
    with tempfile.TemporaryDirectory() as scratch, running_server(programs) as socket:
        directory = Path(scratch)
        connection = f"host={socket} dbname=postgres user=postgres"
        file = directory / CONNECTION
        file.touch(mode=0o600)
        file.write_text(connection)
        server = _make_tables(directory, connection, rows, columns)
        idle = _alone("nothing", directory, columns)
        found: dict[str, list[Taken]] = {way: [] for way in WAYS}
        for _ in range(turns):
            for way, taken in found.items():
                taken.append(_alone(way, directory, columns))
            setting.advance()
    return Sources(
        rows=rows,
        columns=columns,
        server=server,
        idle_bytes=idle.peak_bytes,
        ways=tuple(Way(name=WAYS[way], turns=tuple(taken)) for way, taken in found.items()),
    )


def _alone(way: str, directory: Path, columns: int) -> Taken:
    """Returns what one way takes in a process of its own, which loads nothing else."""
    arguments = [way, str(directory), str(columns)]
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
