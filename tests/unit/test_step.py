"""The question STEP, packed: equal to its definition whatever the bins, the bytes and the rows."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import packed_people as packed_people_module
from clients.packed_people import packed_people, packing_of, step_contributions
from clients.snapshot import Snapshot, take_snapshot
from federation.door import Cells, Contribution, sum_of
from federation.errors import DataError
from federation.model.scorecard import LARGEST_WEIGHT, AdditiveCard
from federation.model.step import MOST_PLACES, Packing, Step
from federation.population import Split
from federation.privacy.events import LEAST_SHARE_VARIANCE
from federation.privacy.units import Population
from federation.query import UNITS_PER_ONE, BoundedSum, Question
from federation.schema import Schema
from tests.federations import SALT, small_schema, small_table
from tests.steps import step_contribution, unpacked_contribution

EVERYBODY = Split(salt=SALT, held_out_fraction=0.0)


def card_of(generator: np.random.Generator, bins: list[int], *, cells: int = 250) -> AdditiveCard:
    return AdditiveCard(
        base=int(generator.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1)),
        bin_of_cell=tuple(
            tuple(int(one) for one in generator.integers(0, most, max(cells, most)))
            for most in bins
        ),
        weights=tuple(
            tuple(int(w) for w in generator.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, most))
            for most in bins
        ),
    )


def question(card: AdditiveCard) -> BoundedSum:
    return BoundedSum(
        question=Question.STEP, columns=(*card.bins, 1), share_variance=LEAST_SHARE_VARIANCE
    )


def total(card: AdditiveCard, *blocks: Contribution) -> list[int]:
    return sum_of(question(card), blocks).total.tolist()


@given(
    bins=st.lists(st.sampled_from((1, 2, 3, 8, 16, 17, 24, 126, 127, 250)), min_size=1, max_size=9),
    not_held=st.frozensets(st.integers(0, 8)),
    cells=st.sampled_from((1, 200, 250)),
    many=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_packed_people_sum_to_the_definition_exactly(
    bins: list[int], not_held: frozenset[int], cells: int, many: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    card = card_of(generator, bins, cells=cells)
    absent = frozenset(place for place in not_held if place < len(bins))
    rows = int(generator.integers(1, 60))
    codes = generator.integers(0, 256, (len(bins), rows)).astype(np.uint8)
    codes[sorted(absent)] = 255
    bad = generator.integers(0, 256, rows).astype(np.uint8)
    starts = np.flatnonzero(np.append(True, generator.random(rows - 1) < 0.4)) if many else None
    packed = step_contribution(codes, bad, starts, card, absent)
    definition = unpacked_contribution(codes, bad, starts, card)
    assert packed.left_out == absent
    assert packed.values.tolist() == definition.values.tolist()
    assert total(card, packed) == total(card, definition)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    kind=st.sampled_from(("uint8", "uint16", "uint32")),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_number_names_at_most_one_cell_of_each_column(
    sizes: list[int], kind: str, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    query = BoundedSum(
        question=Question.STEP, columns=tuple(sizes), share_variance=LEAST_SHARE_VARIANCE
    )
    places = math.prod(size + 1 for size in sizes)
    for number in (*generator.integers(0, np.iinfo(kind).max, 5), places - 1, 0):
        one = np.array([min(int(number), np.iinfo(kind).max)], dtype=kind)
        sums = [
            sum_of(
                query,
                [
                    Contribution(
                        values=np.array([2**40]),
                        cells=(Cells(numbers=one, columns=tuple(range(len(sizes)))),),
                        person_starts=starts,
                    )
                ],
            ).total
            for starts in (None, np.array([0]))
        ]
        assert sums[0].tolist() == sums[1].tolist()
        parts = np.split(sums[0], np.cumsum(sizes)[:-1])
        assert all(sorted(part.tolist())[:-1] == [0] * (len(part) - 1) for part in parts)
        assert all(part.max() in (0, UNITS_PER_ONE) for part in parts)
        digits = np.unravel_index(min(int(one[0]), places - 1), [size + 1 for size in sizes])
        for part, digit in zip(parts, digits, strict=True):
            assert np.append(part, 0)[digit] == part.max()


def test_three_features_of_sixteen_bins_share_a_number_and_the_intercept_joins_them() -> None:
    card = card_of(np.random.default_rng(1), [16] * 24)
    packs = Packing.of(card, frozenset()).packs
    assert len(packs) == 8
    assert packs[0] == (0, 1, 2, 24)


@given(bins=st.lists(st.integers(1, 250), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_held_column_is_packed_once_within_the_limit(bins: list[int]) -> None:
    packing = Packing.of(card_of(np.random.default_rng(1), bins), frozenset({0}))
    packed = sorted(column for pack in packing.packs for column in pack)
    assert packed == list(range(1, len(bins) + 1))
    assert packing.left_out == {0}
    for pack in packing.packs:
        assert math.prod(packing.columns[column] + 1 for column in pack) <= MOST_PLACES


def test_nobody_and_nothing_held_give_a_sum_too() -> None:
    card = card_of(np.random.default_rng(2), [4])
    nobody = step_contribution(np.zeros((1, 0), np.uint8), np.zeros(0, np.uint8), None, card)
    assert total(card, nobody) == [0] * 5
    bad = np.ones(3, dtype=np.uint8)
    alone = step_contribution(np.full((1, 3), 255, np.uint8), bad, None, card, frozenset({0}))
    assert total(card, alone) == [0, 0, 0, 0, int(alone.values.sum())]


def test_the_score_of_packed_people_is_the_cards() -> None:
    generator = np.random.default_rng(3)
    card = card_of(generator, [5, 16, 16, 250, 2])
    codes = generator.integers(0, 256, (5, 500)).astype(np.uint8)
    packing = Packing.of(card, frozenset())
    found = Step.at(card, packing).scores(packing.pack(codes))
    assert found.tolist() == card.scores(codes).tolist()


# On disk.


def taken(directory: Path, schema: Schema, not_held: frozenset[str] = frozenset()) -> Snapshot:
    rows_each = 1 if schema.rows_per_person == "one" else 3
    table = small_table(directory / "t.parquet", 300, 4, rows_each=rows_each)
    return take_snapshot(
        schema, table, not_held=not_held, split=EVERYBODY, directory=directory / "snapshot"
    )


def small_card(schema: Schema, seed: int, bins: int = 3) -> AdditiveCard:
    generator = np.random.default_rng(seed)
    sizes = [len(grid.labels) for grid in schema.grids if grid.role == "scored"]
    return AdditiveCard(
        base=0,
        bin_of_cell=tuple(tuple(cell % bins for cell in range(size)) for size in sizes),
        weights=tuple(tuple(int(w) for w in generator.integers(-900, 900, bins)) for _ in sizes),
    )


def packed_files(snapshot: Snapshot) -> list[Path]:
    return sorted(snapshot.directory.glob("*.packed*"))


@pytest.mark.parametrize("rows", ["one", "many"])
@pytest.mark.parametrize("not_held", [frozenset(), frozenset({"late"})])
def test_rounds_stream_the_packed_bins_and_sum_as_the_snapshot_does(
    tmp_path: Path, rows: str, not_held: frozenset[str]
) -> None:
    schema = small_schema(rows=rows)
    snapshot = taken(tmp_path, schema, not_held)
    for seed in range(2):
        card = small_card(schema, seed)
        found = total(card, *step_contributions(schema, snapshot, card))
        expected = [
            unpacked_contribution(block.codes[:3], block.bad, block.person_starts, card)
            for block in snapshot.blocks(Population.TRAINED)
        ]
        assert found == total(card, *expected)
        assert found[-1] != 0


def test_bins_are_looked_up_once_and_again_only_for_other_bins(tmp_path: Path) -> None:
    schema = small_schema()
    snapshot = taken(tmp_path, schema)
    list(step_contributions(schema, snapshot, small_card(schema, 1)))
    (first,) = packed_files(snapshot)
    written = first.stat().st_mtime_ns, first.stat().st_ino
    list(step_contributions(schema, snapshot, small_card(schema, 2)))
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == written
    assert first.stat().st_mode & 0o777 == 0o600
    list(step_contributions(schema, snapshot, small_card(schema, 2, bins=2)))
    (second,) = packed_files(snapshot)
    assert second != first
    snapshot.delete()
    assert not second.exists()


@pytest.mark.parametrize("rows", ["one", "many"])
def test_damaged_packed_bins_stop_no_round_and_keep_the_bound(tmp_path: Path, rows: str) -> None:
    schema = small_schema(rows=rows)
    snapshot = taken(tmp_path, schema)
    card = small_card(schema, 1)
    list(step_contributions(schema, snapshot, card))
    (path,) = packed_files(snapshot)
    generator = np.random.default_rng(5)
    for _ in range(5):
        path.write_bytes(generator.bytes(path.stat().st_size))
        sums = np.array(total(card, *step_contributions(schema, snapshot, card)))
        assert np.abs(sums).max() <= snapshot.rows(Population.TRAINED) * UNITS_PER_ONE


def test_packed_bins_of_another_length_are_made_anew(tmp_path: Path) -> None:
    schema = small_schema()
    snapshot = taken(tmp_path, schema)
    card = small_card(schema, 1)
    first = total(card, *step_contributions(schema, snapshot, card))
    (path,) = packed_files(snapshot)
    path.write_bytes(path.read_bytes()[:-1])
    (snapshot.directory / "left.packed.unfinished").write_bytes(b"half")
    assert total(card, *step_contributions(schema, snapshot, card)) == first
    assert packed_files(snapshot) == [path]


def test_a_full_disk_is_an_error_that_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = small_schema()
    snapshot = taken(tmp_path, schema)

    def full(path: Path, _blocks: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_people_module, "_write", full)
    packing = packing_of(schema, snapshot, small_card(schema, 1))
    with pytest.raises(DataError, match="No space left"):
        packed_people(schema, snapshot, packing)
    assert packed_files(snapshot) == []
