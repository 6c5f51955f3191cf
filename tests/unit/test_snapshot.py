"""Snapshots: what is on disk, that it is whole or absent, and that reading it cannot fail."""

import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.blocks import BLOCK_ROWS, Block
from clients.snapshot import Snapshot, take_snapshot
from federation.errors import ConfigurationError, DataError
from federation.grid import NOT_HELD
from federation.population import Split, held_out
from federation.privacy.units import Population
from federation.schema import Schema, load_schema

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
upper = 1
spacing = "log"
log_unit = 0.1
missing = true
[[feature]]
name = "late"
role = "scored"
kind = "count"
unit = "payments"
reason = "Late payments"
lower = 0
upper = 5
"""
SPLIT = Split(salt="5a" * 32, held_out_fraction=0.25)
ONE = load_schema(SCHEMA)
MANY = load_schema(SCHEMA.replace('"one"', '"many"'))


def columns(rows: int, rows_each: int = 1) -> dict[str, pa.Array]:
    generator = np.random.default_rng(7)
    income = pa.array(generator.random(rows), mask=generator.random(rows) < 0.1)
    return {
        "person": pa.array(np.arange(rows) // rows_each),
        "bad": pa.array(generator.integers(0, 2, rows)),
        "income": income,
        "late": pa.array(generator.integers(0, 6, rows)),
    }


def write(path: Path, content: dict[str, pa.Array]) -> Path:
    if path.suffix == ".csv":
        pa.csv.write_csv(pa.table(content), path)
    else:
        pa.parquet.write_table(pa.table(content), path)
    return path


def take(
    table: Path, name: str = "snapshot", schema: Schema = ONE, split: Split = SPLIT
) -> Snapshot:
    return take_snapshot(
        schema, table, not_held=frozenset(), split=split, directory=table.parent / name
    )


def rows_of(blocks: list[Block]) -> Counter[bytes]:
    """Returns how often each row of codes and outcome occurs."""
    stacked = [np.vstack([block.codes, block.bad[np.newaxis]]).T for block in blocks]
    return Counter(row.tobytes() for row in np.concatenate(stacked))


def test_people_are_divided_by_the_public_split(tmp_path: Path) -> None:
    snapshot = take(write(tmp_path / "t.parquet", columns(1000)))
    expected = int(held_out(SPLIT, range(1000)).sum())
    assert snapshot.people(Population.HELD_OUT) == expected
    assert snapshot.people(Population.TRAINED) == 1000 - expected
    for population in Population:
        (block,) = snapshot.blocks(population)
        assert block.codes.shape == (2, snapshot.people(population))
        assert block.codes.dtype == block.bad.dtype == np.uint8
        assert block.person_starts is None


def test_csv_and_parquet_give_identical_snapshots(tmp_path: Path) -> None:
    content = columns(70_000)
    first = take(write(tmp_path / "t.parquet", content), "first")
    second = take(write(tmp_path / "t.csv", content), "second")
    assert first.digest == second.digest
    first.verify()
    second.verify()


def test_the_order_of_rows_does_not_change_who_is_in_it(tmp_path: Path) -> None:
    table = pa.table(columns(3000))
    order = np.random.default_rng(3).permutation(3000)
    first = take(write(tmp_path / "a.parquet", dict(table.to_pydict())), "first")
    second = take(write(tmp_path / "b.parquet", dict(table.take(order).to_pydict())), "second")
    for population in Population:
        assert rows_of(list(first.blocks(population))) == rows_of(list(second.blocks(population)))


def test_blocks_are_full_but_the_last_and_keep_the_order_of_the_table(tmp_path: Path) -> None:
    content = columns(150_000)
    nobody = Split(salt="5a" * 32, held_out_fraction=0.0)
    snapshot = take(write(tmp_path / "t.parquet", content), split=nobody)
    blocks = list(snapshot.blocks(Population.TRAINED))
    assert [block.bad.size for block in blocks] == [
        BLOCK_ROWS,
        BLOCK_ROWS,
        150_000 - 2 * BLOCK_ROWS,
    ]
    bad = np.concatenate([block.bad for block in blocks])
    assert (bad == content["bad"].to_numpy()).all()
    late = np.concatenate([block.codes[1] for block in blocks])
    assert (late == content["late"].to_numpy()).all()
    assert list(snapshot.blocks(Population.HELD_OUT)) == []


def test_blocks_end_where_a_person_ends(tmp_path: Path) -> None:
    rows = 200_000
    sizes = np.random.default_rng(5).integers(1, 9000, 1000)
    content = columns(rows) | {"person": pa.array(np.repeat(np.arange(1000), sizes)[:rows])}
    snapshot = take(write(tmp_path / "t.parquet", content), schema=MANY)
    keys = content["person"].to_numpy()
    is_held_out = held_out(SPLIT, range(1000))
    for population in Population:
        of_population = is_held_out[keys] == (population is Population.HELD_OUT)
        expected = np.unique(keys[of_population], return_counts=True)[1].tolist()
        found: list[int] = []
        for block in snapshot.blocks(population):
            assert block.person_starts is not None
            assert block.bad.size <= BLOCK_ROWS
            found += np.diff(np.append(block.person_starts, block.bad.size)).tolist()
        assert found == expected
        assert snapshot.people(population) == len(expected)
        assert snapshot.rows(population) == sum(expected)


def test_a_block_is_full_if_a_person_ends_at_its_end(tmp_path: Path) -> None:
    content = columns(3 * BLOCK_ROWS, rows_each=BLOCK_ROWS // 16)
    nobody = Split(salt="5a" * 32, held_out_fraction=0.0)
    snapshot = take(write(tmp_path / "t.parquet", content), schema=MANY, split=nobody)
    sizes = [block.bad.size for block in snapshot.blocks(Population.TRAINED)]
    assert sizes == [BLOCK_ROWS] * 3


def test_many_rows_from_csv_and_parquet_are_cut_alike(tmp_path: Path) -> None:
    content = columns(140_000, rows_each=11)
    first = take(write(tmp_path / "t.parquet", content), "first", MANY)
    second = take(write(tmp_path / "t.csv", content), "second", MANY)
    assert first.digest == second.digest


def test_features_that_are_not_held_say_so_in_every_row(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", columns(500))
    snapshot = take_snapshot(
        ONE, table, not_held=frozenset({"late"}), split=SPLIT, directory=tmp_path / "s"
    )
    assert snapshot.not_held == {"late"}
    for population in Population:
        for block in snapshot.blocks(population):
            assert (block.codes[1] == NOT_HELD).all()
            assert (block.codes[0] != NOT_HELD).all()


def test_a_snapshot_can_be_opened_again_and_is_private(tmp_path: Path) -> None:
    taken = take(write(tmp_path / "t.parquet", columns(500)))
    opened = Snapshot.open(taken.directory, ONE)
    assert opened == taken
    assert opened.split_digest == SPLIT.digest
    assert stat.S_IMODE(taken.directory.stat().st_mode) == 0o700
    names = {"snapshot.json", "trained.blocks", "held_out.blocks"}
    assert {file.name for file in taken.directory.iterdir()} == names
    assert {stat.S_IMODE(file.stat().st_mode) for file in taken.directory.iterdir()} == {0o600}


def test_no_person_key_is_on_disk(tmp_path: Path) -> None:
    content = columns(500) | {"person": [f"KEY{row}" for row in range(500)]}
    taken = take(write(tmp_path / "t.parquet", content))
    assert all(b"KEY" not in file.read_bytes() for file in taken.directory.iterdir())


def test_nothing_is_left_behind_when_the_table_breaks_its_contract(tmp_path: Path) -> None:
    content = columns(200_000)
    content["late"] = pa.array([*content["late"].to_pylist()[:-1], 99])
    table = write(tmp_path / "t.parquet", content)
    with pytest.raises(DataError, match="late: outside"):
        take(table)
    assert list(tmp_path.iterdir()) == [table]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / "snapshot.unfinished"
    left.mkdir()
    (left / "trained.blocks").write_bytes(b"half")
    take(write(tmp_path / "t.parquet", columns(500)))
    assert not left.exists()


def test_a_snapshot_is_never_written_over(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", columns(500))
    first = take(table)
    with pytest.raises(ConfigurationError, match="already is a snapshot"):
        take(table)
    first.verify()


def test_a_snapshot_needs_a_directory_to_stand_in(tmp_path: Path) -> None:
    table = write(tmp_path / "t.parquet", columns(500))
    with pytest.raises(ConfigurationError, match="no directory"):
        take(table, "absent/snapshot")


def test_a_deleted_snapshot_is_gone(tmp_path: Path) -> None:
    taken = take(write(tmp_path / "t.parquet", columns(500)))
    taken.delete()
    assert not taken.directory.exists()
    with pytest.raises(ConfigurationError, match="There is no snapshot"):
        Snapshot.open(taken.directory, ONE)


def test_a_snapshot_of_another_schema_is_refused(tmp_path: Path) -> None:
    taken = take(write(tmp_path / "t.parquet", columns(500)))
    with pytest.raises(ConfigurationError, match="taken under schema"):
        Snapshot.open(taken.directory, MANY)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("snapshot.json", lambda content: content[:-1]),
        ("snapshot.json", lambda content: content.replace(b'"rows":', b'"lines":', 1)),
        ("snapshot.json", lambda content: content.replace(b'"format":2', b'"format":1')),
        ("snapshot.json", lambda content: content.replace(b'"rows":', b'"rows":1', 1)),
        ("snapshot.json", lambda content: content.replace(b'"block_rows":[', b'"block_rows":[-1,')),
        ("trained.blocks", lambda content: content[:-1]),
        ("held_out.blocks", lambda content: content + b"x"),
    ],
)
def test_a_snapshot_of_the_wrong_shape_is_refused_before_any_round(
    tmp_path: Path, name: str, damage
) -> None:
    taken = take(write(tmp_path / "t.parquet", columns(500)))
    path = taken.directory / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="is damaged"):
        Snapshot.open(taken.directory, ONE)


def test_a_lost_file_is_refused(tmp_path: Path) -> None:
    taken = take(write(tmp_path / "t.parquet", columns(500)))
    (taken.directory / "trained.blocks").unlink()
    with pytest.raises(DataError, match="is damaged"):
        Snapshot.open(taken.directory, ONE)
    with pytest.raises(DataError, match="cannot be read"):
        list(taken.blocks(Population.TRAINED))


def test_a_file_that_is_shortened_later_stops_the_stream(tmp_path: Path) -> None:
    taken = take(write(tmp_path / "t.parquet", columns(500)))
    path = taken.directory / "trained.blocks"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="end too early"):
        list(taken.blocks(Population.TRAINED))


def test_changed_contents_are_found_by_their_digest(tmp_path: Path) -> None:
    taken = take(write(tmp_path / "t.parquet", columns(500)))
    path = taken.directory / "trained.blocks"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DataError, match=r"trained\.blocks has changed"):
        taken.verify()


@settings(
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_bytes_at_all_are_read_as_whole_people(tmp_path: Path, data: st.DataObject) -> None:
    schema = data.draw(st.sampled_from([ONE, MANY]))
    name = f"snapshot-{schema.rows_per_person}"
    if not (tmp_path / name).exists():
        take(
            write(tmp_path / "t.parquet", columns(40, rows_each=2 if schema is MANY else 1)),
            name,
            schema,
        )
    path = tmp_path / name / "trained.blocks"
    size = path.stat().st_size
    path.write_bytes(data.draw(st.binary(min_size=size, max_size=size)))
    for block in Snapshot.open(tmp_path / name, schema).blocks(Population.TRAINED):
        assert set(block.bad.tolist()) <= {0, 1}
        if block.person_starts is not None:
            assert block.person_starts[0] == 0
            assert (np.diff(block.person_starts) > 0).all()
            assert block.person_starts[-1] < block.bad.size
