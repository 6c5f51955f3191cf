"""Rows in PostgreSQL's binary COPY format as Arrow columns, decoded column by column.

The format (PostgreSQL 15 documentation, COPY, "Binary Format"): a header; for each row the number
of its fields as int16, then for each field its length as int32, -1 for NULL, and its bytes; at the
end an int16 of -1. All numbers are big-endian. The server sends one message for each row.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from federation.errors import DataError

MOST_BYTES: Final = 2**24
"""A batch ends after this many bytes of rows, though it has fewer rows than others."""

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
_HEADER_BYTES: Final = len(_SIGNATURE) + 8
_END: Final = b"\xff\xff"
_COUNT_BYTES, _LENGTH_BYTES = 2, 4
_LARGEST_FIXED: Final = 8
_DAYS_FROM_1970: Final = 10_957  # to 2000-01-01, from where PostgreSQL counts
_MICROSECONDS_A_DAY: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class FieldKind:
    """How the fields of a column are read.

    Attributes:
        arrow: the type that they get.
        stored: the numpy type of a field, big-endian; None for text.
        after_1970: what is added to each number, for dates and times.
    """

    arrow: pa.DataType
    stored: np.dtype[np.generic] | None
    after_1970: int = 0


BOOLEAN: Final = FieldKind(pa.bool_(), np.dtype("u1"))
SMALLINT: Final = FieldKind(pa.int16(), np.dtype(">i2"))
INTEGER: Final = FieldKind(pa.int32(), np.dtype(">i4"))
BIGINT: Final = FieldKind(pa.int64(), np.dtype(">i8"))
REAL: Final = FieldKind(pa.float32(), np.dtype(">f4"))
DOUBLE: Final = FieldKind(pa.float64(), np.dtype(">f8"))
DATE: Final = FieldKind(pa.date32(), np.dtype(">i4"), _DAYS_FROM_1970)
TIMESTAMP: Final = FieldKind(
    pa.timestamp("us"), np.dtype(">i8"), _DAYS_FROM_1970 * _MICROSECONDS_A_DAY
)
TEXT: Final = FieldKind(pa.string(), None)


def record_batches(
    messages: Iterable[bytes | bytearray | memoryview],
    columns: dict[str, FieldKind],
    batch_rows: int,
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a COPY in order.

    Args:
        messages: as the server sent them, one for each row; the first begins with the header.
        columns: how each is read, in the order of the fields; at least one.
        batch_rows: most rows of a batch.

    Raises:
        DataError: this is not the format above, or text is not UTF-8.
    """
    rows: list[bytes] = []
    size, ended, begun = 0, False, False
    for message in messages:
        row = bytes(message)
        if not begun:
            if not row.startswith(_SIGNATURE):
                raise _not_understood()
            row, begun = row[_HEADER_BYTES:], True
            if not row:
                continue
        if ended:
            raise _not_understood()
        if row == _END:
            ended = True
            continue
        rows.append(row)
        size += len(row)
        if len(rows) == batch_rows or size >= MOST_BYTES:
            yield _batch(rows, columns)
            rows, size = [], 0
    if not ended:
        raise _not_understood()
    if rows:
        yield _batch(rows, columns)


def _batch(rows: list[bytes], columns: dict[str, FieldKind]) -> pa.RecordBatch:
    content = np.frombuffer(b"".join(rows) + bytes(_LARGEST_FIXED), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
    place = np.concatenate(([0], ends[:-1]))
    within = ends[-1]
    counts = _fixed(content, place, np.dtype(">i2"), within)
    if (counts != len(columns)).any():
        raise _not_understood()
    place = place + _COUNT_BYTES
    arrays = []
    for kind in columns.values():
        length = _fixed(content, place, np.dtype(">i4"), within).astype(np.int64)
        place = place + _LENGTH_BYTES
        null = length == -1
        length[null] = 0
        if (length < 0).any() or (place + length > ends).any():
            raise _not_understood()
        decode = _text if kind.stored is None else _numbers
        arrays.append(decode(content, place, length, null, kind))
        place = place + length
    if (place != ends).any():
        raise _not_understood()
    batch = pa.record_batch(arrays, names=list(columns))
    try:
        batch.validate(full=True)  # a database without an encoding may hold text that is not UTF-8
    except pa.ArrowInvalid:
        raise DataError("The table holds text that is not UTF-8.") from None
    return batch


def _fixed(
    content: NDArray[np.uint8],
    place: NDArray[np.int64],
    stored: np.dtype[np.generic],
    within: int,
) -> NDArray[np.generic]:
    """Returns the numbers of one type that begin at some places, in the machine's byte order.

    Args:
        content: uint8[bytes], with 8 bytes more than there are rows.
        place: int64[rows], of each number's first byte.
        stored: the type.
        within: where the rows end; a number that would begin after it was never sent.
    """
    if (place > within).any():
        raise _not_understood()
    # One number at every byte, aligned or not: no copy is made until those asked for are taken.
    everywhere: NDArray[np.generic] = np.ndarray(
        content.size - stored.itemsize + 1, stored, content.data, strides=1
    )
    return everywhere[place].astype(stored.newbyteorder("="))


def _numbers(
    content: NDArray[np.uint8],
    place: NDArray[np.int64],
    length: NDArray[np.int64],
    null: NDArray[np.bool_],
    kind: FieldKind,
) -> pa.Array:
    stored = kind.stored
    if stored is None or (length[~null] != stored.itemsize).any():
        raise _not_understood()
    # A NULL has no bytes: what is read in its place is masked.
    values = _fixed(content, place, stored, content.size - _LARGEST_FIXED)
    if pa.types.is_boolean(kind.arrow):
        values = values != 0
    elif kind.after_1970:
        shifted = _shifted(values.astype(np.int64), 8 * stored.itemsize, kind.after_1970)
        values = shifted.astype(values.dtype)
    return pa.array(values, mask=null if null.any() else None).cast(kind.arrow)


def _shifted(values: NDArray[np.int64], bits: int, by: int) -> NDArray[np.int64]:
    """Returns dates or times counted from 1970; the infinite ones stay the least and largest."""
    largest = 2 ** (bits - 1) - 1
    finite = (values > -largest - 1) & (values < largest)
    return np.where(finite, np.minimum(values, largest - by) + by, values)


def _text(
    content: NDArray[np.uint8],
    place: NDArray[np.int64],
    length: NDArray[np.int64],
    null: NDArray[np.bool_],
    kind: FieldKind,
) -> pa.Array:
    offsets = np.concatenate(([0], np.cumsum(length)))
    within = np.repeat(place - offsets[:-1], length) + np.arange(offsets[-1])
    data = content[within]
    valid = None
    if null.any():
        valid = pa.py_buffer(np.packbits(~null, bitorder="little"))
    return pa.Array.from_buffers(
        kind.arrow,
        len(length),
        [valid, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)],
    )


def _not_understood() -> DataError:
    return DataError(
        "The database sent rows that are not in the binary COPY format of PostgreSQL. Connect to "
        "PostgreSQL itself, 12 or later."
    )
