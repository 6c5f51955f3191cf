"""The ledger on disk: what it keeps, what it refuses, and every way to damage it."""

import random
import resource
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from clients.ledger import Head, Ledger
from federation.canonical import Digest, digest
from federation.errors import BudgetExhausted, ConfigurationError, LedgerCorrupt, PrivacyError
from federation.privacy.ledger_entries import (
    GENESIS,
    LATEST_TIME,
    Closed,
    Recorded,
    Refunded,
    Reserved,
    Spent,
)
from federation.privacy.ledger_rules import Limits
from federation.privacy.units import BudgetUnits, Population, Price

PLAN, OTHER_PLAN, SPLIT = digest("test/plan", b"1"), digest("test/plan", b"2"), digest("test/split")
PRICE = Price(trained=BudgetUnits(1000), held_out=BudgetUnits(50))
ALONE = Price(trained=BudgetUnits(700), held_out=BudgetUnits(30))
LIMITS = Limits(lifetime=BudgetUnits(1500), yearly=BudgetUnits(1200))


def noon() -> int:
    return 1_700_000_000


def attempt(number: int, units: int = 3) -> Spent:
    return Spent(
        plan=PLAN,
        question="train",
        round=number,
        attempt=0,
        population=Population.TRAINED,
        units=BudgetUnits(units),
    )


def refund(number: int) -> Refunded:
    return Refunded(plan=PLAN, question="train", round=number, attempt=0)


def reserve(ledger: Ledger, plan: Digest = PLAN) -> Head:
    return ledger.reserve(plan, PRICE, alone=ALONE, split=SPLIT, limits=LIMITS)


def fill(ledger: Ledger, attempts: int) -> None:
    reserve(ledger)
    for number in range(attempts):
        ledger.spend(attempt(number))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """A ledger with one reservation and three attempts, sequences 1 to 4."""
    with Ledger.create(path, noon) as ledger:
        fill(ledger, 3)
        yield ledger


@pytest.fixture
def stored(path: Path) -> Path:
    """The same ledger, closed."""
    with Ledger.create(path, noon) as ledger:
        fill(ledger, 3)
    return path


def edited(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def inserted(path: Path, new: Recorded) -> None:
    body = new.body().decode()
    row = (new.sequence, new.time, new.previous, new.hash(), new.kind, body)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", row)


def replayed(path: Path) -> tuple[Recorded, ...]:
    with Ledger.open(path, noon) as ledger:
        return ledger.entries()


def crashed_copy(path: Path, folder: Path) -> Path:
    """Copies the ledger, its log and its index as a crash would leave them."""
    folder.mkdir()
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        shutil.copy2(path.with_name(name), folder / name)
    return folder / path.name


# What it keeps.


def test_everything_written_is_there_after_reopening(path: Path) -> None:
    with Ledger.create(path, noon) as ledger:
        assert ledger.head() == (0, GENESIS)
        assert reserve(ledger)[0] == 1
        assert ledger.spend(attempt(0))[0] == 2
        head = ledger.close_plan(PLAN)
        assert head == ledger.head()
        written, standing = ledger.entries(), ledger.balance(LIMITS)
    with Ledger.open(path, noon) as ledger:
        assert ledger.head() == head
        assert ledger.entries() == written
        assert ledger.balance(LIMITS) == standing
        ledger.verify()
    assert [entry.entry for entry in written] == [
        Reserved(plan=PLAN, price=PRICE, alone=ALONE, split=SPLIT),
        attempt(0),
        Closed(plan=PLAN),
    ]
    assert standing.trained.charged_lifetime == 3
    assert standing.open_plans == ()


def test_what_was_refunded_is_not_charged_after_reopening_and_is_never_spent_again(
    stored: Path,
) -> None:
    with Ledger.open(stored, noon) as ledger:
        assert ledger.refund(refund(1)) == ledger.head()
        for again in (refund(1), refund(3)):
            with pytest.raises(PrivacyError, match="never spent, or was refunded before"):
                ledger.refund(again)
        assert ledger.head()[0] == 5
    with Ledger.open(stored, noon) as ledger:
        with pytest.raises(PrivacyError, match="spent before"):
            ledger.spend(attempt(1))
        ledger.spend(attempt(9, 994))  # of 1000, twice 3 are spent
        ledger.close_plan(PLAN)
        assert ledger.balance(LIMITS).trained.charged_lifetime == 3 + 3 + 994
        with pytest.raises(PrivacyError, match="no open reservation"):
            ledger.refund(refund(0))
        ledger.verify()


def test_an_open_reservation_counts_in_full_after_reopening(stored: Path) -> None:
    with Ledger.open(stored, noon) as ledger:
        assert ledger.balance(LIMITS).trained.charged_lifetime == 1000
        with pytest.raises(BudgetExhausted, match="200 are left"):
            reserve(ledger, OTHER_PLAN)


def test_only_its_owner_may_read_any_of_its_files(ledger: Ledger, path: Path) -> None:
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    names = ("ledger.db", "ledger.db-shm", "ledger.db-wal", "ledger.db.lock")
    assert modes == dict.fromkeys(names, 0o600)


def test_a_ledger_that_others_may_access_is_not_opened(stored: Path) -> None:
    stored.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Ledger.open(stored, noon)


def test_the_stored_time_never_runs_backwards(path: Path) -> None:
    times = iter([100, 50, 200])
    with Ledger.create(path, lambda: next(times)) as ledger:
        fill(ledger, 2)
        assert [entry.time for entry in ledger.entries()] == [100, 100, 200]


def test_a_wrong_clock_is_refused_and_the_ledger_goes_on(path: Path) -> None:
    times = iter([-1, LATEST_TIME + 1, 5])
    with Ledger.create(path, lambda: next(times)) as ledger:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="clock"):
                reserve(ledger)
        assert reserve(ledger)[0] == 1


def test_a_refusal_writes_nothing_and_the_ledger_goes_on(ledger: Ledger) -> None:
    before = ledger.entries()
    with pytest.raises(PrivacyError, match="reserved once"):
        reserve(ledger)
    with pytest.raises(PrivacyError, match="spent before"):
        ledger.spend(attempt(0))
    with pytest.raises(BudgetExhausted):
        ledger.spend(attempt(9, 992))
    with pytest.raises(PrivacyError, match="no open reservation"):
        ledger.close_plan(OTHER_PLAN)
    assert ledger.entries() == before
    ledger.spend(attempt(9, 991))
    ledger.verify()


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    threads = [threading.Thread(target=lambda n=n: ledger.spend(attempt(10 + n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.verify()
    assert ledger.head()[0] == 12


def test_a_closed_ledger_refuses_everything(ledger: Ledger) -> None:
    ledger.close()
    ledger.close()
    uses: list[Callable[[], object]] = [
        ledger.head,
        ledger.entries,
        ledger.verify,
        lambda: ledger.balance(LIMITS),
        lambda: ledger.spend(attempt(9)),
        lambda: ledger.refund(refund(0)),
    ]
    for use in uses:
        with pytest.raises(ConfigurationError, match="is closed"):
            use()


# Making and opening.


def test_a_missing_ledger_is_never_made_by_opening_it(path: Path) -> None:
    for opening in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(ConfigurationError, match="Restore it"):
            opening(path, noon)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_a_new_ledger_is_not_made_over_what_an_old_one_left(path: Path, suffix: str) -> None:
    relic = path.with_name(path.name + suffix)
    relic.write_bytes(b"old")
    with pytest.raises(ConfigurationError, match="would forget"):
        Ledger.create(path, noon)
    assert relic.read_bytes() == b"old"


def test_a_draft_left_by_a_crash_does_not_stop_making_the_ledger(path: Path) -> None:
    path.with_name("ledger.db.new").write_bytes(b"half a led")
    Ledger.create(path, noon).close()
    assert {file.name for file in path.parent.iterdir()} == {"ledger.db", "ledger.db.lock"}


def test_a_second_writer_is_refused_even_through_a_link(ledger: Ledger, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    for same in (path, link):
        with pytest.raises(ConfigurationError, match="One daemon owns a ledger"):
            Ledger.open(same, noon)
    with pytest.raises(ConfigurationError, match="One daemon owns a ledger"):
        Ledger.create(path, noon)
    ledger.spend(attempt(9))


def test_the_lock_is_free_again_after_closing_and_after_a_failed_opening(stored: Path) -> None:
    content = stored.read_bytes()
    stored.write_bytes(b"x" * len(content))
    with pytest.raises(LedgerCorrupt):
        Ledger.open(stored, noon)
    stored.write_bytes(content)
    for _ in range(2):
        assert len(replayed(stored)) == 4


@pytest.mark.parametrize("place", ["file/ledger.db", "file/deeper/ledger.db"])
def test_a_place_where_nothing_can_be_is_a_configuration_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    for opening in (Ledger.create, Ledger.open, Ledger.open_read_only):
        with pytest.raises(ConfigurationError):
            opening(tmp_path / place, noon)


def test_a_place_where_nobody_may_write_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"/proc/[0-9]+/ledger\.db"):
        Ledger.create(Path("/proc/self/ledger.db"), noon)


def test_a_directory_in_place_of_a_ledger_is_a_configuration_error(path: Path) -> None:
    path.mkdir(mode=0o700)
    for opening in (Ledger.create, Ledger.open, Ledger.open_read_only):
        with pytest.raises(ConfigurationError):
            opening(path, noon)


def test_a_machine_whose_sqlite_is_not_durable_is_refused(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.ledger.DURABLE", (("synchronous", "OFF", 2),))
    with pytest.raises(ConfigurationError, match="does not keep synchronous"):
        Ledger.open(stored, noon)


def test_an_open_ledger_is_durable(ledger: Ledger) -> None:
    answers = {
        name: ledger._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "fullfsync", "trusted_schema")
    }
    assert answers == {
        "journal_mode": "wal",
        "synchronous": 2,
        "fullfsync": 1,
        "trusted_schema": 0,
    }


# Reading beside a daemon.


def test_reading_a_closed_ledger_needs_no_lock_and_creates_nothing(stored: Path) -> None:
    stored.with_name("ledger.db.lock").unlink()
    with Ledger.open_read_only(stored, noon) as reader:
        assert reader.head()[0] == 4
        reader.verify()
        assert [file.name for file in stored.parent.iterdir()] == ["ledger.db"]
    assert [file.name for file in stored.parent.iterdir()] == ["ledger.db"]


def test_a_reader_sees_one_state_while_the_writer_goes_on(ledger: Ledger, path: Path) -> None:
    with Ledger.open_read_only(path, noon) as reader:
        ledger.spend(attempt(9))
        reader.verify()
        assert (reader.head()[0], len(reader.entries()), ledger.head()[0]) == (4, 4, 5)
        assert reader.balance(LIMITS).trained == ledger.balance(LIMITS).trained
        assert reader.balance(LIMITS).answers_last_hour == 3
    with Ledger.open_read_only(path, noon) as reader:
        assert reader.head() == ledger.head()


def test_a_reader_cannot_write(ledger: Ledger, path: Path) -> None:
    with Ledger.open_read_only(path, noon) as reader, pytest.raises(ConfigurationError):
        reader.spend(attempt(9))
    assert ledger.head()[0] == 4


def test_a_reader_sees_what_a_crash_left_in_the_log(
    ledger: Ledger, path: Path, tmp_path: Path
) -> None:
    copy = crashed_copy(path, tmp_path / "copy")
    before = {file.name: file.read_bytes() for file in copy.parent.iterdir()}
    with Ledger.open_read_only(copy, noon) as reader:
        assert reader.head() == ledger.head()
    assert {file.name: file.read_bytes() for file in copy.parent.iterdir()} == before
    copy.with_name("ledger.db-shm").unlink()
    with pytest.raises(ConfigurationError, match="create that one, empty"):
        Ledger.open_read_only(copy, noon)
    copy.with_name("ledger.db-shm").touch()
    with Ledger.open_read_only(copy, noon) as reader:
        assert reader.head() == ledger.head()
    assert replayed(copy) == ledger.entries()


# Rewriting.


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET time = 0",
        "UPDATE OR REPLACE entry SET sequence = 1 WHERE sequence = 2",
        "UPDATE OR IGNORE entry SET body = '{}' WHERE sequence = 4",
        "DELETE FROM entry",
        "DELETE FROM entry WHERE sequence = 4",
        "INSERT OR REPLACE INTO entry SELECT * FROM entry WHERE sequence = 4",
        "REPLACE INTO entry SELECT 2, time, previous, 'new', kind, '{}' FROM entry WHERE rowid = 2",
        "INSERT OR REPLACE INTO entry SELECT 5, time, hash, hash, kind, body FROM entry "
        "WHERE sequence = 4",
        "INSERT OR IGNORE INTO entry SELECT 6, time, hash, 'new', kind, body FROM entry "
        "WHERE sequence = 4",
        "INSERT INTO entry SELECT 6, time, hash, 'new', kind, body FROM entry WHERE sequence = 4",
        "INSERT INTO entry SELECT NULL, time, hash, 'new', kind, body FROM entry WHERE rowid = 4",
        "INSERT INTO entry SELECT 5, time, previous, 'new', kind, body FROM entry WHERE rowid = 4",
        "INSERT INTO entry SELECT 5, time, NULL, 'new', kind, body FROM entry WHERE rowid = 4",
        "INSERT INTO entry SELECT 5, time, hash, previous, kind, body FROM entry WHERE rowid = 4",
        "INSERT INTO entry SELECT * FROM entry WHERE rowid = 4 "
        "ON CONFLICT DO UPDATE SET body = '{}'",
        "INSERT INTO entry SELECT 5, 'noon', hash, 'new', kind, body FROM entry WHERE rowid = 4",
    ],
)
def test_sqlite_itself_refuses_to_rewrite(stored: Path, statement: str) -> None:
    before = replayed(stored)
    with pytest.raises(sqlite3.IntegrityError):
        edited(stored, statement)
    assert replayed(stored) == before


UNLOCK = (
    "DROP TRIGGER entry_is_appended",
    "DROP TRIGGER entry_is_never_updated",
    "DROP TRIGGER entry_is_never_deleted",
)


def forged(path: Path, *statements: str) -> None:
    """Rewrites rows with the triggers taken away and put back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        triggers = [
            sql
            for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger'")
        ]
    edited(path, *UNLOCK, *statements, *triggers)


@pytest.mark.parametrize(
    ("statement", "sequence"),
    [
        ("UPDATE entry SET body = replace(body, '3', '1') WHERE sequence = 3", 3),
        ("UPDATE entry SET body = replace(body, ',', ', ') WHERE sequence = 3", 3),
        ("UPDATE entry SET body = replace(body, '\"units\":3', '\"units\":-3')", 2),
        ("UPDATE entry SET body = replace(body, '\"units\":3', '\"units\":3.0')", 2),
        ("UPDATE entry SET body = replace(body, '}', ',\"x\":1}') WHERE sequence = 3", 3),
        ("UPDATE entry SET body = 'x' WHERE sequence = 4", 4),
        ("UPDATE entry SET body = cast(X'7bff7d' AS TEXT) WHERE sequence = 4", 4),
        ("UPDATE entry SET kind = 'refunded' WHERE sequence = 4", 4),
        ("UPDATE entry SET kind = 'forgiven' WHERE sequence = 4", 4),
        ("UPDATE entry SET kind = 'closed' WHERE sequence = 4", 4),
        ("UPDATE entry SET time = time + 1 WHERE sequence = 2", 2),
        ("UPDATE entry SET time = -1 WHERE sequence = 1", 1),
        ("UPDATE entry SET hash = 'x' WHERE sequence = 4", 4),
        ("UPDATE entry SET previous = hash WHERE sequence = 4", 4),
        ("UPDATE entry SET sequence = 9 WHERE sequence = 4", 4),
        ("DELETE FROM entry WHERE sequence = 1", 1),
        ("DELETE FROM entry WHERE sequence = 2", 2),
    ],
)
def test_a_forged_row_is_found_and_its_sequence_named(
    stored: Path, statement: str, sequence: int
) -> None:
    forged(stored, statement)
    for opening in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(LedgerCorrupt, match=f"at sequence {sequence}:"):
            opening(stored, noon)


def test_a_row_that_follows_in_the_chain_but_breaks_a_rule_is_found(stored: Path) -> None:
    last = replayed(stored)[-1]
    inserted(stored, Recorded(sequence=5, time=last.time, previous=last.hash(), entry=last.entry))
    with pytest.raises(LedgerCorrupt, match=r"at sequence 5: .*spent before"):
        Ledger.open(stored, noon)


def test_a_refund_of_what_was_never_spent_is_found_in_a_stored_ledger(stored: Path) -> None:
    last = replayed(stored)[-1]
    inserted(stored, Recorded(sequence=5, time=last.time, previous=last.hash(), entry=refund(7)))
    with pytest.raises(LedgerCorrupt, match=r"at sequence 5: .*never spent"):
        Ledger.open(stored, noon)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER entry_is_appended",
        "DROP TRIGGER entry_is_never_deleted",
        "ALTER TABLE entry ADD COLUMN note TEXT",
        "CREATE TABLE note (text TEXT)",
        "DROP TABLE entry",
    ],
)
def test_a_ledger_without_its_own_tables_and_triggers_is_refused(
    stored: Path, statement: str
) -> None:
    edited(stored, statement)
    with pytest.raises(LedgerCorrupt, match="tables and triggers"):
        Ledger.open(stored, noon)


def test_a_row_slipped_in_beside_the_open_ledger_stops_it(ledger: Ledger, path: Path) -> None:
    last = ledger.entries()[-1]
    inserted(path, Recorded(sequence=5, time=last.time, previous=last.hash(), entry=attempt(7)))
    with pytest.raises(LedgerCorrupt, match="another program wrote"):
        ledger.verify()
    with pytest.raises(LedgerCorrupt, match="another program wrote"):
        ledger.spend(attempt(8))
    with pytest.raises(ConfigurationError, match="earlier write"):
        ledger.head()


def test_a_row_changed_beside_the_open_ledger_is_found(ledger: Ledger, path: Path) -> None:
    forged(path, "UPDATE entry SET time = 0 WHERE sequence = 1")
    for read in (ledger.verify, ledger.entries):
        with pytest.raises(LedgerCorrupt, match="at sequence 1:"):
            read()


# Damage.


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to look like one" * 99])
def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    for opening in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(LedgerCorrupt):
            opening(path, noon)
    assert path.read_bytes() == content


def test_a_truncated_file_is_refused(stored: Path) -> None:
    content = stored.read_bytes()
    for pages in range(len(content) // 4096):
        stored.write_bytes(content[: pages * 4096 + 100 * (pages % 2)])
        with pytest.raises(LedgerCorrupt):
            Ledger.open(stored, noon)


def test_a_flipped_byte_is_found_or_changes_no_entry(stored: Path) -> None:
    content, entries = stored.read_bytes(), replayed(stored)
    used = [place for place, byte in enumerate(content) if byte]
    for place in random.Random(1).sample(used, 120):  # noqa: S311 - the same bytes each time
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        stored.write_bytes(damaged)
        try:
            with Ledger.open_read_only(stored, noon) as reader:
                assert reader.entries() == entries
        except (LedgerCorrupt, ConfigurationError):
            continue


def test_a_flipped_byte_in_the_last_bodies_is_always_found(stored: Path) -> None:
    content = stored.read_bytes()
    for place in range(content.index(b'{"attempt"'), content.index(b'{"attempt"') + 100, 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x01
        stored.write_bytes(damaged)
        with pytest.raises(LedgerCorrupt):
            Ledger.open_read_only(stored, noon)


def test_a_damaged_index_is_found(stored: Path) -> None:
    content = stored.read_bytes()
    hash_of_last = replayed(stored)[-1].hash().encode()
    assert content.count(hash_of_last) == 2
    places = (content.index(hash_of_last), content.rindex(hash_of_last))
    messages = set()
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x01
        stored.write_bytes(damaged)
        with pytest.raises(LedgerCorrupt) as refusal:
            Ledger.open(stored, noon)
        messages.add("can be read" in str(refusal.value))
    assert messages == {True, False}


def test_a_damaged_log_loses_its_tail_and_a_head_seen_before_shows_it(
    ledger: Ledger, path: Path, tmp_path: Path
) -> None:
    copy, entries, head = crashed_copy(path, tmp_path / "copy"), ledger.entries(), ledger.head()
    log = copy.with_name("ledger.db-wal")
    content = bytearray(log.read_bytes())
    content[-10] ^= 0x01
    log.write_bytes(content)
    copy.with_name("ledger.db-shm").write_bytes(b"")
    with Ledger.open(copy, noon) as shorter:
        assert shorter.entries() == entries[:-1]
        with pytest.raises(LedgerCorrupt, match="older than a head seen before"):
            shorter.require_not_older_than(*head)


# Rollback.


def test_an_older_copy_is_noticed_by_a_head_seen_before(stored: Path, tmp_path: Path) -> None:
    old = shutil.copy2(stored, tmp_path / "old.db")
    with Ledger.open(stored, noon) as ledger:
        head = ledger.spend(attempt(9))
        ledger.require_not_older_than(*head)
    with Ledger.open(Path(old), noon) as ledger:
        with pytest.raises(LedgerCorrupt, match=r"ends at sequence 4, entry 5 was signed"):
            ledger.require_not_older_than(*head)
        ledger.spend(attempt(8))
        with pytest.raises(LedgerCorrupt, match="another ledger, was rewritten"):
            ledger.require_not_older_than(*head)


def test_every_head_there_ever_was_is_accepted(ledger: Ledger) -> None:
    ledger.require_not_older_than(0, GENESIS)
    for entry in ledger.entries():
        ledger.require_not_older_than(entry.sequence, entry.hash())


@pytest.mark.parametrize("sequence", [-(2**70), -1, 0, 1, 4, 5, 2**70])
def test_a_head_that_never_was_is_refused(ledger: Ledger, sequence: int) -> None:
    with pytest.raises(LedgerCorrupt):
        ledger.require_not_older_than(sequence, digest("test/never"))


# A machine that fails.


def require_unusable_and_nothing_half_written(ledger: Ledger, path: Path, entries: int) -> None:
    with pytest.raises(ConfigurationError, match="open it again"):
        ledger.spend(attempt(99))
    ledger.close()
    assert len(replayed(path)) == entries


def test_a_full_database_is_a_configuration_error(ledger: Ledger, path: Path) -> None:
    ledger._connection.execute("PRAGMA max_page_count=1")
    written = ledger.head()[0]

    def spend_until_it_fails() -> None:
        nonlocal written
        for number in range(10, 60):
            written = ledger.spend(attempt(number))[0]

    with pytest.raises(ConfigurationError, match="disk is full"):
        spend_until_it_fails()
    require_unusable_and_nothing_half_written(ledger, path, written)


def test_a_disk_that_refuses_more_bytes_is_a_configuration_error(
    ledger: Ledger, path: Path
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (path.with_name("ledger.db-wal").stat().st_size, hard)
    )
    try:
        with pytest.raises(ConfigurationError, match="disk refused"):
            ledger.spend(attempt(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    require_unusable_and_nothing_half_written(ledger, path, 4)


class FailingDisk:
    """Stands for a connection whose disk fails on reading."""

    def execute(self, *_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error


def test_a_disk_that_fails_on_reading_is_not_called_a_damaged_ledger(ledger: Ledger) -> None:
    ledger._connection = FailingDisk()  # type: ignore[assignment] # a fake
    with pytest.raises(ConfigurationError, match="disk refused"):
        ledger.entries()


def test_a_ledger_that_became_read_only_is_a_configuration_error(
    ledger: Ledger, path: Path
) -> None:
    ledger._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        ledger.spend(attempt(9))
    require_unusable_and_nothing_half_written(ledger, path, 4)


def test_a_lock_held_by_another_program_is_a_configuration_error_and_passes(
    ledger: Ledger, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigurationError, match="Another program holds it"):
            ledger.spend(attempt(9))
    assert ledger.spend(attempt(9))[0] == 5


def test_reading_under_a_foreign_lock_is_a_configuration_error_not_damage(stored: Path) -> None:
    stored.with_name("ledger.db-wal").write_bytes(b"")
    with closing(sqlite3.connect(stored, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigurationError, match="Another program holds it"):
            Ledger.open(stored, noon)


def test_an_interrupted_write_leaves_the_ledger_unusable_until_it_is_opened_again(
    path: Path,
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    with Ledger.create(path, noon) as ledger:
        fill(ledger, 3)
        ledger._append = lambda now, entry: interrupted()  # type: ignore[method-assign,assignment,return-value] # stands for Ctrl-C
        with pytest.raises(KeyboardInterrupt):
            ledger.spend(attempt(9))
        require_unusable_and_nothing_half_written(ledger, path, 4)
