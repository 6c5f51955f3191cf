"""Reads a ledger's file back, and believes nothing in it that does not obey every rule."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from clients.ledger_file import MACHINE_FAILED, empty_ledger, result_code
from federation.canonical import Digest
from federation.errors import FedscoreError, LedgerCorrupt
from federation.privacy.ledger_entries import KINDS, Recorded
from federation.privacy.ledger_rules import Account, record


def verified_account(connection: sqlite3.Connection, path: Path) -> Account:
    """Returns the fold of a whole file: its tables, every entry, and SQLite's own pages.

    Raises:
        LedgerCorrupt: the file, its tables or the chain are damaged; names the first bad sequence.
        sqlite3.Error: the machine failed.
    """
    query = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    with empty_ledger() as empty:
        expected = empty.execute(query).fetchall()
    if connection.execute(query).fetchall() != expected:
        raise LedgerCorrupt(
            f"{path} does not hold the tables and triggers of a ledger. Restore a copy."
        )
    account = Account()
    for _ in verified_entries(connection, path, account):
        pass
    if connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
        raise LedgerCorrupt(
            f"{path} is damaged, though sequences 1 to {account.sequence} can be read. "
            "Restore a copy."
        )
    return account


def verified_entries(
    connection: sqlite3.Connection, path: Path, account: Account
) -> Iterator[Recorded]:
    """Yields every row as the entry it holds, folding it into the empty `account`.

    Raises:
        LedgerCorrupt: a row is damaged or breaks a rule; names its sequence.
        sqlite3.Error: the machine failed.
    """
    query = "SELECT sequence, time, previous, hash, kind, body FROM entry ORDER BY sequence"
    sequence = 1
    try:
        for row in connection.execute(query):
            recorded, stored_hash = _decoded(row)
            record(account, recorded)
            if account.head != stored_hash:
                raise LedgerCorrupt("Its hash is not the hash of its content.")
            yield recorded
            sequence = recorded.sequence + 1
    except (FedscoreError, msgspec.DecodeError, sqlite3.Error) as error:
        if result_code(error) in MACHINE_FAILED:
            raise
        raise LedgerCorrupt(
            f"{path} is damaged at sequence {sequence}: {str(error).rstrip('.')}. "
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
