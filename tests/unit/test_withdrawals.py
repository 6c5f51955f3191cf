"""Who withdraws is in no snapshot any more: taken out whole, durably, and never half."""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clients.left_out import LeftOut
from clients.packed_people import step_contributions
from clients.snapshot import Snapshot, take_snapshot
from clients.withdrawals import Withdrawals
from federation.door import sum_of
from federation.errors import ConfigurationError, DataError
from federation.population import Split, key_hashes
from federation.privacy.units import Population
from federation.query import BoundedSum, Question
from federation.schema import Schema
from tests.federations import SALT, flat_card, small_schema, small_table

SPLIT = Split(salt=SALT, held_out_fraction=0.25)
KEY = bytes(range(32))


@pytest.fixture
def withdrawals(tmp_path: Path) -> Withdrawals:
    return Withdrawals.create(tmp_path / "withdrawn", KEY)


def take(
    table: Path, withdrawals: Withdrawals | None, name: str = "s", schema: Schema | None = None
) -> Snapshot:
    return take_snapshot(
        schema or small_schema(),
        table,
        not_held=frozenset(),
        split=SPLIT,
        directory=table.parent / name,
        left_out=LeftOut(
            consent=None,
            retention=None,
            withdrawn=None if withdrawals is None else withdrawals.read(),
            today=0,
        ),
    )


def contents(snapshot: Snapshot) -> list[bytes]:
    """Returns the populations' files, blocks and hashes, whatever they are called."""
    return [
        next(snapshot.directory.glob(f"{population}*{suffix}")).read_bytes()
        for population in Population
        for suffix in (".blocks", ".people")
    ]


def test_who_has_withdrawn_is_kept_in_keyed_hashes_and_durably(
    tmp_path: Path, withdrawals: Withdrawals
) -> None:
    assert withdrawals.read().people.size == 0
    assert withdrawals.add(SPLIT, ["4711", "Müller"]) == 2
    assert withdrawals.add(SPLIT, ["4711", "4712"]) == 1
    found = Withdrawals(withdrawals.path).read()
    keyed = found.keyed(key_hashes(SPLIT, ["4711", "4712", "Müller"]))
    assert found.people.tolist() == sorted(keyed.tolist())
    assert stat.S_IMODE(withdrawals.path.stat().st_mode) == 0o600
    content = withdrawals.path.read_bytes()
    assert b"4711" not in content
    assert key_hashes(SPLIT, ["4711"]).tobytes() not in content
    assert KEY.hex() not in repr(found)


def test_another_key_gives_other_hashes(tmp_path: Path, withdrawals: Withdrawals) -> None:
    other = Withdrawals.create(tmp_path / "other", KEY[::-1])
    hashes = key_hashes(SPLIT, range(100))
    first, second = withdrawals.read().keyed(hashes), other.read().keyed(hashes)
    assert len({*first.tolist(), *second.tolist(), *hashes.tolist()}) == 300


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"\0" + path.read_bytes()[1:-1] + b"\0"),
    ],
)
def test_a_file_that_is_lost_or_damaged_stops_everything(
    tmp_path: Path, withdrawals: Withdrawals, damage
) -> None:
    taken = take(small_table(tmp_path / "t.parquet", 50, 1), withdrawals)
    withdrawals.add(SPLIT, ["7"])
    damage(withdrawals.path)
    with pytest.raises(ConfigurationError, match="Restore it"):
        taken.after(withdrawals)
    with pytest.raises(ConfigurationError, match="Restore it"):
        withdrawals.add(SPLIT, ["8"])


def test_a_file_is_never_made_anew(withdrawals: Withdrawals) -> None:
    with pytest.raises(ConfigurationError, match="never made anew"):
        Withdrawals.create(withdrawals.path, KEY)


def _add(path: Path, first: int) -> None:
    for key in range(first, first + 20):
        Withdrawals(path).add(SPLIT, [str(key)])


def test_two_people_who_withdraw_others_at_once_lose_nobody(withdrawals: Withdrawals) -> None:
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda first: _add(withdrawals.path, first), (0, 20)))
    assert withdrawals.read().people.size == 40


@pytest.mark.parametrize(("rows", "each"), [("one", 1), ("many", 3)])
def test_a_snapshot_after_withdrawals_is_that_of_a_table_without_them(
    tmp_path: Path, withdrawals: Withdrawals, rows: str, each: int
) -> None:
    schema = small_schema(rows=rows)
    table = small_table(tmp_path / "t.parquet", 90_000 // each, 3, rows_each=each)
    before = take(table, withdrawals, "before", schema)
    people = sum(before.people(one) for one in Population)
    gone = {0, 1, 2, 500, people - 1, *range(10_000, 12_000)}

    withdrawals.add(SPLIT, map(str, gone))
    after = before.after(withdrawals)
    fresh = take(table, withdrawals, "fresh", schema)

    assert sum(after.people(one) for one in Population) == people - len(gone)
    assert contents(after) == contents(fresh)
    assert Snapshot.open(after.directory, schema) == after
    assert after.digest not in (before.digest, fresh.digest)
    after.verify()
    assert after.after(withdrawals) == after


@pytest.mark.parametrize(("rows", "each"), [("one", 1), ("many", 3)])
def test_the_next_step_is_answered_without_them(
    tmp_path: Path, withdrawals: Withdrawals, rows: str, each: int
) -> None:
    schema = small_schema(rows=rows)
    table = small_table(tmp_path / "t.parquet", 500, 3, rows_each=each)
    card = flat_card(schema)
    query = BoundedSum(question=Question.STEP, columns=(*card.bins, 1), share_variance=2**40)

    def answered(snapshot: Snapshot) -> list[int]:
        return sum_of(query, step_contributions(schema, snapshot, card)).total.tolist()

    taken = take(table, withdrawals, schema=schema)
    before = answered(taken)
    withdrawals.add(SPLIT, map(str, range(0, 500, 7)))
    after = answered(taken.after(withdrawals))
    assert after != before
    assert after == answered(take(table, withdrawals, "fresh", schema))


def test_nobody_comes_back_and_the_next_ones_go_as_well(
    tmp_path: Path, withdrawals: Withdrawals
) -> None:
    table = small_table(tmp_path / "t.parquet", 200, 3)
    taken = take(table, withdrawals)
    for gone in range(1, 20):
        withdrawals.add(SPLIT, [str(gone * 7)])
        taken = taken.after(withdrawals)
        assert sum(taken.people(one) for one in Population) == 200 - gone
        names = {path.name for path in taken.directory.iterdir()}
        assert len(names) == 5
    assert contents(taken) == contents(take(table, withdrawals, "fresh"))


def test_a_withdrawal_of_somebody_who_is_not_in_it_rewrites_no_block(
    tmp_path: Path, withdrawals: Withdrawals
) -> None:
    taken = take(small_table(tmp_path / "t.parquet", 200, 3), withdrawals)
    withdrawals.add(SPLIT, ["a stranger"])
    after = taken.after(withdrawals)
    assert (after.directory / "trained.blocks").exists()
    assert contents(after) == contents(taken)
    assert after.after(withdrawals) is after


def test_everybody_may_withdraw(tmp_path: Path, withdrawals: Withdrawals) -> None:
    taken = take(small_table(tmp_path / "t.parquet", 30, 3), withdrawals)
    withdrawals.add(SPLIT, map(str, range(30)))
    after = taken.after(withdrawals)
    assert [list(after.blocks(one)) for one in Population] == [[], []]
    assert Snapshot.open(after.directory, small_schema()) == after


def test_a_snapshot_that_kept_no_hashes_takes_nobody_out(
    tmp_path: Path, withdrawals: Withdrawals
) -> None:
    taken = take(small_table(tmp_path / "t.parquet", 30, 3), None)
    with pytest.raises(ConfigurationError, match="take a new one"):
        taken.after(withdrawals)


@pytest.mark.parametrize("name", ["trained.people", "trained.blocks"])
@pytest.mark.parametrize("damage", [lambda content: b"\xff" + content[1:], lambda content: b""])
def test_nobody_is_taken_out_of_what_is_damaged(
    tmp_path: Path, withdrawals: Withdrawals, name: str, damage
) -> None:
    taken = take(small_table(tmp_path / "t.parquet", 200, 3), withdrawals)
    path = taken.directory / name
    path.write_bytes(damage(path.read_bytes()))
    withdrawals.add(SPLIT, map(str, range(50)))
    with pytest.raises(DataError, match="is damaged"):
        taken.after(withdrawals)
    assert {one.name for one in taken.directory.iterdir()} == {
        "snapshot.json", "trained.blocks", "trained.people", "held_out.blocks", "held_out.people",
    }  # fmt: skip


class Killed(BaseException):
    """The process ended here; no handler of the program runs."""


@contextlib.contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Ends the program at the given change of the disk, before it is made; yields what was done."""
    done: list[str] = []

    def watched(name: str, real):
        def change(*arguments, **options):
            done.append(name)
            if len(done) > step:
                raise Killed
            return real(*arguments, **options)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "unlink", "rename"):
            patch.setattr(Path, name, watched(name, getattr(Path, name)))
        patch.setattr(os, "fsync", watched("fsync", os.fsync))
        patch.setattr(os, "open", watched("open", os.open))
        yield done


def test_a_kill_between_any_two_writes_leaves_the_old_snapshot_or_the_new(
    tmp_path: Path, withdrawals: Withdrawals
) -> None:
    taken = take(small_table(tmp_path / "t.parquet", 300, 3), withdrawals)
    (taken.directory / "ab.packed").write_bytes(b"of a training")
    withdrawals.add(SPLIT, map(str, range(0, 300, 9)))
    saved = tmp_path / "saved"
    shutil.copytree(taken.directory, saved)
    expected = taken.after(withdrawals)
    new = contents(expected)
    found, step, ended = set(), 0, False
    while not ended:
        shutil.rmtree(taken.directory)
        shutil.copytree(saved, taken.directory)
        with killed_at(step):
            try:
                taken.after(withdrawals)
                ended = True
            except Killed:
                pass
        left = Snapshot.open(taken.directory, small_schema())
        left.verify()
        found.add(left.digest)
        again = left.after(withdrawals)
        assert again == expected
        assert contents(again) == new
        assert len(list(taken.directory.iterdir())) == 5
        step += 1
    assert step > 15
    assert found == {taken.digest, expected.digest}


def test_a_full_disk_keeps_the_old_snapshot_and_answers_nothing(
    tmp_path: Path, withdrawals: Withdrawals
) -> None:
    taken = take(small_table(tmp_path / "t.parquet", 300, 3), withdrawals)
    before = {path.name: path.read_bytes() for path in taken.directory.iterdir()}
    withdrawals.add(SPLIT, ["1", "2", "3", "4", "5"])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigurationError, match="No space left on device"):
            taken.after(withdrawals)
    assert {path.name: path.read_bytes() for path in taken.directory.iterdir()} == before
    after = taken.after(withdrawals)
    assert sum(after.people(one) for one in Population) == 295


def test_a_disk_that_refuses_at_any_moment_can_be_asked_again(
    tmp_path: Path, withdrawals: Withdrawals
) -> None:
    table = small_table(tmp_path / "t.parquet", 300, 3)
    withdrawals_before = withdrawals.path.read_bytes()
    real, calls = os.fsync, 0

    def refuses(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            raise OSError(5, "Input/output error")
        real(handle)

    for step in range(1, 7):  # two files of each population, the header, the directory
        withdrawals.path.write_bytes(withdrawals_before)
        taken = take(table, withdrawals, f"s{step}")
        withdrawals.add(SPLIT, map(str, range(0, 300, 9)))
        calls = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", refuses)
            with pytest.raises(ConfigurationError, match="Cannot take people out"):
                taken.after(withdrawals)
        Snapshot.open(taken.directory, small_schema()).verify()
        after = taken.after(withdrawals)
        assert contents(after) == contents(take(table, withdrawals, f"fresh{step}"))


def test_a_kill_while_somebody_withdraws_keeps_who_had_or_has_them_all(
    withdrawals: Withdrawals,
) -> None:
    withdrawals.add(SPLIT, ["1"])
    step, ended, sizes = 0, False, set()
    saved = withdrawals.path.read_bytes()
    while not ended:
        withdrawals.path.write_bytes(saved)
        with killed_at(step):
            try:
                withdrawals.add(SPLIT, ["2", "3"])
                ended = True
            except Killed:
                pass
        sizes.add(withdrawals.read().people.size)
        step += 1
    assert sizes == {1, 3}


def test_keyed_hashes_follow_the_blocks(tmp_path: Path, withdrawals: Withdrawals) -> None:
    table = small_table(tmp_path / "t.parquet", 300, 3, rows_each=2)
    taken = take(table, withdrawals, schema=small_schema(rows="many"))
    hashes = key_hashes(SPLIT, range(300))
    trained = hashes[hashes >= SPLIT.threshold]
    stored = np.fromfile(taken.directory / "trained.people", "<u8")
    assert stored.tolist() == withdrawals.read().keyed(trained).tolist()
