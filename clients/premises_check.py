"""Checks of an institution's private state: directories, keys, roster, ledger, records, daemon."""

import fcntl
import http.client
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clients.configuration import DaemonConfiguration
from clients.considering import pinned_roster
from clients.finding import Finding, failed, looked_at, passed, warned
from clients.ledger import Ledger
from clients.ledger_file import READ_ONLY, beside, connect, errors_of, set_pragmas
from clients.loopback import loopback_of
from clients.node_key import load_node_key
from clients.premises import Premises
from clients.withdrawals import Withdrawals
from federation.canonical import Digest, public_key_of
from federation.card import Card, load_card
from federation.errors import ConfigurationError, LedgerCorrupt
from federation.privacy.ledger_entries import Reserved
from federation.privacy.units import Population

_RESTORE: Final = (
    "Restore it from a copy. If there is none, make a new institution with `fedscore institution "
    "init` and be admitted anew."
)
_RESTORE_LEDGER: Final = (
    "Stop the daemon and restore the newest copy that verifies; a new ledger would forget what was "
    "spent. If no copy has the newest entries, `fedscore ledger recover` charges them at their "
    "worst."
)
_PATIENCE_SECONDS: Final = 5.0


def state(premises: Premises) -> Finding:
    """Returns whether the directories are there, ours, and nobody else's to look into."""
    troubles, cures = [], []
    for directory in (premises.directory, premises.decisions, premises.snapshots):
        try:
            there = directory.stat()
        except OSError as error:
            troubles.append(f"{directory}: {error.strerror}")
            cures.append(f"mkdir -m 700 '{directory}'")
            if directory == premises.directory:
                return failed("state", troubles[0], _RESTORE)
            continue
        if there.st_uid != os.geteuid():
            return failed(
                "state",
                f"{directory} belongs to user {there.st_uid}, and you are user {os.geteuid()}",
                "Run this as the user that the daemon runs as; all of the state is theirs.",
            )
        if stat.S_IMODE(there.st_mode) & 0o077:
            troubles.append(f"others may look into {directory}")
            cures.append(f"chmod 700 '{directory}'")
    if troubles:
        return failed("state", "; ".join(troubles), f"Run `{' && '.join(cures)}`.")
    return passed("state", f"{premises.directory}, private")


def identity(
    configuration: DaemonConfiguration,
    premises: Premises,
    card: Path,
    read_key: Callable[[Path], Ed25519PrivateKey],
) -> tuple[Finding, Ed25519PrivateKey | None]:
    """Returns whether the identity key is private and the card's; and the key if it is."""
    keys: list[Ed25519PrivateKey] = []

    def look() -> Finding:
        key = read_key(premises.identity)
        if trouble := _open_to_others("identity key", premises.identity):
            return trouble
        found = _card_in(card)
        if found is not None and found.key != public_key_of(key):
            return failed(
                "identity key",
                f"{premises.identity} is another key than the one in {card}",
                "Restore the key that belongs to this card. A copied or exchanged identity is "
                "another institution.",
            )
        ours = (configuration.federation, configuration.id)
        if found is not None and (found.federation, found.institution) != ours:
            return failed(
                "identity key",
                f"{card} is of {found.institution!r} in {found.federation!r}, the configuration of "
                f"{configuration.id!r} in {configuration.federation!r}",
                "Correct `id` and `federation` in the configuration, or put the right card there.",
            )
        keys.append(key)
        beside_it = f"fits {card.name}" if found is not None else f"no {card.name} to compare with"
        return passed("identity key", f"{public_key_of(key)[:16]}..., {beside_it}")

    return looked_at("identity key", look, _RESTORE), (keys[0] if keys else None)


def node(premises: Premises, card: Path | None) -> Finding:
    """Returns whether the connection's key is private, and the card's if a card is ours."""

    def look() -> Finding:
        key = load_node_key(premises.node)
        if trouble := _open_to_others("node key", premises.node):
            return trouble
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        found = None if card is None else _card_in(card)
        if found is not None and found.node.split()[:2] != public.split()[:2]:
            return failed(
                "node key",
                f"{premises.node} is another key than the one in {card}",
                "Restore the key that belongs to this card: the coordinator knows no other.",
            )
        return passed("node key", "on P-384" + ("" if found is None else ", fits the card"))

    return looked_at("node key", look, _RESTORE)


def _open_to_others(check: str, path: Path) -> Finding | None:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return failed(check, f"others may read {path}", f"Run `chmod 600 '{path}'`.")
    return None


def _card_in(path: Path) -> Card | None:
    """Returns the card in a file, None if there is no file.

    Raises:
        ConfigurationError: it is none.
        ProtocolError: it was changed.
    """
    if not path.exists():
        return None
    try:
        return load_card(path.read_text())
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a text file in UTF-8.") from error


def roster(configuration: DaemonConfiguration, key: Ed25519PrivateKey | None) -> Finding:
    """Returns whether the coordinator that the policy trusts has signed that we are in."""
    newest = f"Put the coordinator's newest roster at `{configuration.roster}`."

    def look() -> Finding:
        found = pinned_roster(configuration)
        ours = found.key_of(configuration.id)
        if ours is None:
            return failed(
                "roster",
                f"it names {len(found.members)} institutions, but not {configuration.id}",
                f"Hand card.toml to the coordinator and tell your fingerprint. {newest}",
            )
        if key is not None and ours != public_key_of(key):
            return failed(
                "roster",
                f"it names another key for {configuration.id}: {ours[:16]}...",
                "Compare fingerprints with the coordinator: was another card admitted, or is this "
                f"an old copy? {newest}",
            )
        return passed("roster", f"signed, names us among {len(found.members)}")

    return looked_at(
        "roster", look, f"{newest} If it is the newest: is `coordinator` in the policy its key?"
    )


def ledger(
    configuration: DaemonConfiguration, premises: Premises, clock: Callable[[], int]
) -> Finding:
    """Returns whether the ledger verifies and is of this federation; a daemon may have it open."""

    def look() -> Finding:
        with Ledger.open_read_only(premises.ledger, clock) as found:
            balance = found.balance(configuration.policy.limits)
            splits = {one.entry.split for one in found.entries() if isinstance(one.entry, Reserved)}
            sequence = found.head()[0]
            if (signed := _own_head(premises)) is not None:
                found.require_not_older_than(*signed)
        if trouble := _open_to_others("ledger", premises.ledger):
            return trouble
        if splits - {configuration.split.digest}:
            return failed(
                "ledger",
                "it paid for plans that held out other people",
                "Correct `salt` and `held_out_fraction` in the configuration: they never change.",
            )
        text = f"verifies, {sequence} entries, {len(balance.open_plans)} open plans"
        spent = [one for one in Population if balance.of(one).left == 0]
        if spent:
            return warned(
                "ledger",
                f"{text}; nothing is left for {' and '.join(spent)} people now",
                "Every plan will be refused until the year has moved on, or your people raise the "
                "limits of the policy.",
            )
        return passed("ledger", text)

    return looked_at("ledger", look, _RESTORE_LEDGER)


def records(premises: Premises) -> Finding:
    """Returns whether the records of sessions are whole; a daemon may have them open."""

    def look() -> Finding:
        path = premises.records
        if trouble := _open_to_others("records", path):
            return trouble
        with _records(premises) as connection:
            said = connection.execute("PRAGMA integrity_check(1)").fetchall()
            (sessions,) = connection.execute("SELECT count(*) FROM session").fetchone()
        if said != [("ok",)]:
            raise LedgerCorrupt(f"{path} is damaged.")
        return passed("records", f"whole, {sessions} sessions")

    return looked_at(
        "records", look, "Stop the daemon and restore the newest copy of records and ledger."
    )


def withdrawals(premises: Premises) -> Finding:
    """Returns whether it can be read who has withdrawn: without that nobody may be trained on."""

    def look() -> Finding:
        if trouble := _open_to_others("withdrawals", premises.withdrawals):
            return trouble
        Withdrawals(premises.withdrawals).read()
        return passed("withdrawals", "can be read")

    return looked_at(
        "withdrawals", look, "Restore the newest copy: who has withdrawn must stay out."
    )


def _own_head(premises: Premises) -> tuple[int, Digest] | None:
    """Returns the head that the records name; None if they cannot be read: their check says so."""
    try:
        with _records(premises) as noted:
            row = noted.execute("SELECT sequence, head FROM own_head").fetchone()
    except (ConfigurationError, LedgerCorrupt):
        return None
    return None if row is None else (int(row[0]), Digest(str(row[1])))


@contextmanager
def _records(premises: Premises) -> Iterator[sqlite3.Connection]:
    """Yields the records as they stand now, to be read; a daemon may have them open."""
    path = premises.records
    with errors_of(path), ExitStack() as resources:
        log = beside(path, "-wal")
        has_log = log.exists() and log.stat().st_size > 0
        access = "mode=ro&readonly_shm=1" if has_log else "mode=ro&immutable=1"
        connection = connect(path.resolve(), access, resources)
        set_pragmas(connection, READ_ONLY)
        yield connection


def daemon(configuration: DaemonConfiguration, premises: Premises) -> Finding:
    """Returns whether a daemon owns the state, and what it says of itself.

    Whether it does is asked by taking its lock for an instant, shared; a daemon that starts in
    that very instant would be turned away.
    """
    start = "`fedscore institution run`, by your service manager."
    lock = beside(premises.ledger, ".lock")

    def look() -> Finding:
        if not _is_locked(lock):
            return warned("daemon", "none runs on this state", f"To take part, start {start}")
        if not configuration.health_address:
            return passed("daemon", "runs; health_address is not set, so it says nothing of itself")
        return _asked(configuration.health_address)

    return looked_at("daemon", look, "Correct the permissions of the state directory.")


def _is_locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _asked(address: str) -> Finding:
    host, port = loopback_of(address)
    try:
        with closing(http.client.HTTPConnection(host, port, timeout=_PATIENCE_SECONDS)) as there:
            there.request("GET", "/readyz")
            answer = msgspec.json.decode(there.getresponse().read(2**16), type=_Verdict)
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        return warned(
            "daemon",
            f"runs, but nothing of ours answers at {address} ({type(error).__name__})",
            "Was health_address changed since it was started? Then restart it.",
        )
    if not answer.ok:
        return warned(
            "daemon", f"runs, not ready: {'; '.join(answer.reasons)}", "Look at what it names."
        )
    return passed("daemon", "runs and is ready")


class _Verdict(msgspec.Struct):
    ok: bool
    reasons: tuple[str, ...]
