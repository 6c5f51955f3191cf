"""One way to read the table of `experiments.speed.sources`, in a process that does nothing else.

    python -m experiments.speed.source_ways WAY DIRECTORY COLUMNS

prints what it took as JSON.
"""

import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import psycopg

from clients.snapshot import take_snapshot
from clients.sources import PostgresqlTable, TableSource, opened
from federation.population import Split
from federation.schema import Schema, load_schema
from fedscore.bench import peak_bytes

CONNECTION: Final = "postgresql.conninfo"
WAYS: Final = {
    "copy": "PostgreSQL, COPY",
    "cursor": "PostgreSQL, server-side cursor",
    "postgresql": "snapshot from PostgreSQL",
    "parquet": "snapshot from Parquet",
    "csv": "snapshot from CSV",
}
_CURSOR_ROWS: Final = 8_192
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


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What one way took in one turn.

    Attributes:
        seconds: of wall time.
        cpu: seconds of this process.
        peak_bytes: most memory that it ever held, its libraries included.
    """

    seconds: float
    cpu: float
    peak_bytes: int


def names(columns: int) -> list[str]:
    """Returns the columns of doubles."""
    return [f"f{number}" for number in range(columns)]


def taken(way: str, directory: Path, columns: int) -> Taken:
    """Returns what a way takes, after one time that does not count.

    Args:
        way: of `WAYS`, or "nothing".
        directory: where the tables lie.
        columns: of doubles.
    """
    _work(way, directory, columns)  # what is loaded on the way is not what is asked for
    started, busy = time.perf_counter(), time.process_time()
    _work(way, directory, columns)
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    return Taken(seconds=seconds, cpu=cpu, peak_bytes=_peak_bytes())


def _work(way: str, directory: Path, columns: int) -> None:
    table = PostgresqlTable(connection_file=directory / CONNECTION, table="people")
    match way:
        case "copy":
            _by_copy(table, columns)
        case "cursor":
            _by_cursor((directory / CONNECTION).read_text(), columns)
        case "postgresql":
            _snapshot(table, columns, directory)
        case "parquet" | "csv":
            _snapshot(directory / f"t.{way}", columns, directory)


def _peak_bytes() -> int:
    """Returns the most memory of this program; the usual figure is of who started it as well."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_bytes()
    (line,) = (one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def _by_copy(table: PostgresqlTable, columns: int) -> None:
    with opened(table, order_by="person") as found:
        for batch in found.batches(["person", "bad", *names(columns)]):
            for name in names(columns):
                batch.column(name).to_numpy(zero_copy_only=False)


def _by_cursor(connection: str, columns: int) -> None:
    listed = ", ".join(["person", "bad", *names(columns)])
    with (
        psycopg.connect(connection) as found,
        found.cursor("reading", binary=True) as cursor,
    ):
        cursor.execute(f"SELECT {listed} FROM people ORDER BY person".encode())  # noqa: S608  ours
        while rows := cursor.fetchmany(_CURSOR_ROWS):
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


if __name__ == "__main__":
    way, directory, columns = sys.argv[1:]
    found = taken(way, Path(directory), int(columns))
    sys.stdout.buffer.write(msgspec.json.encode(found))
