"""Columns of an institution's table, checked against the schema and coded.

Training and scoring read the contract here, in one way. Every broken rule is noted with its count
and the first few rows, so that one error can list them all. **No message quotes a value.**
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clients.table_file import is_numeric, is_text
from federation.errors import ConfigurationError, DataError
from federation.grid import NOT_HELD, FeatureGrid, Kind, Rule, code_quantities
from federation.schema import Schema

ROWS_NAMED: Final = 5
"""Most rows that a message names for one broken rule."""

_CSV_NUMBER = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|(?i:nan|inf|infinity))$"
_CSV_INTEGER = r"^-?[0-9]{1,18}$"

_EMPTY_TABLE = "the table has no rows"
_MISSING_COLUMN = "the table has no such column"
_MISSING_FEATURE = f"{_MISSING_COLUMN}; if nobody has it here, declare the feature as not held"
_DOUBLE_COLUMN = "the table has several columns of this name"
_KEY_NULL = "the person key must not be null or empty"


class Table(Protocol):
    """A table that rows are read from: a file (`clients.table_file`) or one of PostgreSQL."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in order; a name may stand twice."""

    @property
    def is_csv(self) -> bool:
        """Whether every column is read as text, whatever it holds."""

    def type_of(self, column: str) -> pa.DataType:
        """Returns the Arrow type in which a column is read."""

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yields the rows of some columns in order, in batches of up to 65,536 rows.

        Called again after it has ended, it yields the same rows.

        Raises:
            DataError: the table cannot be read. The message quotes nothing of it.
            ConfigurationError: the database refused, or is gone.
        """

    def rows(self) -> int:
        """Returns how many rows there are, about: for an estimate of space."""


class Holds(StrEnum):
    """What a column must hold; the text is what a person reads."""

    TEXT = "text"
    INTEGERS = "integers"
    TEXT_OR_INTEGERS = "text or integers"
    NUMBERS = "numbers"
    NUMBERS_OR_BOOLEANS = "numbers or booleans"
    DATES = "dates"

    def fits(self, kind: pa.DataType) -> bool:
        """Returns whether a column of an Arrow type can hold it."""
        match self:
            case Holds.TEXT:
                return is_text(kind)
            case Holds.INTEGERS:
                return bool(pa.types.is_integer(kind))
            case Holds.TEXT_OR_INTEGERS:
                return is_text(kind) or bool(pa.types.is_integer(kind))
            case Holds.NUMBERS:
                return is_numeric(kind)
            case Holds.NUMBERS_OR_BOOLEANS:
                return is_numeric(kind) or bool(pa.types.is_boolean(kind))
            case Holds.DATES:
                return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


@dataclass(slots=True, kw_only=True)
class _Violation:
    count: int = 0
    rows: list[int] = field(default_factory=list)


class Violations:
    """The broken rules of a table, by column: counts and row numbers, never values."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Violation] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add_column(self, column: str, rule: str) -> None:
        """Notes a rule that a column breaks as a whole."""
        self._found.setdefault((column, rule), _Violation())

    def add_rows(self, column: str, rule: str, rows: NDArray[np.bool_], first_row: int) -> None:
        """Notes the rows, true in bool[rows], at which a column breaks a rule."""
        count = int(np.count_nonzero(rows))
        if count:
            named = np.flatnonzero(rows)[:ROWS_NAMED] + first_row
            self.add_counted(column, rule, count, named.tolist())

    def add_counted(self, column: str, rule: str, count: int, rows: list[int]) -> None:
        """Notes how often a rule is broken, and some 0-based rows."""
        violation = self._found.setdefault((column, rule), _Violation())
        violation.count += count
        violation.rows.extend(rows[: ROWS_NAMED - len(violation.rows)])

    def raise_if_any(self, table: str) -> None:
        """Raises DataError if a rule was broken."""
        if not self._found:
            return
        lines = []
        for (column, rule), violation in self._found.items():
            rows = ", ".join(f"{row + 1:,}" for row in violation.rows)
            more = ", ..." if violation.count > len(violation.rows) else ""
            many = "row" if violation.count == 1 else f"{violation.count:,} rows:"
            times = f" ({many} {rows}{more})" if violation.count else ""
            lines.append(f"  {column}: {rule}{times}")
        raise DataError(
            f"The table {table} does not keep its contract. Correct the table (rows are "
            "numbered from 1, a header is not counted):\n" + "\n".join(lines)
        )


class CheckedColumns:
    """The columns that are read of one table, by their names in the schema.

    A column is `require`d before rows are read. One that does not fit is noted and never read, so
    that the rules which the others break are found all the same.
    """

    def __init__(self, table: Table, mapping: Mapping[str, str]) -> None:
        """Starts without a column.

        Args:
            table: open.
            mapping: schema column -> table column, where the names differ.
        """
        self.table = table
        self.violations = Violations()
        self._mapping = mapping
        self._usable: set[str] = set()

    def require(self, name: str, holds: Holds, *, if_missing: str = _MISSING_COLUMN) -> None:
        """Looks at a column as a whole; notes what is wrong with it."""
        column = self.column_of(name)
        times = self.table.names.count(column)
        if times != 1:
            rule = _DOUBLE_COLUMN if times else if_missing
            self.violations.add_column(self.shown(name), rule)
            return
        kind = self.type_of(name)
        if not (self.table.is_csv or pa.types.is_null(kind) or holds.fits(kind)):
            rule = f"expected {holds}, the column holds {kind}"
            self.violations.add_column(self.shown(name), rule)
            return
        self._usable.add(name)

    def __contains__(self, name: str) -> bool:
        """Returns whether a column was required and can be read."""
        return name in self._usable

    def column_of(self, name: str) -> str:
        """Returns what the table calls a column."""
        return self._mapping.get(name, name)

    def shown(self, name: str) -> str:
        """Returns what messages call a column."""
        column = self.column_of(name)
        return name if column == name else f"{name} (table column {column})"

    def type_of(self, name: str) -> pa.DataType:
        """Returns the Arrow type of a column's values."""
        kind = self.table.type_of(self.column_of(name))
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields the usable columns of all rows, each batch after the 0-based number of its first.

        Raises:
            DataError: no column is usable, or the table cannot be read.
            ConfigurationError: the database refused, or is gone.
        """
        if not self._usable:
            self.violations.raise_if_any(self.table.name)
        rows_seen = 0
        for batch in self.table.batches(sorted({self.column_of(name) for name in self._usable})):
            yield rows_seen, batch
            rows_seen += batch.num_rows
        if rows_seen == 0:
            self.violations.add_column("table", _EMPTY_TABLE)

    def take(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        """Returns a column of a batch as it stands in the table, dictionaries resolved."""
        column = batch.column(self.column_of(name))
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def key_text(self, batch: pa.RecordBatch, name: str, first_row: int) -> pa.Array:
        """Returns the person keys as text, empty where null; notes empty ones."""
        keys = key_text(self.take(batch, name))
        empty = pc.equal(keys, "").to_numpy(zero_copy_only=False)
        self.violations.add_rows(self.shown(name), _KEY_NULL, empty, first_row)
        return keys

    def quantities(
        self, batch: pa.RecordBatch, name: str, neutral: float, first_row: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        """Returns float64[rows] and bool[rows], true where null; notes fields that are no numbers.

        Args:
            batch: of `batches`.
            name: of a column of numbers or booleans.
            neutral: stands in for fields that are no numbers, and breaks no rule.
            first_row: 0-based number of the batch's first row.
        """
        column = self.parsed(batch, name, pa.float64(), repr(neutral), first_row)
        null = nulls(column)
        if null is not None:
            column = pc.fill_null(column, 0.0)
        return column.to_numpy(zero_copy_only=False), null

    def parsed(
        self, batch: pa.RecordBatch, name: str, kind: pa.DataType, neutral: str, first_row: int
    ) -> pa.Array:
        """Returns a column in an Arrow type.

        CSV fields that are not of it are noted, and replaced by `neutral`, which breaks no rule.
        """
        column = self.take(batch, name)
        if column.type == kind:
            return column
        if not is_text(column.type) or is_text(kind):
            return pc.cast(column, kind, safe=False)
        try:
            return pc.cast(column, kind)
        except pa.ArrowInvalid:
            pattern = _CSV_NUMBER if pa.types.is_floating(kind) else _CSV_INTEGER
            fits = pc.fill_null(pc.match_substring_regex(column, pattern), True)
            wrong = ~fits.to_numpy(zero_copy_only=False)
            self.violations.add_rows(self.shown(name), Rule.WRONG_TYPE, wrong, first_row)
            return pc.cast(pc.if_else(fits, column, neutral), kind)


class FeatureColumns:
    """The feature columns of a table as codes of the public grids."""

    def __init__(
        self, columns: CheckedColumns, grids: tuple[FeatureGrid, ...], not_held: frozenset[str]
    ) -> None:
        """Requires the columns of all features that are held.

        Args:
            columns: of the table.
            grids: of the features, in the order in which they are coded.
            not_held: features that this institution does not have; they are not read.
        """
        self._columns = columns
        self._features = len(grids)
        held = [(place, grid) for place, grid in enumerate(grids) if grid.name not in not_held]
        for _, grid in held:
            columns.require(grid.name, _held_by(grid), if_missing=_MISSING_FEATURE)
        self._read = [(place, grid) for place, grid in held if grid.name in columns]

    def codes(self, batch: pa.RecordBatch, first_row: int) -> NDArray[np.uint8]:
        """Returns uint8[features, rows], NOT_HELD for features that are not read.

        Broken rules are noted; what stands at such a row must not be used.
        """
        codes = np.full((self._features, batch.num_rows), NOT_HELD, np.uint8)
        for place, grid in self._read:
            if grid.kind is Kind.CATEGORY:
                codes[place] = self._categories(batch, grid, first_row)
            else:
                codes[place] = self._quantities(batch, grid, first_row)
        return codes

    def _quantities(
        self, batch: pa.RecordBatch, grid: FeatureGrid, first_row: int
    ) -> NDArray[np.uint8]:
        values, null = self._columns.quantities(batch, grid.name, grid.edges[0], first_row)
        coded = code_quantities(grid, values, null)
        for rule, rows in coded.broken:
            self._note(grid, rule, rows, first_row)
        return coded.codes

    def _categories(
        self, batch: pa.RecordBatch, grid: FeatureGrid, first_row: int
    ) -> NDArray[np.uint8]:
        kind = pa.string() if isinstance(grid.categories[0], str) else pa.int64()
        neutral = str(grid.categories[0])
        column = self._columns.parsed(batch, grid.name, kind, neutral, first_row)
        null = nulls(column)
        found = pc.index_in(column, value_set=pa.array(grid.categories, kind))
        listed = pc.fill_null(found, -1).to_numpy()
        codes: NDArray[np.uint8] = (listed + grid.first_category_cell).astype(np.uint8)
        unlisted = listed < 0 if null is None else (listed < 0) & ~null
        if grid.other_cell is not None:
            codes[unlisted] = grid.other_cell
        else:
            self._note(grid, Rule.NOT_LISTED, unlisted, first_row)
        if null is not None and grid.missing_cell is not None:
            codes[null] = grid.missing_cell
        elif null is not None:
            self._note(grid, Rule.NULL, null, first_row)
        return codes

    def _note(self, grid: FeatureGrid, rule: Rule, rows: NDArray[np.bool_], first_row: int) -> None:
        shown, text = self._columns.shown(grid.name), str(rule)
        if rule is Rule.OUTSIDE:
            text = f"{rule}, {grid.edges[0]:.10g} to {grid.upper:.10g}"
        self._columns.violations.add_rows(shown, text, rows, first_row)


def check_not_held(schema: Schema, not_held: frozenset[str]) -> None:
    """Returns only if an institution may declare that it does not hold these features.

    Raises:
        ConfigurationError: a name is not a scored or protected feature, or no scored one is left.
    """
    unknown = not_held - {grid.name for grid in schema.grids}
    if unknown:
        raise ConfigurationError(
            "Declared as not held, but neither a scored nor a protected feature of the schema: "
            f"{', '.join(sorted(unknown))}."
        )
    if not any(grid.name not in not_held for grid in schema.scored_grids):
        raise ConfigurationError("An institution must hold at least one scored feature.")


def key_text(keys: pa.Array) -> pa.Array:
    """Returns person keys, text or integers, as text; null becomes empty text."""
    return pc.fill_null(pc.cast(keys, pa.string()), "")


def nulls(column: pa.Array) -> NDArray[np.bool_] | None:
    """Returns bool[rows], true where null; None if nowhere."""
    if column.null_count == 0:
        return None
    rows: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return rows


def _held_by(grid: FeatureGrid) -> Holds:
    match grid.kind:
        case Kind.CATEGORY:
            return Holds.TEXT if isinstance(grid.categories[0], str) else Holds.INTEGERS
        case Kind.FLAG:
            return Holds.NUMBERS_OR_BOOLEANS
        case Kind.NUMBER | Kind.COUNT:
            return Holds.NUMBERS
