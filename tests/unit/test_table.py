"""Reading a table: every rule of the contract, and that no message quotes a value."""

import datetime as dt
import traceback
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.left_out import NOBODY_LEFT_OUT
from clients.person_keys import HashSpill, repeated_rows
from clients.table import CodedBatch, ContractReader
from clients.table_file import TableFile
from federation.errors import ConfigurationError, DataError
from federation.grid import NOT_HELD
from federation.population import Split, key_hashes
from federation.schema import RowsPerPerson, Schema, load_schema

SCHEMA = """
format = 1
name = "Test"
person_key = "person"
rows_per_person = "one"
[outcome]
column = "bad"
window = "default within a year"
[[feature]]
name = "income"
role = "scored"
kind = "number"
unit = "EUR"
reason = "Income"
lower = 0
upper = 100
cells = 10
missing = true
special = [{code = -9, label = "not asked"}]
[[feature]]
name = "late"
role = "scored"
kind = "count"
unit = "payments"
reason = "Late payments"
lower = 0
upper = 5
[[feature]]
name = "home"
role = "scored"
kind = "category"
reason = "Housing"
categories = ["rent", "own"]
[[feature]]
name = "region"
role = "protected"
kind = "category"
categories = [1, 2]
other = true
missing = true
[[feature]]
name = "staff"
role = "scored"
kind = "flag"
reason = "Employer"
[[feature]]
name = "note"
role = "ignored"
kind = "category"
"""
SPLIT = Split(salt="5a" * 32, held_out_fraction=0.25)
MARK = 8_675_309  # a value that no message may hold
GOOD: dict[str, list[object]] = {
    "person": [11, 12, 13, 14],
    "bad": [0, 1, 0, 0],
    "income": [0.0, None, 100.0, -9.0],
    "late": [0, 1, 2, 5],
    "home": ["rent", "own", "own", "rent"],
    "region": [1, 2, None, 7],
    "staff": [0, 1, 1, 0],
}
GOOD_CODES = [[0, 11, 9, 10], [0, 1, 2, 5], [0, 1, 1, 0], [1, 2, 0, 3], [0, 1, 1, 0]]


def schema(**changes: str) -> Schema:
    text = SCHEMA
    for old, new in changes.items():
        text = text.replace(f'{old} = "', f'{old} = "{new}" # "')
    return load_schema(text)


def write(directory: Path, columns: dict[str, object], suffix: str = "parquet") -> Path:
    path = directory / f"table.{suffix}"
    if suffix == "csv":
        pa.csv.write_csv(pa.table(columns), path)
    else:
        pa.parquet.write_table(pa.table(columns), path)
    return path


def read(
    path: Path,
    contract: Schema | None = None,
    not_held: frozenset[str] = frozenset(),
    mapping: dict[str, str] | None = None,
) -> list[CodedBatch]:
    reader = ContractReader(
        contract or schema(),
        TableFile(path),
        not_held=not_held,
        split=SPLIT,
        mapping=mapping or {},
        left_out=NOBODY_LEFT_OUT,
    )
    return list(reader.batches(path.parent))


def refusal(path: Path, contract: Schema | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read(path, contract)
    message = str(caught.value)
    assert str(MARK) not in "".join(traceback.format_exception(caught.value))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return message


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_good_table_is_coded(tmp_path: Path, suffix: str) -> None:
    (batch,) = read(write(tmp_path, GOOD | {"note": ["x"] * 4}, suffix))
    assert batch.codes.tolist() == GOOD_CODES
    assert batch.bad.tolist() == [0, 1, 0, 0]
    assert batch.starts.tolist() == [True] * 4
    hashes = key_hashes(SPLIT, [11, 12, 13, 14]).tolist()
    assert batch.held_out.tolist() == [h < 2**62 for h in hashes]


def test_narrow_types_decimals_booleans_and_dictionaries_are_read(tmp_path: Path) -> None:
    numbers = [None if v is None else Decimal(str(v)) for v in GOOD["income"]]
    columns = GOOD | {
        "person": pa.array(["11", "12", "13", "14"], pa.large_string()).dictionary_encode(),
        "bad": [False, True, False, False],
        "income": pa.array(numbers, pa.decimal128(9, 2)),
        "late": pa.array(GOOD["late"], pa.float32()),
        "home": pa.array(GOOD["home"]).dictionary_encode(),
        "region": pa.array(GOOD["region"], pa.uint8()).dictionary_encode(),
        "staff": [False, True, True, False],
    }
    (batch,) = read(write(tmp_path, columns))
    (plain,) = read(write(tmp_path, GOOD))
    assert batch.codes.tolist() == GOOD_CODES
    assert batch.bad.tolist() == plain.bad.tolist()
    assert batch.held_out.tolist() == plain.held_out.tolist()


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("income", [1, MARK, 2, MARK], "income: outside the public bounds"),
        ("income", [1.0, float("nan"), 2.0, float("nan")], "income: NaN is never allowed"),
        ("income", [1.0, float("inf"), 2.0, float("-inf")], "income: infinite values"),
        ("late", [1.0, 2.5, 2.0, 0.5], "late: a count must be a whole number"),
        ("late", [1, None, 2, None], "late: null is not allowed"),
        ("staff", [1, MARK, 0, 2], "staff: a flag must be 0 or 1"),
        ("home", ["own", str(MARK), "own", "x"], "home: category not listed"),
        ("home", ["own", None, "own", None], "home: null is not allowed"),
        ("bad", [0, MARK, 1, -1], "bad: the outcome must be 1 (bad) or 0 (good)"),
        ("bad", [0.0, 0.5, 1.0, float("nan")], "bad: the outcome must be 1 (bad) or 0 (good)"),
        ("bad", [0, None, 1, None], "bad: the outcome must not be null"),
        ("person", [1, None, 2, None], "person: the person key must not be null"),
    ],
)
def test_a_broken_rule_is_reported_by_column_count_and_rows(
    tmp_path: Path, suffix: str, column: str, values: list[object], expected: str
) -> None:
    message = refusal(write(tmp_path, GOOD | {column: values}, suffix))
    (line,) = [line for line in message.splitlines() if line.startswith(f"  {expected}")]
    assert line.endswith("(2 rows: 2, 4)")


@pytest.mark.parametrize("column", ["income", "late", "region", "staff", "bad"])
def test_text_where_csv_should_hold_numbers_is_reported_once(tmp_path: Path, column: str) -> None:
    values = ["1", f"{MARK}x", "0", f"x{MARK}"]
    message = refusal(write(tmp_path, GOOD | {column: values}, "csv"))
    lines = message.splitlines()[1:]
    assert lines == [f"  {column}: not of the type that the schema expects (2 rows: 2, 4)"]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("income", ["1"] * 4, "expected numbers, the column holds string"),
        ("income", [True] * 4, "expected numbers, the column holds bool"),
        ("staff", ["1"] * 4, "expected numbers or booleans, the column holds string"),
        ("home", [1] * 4, "expected text, the column holds int64"),
        ("region", ["1"] * 4, "expected integers, the column holds string"),
        ("region", [1.0] * 4, "expected integers, the column holds double"),
        ("bad", ["1"] * 4, "expected numbers or booleans, the column holds string"),
        ("person", [1.5] * 4, "expected text or integers, the column holds double"),
        ("person", [dt.date(2020, 1, 1)] * 4, "text or integers, the column holds date32"),
        ("income", [[1.0]] * 4, "expected numbers, the column holds list"),
    ],
)
def test_a_column_of_the_wrong_type_is_reported_as_a_whole(
    tmp_path: Path, column: str, values: list[object], expected: str
) -> None:
    message = refusal(write(tmp_path, GOOD | {column: values}))
    assert f"  {column}: " in message
    assert expected in message


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("column", sorted(GOOD))
def test_a_missing_column_is_reported(tmp_path: Path, suffix: str, column: str) -> None:
    columns = {name: values for name, values in GOOD.items() if name != column}
    assert f"  {column}: the table has no such column" in refusal(write(tmp_path, columns, suffix))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_table_without_any_expected_column_is_refused(tmp_path: Path, suffix: str) -> None:
    message = refusal(write(tmp_path, {"other": [MARK]}, suffix))
    assert message.count("no such column") == len(GOOD)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_column_that_stands_twice_is_reported(tmp_path: Path, suffix: str) -> None:
    table = pa.table(GOOD).append_column("income", pa.array([1.0] * 4))
    path = tmp_path / f"table.{suffix}"
    if suffix == "csv":
        pa.csv.write_csv(table, path)
    else:
        pa.parquet.write_table(table, path)
    assert "income: the table has several columns of this name" in refusal(path)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_an_empty_table_is_refused(tmp_path: Path, suffix: str) -> None:
    empty = pa.table(GOOD).slice(0, 0)
    columns = {name: empty.column(name) for name in GOOD}
    assert "the table has no rows" in refusal(write(tmp_path, columns, suffix))


@pytest.mark.parametrize("outcome", [0, 1])
def test_an_outcome_of_one_class_is_refused(tmp_path: Path, outcome: int) -> None:
    message = refusal(write(tmp_path, GOOD | {"bad": [outcome] * 4}))
    assert "bad: the outcome is the same in every row" in message


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_second_row_of_a_person_is_found_wherever_it_stands(tmp_path: Path, suffix: str) -> None:
    people = 70_000  # more than one batch
    columns = {name: [values[row % 2] for row in range(people)] for name, values in GOOD.items()}
    columns["person"] = [*range(people - 2), 5, MARK]
    path = write(tmp_path, columns, suffix)
    message = refusal(path)
    assert message.endswith("rows_per_person = one (row 69,999)")


def test_a_person_whose_rows_are_apart_is_told_to_sort(tmp_path: Path) -> None:
    columns = GOOD | {"person": [MARK, MARK, 12, MARK]}
    message = refusal(write(tmp_path, columns), schema(rows_per_person="many"))
    assert "sort the table by the person key" in message
    assert message.endswith("(row 4)")


def test_adjacent_rows_are_one_person_across_batches(tmp_path: Path) -> None:
    rows = 3 * 65_536
    columns = {name: [values[row % 2] for row in range(rows)] for name, values in GOOD.items()}
    columns["person"] = [row // 7 for row in range(rows)]
    batches = read(write(tmp_path, columns), schema(rows_per_person="many"))
    starts = np.concatenate([batch.starts for batch in batches])
    held_out = np.concatenate([batch.held_out for batch in batches])
    assert np.flatnonzero(starts).tolist() == list(range(0, rows, 7))
    by_person = key_hashes(SPLIT, range(rows // 7 + 1)) < 2**62
    assert (held_out == np.repeat(by_person, 7)[:rows]).all()


def test_a_person_with_more_than_ten_thousand_rows_is_refused(tmp_path: Path) -> None:
    rows = 70_000
    columns = {name: [values[row % 2] for row in range(rows)] for name, values in GOOD.items()}
    columns["person"] = [*([1] * 50_000), *([2] * 10_000), *([3] * 10_000)]
    message = refusal(write(tmp_path, columns), schema(rows_per_person="many"))
    assert "more than 10,000 rows (40,000 rows: 10,001, 10,002" in message


def test_the_rows_of_a_person_are_counted_across_batches(tmp_path: Path) -> None:
    rows = 70_001  # the last person begins at row 60,001, before the end of the first batch
    columns = {name: [values[row % 2] for row in range(rows)] for name, values in GOOD.items()}
    columns["person"] = [min(row // 10_000, 6) for row in range(rows)]
    message = refusal(write(tmp_path, columns), schema(rows_per_person="many"))
    assert message.endswith("more than 10,000 rows (row 70,001)")


def test_every_broken_rule_of_the_whole_table_is_in_one_error(tmp_path: Path) -> None:
    columns = GOOD | {
        "income": [MARK, float("nan"), float("inf"), 3.0],
        "late": [None, 0.5, 99, 1],
        "home": [1, 2, 3, 4],
        "person": [1, 2, 2, 1],
    }
    message = refusal(write(tmp_path, columns))
    for part in ("NaN", "infinite", "bounds", "null", "whole", "expected text", "second row"):
        assert part in message


def test_only_the_first_rows_are_named(tmp_path: Path) -> None:
    columns = {name: [values[0]] * 70_000 for name, values in GOOD.items()}
    columns |= {"person": range(70_000), "bad": [0, 1] * 35_000, "late": [9] * 70_000}
    message = refusal(write(tmp_path, {k: list(v) for k, v in columns.items()}))
    assert message.endswith(
        "late: outside the public bounds of the schema, 0 to 5 (70,000 rows: 1, 2, 3, 4, 5, ...)"
    )


def test_values_beyond_clamped_bounds_count_as_the_bound(tmp_path: Path) -> None:
    clamped = load_schema(SCHEMA.replace("cells = 10", 'cells = 10\noutside = "clamp"'))
    path = write(tmp_path, GOOD | {"income": [-1e300, 1e300, -9.0, None]})
    assert read(path, clamped)[0].codes[0].tolist() == [0, 9, 10, 11]


def test_features_that_are_not_held_are_not_read(tmp_path: Path) -> None:
    columns = GOOD | {"late": ["not", "a", "number", "!"]}
    del columns["region"]
    (batch,) = read(write(tmp_path, columns), not_held=frozenset({"late", "region"}))
    assert batch.codes[1].tolist() == batch.codes[3].tolist() == [NOT_HELD] * 4
    assert batch.codes[0].tolist() == GOOD_CODES[0]


def test_columns_may_have_other_names_in_the_table(tmp_path: Path) -> None:
    renamed = {
        "Kunde" if k == "person" else "Eink" if k == "income" else k: v for k, v in GOOD.items()
    }
    path = write(tmp_path, renamed)
    (batch,) = read(path, mapping={"person": "Kunde", "income": "Eink"})
    assert batch.codes.tolist() == GOOD_CODES
    path = write(tmp_path, renamed | {"Eink": [MARK] * 4})
    with pytest.raises(DataError, match=r"income \(table column Eink\): outside"):
        read(path, mapping={"person": "Kunde", "income": "Eink"})


@pytest.mark.parametrize(
    ("not_held", "mapping", "message"),
    [
        (frozenset({"nothing"}), {}, "not held.*nothing"),
        (frozenset({"note"}), {}, "not held.*note"),
        (frozenset({"income", "late", "home", "staff"}), {}, "at least one scored feature"),
        (frozenset(), {"note": "x"}, "not read.*note"),
        (frozenset({"late"}), {"late": "x"}, "not read.*late"),
        (frozenset(), {"income": "bad"}, "mapped to one table column: bad"),
    ],
)
def test_declarations_that_do_not_fit_the_schema_are_refused(
    tmp_path: Path, not_held: frozenset[str], mapping: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(write(tmp_path, GOOD), not_held=not_held, mapping=mapping)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.csv", f"person,bad\n1,0\n2,0,{MARK}\n".encode()),
        ("table.csv", f"person,bad\n1,\xff{MARK}\n".encode("latin-1")),
        ("table.csv", b""),
        ("table.parquet", f"PAR1{MARK}".encode()),
        ("table.xlsx", str(MARK).encode()),
    ],
)
def test_a_file_that_is_damaged_is_refused_without_quoting_it(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert name in refusal(path)


def test_text_that_is_not_utf8_in_parquet_is_refused(tmp_path: Path) -> None:
    keys = pa.array([b"1", b"2", b"\xff", b"4"]).view(pa.string())
    assert "cannot be read" in refusal(write(tmp_path, GOOD | {"person": keys}))


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no table"):
        read(tmp_path / "absent.csv")


def test_a_table_without_a_key_counts_rows(tmp_path: Path) -> None:
    columns = {name: values for name, values in GOOD.items() if name != "person"}
    (batch,) = read(write(tmp_path, columns), schema(person_key="row"))
    hashes = key_hashes(SPLIT, range(4)).tolist()
    assert batch.held_out.tolist() == [h < 2**62 for h in hashes]


@settings(
    derandomize=True,
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_message_ever_holds_a_value(tmp_path: Path, data: st.DataObject) -> None:
    marked = st.sampled_from([MARK, -MARK, MARK + 0.5, float("nan"), float("inf"), None])
    texts = st.sampled_from([f"{MARK}", f"own{MARK}", "own", "rent", None])
    suffix = data.draw(st.sampled_from(["csv", "parquet"]))
    columns: dict[str, object] = {}
    for name in GOOD:
        as_text = data.draw(st.booleans())
        values = data.draw(st.lists(texts if as_text else marked, min_size=3, max_size=3))
        columns[name] = pa.array(values, pa.string() if as_text else pa.float64())
    refusal(write(tmp_path, columns, suffix))
    (tmp_path / f"table.{suffix}").unlink()


def test_equal_hashes_of_different_people_are_not_a_second_row(tmp_path: Path) -> None:
    keys = pa.array(["a", "b", "c", "a"])
    candidates = np.sort(key_hashes(SPLIT, ["a", "b"]))
    one = RowsPerPerson.ONE
    assert list(repeated_rows([keys[:2], keys[2:]], SPLIT, one, candidates)) == [3]
    assert list(repeated_rows([keys[:3]], SPLIT, one, candidates)) == []


@settings(
    derandomize=True,
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    hashes=st.lists(st.sampled_from([0, 1, 2**58 - 1, 2**58, 2**63, 2**64 - 1])),
    most_in_memory=st.sampled_from([0, 4, 1_000]),
)
def test_hashes_that_come_again_are_found_in_memory_and_on_disk(
    tmp_path: Path, hashes: list[int], most_in_memory: int
) -> None:
    spill = HashSpill(tmp_path, most_in_memory=most_in_memory)
    for start in range(0, len(hashes), 3):
        spill.add(np.array(hashes[start : start + 3], np.uint64))
    times, again = spill.repeated()
    spill.close()
    assert times == len(hashes) - len(set(hashes))
    assert again.tolist() == sorted({h for h in hashes if hashes.count(h) > 1})
    assert not list(tmp_path.iterdir())
