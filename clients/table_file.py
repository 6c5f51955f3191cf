"""One Parquet or CSV file as a stream of Arrow batches, read in bounded memory.

CSV is read as text: the errors of a typed read quote values, and an error here never does.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from federation.errors import DataError

BATCH_ROWS: Final = 65_536

_SEPARATORS: Final = (";", "\t", "|")

_LOOKED_AT_BYTES: Final = 2**20

_READ_BYTES = 65_536  # else whole column chunks are held: memory would follow the row groups


class TableFile:
    """One Parquet or CSV file. Opening it reads names and types, no rows."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            DataError: there is no such file, or it is not the format that its name says.
        """
        self.path = path
        self.name = path.name
        self.is_csv = path.suffix.lower() == ".csv"
        if not self.is_csv and path.suffix.lower() not in (".parquet", ".pq"):
            raise DataError(f"Expected {path.name} to end in .parquet or .csv.")
        try:
            if self.is_csv:
                with pa.csv.open_csv(path) as reader:
                    schema = reader.schema
            else:
                schema = pa.parquet.read_schema(path)
            names = tuple(schema.names)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from None
        others = [other for other in _SEPARATORS if len(names) == 1 and other in names[0]]
        if self.is_csv and others:
            raise DataError(
                f"The table {path.name} has one column only: its separator looks like "
                f"{others[0]!r}. Separate by commas."
            )
        self.names: tuple[str, ...] = names
        """The columns, in order; a name may stand twice."""
        self._types = {item.name: item.type for item in schema}

    def type_of(self, column: str) -> pa.DataType:
        """Returns the Arrow type in which the column is read; text for every column of CSV."""
        return pa.string() if self.is_csv else self._types[column]

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yields the rows of some columns in order, in batches of up to 65,536 rows.

        Raises:
            DataError: the file is damaged. The message does not quote it.
        """
        try:
            if self.is_csv:
                yield from self._csv_batches(columns)
            else:
                with pa.parquet.ParquetFile(
                    self.path, pre_buffer=False, buffer_size=_READ_BYTES
                ) as file:
                    for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                        batch.validate(full=True)  # text that is not UTF-8 would fail later
                        yield batch
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from None

    def rows(self) -> int:
        """Returns the rows of a Parquet file; of CSV as many as its first lines make likely.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            if not self.is_csv:
                return int(pa.parquet.read_metadata(self.path).num_rows)
            with self.path.open("rb") as file:
                looked_at = file.read(_LOOKED_AT_BYTES)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from None
        lines = looked_at.count(b"\n") + 1
        return self.path.stat().st_size * lines // max(1, len(looked_at))

    def _csv_batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
        )
        with pa.csv.open_csv(self.path, convert_options=convert) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS)

    def _unreadable(self, error: Exception) -> DataError:
        if isinstance(error, FileNotFoundError):
            return DataError(f"There is no table {self.path}.")
        what, why = "Parquet", type(error).__name__
        if self.is_csv:
            what = "CSV with one header and equally many fields in every row"
            why = _fault_of_csv(self.path) or why
        return DataError(
            f"The table {self.path.name} cannot be read as {what}: {why}. What it holds is not "
            "quoted here."
        )


def _fault_of_csv(path: Path) -> str:
    """Returns what is wrong with a file that cannot be read as CSV; empty if that is not known."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, None)
            if header is None:
                return "it is empty"
            for row in rows:
                if row and len(row) != len(header):
                    return (
                        f"line {rows.line_num:,} has {len(row):,} fields, the header has "
                        f"{len(header):,}"
                    )
    except UnicodeDecodeError:
        return "it is not text in UTF-8"
    except (OSError, csv.Error):
        return ""
    return ""


def is_text(kind: pa.DataType) -> bool:
    """Returns whether an Arrow type is text."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_numeric(kind: pa.DataType) -> bool:
    """Returns whether an Arrow type is integers, floating point or decimals."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )
