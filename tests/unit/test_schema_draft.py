"""Drafts of schemas: they do not load before a person has decided, and print no extremes."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from clients.schema_draft import draft
from federation.drafted import Prompt
from federation.errors import ConfigurationError, DataError
from federation.grid import Kind, Role
from federation.schema import load_schema

ROWS = 1000
TABLE = {
    "person": [f"p{row}" for row in range(ROWS)],
    "bad": [row % 2 for row in range(ROWS)],
    "income": [None if row == 3 else 1234.5 + row * 77.25 for row in range(ROWS)],
    "debt": [-7531.5 + row for row in range(ROWS)],
    "late": [row % 14 + 3 for row in range(ROWS)],
    "sex": [row % 2 + 1 for row in range(ROWS)],
    "home": [
        "rare value" if row == 7 else ("own", 'a "quoted" one')[row % 2] for row in range(ROWS)
    ],
    "staff": [row % 3 == 0 for row in range(ROWS)],
}

ANSWERS = {
    Prompt.NAME: "a contract",
    Prompt.PERSON_KEY: "key",
    Prompt.OUTCOME: "bad",
    Prompt.WINDOW: "default within 12 months of 2024-01",
    Prompt.REASON: "Something",
    Prompt.UNIT: "EUR",
}


def write(path: Path, columns: dict[str, object]) -> Path:
    if path.suffix == ".csv":
        pa.csv.write_csv(pa.table(columns), path)
    else:
        pa.parquet.write_table(pa.table(columns), path)
    return path


def confirm(text: str) -> str:
    """Does what a person does who accepts every suggestion but two."""
    outcome = r'\[\[feature\]\]\nname = "bad"(\n.+)*\n'
    text = re.sub(outcome, "", text)
    for prompt, answer in ANSWERS.items():
        text = text.replace(f"TO CONFIRM: {prompt}", answer)
    text = re.sub(r'"TO CONFIRM: remove this entry"(, )?', "", text)
    text = re.sub(r'"TO CONFIRM: (-?[0-9.]+|true|false)"', r"\1", text)
    return text.replace("TO CONFIRM: ", "")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_draft_loads_only_once_it_is_confirmed(tmp_path: Path, suffix: str) -> None:
    text = draft(write(tmp_path / f"t{suffix}", TABLE))
    with pytest.raises(ConfigurationError, match="person has not confirmed"):
        load_schema(text)
    schema = load_schema(confirm(text))
    kinds = {feature.name: feature.kind for feature in schema.features}
    if suffix == ".parquet":  # CSV holds booleans as text
        assert kinds.pop("staff") is Kind.FLAG
    kinds.pop("staff", None)
    assert kinds == {
        "person": Kind.CATEGORY,
        "income": Kind.NUMBER,
        "debt": Kind.NUMBER,
        "late": Kind.COUNT,
        "sex": Kind.COUNT,
        "home": Kind.CATEGORY,
    }
    features = {feature.name: feature for feature in schema.features}
    assert features["person"].role is Role.IGNORED
    assert features["sex"].role is Role.PROTECTED
    assert features["income"].missing
    assert features["home"].categories == ('a "quoted" one', "own")


@pytest.mark.parametrize("prompt", Prompt)
@pytest.mark.parametrize("answer", ["the question", ""])
def test_a_prompt_whose_mark_is_deleted_is_no_answer(
    tmp_path: Path, prompt: Prompt, answer: str
) -> None:
    drafted = draft(write(tmp_path / "t.parquet", TABLE))
    unanswered = {one: text for one, text in ANSWERS.items() if one is not prompt}
    text = confirm(drafted.replace(f"TO CONFIRM: {prompt}", prompt if answer else ""))
    assert all(one not in text for one in unanswered)
    with pytest.raises(ConfigurationError):
        load_schema(text)


def test_a_protected_quantity_gets_a_few_bands(tmp_path: Path) -> None:
    ages = {"person": [f"p{n}" for n in range(500)], "age": [18 + n % 60 for n in range(500)]}
    text = draft(write(tmp_path / "t.parquet", ages | {"late": [n % 30 for n in range(500)]}))
    assert [part.count("cells = 4") for part in text.split("[[feature]]")[-2:]] == [1, 0]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_draft_rounds_bounds_outward_and_lists_no_rare_value(tmp_path: Path, suffix: str) -> None:
    schema = load_schema(confirm(text := draft(write(tmp_path / f"t{suffix}", TABLE))))
    bounds = {feature.name: (feature.lower, feature.upper) for feature in schema.features}
    assert bounds["income"] == (1000, 100_000)
    assert bounds["debt"] == (-10_000, -5000)
    assert bounds["late"] == (2, 20)
    assert "rare value" not in text
    assert not [extreme for extreme in ("1234.5", "78406", "-7531.5", "-6532.5") if extreme in text]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 100], (0, 200)),
        ([-100, -1, -5], (-200, 0)),
        ([5, 5, 5], (2, 10)),
        ([1, 2, 999], (0, 1000)),
        ([3, 2**40, 1], (0, 2_000_000_000_000)),
    ],
)
def test_an_extreme_that_is_a_round_number_is_not_printed_either(
    tmp_path: Path, values: list[int], expected: tuple[int, int]
) -> None:
    text = draft(write(tmp_path / "t.parquet", {"x": values}))
    assert f'lower = "TO CONFIRM: {expected[0]}"' in text
    assert f'upper = "TO CONFIRM: {expected[1]}"' in text


def test_a_draft_tells_about_columns_that_it_cannot_use(tmp_path: Path) -> None:
    columns = {
        "list": [[1], [2]],
        "empty": pa.array([None, None], pa.float64()),
        "odd": [1.5, float("nan")],
        "many": pa.array(["x", "y"]).dictionary_encode(),
    }
    text = draft(write(tmp_path / "t.parquet", columns))
    assert 'Left out, neither numbers nor text: ["list"]' in text
    assert 'name = "empty"\n# Empty, or' in text
    assert "holds NaN or infinite values" in text


def test_a_draft_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column of numbers"):
        draft(write(tmp_path / "t.parquet", {"list": [[1], [2]]}))
    twice = pa.table({"x": [1]}).append_column("x", pa.array([1]))
    pa.parquet.write_table(twice, tmp_path / "u.parquet")
    with pytest.raises(DataError, match="several columns of one name"):
        draft(tmp_path / "u.parquet")
