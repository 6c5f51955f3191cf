"""The institution's privacy budget on disk: append-only, hash-chained, durable before it answers.

One SQLite file holds one row an entry. A write returns only after SQLite committed it with
`synchronous=FULL` to the write-ahead log, so noise drawn afterwards is always paid for. Whoever
opens the file verifies all of it; nothing is ever read from it unverified.

What the file alone cannot show is that its end is missing: an older copy, or a log whose tail was
lost, is a shorter ledger that is valid. `require_not_older_than` compares it with a head that was
seen in a signed header. Keep the file on a disk of this machine: locks and the write-ahead log do
not work over a network.
"""

import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from clients.ledger_file import (
    CAREFUL,
    DURABLE,
    MACHINE_FAILED,
    READ_ONLY,
    beside,
    connect,
    empty_ledger,
    errors_of,
    existing,
    located,
    lock,
    result_code,
    set_pragmas,
    write_empty_ledger,
)
from federation.canonical import Digest
from federation.errors import ConfigurationError, FedscoreError, LedgerCorrupt, PrivacyError
from federation.privacy.ledger_entries import (
    GENESIS,
    KINDS,
    Closed,
    Entry,
    Recorded,
    Refunded,
    Reserved,
    Spent,
)
from federation.privacy.ledger_rules import (
    Account,
    Balance,
    Limits,
    balance_of,
    check_reservation,
    following,
    record,
)
from federation.privacy.units import Price

Head = tuple[int, Digest]
"""Sequence and hash of a ledger's last entry."""


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
        path = located(path)
        with errors_of(path), ExitStack() as resources:
            lock(path, resources)
            for there in (path, beside(path, "-wal"), beside(path, "-journal")):
                if there.exists():
                    raise ConfigurationError(
                        f"{there} exists. A new ledger would forget what was spent: open the one "
                        "that is there."
                    )
            write_empty_ledger(path)
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
        path = located(path)
        with errors_of(path), ExitStack() as resources:
            if stat.S_IMODE(existing(path).st_mode) & 0o077:
                raise ConfigurationError(f"Others may access the ledger: run `chmod 600 {path}`.")
            lock(path, resources)
            connection = connect(path, "mode=rw", resources)
            set_pragmas(connection, CAREFUL)
            ledger = cls(path, clock, connection)
            set_pragmas(connection, DURABLE)
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
        path = located(path)
        with errors_of(path), ExitStack() as resources:
            existing(path)
            log = beside(path, "-wal")
            # Without a log the file is complete; SQLite would create log and index to read it.
            has_log = log.exists() and log.stat().st_size > 0
            access = "mode=ro&readonly_shm=1" if has_log else "mode=ro&immutable=1"
            connection = connect(path, access, resources)
            set_pragmas(connection, READ_ONLY)
            connection.execute("BEGIN")  # one consistent view, whatever a daemon writes meanwhile
            ledger = cls(path, clock, connection)
            ledger._resources = resources.pop_all()
            return ledger

    def reserve(
        self, plan: Digest, price: Price, *, alone: Price, split: Digest, limits: Limits
    ) -> Head:
        """Sets the full price of a plan aside and returns the new head, once it is durable.

        Args:
            plan: digest of a plan never reserved before.
            price: budget units for all rounds and retries of the plan, by population.
            alone: the same against the coordinator alone; noted, not charged.
            split: digest of the federation's public salt and held-out fraction.
            limits: the institution's limits as they are now.

        Raises:
            BudgetExhausted: the price is above what is left.
            PrivacyError: the plan was reserved before, or the split is not this ledger's.
            ConfigurationError: the machine refused; nothing was reserved as far as it could tell.
            LedgerCorrupt: another program wrote to the ledger.
        """
        reserved = Reserved(plan=plan, price=price, alone=alone, split=split)
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

    def refund(self, refunded: Refunded) -> Head:
        """Takes the charge of an attempt back that was never opened; returns the new head.

        Raises:
            PrivacyError: no open reservation, or the attempt was not spent or refunded before.
            ConfigurationError: the machine refused; the attempt stays charged.
            LedgerCorrupt: another program wrote to the ledger.
        """
        with self._transaction() as now:
            return self._append(now, refunded)

    def close_plan(self, plan: Digest) -> Head:
        """Releases what a plan reserved and never spent; returns the new head, once durable.

        Raises:
            PrivacyError: the plan has no open reservation.
            ConfigurationError: the machine refused.
            LedgerCorrupt: another program wrote to the ledger.
        """
        with self._transaction() as now:
            return self._append(now, Closed(plan=plan))

    def knows(self, plan: str) -> bool:
        """Returns whether a plan was ever reserved here, be it open or closed."""
        with self._use():
            return plan in self._account.plans

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
        with self._mutex, errors_of(self._path):
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
        with empty_ledger() as empty:
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
            if result_code(error) in MACHINE_FAILED:
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
