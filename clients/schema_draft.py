"""A first schema from a table's columns, for people to finish: it does not load as it stands.

What the draft suggests is rounded outward to 1, 2 or 5 times a power of ten, never an exact
extreme, and only values that many rows share are listed. It is still made from the table without
noise: whoever finishes it replaces suggestions by what the data dictionary says before it is shown
to anyone outside.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clients.table_file import TableFile, is_numeric, is_text
from federation.drafted import TO_CONFIRM, Prompt
from federation.errors import DataError
from federation.grid import Kind

_MOST_CATEGORIES = 50
_FEW_VALUES = 12
_ROWS_TO_LIST_A_VALUE = 100
_SPREAD_FOR_LOG = 10_000.0
_BANDS_OF_PROTECTED = 4
_STEPS: Final = (1, 2, 5)
_OFTEN_PROTECTED: Final = (
    "sex",
    "gender",
    "age",
    "birth",
    "race",
    "ethnic",
    "religion",
    "marriage",
    "marital",
    "nationality",
    "disab",
)

_OPENING = f"""\
# A draft. Every "{TO_CONFIRM}: ..." is a decision of a person. Decide, and remove the mark (around
# a number remove the quotes too; in a list remove the first entry). It does not load before.
# The suggestions come from this table without any noise: replace them by what the data dictionary
# says before anyone outside sees this file.
format = 1
name = "{TO_CONFIRM}: {Prompt.NAME}"
# The column that names a person. "row" where the table truly has one row a person and no key:
# then nobody can be held out, and the card cannot be evaluated.
person_key = "{TO_CONFIRM}: {Prompt.PERSON_KEY}"
# "one": a second row of a person is an error. "many": a person's rows stand next to each other.
rows_per_person = "{TO_CONFIRM}: one"

[outcome]
# 1 = bad, 0 = good, nothing else.
column = "{TO_CONFIRM}: {Prompt.OUTCOME}"
# Such as: default within 12 months of 2024-01
window = "{TO_CONFIRM}: {Prompt.WINDOW}"

# Delete the [[feature]] of the outcome, of the person key, and of all that is known only after
# the outcome. Of an ignored feature keep only name, role and kind.
# role: "scored"; "protected" (only for figures by group, never scored); "ignored" (never read).
# direction: how the risk moves as the value rises: "none", "rising" or "falling".
# A value that is a code: special = [{{ code = 96, label = "not reported" }}], outside the bounds.
"""


@dataclass(slots=True, kw_only=True)
class _Column:
    """What has been seen of one column.

    Attributes:
        name: of the column.
        numeric: whether all values so far are numbers.
        whole: whether all finite values so far are whole.
        low: the smallest finite value, infinity before any.
        high: the largest finite value.
        nulls: whether there are any.
        not_finite: whether NaN or an infinity was seen.
        counts: rows of each value; None once there are more than 50 values.
    """

    name: str
    numeric: bool
    whole: bool = True
    low: float = math.inf
    high: float = -math.inf
    nulls: bool = False
    not_finite: bool = False
    counts: dict[str, int] | None = field(default_factory=dict)

    def observe(self, values: pa.Array) -> None:
        """Takes in the next rows."""
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        self.nulls |= values.null_count > 0
        values = values.drop_null()
        if self.numeric and len(values):
            self._observe_numbers(values)
        if self.counts is not None:
            for item in pc.value_counts(values).to_pylist():
                text = _text(item["values"])
                self.counts[text] = self.counts.get(text, 0) + item["counts"]
            if len(self.counts) > _MOST_CATEGORIES:
                self.counts = None

    def _observe_numbers(self, values: pa.Array) -> None:
        try:
            numbers = pc.cast(values, pa.float64(), safe=is_text(values.type)).to_numpy(
                zero_copy_only=False
            )
        except pa.ArrowInvalid:
            self.numeric = False
            return
        finite = numbers[np.isfinite(numbers)]
        self.not_finite |= finite.size < numbers.size
        if finite.size:
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))
            self.whole = self.whole and bool((finite == np.floor(finite)).all())

    @property
    def kind(self) -> Kind | None:
        """The kind that the values suggest; None where they look like keys or free text."""
        if not self.numeric or self.low > self.high:
            return Kind.CATEGORY if self.counts else None
        if self.whole and self.low >= 0 and self.high <= 1 and not self.not_finite:
            return Kind.FLAG
        return Kind.COUNT if self.whole else Kind.NUMBER

    @property
    def common_values(self) -> list[str]:
        """Values that at least 100 rows share."""
        counts = self.counts or {}
        common = [value for value, rows in counts.items() if rows >= _ROWS_TO_LIST_A_VALUE]
        return sorted(common, key=float) if self.numeric else sorted(common)


def draft(path: Path) -> str:
    """Returns a schema in TOML with every decision marked TO CONFIRM.

    Args:
        path: a .parquet or .csv file, read once as a stream.

    Raises:
        DataError: the file cannot be read, a column name stands twice, or no column is of a type
            that a schema can hold.
    """
    table = TableFile(path)
    if len(set(table.names)) != len(table.names):
        raise DataError(f"The table {path.name} has several columns of one name: rename them.")
    columns = {
        name: _Column(name=name, numeric=table.is_csv or not is_text(_plain(table, name)))
        for name in table.names
        if _is_usable(_plain(table, name))
    }
    if not columns:
        raise DataError(f"The table {path.name} has no column of numbers, booleans or text.")
    for batch in table.batches(list(columns)):
        for name, column in columns.items():
            column.observe(batch.column(name))
    parts = [_OPENING]
    left_out = [name for name in table.names if name not in columns]
    if left_out:
        parts.append(f"# Left out, neither numbers nor text: {json.dumps(left_out)}\n")
    parts.extend("\n".join(_feature(column)) + "\n" for column in columns.values())
    return "\n".join(parts)


def _feature(column: _Column) -> list[str]:
    """Returns the lines of one [[feature]]."""
    kind = column.kind
    lines = ["[[feature]]", f"name = {_quoted(column.name)}"]
    if kind is None:
        lines.append("# Empty, or too many different values for a category: a key, or free text?")
        return [*lines, _open("role", "ignored"), _open("kind", "category")]
    protected = any(word in column.name.lower() for word in _OFTEN_PROTECTED)
    lines.append(_open("role", "protected" if protected else "scored"))
    lines.append(_open("kind", kind))
    if kind is Kind.COUNT and column.counts and len(column.counts) <= _FEW_VALUES:
        lines.append(
            "# Few values: codes of a category? Then delete unit, bounds, spacing and direction, "
            "and write\n# "
            f"categories = [{', '.join(column.common_values)}]"
        )
    if not protected:
        lines.append(_open("reason", Prompt.REASON))
    if kind in (Kind.NUMBER, Kind.COUNT):
        lines.extend(_bounds(column, kind, protected=protected))
    if kind is Kind.CATEGORY:
        listed = [f"{TO_CONFIRM}: remove this entry", *column.common_values]
        lines.append("# Values that fewer than 100 rows share are not listed here.")
        lines.append(f"categories = [{', '.join(map(_quoted, listed))}]")
        lines.append("other = true")
    else:
        lines.append(_open("direction", "none"))
    if column.not_finite:
        lines.append("# The column holds NaN or infinite values: write missing ones as null.")
    lines.append(_open("missing", "true" if column.nulls else "false"))
    return lines


def _bounds(column: _Column, kind: Kind, *, protected: bool) -> list[str]:
    lower, upper = _below(column.low), -_below(-column.high)
    if kind is Kind.COUNT:
        lower, upper = math.floor(lower), math.ceil(upper)
    if lower >= upper:
        upper = lower + 1
    lines = [
        _open("unit", Prompt.UNIT),
        "# Public bounds, inclusive: what is possible, not what this table holds.",
        _open("lower", _number(lower)),
        _open("upper", _number(upper)),
        'outside = "refuse"  # or "clamp": a value beyond the bounds counts as the bound',
    ]
    if protected:
        lines += [
            "# Quality is told for each of these bands: few, or the noise hides them all.",
            f"cells = {_BANDS_OF_PROTECTED}",
        ]
    size = max(abs(lower), abs(upper))
    if size >= _SPREAD_FOR_LOG:
        lines += [
            'spacing = "log"  # or "linear", without log_unit',
            f"log_unit = {_number(size / 1000)}",
        ]
    return lines


def _below(value: float) -> float:
    """Returns the next of 0 and +-{1, 2, 5} 10^k strictly below a value; 0 for 0."""
    if value == 0:
        return 0.0
    exponent = math.floor(math.log10(abs(value)))
    steps = [float(f"{m}e{k}") for k in range(exponent - 1, exponent + 3) for m in _STEPS]
    if value > 0:
        return max(step for step in steps if step < value)
    return -min(step for step in steps if step > -value)


def _plain(table: TableFile, name: str) -> pa.DataType:
    kind = table.type_of(name)
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_usable(kind: pa.DataType) -> bool:
    return is_numeric(kind) or is_text(kind) or bool(pa.types.is_boolean(kind))


def _text(value: object) -> str:
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return repr(value) if isinstance(value, float) and not value.is_integer() else str(int(value))


def _open(setting: str, suggestion: str) -> str:
    return f'{setting} = "{TO_CONFIRM}: {suggestion}"'


def _quoted(text: str) -> str:
    """Returns a TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
