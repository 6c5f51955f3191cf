"""What an institution has entered and said, durable before it leaves.

For every attempt: that it was seen, and each thing said about it with the bytes that were sent. So
a repeated request gets the identical bytes, another one a refusal, also after a crash; and no
session and no attempt begins twice. Beside them the plan that is under way, which a restarted
process takes up again; the highest ledger sequence each peer signed, for a peer whose sequence does
not grow has gone back to an older ledger; and the same of ourselves, with its head.
"""

import sqlite3
import stat
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from clients.ledger_file import (
    CAREFUL,
    DURABLE,
    beside,
    connect,
    errors_of,
    located,
    lock,
    replace_durably,
    set_pragmas,
)
from federation.canonical import hash_of
from federation.errors import ConfigurationError, LedgerCorrupt, ProtocolError

_TABLES: Final = """
CREATE TABLE plan (
    digest TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    snapshot TEXT NOT NULL
) STRICT;
CREATE TABLE session (
    id BLOB PRIMARY KEY,
    plan TEXT NOT NULL
) STRICT;
CREATE TABLE joined (
    session BLOB PRIMARY KEY REFERENCES session (id),
    request BLOB NOT NULL
) STRICT;
CREATE TABLE attempt (
    context BLOB PRIMARY KEY,
    session BLOB NOT NULL REFERENCES session (id),
    round INTEGER NOT NULL,
    number INTEGER NOT NULL,
    UNIQUE (session, round, number)
) STRICT;
CREATE TABLE said (
    request BLOB PRIMARY KEY,
    context BLOB NOT NULL REFERENCES attempt (context),
    what TEXT NOT NULL,
    reply BLOB NOT NULL,
    UNIQUE (context, what)
) STRICT;
CREATE TABLE peer (
    institution TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL
) STRICT;
CREATE TABLE own_head (
    place INTEGER PRIMARY KEY CHECK (place = 0),
    sequence INTEGER NOT NULL,
    head TEXT NOT NULL
) STRICT;
CREATE TRIGGER a_release_or_a_vote_is_the_last_word BEFORE INSERT ON said
WHEN EXISTS (SELECT 1 FROM said WHERE context = NEW.context AND what IN ('released', 'abort'))
BEGIN SELECT RAISE(ABORT, 'what was released or given up is over'); END;
CREATE TRIGGER what_was_said_stays BEFORE UPDATE ON said
BEGIN SELECT RAISE(ABORT, 'what was said is never changed'); END;
CREATE TRIGGER a_sequence_grows BEFORE UPDATE ON peer
WHEN NEW.sequence <= OLD.sequence
BEGIN SELECT RAISE(ABORT, 'the ledger of a peer has not grown'); END;
"""
_LINKED: Final = (("foreign_keys", "ON", 1),)

_OWN_HEAD: Final = (
    "INSERT INTO own_head (place, sequence, head) VALUES (0, ?, ?) "
    "ON CONFLICT (place) DO UPDATE SET sequence = excluded.sequence, head = excluded.head "
    "WHERE excluded.sequence > own_head.sequence"
)

UPLOAD: Final = "upload"
SET: Final = "set"
RELEASED: Final = "released"
ABORT: Final = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnteredPlan:
    """A plan that was entered.

    Attributes:
        text: its TOML, as the coordinator signed it.
        snapshot: digest of the snapshot that answers it.
    """

    text: str
    snapshot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedAttempt:
    """An attempt that was seen.

    Attributes:
        session: in which.
        round: of the protocol.
        number: of the attempt.
    """

    session: bytes
    round: int
    number: int


class Records:
    """One institution's records, open; a context manager."""

    def __init__(self, path: Path) -> None:
        """Opens records that are there.

        Missing ones are never made here: they would have forgotten what was said and which heads of
        our own ledger we have signed.

        Args:
            path: in a private directory. `PATH.lock` beside it is held until `close`.

        Raises:
            ConfigurationError: none are there, others may access them, another process has them
                open, or the disk or permissions refuse.
            LedgerCorrupt: they are damaged.
        """
        path = located(path)
        self._path = path
        with errors_of(path), ExitStack() as resources:
            _require_there(path)
            lock(path, resources)
            self._connection = connect(path, "mode=rw", resources)
            set_pragmas(self._connection, CAREFUL)
            _require_tables(self._connection, path)
            set_pragmas(self._connection, (*DURABLE, *_LINKED))
            self._resources = resources.pop_all()

    @classmethod
    def create(cls, path: Path) -> Self:
        """Makes empty records, mode 0600, and opens them: once in an institution's life.

        Args:
            path: where no records are, in a private directory that exists.

        Raises:
            ConfigurationError: something is there already, or nothing can be written there.
        """
        path = located(path)
        with errors_of(path), closing(sqlite3.connect(":memory:")) as empty:
            for there in (path, beside(path, "-wal"), beside(path, "-journal")):
                if there.exists():
                    raise ConfigurationError(
                        f"{there} exists. New records would forget what was said: open those that "
                        "are there."
                    )
            empty.executescript(_TABLES)
            replace_durably(path, empty.serialize())
        return cls(path)

    def enter_plan(self, digest: str, entered: EnteredPlan) -> None:
        """Notes a plan that is about to be reserved, durably."""
        self._write(
            [
                (
                    "INSERT INTO plan (digest, text, snapshot) VALUES (?, ?, ?) ON CONFLICT "
                    "(digest) DO UPDATE SET text = excluded.text, snapshot = excluded.snapshot",
                    (digest, entered.text, entered.snapshot),
                )
            ],
            refused="The plan cannot be noted.",
        )

    def entered_plan(self, digest: str) -> EnteredPlan | None:
        """Returns a plan that was entered and has not ended, None if it is not known."""
        row = self._row("SELECT text, snapshot FROM plan WHERE digest = ?", digest)
        return None if row is None else EnteredPlan(text=str(row[0]), snapshot=str(row[1]))

    def begin_session(self, session: bytes, plan: str) -> None:
        """Notes a session, durably.

        Raises:
            ProtocolError: it was begun before.
        """
        self._write(
            [("INSERT INTO session (id, plan) VALUES (?, ?)", (session, plan))],
            refused="This session was begun before.",
        )

    def has_begun(self, plan: str) -> bool:
        """Returns whether a session of a plan was ever begun, also if the plan has ended since."""
        return self._row("SELECT 1 FROM session WHERE plan = ?", plan) is not None

    def join_session(self, session: bytes, request: bytes) -> None:
        """Notes with whom a session was joined, durably.

        Args:
            session: that was begun.
            request: the encoded request that named them.

        Raises:
            ProtocolError: it was joined before, or never begun.
        """
        self._write(
            [("INSERT INTO joined (session, request) VALUES (?, ?)", (session, request))],
            refused="This session was joined before.",
        )

    def joined(self, session: bytes, plan: str) -> bytes | None:
        """Returns the request by which a session of a plan was joined, None if none was."""
        row = self._row(
            "SELECT request FROM joined JOIN session ON joined.session = session.id "
            "WHERE session.id = ? AND session.plan = ?",
            session,
            plan,
        )
        return None if row is None else bytes(row[0])

    def begin_attempt(self, context: bytes, *, session: bytes, round_: int, number: int) -> None:
        """Notes an attempt, durably.

        Raises:
            ProtocolError: the round and number were seen before in this session.
        """
        self._write(
            [
                (
                    "INSERT INTO attempt (context, session, round, number) VALUES (?, ?, ?, ?)",
                    (context, session, round_, number),
                )
            ],
            refused="This attempt was opened before.",
        )

    def attempt(self, context: bytes) -> NotedAttempt | None:
        """Returns an attempt that was seen, None if it was not."""
        row = self._row("SELECT session, round, number FROM attempt WHERE context = ?", context)
        if row is None:
            return None
        return NotedAttempt(session=bytes(row[0]), round=int(row[1]), number=int(row[2]))

    def say(
        self,
        what: str,
        *,
        context: bytes,
        request: bytes,
        reply: bytes,
        peers: dict[str, int] | None = None,
        own_head: tuple[int, str] | None = None,
    ) -> None:
        """Notes what is about to be said, and the ledger heads signed with it, durably.

        Args:
            what: UPLOAD, SET, RELEASED or ABORT, each at most once for a context.
            context: of a noted attempt.
            request: the bytes that are answered.
            reply: the bytes that will be sent.
            peers: ledger sequence of each peer.
            own_head: sequence and head of our own ledger, if they are said.

        Raises:
            ProtocolError: it was said before, or rules out what was said before; or a peer's
                sequence is not above the highest one seen. Nothing is noted.
        """
        statements: list[tuple[str, tuple[object, ...]]] = [
            (
                "INSERT INTO said (request, context, what, reply) VALUES (?, ?, ?, ?)",
                (_digest(request), context, what, reply),
            )
        ]
        statements += [
            (
                "INSERT INTO peer (institution, sequence) VALUES (?, ?) "
                "ON CONFLICT (institution) DO UPDATE SET sequence = excluded.sequence",
                (institution, sequence),
            )
            for institution, sequence in (peers or {}).items()
        ]
        if own_head is not None:
            statements.append((_OWN_HEAD, own_head))
        self._write(statements, refused="This attempt was answered in another way before.")

    def reply_to(self, request: bytes) -> bytes | None:
        """Returns what was said to the very same request, None if nothing was."""
        row = self._row("SELECT reply FROM said WHERE request = ?", _digest(request))
        return None if row is None else bytes(row[0])

    def has_uploaded(self, context: bytes) -> bool:
        """Returns whether an upload of this attempt was noted: what was paid was paid for it."""
        query = "SELECT 1 FROM said WHERE context = ? AND what = ?"
        return self._row(query, context, UPLOAD) is not None

    def sequence_of(self, institution: str) -> int:
        """Returns the highest ledger sequence that a peer has signed, 0 if none."""
        row = self._row("SELECT sequence FROM peer WHERE institution = ?", institution)
        return 0 if row is None else int(row[0])

    def note_own_head(self, sequence: int, head: str) -> None:
        """Notes a head of our own ledger that a header of ours has named, durably."""
        self._write([(_OWN_HEAD, (sequence, head))], refused="The head cannot be noted.")

    def own_head(self) -> tuple[int, str] | None:
        """Returns the latest head of our own ledger that we are known to have signed."""
        row = self._row("SELECT sequence, head FROM own_head")
        return None if row is None else (int(row[0]), str(row[1]))

    def end_plan(self, plan: str) -> None:
        """Forgets what was said in a plan that has ended; its sessions and attempts stay noted."""
        self._write(
            [
                (
                    "DELETE FROM said WHERE context IN (SELECT context FROM attempt "
                    "JOIN session ON attempt.session = session.id WHERE plan = ?)",
                    (plan,),
                ),
                (
                    "DELETE FROM joined WHERE session IN (SELECT id FROM session WHERE plan = ?)",
                    (plan,),
                ),
                ("DELETE FROM plan WHERE digest = ?", (plan,)),
            ],
            refused="The plan's records cannot be cleared.",
        )

    def _row(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with errors_of(self._path):
            found: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return found

    def _write(self, statements: list[tuple[str, tuple[object, ...]]], *, refused: str) -> None:
        with errors_of(self._path):
            try:
                with self._connection:  # commits at its end, rolls back on whatever is raised
                    self._connection.execute("BEGIN IMMEDIATE")
                    for statement, values in statements:
                        self._connection.execute(statement, values)
            except sqlite3.IntegrityError as error:
                raise ProtocolError(refused) from error

    def close(self) -> None:
        """Closes the file and gives the lock back."""
        self._resources.close()

    def __enter__(self) -> Self:
        """Returns the open records."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the records."""
        self.close()


def _digest(request: bytes) -> bytes:
    return hash_of("fedscore/request/2", request)


def _require_there(path: Path) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"No records at {path}. Restore the newest copy of records and ledger; only a new "
            "institution makes new ones."
        ) from error
    if mode & 0o077:
        raise ConfigurationError(f"Others may access the records: run `chmod 600 {path}`.")


def _require_tables(connection: sqlite3.Connection, path: Path) -> None:
    query = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(_TABLES)
        expected = empty.execute(query).fetchall()
    if connection.execute(query).fetchall() != expected:
        raise LedgerCorrupt(
            f"{path} does not hold the tables and triggers of records. Restore the newest copy of "
            "records and ledger."
        )
