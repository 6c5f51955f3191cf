"""One institution's process with its state directory: it starts, hears, stops, and is killed."""

import errno
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from clients import population_files
from clients.institution import Institution
from clients.ledger import Ledger
from clients.reading import Reading
from clients.records import Records
from clients.releases import Releases
from experiments.entropy import SeededEntropy
from federation.errors import ConfigurationError, FedscoreError, LedgerCorrupt, ProtocolError
from federation.privacy.units import Population
from federation.sealed import SealedHandler
from tests.chaos.faults import Kind, Point
from tests.chaos.shapes import Shape
from tests.federations import roster_of

LEDGER: Final = "ledger.sqlite"
RECORDS: Final = "records.sqlite"
RELEASES: Final = "releases"
GONE: Final = 10**6
"""Messages that are lost before a process starts again, if it never does."""


class Killed(BaseException):
    """The process is gone: nothing of it runs any more, not even its cleaning up."""


class Around(Protocol):
    """What a machine needs of the world around it."""

    seed: int
    shape: Shape
    now: float
    rolled_back: set[str]

    def note(self, what: str) -> None:
        """Adds a line to the trace."""

    def fires(self, point: Point) -> list[Kind]:
        """Returns the faults that strike here."""

    def broken(self, what: str) -> None:
        """Notes that the product broke a promise."""


@dataclass(slots=True)
class Acknowledged:
    """What one state directory has let out, and so must hold for ever."""

    reserved: set[str] = field(default_factory=set)
    spent: set[tuple[str, str, int, int]] = field(default_factory=set)
    refunded: set[tuple[str, str, int, int]] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    said: dict[bytes, str] = field(default_factory=dict)
    """Each reply that must be noted, and the plan it is about."""

    def copy(self) -> "Acknowledged":
        return Acknowledged(
            set(self.reserved),
            set(self.spent),
            set(self.refunded),
            set(self.closed),
            dict(self.said),
        )


class Machine:
    """An institution's process on its files."""

    def __init__(self, world: Around, name: str, label: str, directory: Path) -> None:
        """Names the directory, which exists; nothing runs yet."""
        self._world = world
        self.name = name
        self.label = label
        self._base = directory
        self.directory = directory / "0"
        self.acknowledged = Acknowledged()
        self.offset = 0.0
        self.starts = 0
        self.full_writes = 0
        self.down_for = 0
        self._ledger: Ledger | None = None
        self._records: Records | None = None
        self._institution: Institution | None = None
        self._handler: Callable[[bytes], bytes] | None = None
        self.heard: tuple[bytes, bytes] | None = None
        """The last request that reached the institution itself, and its reply, in clear."""

    @property
    def is_up(self) -> bool:
        return self._institution is not None

    @property
    def ledger_path(self) -> Path:
        return self.directory / LEDGER

    @property
    def records_path(self) -> Path:
        return self.directory / RECORDS

    def clock(self) -> float:
        return self._world.now + self.offset

    def _seconds(self) -> int:
        return int(self.clock() // 1)

    # Its life.

    def start(self) -> None:
        """Starts the process if it can; it says no in words of the tree, or it is up."""
        self.starts += 1
        faults = self._world.fires(Point.START)
        self._world.note(f"{self.label} starts")
        try:
            self._open()
            with _full_at_snapshots(Kind.FULL_AT_SNAPSHOT in faults):
                self._prepare(Kind.CRASH_AT_START in faults)
        except Killed:
            self.kill()
        except LedgerCorrupt as error:
            self._distrusts(error)
        except FedscoreError as error:
            self._world.note(f"{self.label} does not start: {type(error).__name__}")
            self.stop()
        except OSError as error:
            self._world.broken(f"{self.label} does not start and has no words for it: {error}")
            self.stop()

    def _open(self) -> None:
        (self.directory / RELEASES).mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = Ledger.open if self.ledger_path.exists() else Ledger.create
        self._ledger = opened(self.ledger_path, self._seconds)
        self._ledger.verify()
        self._ledger._connection = Watched(self._ledger._connection, self)  # type: ignore[assignment]
        noted = Records if self.records_path.exists() else Records.create
        self._records = noted(self.records_path)
        self._records._connection = Watched(self._records._connection, self)  # type: ignore[assignment]

    def _prepare(self, dies: bool) -> None:
        shape, which = self._world.shape, f"{self._world.seed} {self.label} {self.starts}"
        fed = shape.fed
        member = next(one for one in fed.members if one.id == self.name)
        if self._ledger is None or self._records is None:
            raise ConfigurationError("Not open.")
        institution = Institution(
            identifier=self.name,
            identity=shape.identities[self.name],
            roster=roster_of(fed.plan),
            schema=fed.schema,
            read_table=Reading(
                configuration=member,
                schema=fed.schema,
                split=fed.plan.people.split,
                clock=self._seconds,
                withdrawals=None,
            ),
            withdrawals=None,
            most_people=member.most_people,
            split=fed.plan.people.split,
            policy=member.policy,
            ledger=self._ledger,
            records=self._records,
            workspace=self.directory,
            is_approved=lambda _: True,
            keep_release=Releases(self.directory / RELEASES).keep,
            clock=self._seconds,
            noise_entropy=SeededEntropy(f"{which} noise"),
            mask_entropy=SeededEntropy(f"{which} masks"),
            log=lambda text: self._world.note(f"{self.label} says: {text}"),
        )
        if dies:
            raise Killed
        institution.resume()
        self._institution = institution
        self._handler = SealedHandler(
            self._handle,
            institution=self.name,
            federation=fed.plan.federation,
            identity=shape.identities[self.name],
            coordinator=fed.plan.coordinator,
            clock=self.clock,
            entropy=SeededEntropy(f"{which} envelopes"),
        )

    def kill(self) -> None:
        """Ends the process as kill -9 does: its files lie as they are, logs and all."""
        self._world.note(f"{self.label} is killed")
        after = self._base / str(int(self.directory.name) + 1)
        copy_state(self.directory, after)
        self._close()
        shutil.rmtree(self.directory)
        self.directory = after

    def stop(self) -> None:
        """Ends the process in order."""
        self._world.note(f"{self.label} stops")
        if self._institution is not None:
            self._institution.leave()
        self._close()

    def _close(self) -> None:
        self._institution = self._handler = None
        if self._ledger is not None:
            self._ledger.close()
        if self._records is not None:
            self._records.close()
        self._ledger = self._records = None

    def restore(self, backup: Path, names: tuple[str, ...]) -> None:
        """Puts files of a backup in the place of the stopped process's own."""
        for path in self.directory.iterdir():
            if path.is_file() and path.name.startswith(names):
                path.unlink()
        for path in backup.iterdir():
            if path.is_file() and path.name.startswith(names):
                shutil.copy(path, self.directory / path.name)

    def rest(self) -> None:
        """Lets the institution do what it does when nobody asks."""
        if self._institution is not None:
            try:
                self._institution.rest()
            except LedgerCorrupt as error:
                self._distrusts(error)
            except FedscoreError as error:
                self._world.note(f"{self.label} stops at rest: {type(error).__name__}")
                self.stop()
            except OSError as error:
                self._world.broken(f"{self.label} stops at rest without words: {error}")
                self.stop()

    def charged(self) -> dict[str, int]:
        """Returns what the stopped process's ledger charges, in budget units, by population."""
        member = next(one for one in self._world.shape.fed.members if one.id == self.name)
        with Ledger.open(self.ledger_path, self._seconds) as ledger, Records(self.records_path):
            balance = ledger.balance(member.policy.limits)
        return {one.value: balance.of(one).charged_lifetime for one in Population}

    def _distrusts(self, error: LedgerCorrupt) -> None:
        """Ends a process that does not trust its ledger: it waits for its people."""
        self._world.note(f"{self.label} does not trust its ledger: {error}")
        if self.name not in self._world.rolled_back:
            self._world.broken(f"{self.label} does not trust a ledger that nobody changed: {error}")
        self.stop()
        self.down_for = GONE

    # What it hears.

    def hear(self, data: bytes, *, sealed: bool) -> bytes | None:
        """Returns the reply, None if there is none.

        Raises:
            Killed: the process has ended on the way.
        """
        if self._handler is None:
            return None
        self.heard = None
        try:
            return self._handler(data) if sealed else self._handle(data)
        except LedgerCorrupt as error:
            self._distrusts(error)
        except ProtocolError as error:
            self._world.note(f"{self.label} is silent: {error}")
        return None

    def _handle(self, request: bytes) -> bytes:
        if self._institution is None:
            raise ProtocolError("Gone.")
        reply = self._institution.handle(request)
        self.heard = (request, reply)
        return reply

    # What is written.

    def before_statement(self, faults: list[Kind]) -> None:
        if self.full_writes or Kind.FULL_BEFORE_INSERT in faults:
            self._world.note(f"{self.label}: disk full")
            raise disk_full()

    def durably(self, write: Callable[[], Any], faults: list[Kind]) -> Any:
        """Does what makes a transaction durable, unless something goes wrong there."""
        if Kind.CRASH_BEFORE_WRITE in faults:
            raise Killed
        if self.full_writes:
            self.full_writes -= 1
            raise disk_full()
        if Kind.FULL_AT_COMMIT in faults:
            self._world.note(f"{self.label}: disk full at a commit")
            raise disk_full()
        done = write()
        self._world.note(f"{self.label} writes")
        if Kind.CRASH_AFTER_WRITE in faults:
            raise Killed
        if Kind.ERROR_AFTER_COMMIT in faults:
            self._world.note(f"{self.label}: disk error after a commit")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return done

    def faults_of_a_write(self) -> list[Kind]:
        faults = self._world.fires(Point.WRITE)
        if Kind.FULL_FOR_A_WHILE in faults:
            self.full_writes = 4
        return faults

    def is_locked(self) -> bool:
        """Returns whether a second process on these files is refused."""
        refused = 0
        for open_again in (
            lambda: Ledger.open(self.ledger_path, self._seconds),
            lambda: Records(self.records_path),
        ):
            try:
                open_again().close()
            except ConfigurationError:
                refused += 1
        return refused == 2


def disk_full() -> sqlite3.OperationalError:
    """Returns what SQLite raises on a full disk."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


def copy_state(source: Path, target: Path) -> None:
    """Copies files as they lie; indexes of logs, which SQLite makes again, are left out."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*-shm", "*.lock"))


@contextmanager
def _full_at_snapshots(is_full: bool) -> Iterator[None]:
    real = population_files.make_durable

    def refuse(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if is_full:
        population_files.make_durable = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        population_files.make_durable = real


class Watched:
    """A connection whose transactions can fail; everything else is SQLite's own."""

    def __init__(self, connection: sqlite3.Connection, machine: Machine) -> None:
        self._connection = connection
        self._machine = machine
        self._faults: list[Kind] = []

    def execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        if statement.startswith("BEGIN"):
            self._faults = self._machine.faults_of_a_write()
        elif statement == "COMMIT":
            return self._durably(lambda: self._connection.execute("COMMIT"))
        elif statement.startswith(("INSERT", "DELETE", "UPDATE")):
            self._machine.before_statement(self._faults)
        return self._connection.execute(statement, values)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            self._connection.rollback()
            return
        try:
            self._durably(self._connection.commit)
        except sqlite3.Error:
            self._connection.rollback()
            raise

    def _durably(self, write: Callable[[], Any]) -> Any:
        faults, self._faults = self._faults, []
        return self._machine.durably(write, faults)
