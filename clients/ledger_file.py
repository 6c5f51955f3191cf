"""The ledger's SQLite file: its tables and triggers, how it is opened, locked and made."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from federation.errors import ConfigurationError, LedgerCorrupt
from federation.privacy.ledger_entries import GENESIS

BUSY_SECONDS = 0.5

# The insert trigger makes the three checks itself: INSERT OR REPLACE would otherwise delete a row
# without firing the delete trigger, because recursive_triggers is off by default. Only a person's
# recovery leaves sequences out; which ones, `federation.privacy.ledger_rules` decides.
LEDGER_TABLES = f"""
CREATE TABLE entry (
    sequence INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE TRIGGER entry_is_appended BEFORE INSERT ON entry
WHEN NEW.sequence <= (SELECT coalesce(max(sequence), 0) FROM entry)
    OR NEW.kind IS NOT 'recovered'
        AND NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM entry)
    OR NEW.previous IS NOT coalesce(
        (SELECT hash FROM entry ORDER BY sequence DESC LIMIT 1), '{GENESIS}')
    OR EXISTS (SELECT 1 FROM entry WHERE hash = NEW.hash)
BEGIN SELECT RAISE(ABORT, 'an entry can only follow the last one'); END;
CREATE TRIGGER entry_is_never_updated BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'an entry is never changed'); END;
CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'an entry is never deleted'); END;
"""  # noqa: S608 - a constant, no value from outside is pasted into it

CAREFUL = (("trusted_schema", "OFF", 0), ("cell_size_check", "ON", 1))
READ_ONLY = (*CAREFUL, ("query_only", "ON", 1))
DURABLE = (
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("fullfsync", "ON", 1),  # on macOS, fsync alone does not reach the disk
)

MACHINE_FAILED = {
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


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turns what SQLite and the operating system raise into the errors of our tree."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}. Correct the path, the permissions or the disk."
        ) from error
    except sqlite3.Error as error:
        if advice := MACHINE_FAILED.get(result_code(error)):
            raise ConfigurationError(f"{path}: {error}. {advice} Then open it again.") from error
        raise LedgerCorrupt(
            f"{path} is not a ledger, is damaged, or another program wrote to it: {error}. "
            "Stop, and restore a copy that verifies."
        ) from error


def result_code(error: Exception) -> int:
    """Returns SQLite's primary result code (sqlite.org/rescode.html); 0 if there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def beside(path: Path, suffix: str) -> Path:
    """Returns the path of a file that belongs to the ledger at `path`."""
    return path.with_name(path.name + suffix)


def located(path: Path) -> Path:
    """Returns where a file really lies, be it there or not.

    Raises:
        ConfigurationError: the path goes in a circle, or is none.
    """
    try:
        found = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"{str(path)!r} is no path of a file: {error}.") from error
    if not found.name:
        raise ConfigurationError(f"{path} is a directory, not a file.")
    return found


def existing(path: Path) -> os.stat_result:
    """Returns what the system says of a ledger that must be there."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"No ledger at {path}. Restore it if there was one; only a new institution makes a "
            "new one."
        ) from error


def lock(path: Path, resources: ExitStack) -> None:
    """Takes the lock of the one writer until `resources` are closed."""
    handle = os.open(beside(path, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    resources.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"{path} is open for writing in another process or another part of this one. "
            "One daemon owns a ledger: stop the other."
        ) from error


def connect(path: Path, access: str, resources: ExitStack) -> sqlite3.Connection:
    """Opens the file with SQLite URI parameters until `resources` are closed."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?{access}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # transactions are begun and committed by name
        check_same_thread=False,  # the mutex of the ledger does it
    )
    resources.callback(connection.close)
    return connection


def set_pragmas(
    connection: sqlite3.Connection, pragmas: tuple[tuple[str, str, object], ...]
) -> None:
    """Sets pragmas and refuses a SQLite that does not keep them."""
    for pragma, setting, expected in pragmas:
        connection.execute(f"PRAGMA {pragma}={setting}")
        if connection.execute(f"PRAGMA {pragma}").fetchone() != (expected,):
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} does not keep {pragma}={setting} here, which a "
                "ledger needs: use a local disk or another SQLite."
            )


@contextmanager
def empty_ledger() -> Iterator[sqlite3.Connection]:
    """Yields a ledger without entries, in memory."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(LEDGER_TABLES)
        yield connection


def write_empty_ledger(path: Path) -> None:
    """Puts a whole empty ledger at `path` in one step, so that no crash leaves half of one."""
    with empty_ledger() as empty:
        replace_durably(path, empty.serialize())


def replace_durably(path: Path, content: bytes) -> None:
    """Writes a private file whole or not at all; returns once it is on the disk.

    Args:
        path: of the file, be there one already or not.
        content: of all of it.

    Raises:
        OSError: the disk refuses; an earlier file is as it was.
    """
    draft = beside(path, ".new")
    draft.unlink(missing_ok=True)  # left by a process that was killed
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
