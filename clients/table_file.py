"""One Parquet or CSV file as a stream of Arrow batches, read in bounded memory.

CSV is read as text: the errors of a typed read quote values, and an error here never does.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from federation.errors import DataError

BATCH_ROWS: Final = 65_536

_READ_BYTES = 65_536  # else whole column chunks are held: memory would follow the row groups


class TableFile:
    """One Parquet or CSV file. Opening it reads names and types, no rows."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            DataError: there is no such file, or it is not the format that its name says.
        """
        self.path = path
        self.is_csv = path.suffix.lower() == ".csv"
        if not self.is_csv and path.suffix.lower() not in (".parquet", ".pq"):
            raise DataError(f"Expected {path.name} to end in .parquet or .csv.")
        try:
            if self.is_csv:
                with pa.csv.open_csv(path) as reader:
                    schema = reader.schema
            else:
                schema = pa.parquet.read_schema(path)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from None
        self.names: tuple[str, ...] = tuple(schema.names)
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
        what = (
            "CSV with one header and equally many fields in every row"
            if self.is_csv
            else ("Parquet")
        )
        return DataError(
            f"The table {self.path.name} cannot be read as {what} ({type(error).__name__}). "
            "What it holds is not quoted here."
        )


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
