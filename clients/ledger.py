"""The institution's privacy budget on disk: append-only, hash-chained, durable before it answers.

One SQLite file holds one row an entry. A write returns only after SQLite committed it with
`synchronous=FULL` to the write-ahead log, so noise drawn afterwards is always paid for. Whoever
opens the file verifies all of it; nothing is ever read from it unverified.

What the file alone cannot show is that its end is missing: an older copy, or a log whose tail was
lost, is a shorter ledger that is valid. `require_not_older_than` compares it with a head that was
seen in a signed header. Keep the file on a disk of this machine: locks and the write-ahead log do
not work over a network.
"""

import fcntl
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from federation.canonical import Digest
from federation.errors import ConfigurationError, FedscoreError, LedgerCorrupt, PrivacyError
from federation.privacy.ledger_rules import (
    GENESIS,
    KINDS,
    Account,
    Balance,
    Closed,
    Entry,
    Limits,
    Recorded,
    Reserved,
    Spent,
    balance_of,
    check_reservation,
    following,
    record,
)
from federation.privacy.units import Price

Head = tuple[int, Digest]
"""Sequence and hash of a ledger's last entry."""

BUSY_SECONDS = 0.5

# The insert trigger makes the three checks itself: INSERT OR REPLACE would otherwise delete a row
# without firing the delete trigger, because recursive_triggers is off by default.
_SCHEMA = f"""
CREATE TABLE entry (
    sequence INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE TRIGGER entry_is_appended BEFORE INSERT ON entry
WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM entry)
    OR NEW.previous IS NOT coalesce(
        (SELECT hash FROM entry ORDER BY sequence DESC LIMIT 1), '{GENESIS}')
    OR EXISTS (SELECT 1 FROM entry WHERE hash = NEW.hash)
BEGIN SELECT RAISE(ABORT, 'an entry can only follow the last one'); END;
CREATE TRIGGER entry_is_never_updated BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'an entry is never changed'); END;
CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'an entry is never deleted'); END;
"""  # noqa: S608 - a constant, no value from outside is pasted into it

_CAREFUL = (("trusted_schema", "OFF", 0), ("cell_size_check", "ON", 1))
_READ_ONLY = (*_CAREFUL, ("query_only", "ON", 1))
_DURABLE = (
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("fullfsync", "ON", 1),  # on macOS, fsync alone does not reach the disk
)

_MACHINE_FAILED = {
    sqlite3.SQLITE_BUSY: "Another program holds it: stop that program.",
    sqlite3.SQLITE_LOCKED: "Another program holds it: stop that program.",
    sqlite3.SQLITE_FULL: "The disk is full: free some space.",
    sqlite3.SQLITE_READONLY: "It cannot be written: correct the permissions of file and directory.",
    sqlite3.SQLITE_PERM: "It cannot be opened: correct the permissions of file and directory.",
    sqlite3.SQLITE_CANTOPEN: "It cannot be opened: correct the permissions; if a -wal file lies "
    "beside it without its -shm file, create that one, empty.",
    sqlite3.SQLITE_IOERR: "The disk refused: check its health, its space and the quota.",
    sqlite3.SQLITE_NOMEM: "The machine is out of memory: free some.",
}


class Ledger:
    """One institution's budget, open. A context manager; `close` is safe to call twice.

    Made by `create`, `open` and `open_read_only`. Threads may share it, processes may not. After a
    failed write it refuses everything until it is opened again, for only the disk knows then
    whether the entry is there; if it is, it counts.
    """

    def __init__(
        self, path: Path, clock: Callable[[], int], connection: sqlite3.Connection
    ) -> None:
        """Private; verifies the whole file."""
        self._path = path
        self._clock = clock
        self._connection = connection
        self._account = self._refolded()
        self._mutex = threading.RLock()
        self._is_usable = True
        self._resources = ExitStack()

    @classmethod
    def create(cls, path: Path, clock: Callable[[], int]) -> Self:
        """Makes an empty ledger, mode 0600, and opens it: once in an institution's life.

        Args:
            path: where no ledger is, in a directory that exists.
            clock: says whole seconds since 1970.

        Raises:
            ConfigurationError: something is there already, or nothing can be written there.
        """
        path = path.resolve()
        with _errors_of(path), ExitStack() as resources:
            _lock(path, resources)
            for there in (path, _beside(path, "-wal"), _beside(path, "-journal")):
                if there.exists():
                    raise ConfigurationError(
                        f"{there} exists. A new ledger would forget what was spent: open the one "
                        "that is there."
                    )
            _write_empty_ledger(path)
        return cls.open(path, clock)

    @classmethod
    def open(cls, path: Path, clock: Callable[[], int]) -> Self:
        """Opens an existing ledger for writing, alone, and verifies all of it.

        A missing ledger is never made here: a lost file or an unmounted disk would renew the
        budget.

        Args:
            path: the ledger. `PATH.lock` beside it is held until `close`.
            clock: says whole seconds since 1970.

        Raises:
            ConfigurationError: no ledger is there, others may access it, another process has it
                open, or the disk or the permissions refuse.
            LedgerCorrupt: the content contradicts itself; the message names the first bad sequence.
        """
        path = path.resolve()
        with _errors_of(path), ExitStack() as resources:
            if stat.S_IMODE(_existing(path).st_mode) & 0o077:
                raise ConfigurationError(f"Others may access the ledger: run `chmod 600 {path}`.")
            _lock(path, resources)
            connection = _connect(path, "mode=rw", resources)
            _set(connection, _CAREFUL)
            ledger = cls(path, clock, connection)
            _set(connection, _DURABLE)
            ledger._resources = resources.pop_all()
            return ledger

    @classmethod
    def open_read_only(cls, path: Path, clock: Callable[[], int]) -> Self:
        """Opens the ledger as it stands now, to show or verify it: takes no lock, creates nothing.

        A daemon may have it open. (Should one start and also stop while a ledger that was closed
        is read here, this can report damage that is not there; run it again.)

        Args:
            path: the ledger.
            clock: says whole seconds since 1970.

        Raises:
            ConfigurationError: no ledger is there, or it cannot be read.
            LedgerCorrupt: the content contradicts itself; the message names the first bad sequence.
        """
        path = path.resolve()
        with _errors_of(path), ExitStack() as resources:
            _existing(path)
            log = _beside(path, "-wal")
            # Without a log the file is complete; SQLite would create log and index to read it.
            has_log = log.exists() and log.stat().st_size > 0
            access = "mode=ro&readonly_shm=1" if has_log else "mode=ro&immutable=1"
            connection = _connect(path, access, resources)
            _set(connection, _READ_ONLY)
            connection.execute("BEGIN")  # one consistent view, whatever a daemon writes meanwhile
            ledger = cls(path, clock, connection)
            ledger._resources = resources.pop_all()
            return ledger

    def reserve(self, plan: Digest, price: Price, split: Digest, limits: Limits) -> Head:
        """Sets the full price of a plan aside and returns the new head, once it is durable.

        Args:
            plan: digest of a plan never reserved before.
            price: budget units for all rounds and retries of the plan, by population.
            split: digest of the federation's public salt and held-out fraction.
            limits: the institution's limits as they are now.

        Raises:
            BudgetExhausted: the price is above what is left.
            PrivacyError: the plan was reserved before, or the split is not this ledger's.
            ConfigurationError: the machine refused; nothing was reserved as far as it could tell.
            LedgerCorrupt: another program wrote to the ledger.
        """
        reserved = Reserved(plan=plan, price=price, split=split)
        with self._transaction() as now:
            check_reservation(self._account, reserved, now, limits)
            return self._append(now, reserved)

    def spend(self, spent: Spent) -> Head:
        """Charges one attempt and returns the new head, once it is durable; then draw the noise.

        Raises:
            BudgetExhausted: the plan's reservation does not cover it.
            PrivacyError: no open reservation, or the attempt was spent before.
            ConfigurationError: the machine refused; do not answer.
            LedgerCorrupt: another program wrote to the ledger; do not answer.
        """
        with self._transaction() as now:
            return self._append(now, spent)

    def close_plan(self, plan: Digest) -> Head:
        """Releases what a plan reserved and never spent; returns the new head, once durable.

        Raises:
            PrivacyError: the plan has no open reservation.
            ConfigurationError: the machine refused.
            LedgerCorrupt: another program wrote to the ledger.
        """
        with self._transaction() as now:
            return self._append(now, Closed(plan=plan))

    def entries(self) -> tuple[Recorded, ...]:
        """Returns all entries in order, each verified as it is read.

        Raises:
            LedgerCorrupt: the file changed under the open ledger.
        """
        with self._use():
            return tuple(self._verified(Account()))

    def head(self) -> Head:
        """Returns sequence and hash of the last entry; (0, GENESIS) when there is none."""
        with self._use():
            return self._account.sequence, self._account.head

    def balance(self, limits: Limits) -> Balance:
        """Returns what is charged and left now, in time that does not grow with the entries."""
        with self._use():
            return balance_of(self._account, self._clock(), limits)

    def require_not_older_than(self, sequence: int, head: Digest) -> None:
        """Returns only if the ledger contains a head that was seen in a signed header.

        Args:
            sequence: the sequence in that header, >= 0.
            head: the hash in that header.

        Raises:
            LedgerCorrupt: the ledger ends before it, or holds another entry there.
        """
        with self._use():
            if sequence > self._account.sequence:
                raise LedgerCorrupt(
                    f"{self._path} is older than a head seen before: it ends at sequence "
                    f"{self._account.sequence}, entry {sequence} was signed. Restore the newest "
                    "copy, or charge the gap with `ledger recover`."
                )
            query = "SELECT hash FROM entry WHERE sequence = ?"
            row = self._connection.execute(query, (max(0, sequence),)).fetchone()
            if head != (row[0] if row else GENESIS):
                raise LedgerCorrupt(
                    f"{self._path} does not contain the head signed for sequence {sequence}: it "
                    "is another ledger or was rewritten. Restore the right copy."
                )

    def verify(self) -> None:
        """Reads the whole file again and returns only if every hash and every rule holds.

        Raises:
            LedgerCorrupt: the file, its tables or the chain are damaged; names the first bad
                sequence.
        """
        with self._use():
            account = self._refolded()
            if account.head != self._account.head:
                raise LedgerCorrupt(
                    f"{self._path} ends at sequence {account.sequence}, but this process knows "
                    f"{self._account.sequence}: another program wrote to it. Stop both."
                )

    def close(self) -> None:
        """Closes the file and gives the lock back."""
        with self._mutex:
            self._is_usable = False
            self._resources.close()

    def __enter__(self) -> Self:
        """Returns the open ledger."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the ledger."""
        self.close()

    @contextmanager
    def _use(self) -> Iterator[None]:
        with self._mutex, _errors_of(self._path):
            if not self._is_usable:
                raise ConfigurationError(
                    f"{self._path} is closed, or an earlier write to it failed: open it again."
                )
            yield

    @contextmanager
    def _transaction(self) -> Iterator[int]:
        """Yields the time within one durable transaction; only a refusal leaves it usable."""
        with self._use():
            now = self._clock()
            self._connection.execute("BEGIN IMMEDIATE")
            self._is_usable = False
            try:
                yield now
            except (PrivacyError, ConfigurationError):  # refused before anything was changed
                self._connection.execute("ROLLBACK")
                self._is_usable = True
                raise
            self._connection.execute("COMMIT")
            self._is_usable = True

    def _append(self, now: int, entry: Entry) -> Head:
        recorded = following(self._account, now, entry)
        record(self._account, recorded)  # raises with nothing changed, here and on disk
        self._connection.execute(
            "INSERT INTO entry (sequence, time, previous, hash, kind, body) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                recorded.sequence,
                recorded.time,
                recorded.previous,
                self._account.head,
                recorded.kind,
                recorded.body().decode(),
            ),
        )
        return self._account.sequence, self._account.head

    def _refolded(self) -> Account:
        query = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
        with _empty_ledger() as empty:
            expected = empty.execute(query).fetchall()
        if self._connection.execute(query).fetchall() != expected:
            raise LedgerCorrupt(
                f"{self._path} does not hold the tables and triggers of a ledger. Restore a copy."
            )
        account = Account()
        for _ in self._verified(account):
            pass
        if self._connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
            raise LedgerCorrupt(
                f"{self._path} is damaged, though sequences 1 to {account.sequence} can be read. "
                "Restore a copy."
            )
        return account

    def _verified(self, account: Account) -> Iterator[Recorded]:
        """Yields every row as the entry it holds, folding it into the empty `account`."""
        query = "SELECT sequence, time, previous, hash, kind, body FROM entry ORDER BY sequence"
        sequence = 1
        try:
            for row in self._connection.execute(query):
                recorded, stored_hash = _decoded(row)
                record(account, recorded)
                if account.head != stored_hash:
                    raise LedgerCorrupt("Its hash is not the hash of its content.")
                yield recorded
                sequence += 1
        except (FedscoreError, msgspec.DecodeError, sqlite3.Error) as error:
            if _result_code(error) in _MACHINE_FAILED:
                raise
            raise LedgerCorrupt(
                f"{self._path} is damaged at sequence {sequence}: {str(error).rstrip('.')}. "
                "Restore a copy that verifies."
            ) from error


def _decoded(row: tuple[object, ...]) -> tuple[Recorded, str]:
    sequence, time, previous, stored_hash, kind, body = msgspec.convert(
        row, tuple[int, int, str, str, str, str]
    )
    if kind not in KINDS:
        raise LedgerCorrupt("Its kind is unknown.")
    entry = msgspec.json.decode(body, type=KINDS[kind])
    recorded = Recorded(sequence=sequence, time=time, previous=Digest(previous), entry=entry)
    if recorded.body().decode() != body:
        raise LedgerCorrupt("Its body is not in canonical form.")
    return recorded, stored_hash


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turns what SQLite and the operating system raise into the errors of our tree."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}. Correct the path, the permissions or the disk."
        ) from error
    except sqlite3.Error as error:
        if advice := _MACHINE_FAILED.get(_result_code(error)):
            raise ConfigurationError(f"{path}: {error}. {advice} Then open it again.") from error
        raise LedgerCorrupt(
            f"{path} is not a ledger, is damaged, or another program wrote to it: {error}. "
            "Stop, and restore a copy that verifies."
        ) from error


def _result_code(error: Exception) -> int:
    """Returns SQLite's primary result code (sqlite.org/rescode.html); 0 if there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _existing(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"No ledger at {path}. Restore it if there was one; only a new institution makes a "
            "new one."
        ) from error


def _lock(path: Path, resources: ExitStack) -> None:
    handle = os.open(_beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    resources.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"{path} is open for writing in another process or another part of this one. "
            "One daemon owns a ledger: stop the other."
        ) from error


def _connect(path: Path, access: str, resources: ExitStack) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?{access}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # transactions are begun and committed by name
        check_same_thread=False,  # the mutex of the ledger does it
    )
    resources.callback(connection.close)
    return connection


def _set(connection: sqlite3.Connection, pragmas: tuple[tuple[str, str, object], ...]) -> None:
    for pragma, setting, expected in pragmas:
        connection.execute(f"PRAGMA {pragma}={setting}")
        if connection.execute(f"PRAGMA {pragma}").fetchone() != (expected,):
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} does not keep {pragma}={setting} here, which a "
                "ledger needs: use a local disk or another SQLite."
            )


@contextmanager
def _empty_ledger() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        yield connection


def _write_empty_ledger(path: Path) -> None:
    """Puts a whole empty ledger at `path` in one step, so that no crash leaves half of one."""
    with _empty_ledger() as empty:
        content = empty.serialize()
    draft = _beside(path, ".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    draft.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
