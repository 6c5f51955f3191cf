"""PostgreSQL's binary rows: every field comes out as it went in, and nonsense is refused whole."""

import contextlib
import math
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import copy_rows
from clients.copy_rows import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTEGER,
    REAL,
    SMALLINT,
    TEXT,
    TIMESTAMP,
    FieldKind,
    record_batches,
)
from federation.errors import DataError

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END = b"\xff\xff"
FORMATS = {SMALLINT: ">h", INTEGER: ">i", BIGINT: ">q", REAL: ">f", DOUBLE: ">d", BOOLEAN: ">?"}
VALUES: dict[FieldKind, st.SearchStrategy[Any]] = {
    SMALLINT: st.integers(-(2**15), 2**15 - 1),
    INTEGER: st.integers(-(2**31), 2**31 - 1),
    BIGINT: st.integers(-(2**63), 2**63 - 1),
    REAL: st.floats(width=32),
    DOUBLE: st.floats(),
    BOOLEAN: st.booleans(),
    TEXT: st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=9),
}


def field(kind: FieldKind, value: Any) -> bytes:
    if value is None:
        return struct.pack(">i", -1)
    content = value.encode() if kind is TEXT else struct.pack(FORMATS[kind], value)
    return struct.pack(">i", len(content)) + content


def row(kinds: list[FieldKind], values: tuple[Any, ...]) -> bytes:
    fields = [field(kind, value) for kind, value in zip(kinds, values, strict=True)]
    return struct.pack(">h", len(kinds)) + b"".join(fields)


def messages(rows: list[bytes]) -> list[bytes]:
    """Returns what a server sends: the header comes with the first message."""
    first, *others = [*rows, END]
    return [HEADER + first, *others]


def read(sent: list[bytes], kinds: list[FieldKind], batch_rows: int = 3) -> pa.Table:
    columns = {f"c{place}": kind for place, kind in enumerate(kinds)}
    return pa.Table.from_batches(
        record_batches(sent, columns, batch_rows),
        pa.schema([(name, kind.arrow) for name, kind in columns.items()]),
    )


def same(first: Any, second: Any) -> bool:
    both = isinstance(first, float) and isinstance(second, float)
    return first == second or (both and math.isnan(first) and math.isnan(second))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_every_field_comes_out_as_it_went_in(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([*VALUES]), min_size=1, max_size=5))
    rows = data.draw(st.lists(st.tuples(*(st.none() | VALUES[kind] for kind in kinds)), max_size=7))
    table = read(messages([row(kinds, values) for values in rows]), kinds)
    found = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    assert len(found) == len(rows)
    for expected, got in zip(rows, found, strict=True):
        assert all(map(same, expected, got))


@settings(derandomize=True, deadline=None, max_examples=200)
@given(data=st.data())
def test_bytes_that_were_changed_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    kinds = [INTEGER, TEXT, DOUBLE, BOOLEAN, DATE, TIMESTAMP]
    dates = struct.pack(">ii", 4, 8_000), struct.pack(">iq", 8, 7_000_000)
    good = struct.pack(">h", 6) + b"".join(
        [field(INTEGER, 7), field(TEXT, "own"), field(DOUBLE, 0.5), field(BOOLEAN, True), *dates]
    )
    sent = messages([good, good, good])
    place = data.draw(st.integers(0, 3))
    content = bytearray(sent[place])
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    sent[place] = bytes(content)
    with contextlib.suppress(DataError):
        read(sent, kinds, data.draw(st.sampled_from([1, 2, 3])))


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [b""],
        [b"NOTCOPY" + bytes(12)],
        [HEADER],
        [HEADER + row([INTEGER], (1,))],
        [HEADER + END, row([INTEGER], (1,))],
        messages([row([INTEGER, INTEGER], (1, 2))]),
        messages([row([BIGINT], (1,))]),
        messages([row([INTEGER], (1,)) + b"x"]),
        messages([row([INTEGER], (1,))[:-1]]),
        messages([b"\0"]),
        messages([b"\0\x01" + struct.pack(">i", -2)]),
        messages([b"\0\x01" + struct.pack(">i", 2**31 - 1)]),
    ],
)
def test_what_is_not_the_format_is_refused(sent: list[bytes]) -> None:
    with pytest.raises(DataError, match="binary COPY format"):
        read(sent, [INTEGER])


def test_text_that_is_not_utf8_is_refused_unquoted() -> None:
    sent = messages([b"\0\x01" + struct.pack(">i", 4) + b"own\xff"])
    with pytest.raises(DataError, match=r"text that is not UTF-8\.$"):
        read(sent, [TEXT])


def test_a_batch_ends_after_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_rows, "MOST_BYTES", 100)
    sent = messages([row([TEXT], ("x" * 60,)) for _ in range(5)])
    sizes = [batch.num_rows for batch in record_batches(sent, {"c": TEXT}, 1000)]
    assert sizes == [2, 2, 1]
