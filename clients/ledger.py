"""The institution's privacy budget on disk: append-only, hash-chained, durable before it answers.

One SQLite file holds one row an entry. A write returns only after SQLite committed it with
`synchronous=FULL` to the write-ahead log, so noise drawn afterwards is always paid for. Whoever
opens the file verifies all of it; nothing is ever read from it unverified.

What the file alone cannot show is that its end is missing: an older copy, or a log whose tail was
lost, is a shorter ledger that is valid. `require_not_older_than` compares it with a head that was
seen in a signed header, and `recover` charges what is missing at its worst. Keep the file on a disk
of this machine: locks and the write-ahead log do not work over a network.
"""

import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from clients.ledger_file import (
    CAREFUL,
    DURABLE,
    READ_ONLY,
    beside,
    connect,
    errors_of,
    existing,
    located,
    lock,
    set_pragmas,
    write_empty_ledger,
)
from clients.ledger_reading import verified_account, verified_entries
from federation.canonical import Digest
from federation.errors import ConfigurationError, LedgerCorrupt, PrivacyError
from federation.privacy.ledger_entries import (
    GENESIS,
    Closed,
    Entry,
    Recorded,
    Recovered,
    Refunded,
    Reserved,
    Spent,
)
from federation.privacy.ledger_recovery import recovery
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

_WAYS_OUT = (
    "Restore the newest copy, or have what is missing charged at its worst with "
    "`fedscore ledger recover`."
)


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
        self._account = verified_account(connection, path)
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

    def attempts(self, plan: Digest) -> dict[tuple[str, int, int], bool]:
        """Returns what an open plan has spent, and whether it was not refunded; no file is read."""
        with self._use():
            known = self._account.plans[plan]
            return {one: one not in known.refunded for one in known.attempts}

    def entries(self) -> tuple[Recorded, ...]:
        """Returns all entries in order, each verified as it is read.

        Raises:
            LedgerCorrupt: the file changed under the open ledger.
        """
        with self._use():
            return tuple(verified_entries(self._connection, self._path, Account()))

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

        After a recovery also if the head is one of the missing ones before that which was charged
        for: else each of their headers, shown later, would stop the institution once more.

        Args:
            sequence: the sequence in that header, >= 0.
            head: the hash in that header.

        Raises:
            LedgerCorrupt: the ledger ends before it, or holds another entry there.
        """
        with self._use():
            if self._holds(sequence, head) or self._account.has_charged_before(sequence):
                return
            if sequence > self._account.sequence:
                raise LedgerCorrupt(
                    f"{self._path} is older than a head seen before: it ends at sequence "
                    f"{self._account.sequence}, entry {sequence} was signed, head {head}. "
                    f"{_WAYS_OUT}"
                )
            raise LedgerCorrupt(
                f"{self._path} does not contain the head signed for sequence {sequence}, {head}: "
                f"it is another ledger, was rewritten, or went on from an older copy. {_WAYS_OUT}"
            )

    def recovery(
        self, sequence: int, head: Digest, *, missing_since: int, limits: Limits
    ) -> Recovered:
        """Returns what charges the missing entries at their worst, for a person to confirm.

        Args:
            sequence: in a header that this institution signed.
            head: the hash in that header; the ledger does not hold it.
            missing_since: seconds since 1970 from which on entries may be missing, 0 if unknown.
            limits: the highest that the institution had since then.

        Raises:
            ConfigurationError: nothing is missing, or the time lies ahead.
            PrivacyError: sequence or head are malformed, or the limits allow nothing.
        """
        with self._use():
            self._require_missing(sequence, head)
            return recovery(
                self._account,
                self._clock(),
                seen_sequence=sequence,
                seen_head=head,
                missing_since=missing_since,
                limits=limits,
            )

    def recover(self, recovered: Recovered) -> Head:
        """Charges what a person has confirmed, open plans in full; returns the new head, durable.

        Raises:
            ConfigurationError: nothing is missing, or the machine refused.
            LedgerCorrupt: another program wrote to the ledger.
        """
        with self._transaction() as now:
            self._require_missing(recovered.seen_sequence, recovered.seen_head)
            return self._append(now, recovered)

    def _require_missing(self, sequence: int, head: Digest) -> None:
        if self._holds(sequence, head):
            raise ConfigurationError(
                f"{self._path} holds the head signed for sequence {sequence}: nothing is missing. "
                "If the daemon's log names another head, name that one."
            )

    def _holds(self, sequence: int, head: Digest) -> bool:
        """Returns whether this was its head once, or that of missing entries that it charged."""
        query = "SELECT sequence FROM entry WHERE hash = ?"
        row = (0,) if head == GENESIS else self._connection.execute(query, (head,)).fetchone()
        return row == (sequence,) or self._account.has_charged_for(sequence, head)

    def verify(self) -> None:
        """Reads the whole file again and returns only if every hash and every rule holds.

        Raises:
            LedgerCorrupt: the file, its tables or the chain are damaged; names the first bad
                sequence.
        """
        with self._use():
            account = verified_account(self._connection, self._path)
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
