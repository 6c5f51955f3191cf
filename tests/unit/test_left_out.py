"""Who is left out: without consent, too old, withdrawn; and that nothing unforeseen is guessed."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.left_out import Consent, LeftOut, Retention
from clients.snapshot import Snapshot, take_snapshot
from federation.errors import ConfigurationError, DataError
from federation.population import Split
from federation.privacy.units import Population
from federation.schema import Schema
from tests.federations import SALT, small_schema

NOBODY_HELD_OUT = Split(salt=SALT, held_out_fraction=0.0)
TODAY = dt.date(2024, 6, 30)
MARK = 8_675_309  # a value that no message may hold


def rules(**changes) -> LeftOut:
    settings = {"consent": None, "retention": None, "withdrawn": None}
    return LeftOut(**settings | changes, today=(TODAY - dt.date(1970, 1, 1)).days)


def write(directory: Path, people: list[int], suffix: str = "parquet", **columns: object) -> Path:
    """Writes a row for each key; a row's number stands in `late`, so that it is known again."""
    rows = len(people)
    content = {
        "person": people,
        "bad": (np.arange(rows) % 2).tolist(),
        "income": [50.0] * rows,
        "late": [row % 6 for row in range(rows)],
        "home": ["rent"] * rows,
        "city": ["north"] * rows,
    } | columns
    path = directory / f"table.{suffix}"
    if suffix == "csv":
        pa.csv.write_csv(pa.table(content), path)
    else:
        pa.parquet.write_table(pa.table(content), path)
    return path


def take(table: Path, left_out: LeftOut, schema: Schema | None = None) -> Snapshot:
    return take_snapshot(
        schema or small_schema(),
        table,
        not_held=frozenset(),
        split=NOBODY_HELD_OUT,
        directory=table.parent / "snapshot",
        left_out=left_out,
    )


def who_is_in(table: Path, left_out: LeftOut, schema: Schema | None = None) -> list[int]:
    """Returns the `late` of each row that entered."""
    blocks = take(table, left_out, schema).blocks(Population.TRAINED)
    return [code for block in blocks for code in block.codes[1].tolist()]


def refusal(table: Path, left_out: LeftOut) -> str:
    with pytest.raises(DataError) as caught:
        take(table, left_out)
    assert str(MARK) not in str(caught.value)
    assert [one.name for one in table.parent.iterdir()] == [table.name]
    return str(caught.value)


@pytest.mark.parametrize(
    ("answers", "suffix"),
    [
        (pa.array([True, False, None, True]), "parquet"),
        (pa.array([1, 0, None, 1]), "parquet"),
        (pa.array([1, 0, None, 1]), "csv"),
        (pa.array([1.0, 0.0, None, 1.0]), "parquet"),
    ],
)
def test_only_who_agreed_enters(tmp_path: Path, answers: pa.Array, suffix: str) -> None:
    table = write(tmp_path, [1, 2, 3, 4], suffix, agreed=answers)
    assert who_is_in(table, rules(consent=Consent(column="agreed"))) == [0, 3]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_texts_mean_consent_letter_by_letter(tmp_path: Path, suffix: str) -> None:
    table = write(tmp_path, [1, 2, 3, 4, 5], suffix, agreed=["yes", "no", None, "ja", ""])
    consent = Consent(column="agreed", given=("yes", "ja"), refused=("no",))
    assert who_is_in(table, rules(consent=consent)) == [0, 3]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([1, 0, MARK], "agreed): consent must be true, false, 1, 0 or missing (row 3)"),
        ([1.0, float("nan"), 1.0], "(row 2)"),
        ([1.0, 1.0, float("inf")], "(row 3)"),
        ([1.0, -1.0, 0.5], "(2 rows: 2, 3)"),
        (["1", "0", f"{MARK}"], "expected numbers or booleans, the column holds string"),
    ],
)
def test_an_answer_that_is_not_foreseen_is_an_error_and_not_a_guess(
    tmp_path: Path, answers: list[object], expected: str
) -> None:
    table = write(tmp_path, [1, 2, 3], agreed=answers)
    assert expected in refusal(table, rules(consent=Consent(column="agreed")))


def test_a_text_that_is_not_listed_is_an_error(tmp_path: Path) -> None:
    table = write(tmp_path, [1, 2, 3], agreed=["yes", "Yes", f"{MARK}"])
    consent = Consent(column="agreed", given=("yes",), refused=("no",))
    said = refusal(table, rules(consent=consent))
    assert "agreed): consent is none of the texts in given and refused (2 rows: 2, 3)" in said


def test_columns_that_are_missing_are_named(tmp_path: Path) -> None:
    both = rules(consent=Consent(column="no"), retention=Retention(column="none", days=1))
    said = refusal(write(tmp_path, [1, 2]), both)
    assert "[consent] column (table column no): the table has no such column" in said
    assert "[retention] column (table column none): the table has no such column" in said


def test_a_person_enters_only_with_consent_in_every_row(tmp_path: Path) -> None:
    table = write(
        tmp_path, [1, 1, 2, 2, 3, 3], agreed=[True, True, True, False, None, True]
    )  # fmt: skip
    left_out = rules(consent=Consent(column="agreed"))
    assert who_is_in(table, left_out, small_schema(rows="many")) == [0, 1]


def test_consent_is_asked_of_rows_that_are_too_old_as_well(tmp_path: Path) -> None:
    old = TODAY - dt.timedelta(days=1000)
    agreed, seen = [False, True, True, True, True], [old, TODAY, old, TODAY, TODAY]
    table = write(tmp_path, [1, 1, 2, 2, 2], agreed=agreed, seen=seen)
    left_out = rules(consent=Consent(column="agreed"), retention=Retention(column="seen", days=30))
    assert who_is_in(table, left_out, small_schema(rows="many")) == [3, 4]


DATES = [
    TODAY,
    TODAY - dt.timedelta(days=30),
    TODAY - dt.timedelta(days=31),
    None,
    TODAY + dt.timedelta(days=1),
]


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        (pa.date32(), "parquet"),
        (pa.date64(), "parquet"),
        (pa.timestamp("ns"), "parquet"),
        (pa.timestamp("s", "UTC"), "parquet"),
        (pa.date32(), "csv"),
        (pa.timestamp("ms"), "csv"),
    ],
)
def test_rows_that_are_too_old_or_have_no_date_are_left_out(
    tmp_path: Path, kind: pa.DataType, suffix: str
) -> None:
    table = write(tmp_path, [1, 2, 3, 4, 5], suffix, seen=pa.array(DATES).cast(kind))
    assert who_is_in(table, rules(retention=Retention(column="seen", days=30))) == [0, 1, 4]


def test_a_time_with_a_zone_counts_by_its_day_in_utc(tmp_path: Path) -> None:
    # 00:30 in Shanghai on the first day that would be kept is still the day before in UTC.
    local = pa.array([dt.datetime(2024, 5, 30, 16, 30), dt.datetime(2024, 5, 31)])
    seen = local.cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("s", "Asia/Shanghai"))
    table = write(tmp_path, [1, 2, 3], seen=pa.concat_arrays([seen, seen[1:]]))
    assert who_is_in(table, rules(retention=Retention(column="seen", days=30))) == [1, 2]


@pytest.mark.parametrize(
    ("seen", "suffix", "expected"),
    [
        ([TODAY, TODAY + dt.timedelta(days=2)], "parquet", "the date lies in the future (row 2)"),
        (["2024-06-30", "2924-06-30"], "csv", "the date lies in the future (row 2)"),
        (["2024-06-30", "30.06.2024"], "csv", "expected a date as 2026-01-31 (row 2)"),
        (["2024-06-30", "2024-02-30"], "csv", "expected a date as 2026-01-31 (row 2)"),
        (["2024-06-30", f"{MARK}"], "csv", "expected a date as 2026-01-31 (row 2)"),
        (["2024-06-30", "2024-06-30"], "parquet", "expected dates, the column holds string"),
        ([MARK, MARK], "parquet", "expected dates, the column holds int64"),
    ],
)
def test_what_is_no_past_date_is_an_error(
    tmp_path: Path, seen: list[object], suffix: str, expected: str
) -> None:
    table = write(tmp_path, [1, 2], suffix, seen=seen)
    assert expected in refusal(table, rules(retention=Retention(column="seen", days=30)))


def test_a_person_starts_at_the_first_row_that_is_left(tmp_path: Path) -> None:
    old = TODAY - dt.timedelta(days=31)
    table = write(tmp_path, [1, 1, 1, 2, 2], seen=[old, TODAY, TODAY, TODAY, old])
    left_out = rules(retention=Retention(column="seen", days=30))
    taken = take(table, left_out, small_schema(rows="many"))
    (block,) = taken.blocks(Population.TRAINED)
    assert block.codes[1].tolist() == [1, 2, 3]
    assert block.person_starts.tolist() == [0, 2]
    assert taken.people(Population.TRAINED) == 2


def test_a_table_of_which_nobody_is_left_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path, [1, 2], agreed=pa.nulls(2))
    assert "together leave nobody" in refusal(table, rules(consent=Consent(column="agreed")))


def test_an_outcome_that_is_the_same_for_all_who_are_left_is_refused(tmp_path: Path) -> None:
    table = write(tmp_path, [1, 2, 3], agreed=[1, 0, 1])
    assert "bad: the outcome is the same" in refusal(table, rules(consent=Consent(column="agreed")))


def test_the_contract_is_checked_for_those_as_well_who_are_left_out(tmp_path: Path) -> None:
    table = write(tmp_path, [1, 2, 3], agreed=[1, 1, 0], late=[1, 2, MARK])
    assert "late: " in refusal(table, rules(consent=Consent(column="agreed")))


def test_a_column_of_the_schema_may_be_the_column_of_consent(tmp_path: Path) -> None:
    table = write(tmp_path, [1, 2, 3, 4], late=[1, 0, 1, 1])
    assert who_is_in(table, rules(consent=Consent(column="late"))) == [1, 1, 1]


@settings(
    derandomize=True,
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), batch=st.sampled_from([1, 2, 3, 7, 65_536]))
def test_people_who_go_on_in_the_next_batch_are_decided_as_a_whole(
    tmp_path: Path, data: st.DataObject, batch: int
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    people = np.repeat(np.arange(len(sizes)), sizes).tolist()
    answer = st.sampled_from([True, True, True, False, None])
    agreed = [data.draw(answer) for _ in people]
    expected = [
        (row + 2) % 6
        for row, person in enumerate(people)
        if all(agreed[other] for other, who in enumerate(people) if who == person)
    ]
    # Two people more, so that somebody is left and both outcomes are.
    people, agreed, expected = [-2, -1, *people], [True, True, *agreed], [0, 1, *expected]
    table = write(tmp_path, people, agreed=pa.array(agreed, pa.bool_()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clients.table_file.BATCH_ROWS", batch)
        taken = take(table, rules(consent=Consent(column="agreed")), small_schema(rows="many"))
    late = [code for block in taken.blocks(Population.TRAINED) for code in block.codes[1].tolist()]
    taken.delete()
    assert late == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Consent(column="c", refused=("no",)),
        lambda: Consent(column="c", given=("",)),
        lambda: Consent(column="c", given=("yes",), refused=("yes",)),
        lambda: Retention(column="c", days=-1),
    ],
)
def test_rules_that_contradict_themselves_are_refused(make) -> None:
    with pytest.raises(ConfigurationError, match=r"expected|given"):
        make()
