"""Scores an institution's table by a release, with reasons. Nothing leaves the institution.

The table is streamed. Only the scored features and the person key are read: neither protected
features nor the outcome are needed, or looked at.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from clients.columns import CheckedColumns, FeatureColumns, Holds, check_not_held
from clients.person_keys import create_private
from clients.table_file import TableFile
from federation.errors import ConfigurationError
from federation.model.release import AnyRelease
from federation.model.scores import MOST_REASONS, NO_REASON, bad_rates
from federation.model.scoring import require_parity, scorer_of
from federation.schema import ROW_AS_KEY

_REASON_COLUMNS: Final = tuple(f"reason_{place}" for place in range(1, MOST_REASONS + 1))
_FIELDS: Final = (
    pa.field("points", pa.int32()),
    pa.field("score", pa.int32()),
    pa.field("bad_rate", pa.float32()),
    *(pa.field(name, pa.dictionary(pa.int16(), pa.string())) for name in _REASON_COLUMNS),
)


def score_table(release: AnyRelease, table: Path, out: Path, *, not_held: frozenset[str]) -> int:
    """Scores every row of a table into a new file, in the order of the table.

    The file has the columns

        the person key  as in the table; `row`, counted from 1, where the table has none
        points          int32, of the card or network, unclipped
        score           int32, the same cut to the scale: what is shown
        bad_rate        float32, the probability of bad that `points` stands for
        reason_1 to _4  text, empty (null) where there are fewer

    A person with several rows gets several scores. Only this user can read the file.

    Args:
        release: whose signature was checked.
        table: a .parquet or .csv file.
        out: a .parquet or .csv file that does not exist; it appears whole or not at all.
        not_held: features that this table does not have. They give no points and no reason.

    Returns:
        How many rows were scored, at least one.

    Raises:
        ConfigurationError: this program does not score as the release says; `out` exists or cannot
            be written; or `not_held` does not fit the schema.
        DataError: the table breaks its contract, or has no rows. Nothing is left on disk.
    """
    require_parity(release)
    check_not_held(release.schema, not_held)
    _require_new(out)
    scored = _ScoredTable(release, table, not_held)
    return _write(out, scored.schema, scored.batches())


class _ScoredTable:
    """One table, read once, as record batches of scores under `schema`."""

    def __init__(self, release: AnyRelease, path: Path, not_held: frozenset[str]) -> None:
        self._scale = release.scale
        self._scorer = scorer_of(release)
        self._reasons = pa.array(self._scorer.reasons, pa.string())
        self._columns = CheckedColumns(TableFile(path), MappingProxyType({}))
        key = release.schema.person_key
        if key != ROW_AS_KEY and key in self._columns.table.names:
            self._columns.require(key, Holds.TEXT_OR_INTEGERS)
        self._features = FeatureColumns(self._columns, release.grids, not_held)
        self._key = key if key in self._columns else None
        if self._key in {field.name for field in _FIELDS}:
            raise ConfigurationError(
                f"The person key {key!r} has the name of a column of scores. Score a table without "
                "this column: its rows are numbered instead."
            )
        self.schema = pa.schema([self._key_field(), *_FIELDS])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yields all rows in order. Valid only once it has ended without an error.

        Raises:
            DataError: after the last row, if any rule was broken anywhere.
        """
        violations = self._columns.violations
        for first_row, batch in self._columns.batches():
            codes = self._features.codes(batch, first_row)
            keys = self._keys(batch, first_row)
            if not violations:
                yield self._scored(keys, codes)
        violations.raise_if_any(self._columns.table.name)

    def _key_field(self) -> pa.Field:
        if self._key is None:
            return pa.field(ROW_AS_KEY, pa.int64())
        kind = self._columns.type_of(self._key)
        return pa.field(self._key, kind if pa.types.is_integer(kind) else pa.string())

    def _keys(self, batch: pa.RecordBatch, first_row: int) -> pa.Array:
        if self._key is None:
            return pa.array(np.arange(first_row + 1, first_row + 1 + batch.num_rows))
        text = self._columns.key_text(batch, self._key, first_row)
        is_text = pa.types.is_string(self.schema.field(0).type)
        return text if is_text else self._columns.take(batch, self._key)

    def _scored(self, keys: pa.Array, codes: NDArray[np.uint8]) -> pa.RecordBatch:
        scores = self._scorer.score(codes)
        reasons = (
            pa.DictionaryArray.from_arrays(
                pa.array(numbers, mask=numbers == NO_REASON), self._reasons
            )
            for numbers in scores.reasons.T
        )
        rates = bad_rates(self._scale, scores.points)
        return pa.record_batch(
            [keys, pa.array(scores.points), pa.array(scores.shown), pa.array(rates), *reasons],
            schema=self.schema,
        )


def _require_new(out: Path) -> None:
    if out.suffix.lower() not in (".parquet", ".csv"):
        raise ConfigurationError(
            f"Expected the file for scores, {out}, to end in .parquet or .csv."
        )
    if out.exists():
        raise ConfigurationError(f"{out} exists already. Name a new file for the scores.")
    if not out.parent.is_dir():
        raise ConfigurationError(f"There is no directory {out.parent} to hold the scores.")


def _write(out: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    """Writes batches to a new file, which appears only once all is written; returns the rows."""
    is_csv = out.suffix.lower() == ".csv"
    writer_of = pa.csv.CSVWriter if is_csv else pa.parquet.ParquetWriter
    unfinished = out.with_name(out.name + ".unfinished")
    rows = 0
    try:
        unfinished.unlink(missing_ok=True)  # left by a run that was killed
        with ExitStack() as on_failure, create_private(unfinished) as file:
            on_failure.callback(unfinished.unlink)
            with writer_of(file, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
                    rows += batch.num_rows
            file.flush()
            os.fsync(file.fileno())
            unfinished.rename(out)
            on_failure.pop_all()
    except OSError as error:
        raise ConfigurationError(f"Cannot write {out}: {error.strerror or error}.") from error
    return rows
