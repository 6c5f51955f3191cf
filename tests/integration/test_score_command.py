"""`fedscore score`: from a real release and a table to scores with reasons, or to nothing."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from federation.canonical import public_key_of
from federation.grid import NOT_HELD, code_of
from federation.model.release import Release, release_json
from federation.model.scoring import Scorer
from fedscore.command import main
from tests.federations import KEY, OTHER_KEY, federation, small_schema, small_table

MARK = 8_675_309  # a value that no message may hold
COLUMNS = ["points", "score", "bad_rate", "reason_1", "reason_2", "reason_3", "reason_4"]
GOOD: dict[str, list[object]] = {
    "person": [11, 12, 13, 14],
    "income": [0.0, None, 100.0, 42.5],
    "late": [5, 1, 0, 3],
    "home": ["rent", "own", "boat", "rent"],
}


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class Desk:
    """A directory with a release, and the command line in it."""

    def __init__(
        self, directory: Path, release: Release, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.directory = directory
        self.release = release
        self.capsys = capsys
        self.release_file = self.put("release.json", release_json(release))

    def put(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def write(self, columns: dict[str, object] | pa.Table, name: str = "table.parquet") -> Path:
        path = self.directory / name
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        if path.suffix == ".csv":
            pa_csv.write_csv(table, path)
        else:
            pq.write_table(table, path)
        return path

    def run(self, *arguments: object) -> Ran:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["fedscore", "score", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        captured = self.capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    def score(self, table: Path, out: str = "scores.parquet", *more: object) -> pa.Table:
        path = self.directory / out
        ran = self.run(self.release_file, table, "--out", path, *more)
        assert ran.code == 0, ran.err
        assert not list(self.directory.glob("*.unfinished"))
        if path.suffix == ".parquet":
            return pq.read_table(path)
        keys_as_text = pa_csv.ConvertOptions(column_types={"person": pa.string()})
        return pa_csv.read_csv(path, convert_options=keys_as_text)

    def refusal(self, table: Path, *more: object, release: Path | None = None) -> Ran:
        """Returns what was said; nothing may be written, and no value said."""
        before = sorted(self.directory.iterdir())
        out = self.directory / "scores.parquet"
        ran = self.run(release or self.release_file, table, "--out", out, *more)
        assert sorted(self.directory.iterdir()) == before
        assert ran.code != 0
        assert ran.out == ""
        assert str(MARK) not in ran.err
        return ran


@pytest.fixture(scope="module")
def national(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return federation(tmp_path_factory.mktemp("federation")).run().release


@pytest.fixture
def desk(tmp_path: Path, national: Release, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, national, capsys)


def by_hand(release: Release, table: dict[str, list[object]]) -> list[list[object]]:
    """Points, score and reasons of a small table, one person at a time."""
    scorer, found = Scorer(release), []
    for row in range(len(table["late"])):
        codes = [
            code_of(grid, table[grid.name][row]) if grid.name in table else NOT_HELD
            for grid in release.grids
        ]
        scores = scorer.score(np.array(codes, np.uint8)[:, np.newaxis])
        texts = scorer.reason_texts(scores.reasons[0])
        padded = [*texts, *([None] * (4 - len(texts)))]
        found.append([int(scores.points[0]), int(scores.shown[0]), *padded])
    return found


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("out", ["scores.parquet", "scores.csv"])
def test_a_table_is_scored_with_key_points_score_bad_rate_and_reasons(
    desk: Desk, suffix: str, out: str
) -> None:
    scores = desk.score(desk.write(GOOD, f"table.{suffix}"), out)
    assert scores.column_names == ["person", *COLUMNS]
    assert [str(key) for key in scores["person"].to_pylist()] == ["11", "12", "13", "14"]
    expected = by_hand(desk.release, GOOD)
    names = [name for name in COLUMNS if name != "bad_rate"]
    for row, values in zip(scores.select(names).to_pylist(), expected, strict=True):
        assert [row[name] or None for name in names] == values  # CSV: an empty text
    rates = [np.float32(desk.release.scale.bad_rate_at(values[0])) for values in expected]
    np.testing.assert_allclose(scores["bad_rate"].to_numpy(), rates, rtol=1e-6)


def test_beyond_the_scale_the_score_is_cut_and_the_bad_rate_is_not(desk: Desk) -> None:
    scale, more = desk.release.scale, 400
    parity = tuple(
        msgspec.structs.replace(v, points=v.points + more, shown=scale.shown(v.points + more))
        for v in desk.release.parity
    )
    safer = msgspec.structs.replace(desk.release, base=desk.release.base + more, parity=parity)
    desk.release_file.write_bytes(release_json(safer.signed(KEY)))
    points = [row[0] + more for row in by_hand(desk.release, GOOD)]
    assert min(points) > scale.most
    scores = desk.score(desk.write(GOOD))
    assert scores["points"].to_pylist() == points
    assert scores["score"].to_pylist() == [scale.most] * 4
    rates = [np.float32(scale.bad_rate_at(one)) for one in points]
    np.testing.assert_allclose(scores["bad_rate"].to_numpy(), rates, rtol=1e-6)


def test_parquet_holds_narrow_types_and_is_readable_only_by_this_user(desk: Desk) -> None:
    scores = desk.score(desk.write(GOOD))
    text = pa.dictionary(pa.int16(), pa.string())
    types = [pa.int64(), pa.int32(), pa.int32(), pa.float32(), text, text, text, text]
    assert scores.schema.types == types
    assert (desk.directory / "scores.parquet").stat().st_mode & 0o777 == 0o600


def test_the_person_key_is_copied_whatever_its_type(desk: Desk) -> None:
    names = ["a", "b,c", 'd"e', "中文"]
    for place, keys in enumerate(
        [
            pa.array(names, pa.large_string()),
            pa.array(names).dictionary_encode(),
            pa.array(names, pa.string_view()),
            pa.array([2**63, 1, 2, 2**64 - 1], pa.uint64()),
        ]
    ):
        table = desk.write(GOOD | {"person": keys}, f"table{place}.parquet")
        for suffix in ("parquet", "csv"):
            found = desk.score(table, f"scores{place}.{suffix}")["person"].to_pylist()
            assert [str(key) for key in found] == [str(key) for key in keys.to_pylist()]


def test_a_table_without_the_person_key_is_numbered_from_one(desk: Desk) -> None:
    columns = {name: values for name, values in GOOD.items() if name != "person"}
    scores = desk.score(desk.write(columns))
    assert scores.column_names == ["row", *COLUMNS]
    assert scores["row"].to_pylist() == [1, 2, 3, 4]


def test_a_schema_without_a_person_key_numbers_rows_across_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = msgspec.structs.replace(small_schema(), person_key="row")
    (tmp_path / "federation").mkdir()
    release = (
        federation(tmp_path / "federation", schema=contract, held_out_fraction=0.0).run().release
    )
    desk = Desk(tmp_path, release, capsys)
    scores = desk.score(small_table(tmp_path / "table.parquet", 70_000, 1))
    assert scores["row"].to_pylist() == list(range(1, 70_001))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_scores_across_batches_do_not_depend_on_the_order_of_rows(desk: Desk, suffix: str) -> None:
    rows = 70_000
    table = pq.read_table(small_table(desk.directory / "first.parquet", rows, 9))
    shuffled = np.random.default_rng(1).permutation(rows)
    one = desk.score(desk.write(table, f"one.{suffix}"), "one_scores.parquet")
    two = desk.score(desk.write(table.take(shuffled), f"two.{suffix}"), "two_scores.parquet")
    assert one["person"].cast(pa.int64()).to_numpy().tolist() == list(range(rows))
    for name in one.column_names:
        kind = pa.string() if name.startswith("reason") else one[name].type
        assert one[name].cast(kind).take(shuffled).equals(two[name].cast(kind))


def test_the_same_table_in_csv_and_parquet_gives_the_same_files(desk: Desk) -> None:
    table = pq.read_table(small_table(desk.directory / "first.parquet", 3_000, 9))
    from_parquet, from_csv = desk.write(table, "a.parquet"), desk.write(table, "a.csv")
    one, two = desk.score(from_parquet, "1.parquet"), desk.score(from_csv, "2.parquet")
    assert one.drop_columns(["person"]).equals(two.drop_columns(["person"]))
    assert one["person"].cast(pa.string()).equals(two["person"])
    assert desk.score(from_parquet, "1.csv").equals(desk.score(from_csv, "2.csv"))


def test_outcome_protected_and_other_columns_are_not_looked_at(desk: Desk) -> None:
    plain = desk.score(desk.write(GOOD), "plain.parquet")
    hostile = {name: ["x", None, "", str(MARK)] for name in ("bad", "city", "unheard")}
    assert desk.score(desk.write(GOOD | hostile), "hostile.parquet").equals(plain)


def test_features_that_are_not_held_are_not_read_and_give_no_reason(desk: Desk) -> None:
    held = {name: values for name, values in GOOD.items() if name != "income"}
    scores = desk.score(desk.write(held), "held.parquet", "--not-held", "income,city")
    expected = by_hand(desk.release, held)
    assert scores["points"].to_pylist() == [row[0] for row in expected]
    assert "Income" not in {row[f"reason_{n}"] for row in scores.to_pylist() for n in range(1, 5)}
    unread = desk.write(GOOD | {"income": [MARK] * 4}, "unread.parquet")
    assert desk.score(unread, "unread_scores.parquet", "--not-held", "income").equals(scores)


def test_a_feature_that_the_table_does_not_have_must_be_declared(desk: Desk) -> None:
    table = desk.write({name: GOOD[name] for name in ("person", "late")})
    ran = desk.refusal(table)
    for name in ("income", "home"):
        assert f"  {name}: the table has no such column; if nobody has it here, declare" in ran.err
    assert desk.refusal(table, "--not-held", "income").err.count("no such column") == 1


@pytest.mark.parametrize(
    ("not_held", "expected"),
    [("unheard", "not held.*unheard"), ("income,late,home", "at least one scored feature")],
)
def test_a_declaration_that_does_not_fit_is_refused(
    desk: Desk, not_held: str, expected: str
) -> None:
    ran = desk.refusal(desk.write(GOOD), "--not-held", not_held)
    assert ran.code == 78
    assert expected.rpartition("*")[2] in ran.err


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("income", [1, MARK, 2, MARK], "outside the public bounds"),
        ("income", [1.0, float("nan"), 2.0, float("nan")], "NaN is never allowed"),
        ("income", [1.0, float("inf"), 2.0, float("-inf")], "infinite values"),
        ("late", [1.0, 2.5, 2.0, 0.5], "a count must be a whole number"),
        ("late", [1, None, 2, None], "null is not allowed"),
        ("home", ["own", None, "own", None], "null is not allowed"),
        ("person", [1, None, 2, None], "the person key must not be null"),
        ("person", ["a", "", "b", ""], "the person key must not be null or empty"),
    ],
)
def test_a_broken_rule_refuses_the_whole_table(
    desk: Desk, suffix: str, column: str, values: list[object], expected: str
) -> None:
    ran = desk.refusal(desk.write(GOOD | {column: values}, f"table.{suffix}"))
    assert ran.code == 65
    (line,) = [line for line in ran.err.splitlines() if line.startswith(f"  {column}: {expected}")]
    assert line.endswith("(2 rows: 2, 4)")


def test_a_category_that_is_not_listed_refuses_the_whole_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "federation").mkdir()
    closed = federation(
        tmp_path / "federation",
        schema=msgspec.structs.replace(
            small_schema(),
            features=tuple(
                msgspec.structs.replace(feature, categories=("rent", "own", "boat"), other=False)
                if feature.name == "home"
                else feature
                for feature in small_schema().features
            ),
        ),
    )
    desk = Desk(tmp_path, closed.run().release, capsys)
    desk.score(desk.write(GOOD))
    (tmp_path / "scores.parquet").unlink()
    ran = desk.refusal(desk.write(GOOD | {"home": ["own", f"{MARK}", "own", "x"]}, "bad.csv"))
    assert "home: category not listed in the schema (2 rows: 2, 4)" in ran.err


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("income", ["1"] * 4, "expected numbers, the column holds string"),
        ("home", [1] * 4, "expected text, the column holds int64"),
        ("person", [1.5] * 4, "expected text or integers, the column holds double"),
    ],
)
def test_a_column_of_the_wrong_type_refuses_the_whole_table(
    desk: Desk, column: str, values: list[object], expected: str
) -> None:
    ran = desk.refusal(desk.write(GOOD | {column: values}))
    assert f"  {column}: {expected}" in ran.err


@pytest.mark.parametrize("column", ["income", "late"])
def test_text_where_csv_should_hold_numbers_refuses_the_whole_table(
    desk: Desk, column: str
) -> None:
    values = ["1", f"{MARK}x", "0", f"x{MARK}"]
    ran = desk.refusal(desk.write(GOOD | {column: values}, "table.csv"))
    assert f"  {column}: not of the type that the schema expects (2 rows: 2, 4)" in ran.err


def test_a_rule_broken_in_the_last_row_leaves_nothing_of_the_batches_before(desk: Desk) -> None:
    rows = 140_000
    columns = {name: [values[2]] * rows for name, values in GOOD.items()}
    columns["late"] = [0] * (rows - 1) + [MARK]
    columns["person"] = list(range(rows))
    ran = desk.refusal(desk.write(columns))
    assert "late: outside the public bounds of the schema, 0 to 5 (row 140,000)" in ran.err


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("name", ["income", "person"])
def test_a_column_that_stands_twice_refuses_the_whole_table(
    desk: Desk, suffix: str, name: str
) -> None:
    table = pa.table(GOOD).append_column(name, pa.array([1] * 4))
    ran = desk.refusal(desk.write(table, f"table.{suffix}"))
    assert f"{name}: the table has several columns of this name" in ran.err


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_an_empty_table_is_an_error(desk: Desk, suffix: str) -> None:
    ran = desk.refusal(desk.write(pa.table(GOOD).slice(0, 0), f"table.{suffix}"))
    assert "the table has no rows" in ran.err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.csv", f"person,income,late,home\n1,2,0,own\n2,{MARK}\n".encode()),
        ("table.csv", f"person,income,late,home\n1,2,0,\xff{MARK}\n".encode("latin-1")),
        ("table.parquet", f"PAR1{MARK}".encode()),
        ("table.txt", str(MARK).encode()),
    ],
)
def test_a_damaged_table_is_refused(desk: Desk, name: str, content: bytes) -> None:
    assert name in desk.refusal(desk.put(name, content)).err


def test_a_table_that_does_not_exist_is_named(desk: Desk) -> None:
    assert "There is no table" in desk.refusal(desk.directory / "absent.csv").err


def test_a_damaged_end_of_a_parquet_table_leaves_nothing(desk: Desk) -> None:
    path = small_table(desk.directory / "table.parquet", 70_000, 1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 1_000] = bytes(1_000)
    path.write_bytes(content)
    assert desk.refusal(path).code == 65


def test_an_output_that_exists_is_never_replaced(desk: Desk) -> None:
    table, out = desk.write(GOOD), desk.put("scores.parquet", b"mine")
    ran = desk.refusal(table)
    assert ran.code == 78
    assert "exists already" in ran.err
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("scores.xlsx", "to end in .parquet or .csv"),
        ("scores", "to end in .parquet or .csv"),
        ("absent/scores.csv", "There is no directory"),
        ("table.parquet/scores.csv", "There is no directory"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(desk: Desk, out: str, expected: str) -> None:
    table = desk.write(GOOD)
    before = sorted(desk.directory.iterdir())
    ran = desk.run(desk.release_file, table, "--out", desk.directory / out)
    assert (ran.code, sorted(desk.directory.iterdir())) == (78, before)
    assert expected in ran.err


def test_a_disk_that_fails_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    ran = desk.refusal(desk.write(GOOD))
    assert ran.code == 78
    assert "No space left on device" in ran.err


def test_what_a_killed_run_left_behind_is_replaced(desk: Desk) -> None:
    desk.put("scores.parquet.unfinished", b"half")
    assert desk.score(desk.write(GOOD)).num_rows == 4


def test_the_release_may_be_required_to_come_from_a_coordinator(desk: Desk) -> None:
    table = desk.write(GOOD)
    desk.score(table, "right.parquet", "--coordinator", public_key_of(KEY))
    ran = desk.refusal(table, "--coordinator", public_key_of(OTHER_KEY))
    assert ran.code == 76
    assert "another coordinator" in ran.err


def test_a_release_signed_by_somebody_else_is_refused_for_this_coordinator(desk: Desk) -> None:
    theirs = msgspec.structs.replace(desk.release, coordinator=public_key_of(OTHER_KEY))
    forged = desk.put("forged.json", release_json(theirs.signed(OTHER_KEY)))
    ran = desk.refusal(desk.write(GOOD), "--coordinator", public_key_of(KEY), release=forged)
    assert ran.code == 76


def test_an_edited_release_is_refused(desk: Desk) -> None:
    base = f'"base": {desk.release.base}'.encode()
    content = desk.release_file.read_bytes()
    assert content.count(base) == 1
    edited = desk.put("edited.json", content.replace(base, b'"base": 900'))
    assert desk.refusal(desk.write(GOOD), release=edited).code == 76


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_release_is_refused(desk: Desk, share: float) -> None:
    content = desk.release_file.read_bytes()
    cut = desk.put("cut.json", content[: int(len(content) * share)])
    ran = desk.refusal(desk.write(GOOD), release=cut)
    assert ran.code == 78
    assert "not a whole release" in ran.err


def test_a_signed_release_that_scores_otherwise_elsewhere_is_refused(desk: Desk) -> None:
    first, *others = desk.release.parity
    moved = msgspec.structs.replace(first, points=first.points + 1)
    release = msgspec.structs.replace(desk.release, parity=(*others, moved)).signed(KEY)
    ran = desk.refusal(desk.write(GOOD), release=desk.put("odd.json", release_json(release)))
    assert ran.code == 78
    assert "Do not score with this program and this release" in ran.err


def test_a_key_that_is_named_like_a_score_is_refused_but_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = msgspec.structs.replace(small_schema(), person_key="score")
    (tmp_path / "federation").mkdir()

    def renamed(path: Path, number: int) -> Path:
        table = pq.read_table(small_table(path, 150, number, first_person=150 * number))
        pq.write_table(table.rename_columns({"person": "score"}), path)
        return path

    release = federation(tmp_path / "federation", schema=contract, table=renamed).run().release
    desk = Desk(tmp_path, release, capsys)
    assert (
        "has the name of a column of scores"
        in desk.refusal(desk.write(GOOD | {"score": GOOD["person"]})).err
    )
    assert desk.score(desk.write(GOOD)).column_names == ["row", *COLUMNS]
