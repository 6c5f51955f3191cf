"""A ledger on disk that is older than a signed header: what recovering it does and does not."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clients.ledger import Head, Ledger
from federation.canonical import Digest, digest
from federation.errors import BudgetExhausted, ConfigurationError, LedgerCorrupt, PrivacyError
from federation.privacy.ledger_entries import GENESIS, Recorded, Recovered, Spent
from federation.privacy.ledger_rules import WINDOW_SECONDS, Limits
from federation.privacy.units import LARGEST_UNITS, BudgetUnits, Population, Price

PLAN, OTHER, SPLIT = digest("test/plan", b"1"), digest("test/plan", b"2"), digest("test/split")
PRICE = Price(trained=BudgetUnits(1000), held_out=BudgetUnits(50))
LIMITS = Limits(lifetime=BudgetUnits(9000), yearly=BudgetUnits(1500))
NOON = 1_700_000_000


def noon() -> int:
    return NOON


def later() -> int:
    return NOON + WINDOW_SECONDS + 1


def reserve(ledger: Ledger, plan: Digest = PLAN) -> Head:
    return ledger.reserve(plan, PRICE, alone=PRICE, split=SPLIT, limits=LIMITS)


def attempt(number: int) -> Spent:
    return Spent(
        plan=PLAN,
        question="step",
        round=number,
        attempt=0,
        population=Population.TRAINED,
        units=BudgetUnits(3),
    )


def recover(ledger: Ledger, seen: Head, since: int = NOON) -> Head:
    return ledger.recover(ledger.recovery(*seen, missing_since=since, limits=LIMITS))


@pytest.fixture
def older(tmp_path: Path) -> tuple[Path, list[Head]]:
    """An older copy that ends at sequence 2, and the heads 3 to 6 that it has lost."""
    path, copy = tmp_path / "ledger.db", tmp_path / "older.db"
    with Ledger.create(path, noon) as ledger:
        reserve(ledger)
        ledger.spend(attempt(0))
    shutil.copy2(path, copy)
    with Ledger.open(path, noon) as ledger:
        lost = [ledger.spend(attempt(number)) for number in range(1, 5)]
    return copy, lost


def test_a_recovered_ledger_holds_the_head_that_was_seen_and_goes_on_above_it(
    older: tuple[Path, list[Head]],
) -> None:
    path, lost = older
    with Ledger.open(path, noon) as ledger:
        with pytest.raises(LedgerCorrupt, match=f"entry 6 was signed, head {lost[-1][1]}"):
            ledger.require_not_older_than(*lost[-1])
        head = recover(ledger, lost[-1])
        assert head[0] == 7
        ledger.require_not_older_than(*lost[-1])
        ledger.require_not_older_than(*head)
    with Ledger.open(path, later) as ledger:
        ledger.require_not_older_than(*lost[-1])
        assert ledger.balance(LIMITS).trained.charged_lifetime == 1000 + 1500
        assert ledger.balance(LIMITS).open_plans == ()
        assert reserve(ledger, OTHER)[0] == 8
        ledger.verify()
    with Ledger.open_read_only(path, later) as ledger:
        assert [one.sequence for one in ledger.entries()] == [1, 2, 7, 8]


def test_a_recovery_covers_the_missing_heads_before_the_one_that_was_seen_and_no_other(
    older: tuple[Path, list[Head]],
) -> None:
    path, lost = older
    with Ledger.open(path, noon) as ledger:
        recover(ledger, lost[-1])
    with Ledger.open(path, noon) as ledger:
        for head in lost[:-1]:
            ledger.require_not_older_than(*head)
        ended = ledger.entries()[1].hash()
        for head in ((2, lost[0][1]), (6, GENESIS), (6, lost[0][1]), (7, lost[-1][1]), (7, ended)):
            with pytest.raises(LedgerCorrupt, match="does not contain the head"):
                ledger.require_not_older_than(*head)
        ledger.require_not_older_than(0, GENESIS)
        for one in ledger.entries():
            ledger.require_not_older_than(one.sequence, one.hash())


def test_what_was_entered_before_is_over_and_its_budget_is_gone(
    older: tuple[Path, list[Head]],
) -> None:
    path, lost = older
    with Ledger.open(path, noon) as ledger:
        recover(ledger, lost[-1])
        for refused in (lambda: ledger.spend(attempt(9)), lambda: ledger.close_plan(PLAN)):
            with pytest.raises(PrivacyError, match="no open reservation"):
                refused()
        with pytest.raises(BudgetExhausted, match="0 are left"):
            reserve(ledger, OTHER)


def test_a_ledger_that_lacks_nothing_is_not_recovered(older: tuple[Path, list[Head]]) -> None:
    path, lost = older
    with Ledger.open(path, noon) as ledger:
        charge = ledger.recovery(*lost[-1], missing_since=NOON, limits=LIMITS)
        for head in (ledger.head(), (0, GENESIS), (1, ledger.entries()[0].hash())):
            with pytest.raises(ConfigurationError, match="nothing is missing"):
                ledger.recovery(*head, missing_since=NOON, limits=LIMITS)
        ledger.recover(charge)
        with pytest.raises(ConfigurationError, match="nothing is missing"):
            ledger.recover(charge)
        with pytest.raises(ConfigurationError, match="nothing is missing"):
            ledger.recovery(*lost[-1], missing_since=NOON, limits=LIMITS)
        assert len(ledger.entries()) == 3


def test_a_ledger_is_recovered_once_for_each_head_and_charged_each_time(
    older: tuple[Path, list[Head]],
) -> None:
    path, lost = older
    with Ledger.open(path, noon) as ledger:
        assert recover(ledger, lost[1])[0] == 5
        assert recover(ledger, lost[3])[0] == 7
        assert recover(ledger, lost[0])[0] == 8, "a lower one does not turn the sequence back"
        for head in (lost[0], lost[1], lost[3]):
            ledger.require_not_older_than(*head)
        assert ledger.balance(LIMITS).held_out.charged_lifetime == 50 + 3 * 1500
        ledger.verify()


def test_a_copy_that_went_on_by_itself_is_recovered_too(older: tuple[Path, list[Head]]) -> None:
    path, lost = older
    with Ledger.open(path, noon) as ledger:
        for number in range(5, 12):
            ledger.spend(attempt(number))
        with pytest.raises(LedgerCorrupt, match="went on from an older copy"):
            ledger.require_not_older_than(*lost[-1])
        assert recover(ledger, lost[-1], since=0) == (10, ledger.head()[1])
        assert ledger.balance(LIMITS).trained.charged_lifetime == 1000 + 9000
        ledger.require_not_older_than(*lost[-1])


def test_a_copy_from_before_a_recovery_is_recovered_again_and_once_for_both(
    older: tuple[Path, list[Head]], tmp_path: Path
) -> None:
    path, lost = older
    before = tmp_path / "before.db"
    shutil.copy2(path, before)
    with Ledger.open(path, noon) as ledger:
        seen = recover(ledger, lost[-1])
    with Ledger.open(before, noon) as ledger:
        with pytest.raises(LedgerCorrupt):
            ledger.require_not_older_than(*lost[-1])
        assert recover(ledger, seen)[0] == seen[0] + 1
        ledger.require_not_older_than(*lost[-1])


def test_a_lie_about_the_sequence_costs_what_the_truth_costs_and_leaves_room(
    older: tuple[Path, list[Head]],
) -> None:
    path, _ = older
    with Ledger.open(path, noon) as ledger:
        head = recover(ledger, (LARGEST_UNITS, digest("test/lie")))
        assert head[0] == 2**62 + 1
        assert ledger.balance(LIMITS).trained.charged_lifetime == 1000 + 1500
    with Ledger.open(path, later) as ledger:
        assert reserve(ledger, OTHER)[0] == 2**62 + 2
        ledger.verify()


@pytest.mark.parametrize(
    ("sequence", "head"),
    [(LARGEST_UNITS + 1, PLAN), (0, PLAN), (-1, PLAN), (7, Digest("x")), (7, GENESIS + "\n")],
)
def test_a_head_that_cannot_have_been_signed_is_not_recovered(
    older: tuple[Path, list[Head]], sequence: int, head: Digest
) -> None:
    with Ledger.open(older[0], noon) as ledger:
        with pytest.raises(PrivacyError, match=r"seen_sequence|seen_head"):
            ledger.recovery(sequence, head, missing_since=NOON, limits=LIMITS)
        ledger.spend(attempt(9))


def test_a_reader_cannot_recover(older: tuple[Path, list[Head]]) -> None:
    path, lost = older
    with (
        Ledger.open_read_only(path, noon) as reader,
        pytest.raises(ConfigurationError, match="cannot be written"),
    ):
        recover(reader, lost[-1])


def test_sqlite_lets_no_other_kind_leave_a_gap_and_no_recovery_go_back(
    older: tuple[Path, list[Head]],
) -> None:
    path, lost = older
    with Ledger.open(path, noon) as ledger:
        recover(ledger, lost[-1])
        entries = ledger.entries()
    body = entries[-1].body().decode()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for sequence, kind in ((9, "spent"), (9, None), (7, "recovered"), (3, "recovered")):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(
                    "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)",
                    (sequence, NOON, entries[-1].hash(), "new", kind, body),
                )
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(
                "INSERT INTO entry VALUES (NULL, ?, ?, ?, ?, ?)",
                (NOON, entries[-1].hash(), "new", "recovered", body),
            )
    with Ledger.open(path, noon) as ledger:
        assert ledger.entries() == entries


def test_a_gap_of_another_width_than_its_entry_says_is_found_in_a_stored_ledger(
    older: tuple[Path, list[Head]],
) -> None:
    path, lost = older
    with Ledger.open(path, noon) as ledger:
        entry = ledger.recovery(*lost[-1], missing_since=NOON, limits=LIMITS)
        last = ledger.entries()[-1]
    assert isinstance(entry, Recovered)
    new = Recorded(sequence=9, time=NOON, previous=last.hash(), entry=entry)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)",
            (9, NOON, new.previous, new.hash(), new.kind, new.body().decode()),
        )
    with pytest.raises(LedgerCorrupt, match=r"at sequence 3: Expected sequence=7"):
        Ledger.open(path, noon)
