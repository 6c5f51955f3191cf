"""Institutions as `run_daemon` runs them, each in a thread, at a SuperLink that lies.

    with nation(directory) as banks:
        before = banks.state(A)
        assert banks.deliver(A, envelope) is None     # refused without a reply
        assert "expired" in banks.said(A)             # as its own log says
        assert banks.state(A) == before

Bank A has ordinary people. Bank B has as many, and every value lies at the edge of what its schema
allows. Whatever is refused must be refused to both in the same words and the same number of bytes.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from clients import flower_node
from clients.configuration import Approval, DaemonConfiguration
from clients.daemon import run_daemon
from clients.ledger import Ledger
from clients.premises import Premises
from clients.records import Records
from clients.withdrawals import Withdrawals
from federation.card import Card
from federation.envelope import Asked, open_reply, seal_request
from federation.messages import Accept, Invite, Reply, Request, decode_reply, encode
from federation.plan import Plan, plan_toml
from federation.secure_aggregation.roster import roster_toml
from tests.federations import (
    KEY,
    NOW,
    SALT,
    Federation,
    federation,
    identity_of,
    names,
    roster_of,
    small_table,
)
from tests.flower_processes import write_certificates
from tests.hostile_fleet import WAIT_SECONDS, Answer, Fleet

A, B, C = names(3)
PEOPLE: Final = 150
VALID_SECONDS: Final = 600
QUICK_SECONDS: Final = 0.01
"""Between two questions of a node, so that a test does not wait."""


def edge_table(path: Path, number: int) -> Path:
    """Writes the table of a bank; that of the second holds what a snapshot just lets in."""
    small_table(path, PEOPLE, number, first_person=number * PEOPLE)
    if number == 1:
        table = pq.read_table(path)
        edges = np.array([0.0, -0.0, 5e-324, 100.0, np.nextafter(100.0, 0)])
        income = pa.array(np.resize(edges, PEOPLE), mask=np.arange(PEOPLE) % 3 > 0)
        late = pa.array(np.resize(np.array([0, 5]), PEOPLE))
        bad = pa.array((np.arange(PEOPLE) > 0).astype(np.int64))
        person = pa.array(2**63 - 1 - np.arange(PEOPLE))
        for name, column in (("income", income), ("late", late), ("bad", bad), ("person", person)):
            table = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(table, path)
    return path


class _Lines(logging.Handler):
    """Keeps what each thread logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.of: dict[str, list[str]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.of.setdefault(str(record.threadName), []).append(record.getMessage())


@dataclass(slots=True)
class _Daemon:
    """A daemon in a thread, and what it ended with."""

    thread: threading.Thread
    stop: threading.Event
    ended_with: list[BaseException] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Seat:
    """One institution, as `tests.exchanges.Table` speaks to it: by sealed messages only."""

    name: str
    nation: "Nation"

    @property
    def log(self) -> list[str]:
        """Its own log since it started."""
        return self.nation.lines(self.name)

    def send(self, request: Request) -> Reply:
        """Returns the reply, which must come."""
        return self.nation.ask(self.name, request)

    def accept(self, plan: Plan) -> Accept:
        """Invites it; it must accept."""
        reply = self.send(Invite(plan=plan_toml(plan)))
        assert isinstance(reply, Accept), (reply, self.log)
        return reply


@dataclass(slots=True, kw_only=True)
class Nation:
    """Three daemons, the fleet that they are at, and the key of their coordinator."""

    fed: Federation
    fleet: Fleet
    cards: Mapping[str, Card]
    directory: Path
    now: int = NOW
    _lines: _Lines
    _daemons: dict[str, _Daemon] = field(default_factory=dict)

    @property
    def seats(self) -> dict[str, Seat]:
        """All institutions, by name."""
        return {name: Seat(name=name, nation=self) for name in self.cards}

    # The coordinator's part.

    def seal(
        self,
        name: str,
        request: Request | bytes,
        *,
        key: Ed25519PrivateKey = KEY,
        expires_at: int | None = None,
        **card: str,
    ) -> Asked:
        """Returns a request in its envelope.

        Args:
            name: whose card it is sealed to.
            request: to be encoded, or any bytes.
            key: that signs.
            expires_at: ten minutes from now if not said.
            card: fields of the card that are other than they are.
        """
        return seal_request(
            request if isinstance(request, bytes) else encode(request),
            coordinator=key,
            receiver=msgspec.structs.replace(self.cards[name], **card),
            expires_at=self.now + VALID_SECONDS if expires_at is None else expires_at,
            entropy=lambda: os.urandom(32),
        )

    def ask(self, name: str, request: Request | bytes) -> Reply:
        """Returns what it answers to an honest envelope; it must answer."""
        asked = self.seal(name, request)
        reply = self.deliver(name, asked.envelope)
        assert reply is not None, self.lines(name)[-3:]
        return decode_reply(open_reply(reply, asked))

    def deliver(self, name: str, envelope: bytes, **metadata: Any) -> bytes | None:
        """Returns what comes back for any bytes, None if the daemon says nothing."""
        return self.fleet.deliver(self.key_of(name), envelope, **metadata)

    def key_of(self, name: str) -> bytes:
        """Returns the key by which the fleet knows it."""
        key = load_ssh_public_key(self.cards[name].node.encode())
        return public_key_to_bytes(key)  # type: ignore[arg-type]

    # What it left behind.

    def lines(self, name: str) -> list[str]:
        """Returns its log."""
        return self._lines.of.setdefault(name, [])

    def said(self, name: str) -> str:
        """Returns the last line of its log."""
        return self.lines(name)[-1]

    def state(self, name: str) -> tuple[object, ...]:
        """Returns its ledger's entries, and every row of its records."""
        state = self.directory / name / "state"
        with Ledger.open_read_only(state / "ledger.sqlite", lambda: self.now) as ledger:
            entries = ledger.entries()
        with closing(sqlite3.connect(f"file:{state / 'records.sqlite'}?mode=ro", uri=True)) as db:
            tables = [
                name
                for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            rows = tuple(
                tuple(db.execute(f"SELECT * FROM {table} ORDER BY 1, 2"))  # noqa: S608  its own
                for table in sorted(tables)
            )
        return entries, rows

    def is_alive(self, name: str) -> bool:
        """Returns whether the daemon still runs."""
        daemon = self._daemons[name]
        return daemon.thread.is_alive() and not daemon.ended_with

    # Starting and stopping.

    def start(self, name: str) -> None:
        """Starts the daemon on the state that it has."""
        home = self.directory / name
        member = next(one for one in self.fed.members if one.id == name)
        configuration = DaemonConfiguration(
            id=name,
            title=name,
            most_people=member.most_people,
            table=member.table,
            policy=member.policy,
            approval=Approval.AUTOMATIC,
            federation=self.fed.plan.federation,
            salt=SALT,
            held_out_fraction=self.fed.plan.people.held_out_fraction,
            schema=str(home / "schema.toml"),
            roster=str(self.directory / "roster.toml"),
            coordinator_address=self.fleet.address,
            root_certificates=str(self.directory / "ca.pem"),
            state=str(home / "state"),
        )
        stop = threading.Event()

        def run() -> None:
            try:
                run_daemon(
                    configuration,
                    Premises(home / "state"),
                    identity=identity_of(name),
                    schema=self.fed.schema,
                    clock=lambda: self.now,
                    noise_entropy=lambda: os.urandom(32),
                    mask_entropy=lambda: os.urandom(32),
                    stop=stop,
                )
            except BaseException as error:  # noqa: BLE001  whatever ended it, a test asks for it
                daemon.ended_with.append(error)

        daemon = _Daemon(threading.Thread(target=run, name=name, daemon=True), stop)
        self._daemons[name] = daemon
        daemon.thread.start()

    def end(self, name: str) -> None:
        """Tells the daemon to stop, as SIGTERM does; it must end well."""
        daemon = self._daemons.pop(name)
        daemon.stop.set()
        daemon.thread.join(WAIT_SECONDS)
        assert not daemon.thread.is_alive()
        assert not daemon.ended_with, daemon.ended_with

    def restart(self, name: str) -> None:
        """Ends the daemon and starts another process, as it were, on its state."""
        self.end(name)
        self.start(name)

    def end_all(self) -> None:
        """Ends whoever still runs."""
        for daemon in self._daemons.values():
            daemon.stop.set()
        for name in list(self._daemons):
            self.end(name)


def make_premises(home: Path) -> str:
    """Makes what an institution has before its first day; returns its node's public key."""
    state = home / "state"
    for private in (home, state, state / "decisions", state / "snapshots", state / "releases"):
        private.mkdir(mode=0o700)
    node = generate_private_key(SECP384R1())
    (state / "node.key").write_bytes(
        node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    Ledger.create(state / "ledger.sqlite", lambda: NOW).close()
    Records.create(state / "records.sqlite").close()
    Withdrawals.create(Premises(state).withdrawals, bytes(32))
    return node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@contextmanager
def nation(
    directory: Path, *, says: Mapping[str, Callable[[bytes], Answer | None]] | None = None
) -> Iterator[Nation]:
    """Yields three running daemons; they have ended afterwards, and ended well.

    Args:
        directory: empty.
        says: what the fleet answers from the start, by path.
    """
    fed = federation(directory, institutions=3, table=edge_table)
    write_certificates(directory)
    (directory / "roster.toml").write_text(roster_toml(roster_of(fed.plan)))
    cards = {
        name: Card.of(
            federation=fed.plan.federation,
            institution=name,
            identity=identity_of(name),
            node=make_premises(directory / name),
        )
        for name in (A, B, C)
    }
    lines, log = _Lines(), logging.getLogger("clients")
    level = log.level
    with ExitStack() as after, Fleet(directory) as fleet:
        after.enter_context(_quick())
        log.addHandler(lines)
        log.setLevel(logging.INFO)
        after.callback(log.removeHandler, lines)
        after.callback(log.setLevel, level)
        fleet.says.update(says or {})
        found = Nation(fed=fed, fleet=fleet, cards=cards, directory=directory, _lines=lines)
        try:
            for name in cards:
                found.start(name)
            yield found
        finally:
            fleet.says.clear()
            found.end_all()


@contextmanager
def _quick() -> Iterator[None]:
    """Makes nodes ask without the pauses that a network needs."""
    pauses = ("_POLL_SECONDS", "_RECONNECT_SECONDS")
    before = {name: getattr(flower_node, name) for name in pauses if hasattr(flower_node, name)}
    for name in before:
        setattr(flower_node, name, QUICK_SECONDS)
    try:
        yield
    finally:
        for name, seconds in before.items():
            setattr(flower_node, name, seconds)
