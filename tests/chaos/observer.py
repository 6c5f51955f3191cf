"""Who watches a schedule: sees every byte that leaves and every durable state, believes nobody.

It reads the SQLite files itself and compares them with what went over the wire. What it finds
broken is a sentence in `violations`.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

from federation.messages import (
    Accept,
    Begin,
    Closed,
    Noted,
    Open,
    Refund,
    Refuse,
    Reply,
    Request,
    Voted,
    decode_reply,
    decode_request,
)
from federation.plan import Plan
from federation.query import Question
from federation.secure_aggregation.survivors import Reveal, Revealed, SetSigned, Survivors
from federation.secure_aggregation.upload import Upload
from tests.chaos.machine import Machine

Attempt = tuple[str, str, int, int]
"""Digest of the plan, question, round, number of the attempt."""


class Ledgered:
    """A ledger's file as the observer reads it: no code of the product is asked."""

    def __init__(self, path: Path) -> None:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as connection:
            rows = connection.execute(
                "SELECT sequence, previous, hash, kind, body FROM entry ORDER BY sequence"
            ).fetchall()
        self.is_chain = [row[0] for row in rows] == list(range(1, len(rows) + 1)) and all(
            row[1] == before[2] for before, row in pairwise(rows)
        )
        self.reserved: dict[str, dict[str, int]] = {}
        self.closed: set[str] = set()
        self.spent: dict[Attempt, tuple[str, int]] = {}
        self.refunded: set[Attempt] = set()
        self.twice: list[Attempt] = []
        for row in rows:
            self._take(row[3], json.loads(row[4]))

    def _take(self, kind: str, body: dict[str, Any]) -> None:
        plan = body["plan"]
        if kind == "reserved":
            self.reserved[plan] = body["price"]
        elif kind == "closed":
            self.closed.add(plan)
        else:
            attempt = (plan, body["question"], body["round"], body["attempt"])
            if kind == "refunded":
                self.refunded.add(attempt)
            elif attempt in self.spent:
                self.twice.append(attempt)
            else:
                self.spent[attempt] = (body["population"], body["units"])

    def charged(self, population: str) -> int:
        """Returns the least that this ledger must charge a population with, in budget units."""
        total = 0
        for plan, price in self.reserved.items():
            spent = sum(
                units
                for attempt, (whom, units) in self.spent.items()
                if attempt[0] == plan and whom == population and attempt not in self.refunded
            )
            total += spent if plan in self.closed else price[population]
        return total


class Observer:
    """What has left the institutions so far, and what it must never be joined by."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Calls `say` with each promise that is broken."""
        self._say = say
        self._plan_of_session: dict[bytes, str] = {}
        self._asked: dict[bytes, Attempt] = {}  # by context
        self._members: dict[bytes, int] = {}  # threshold by context
        self._threshold: dict[str, int] = {}  # by plan
        self._rounds: dict[str, int] = {}
        self._uploads: dict[tuple[str, bytes, Attempt], bytes] = {}
        self._replies: dict[tuple[str, bytes], bytes] = {}
        self._sets: dict[tuple[str, bytes], bytes] = {}
        self._released: dict[bytes, set[str]] = defaultdict(set)
        self._voted: dict[bytes, set[str]] = defaultdict(set)
        self._survivors: dict[bytes, set[str]] = defaultdict(set)  # whose answers a total is of
        self._used: dict[bytes, bytes] = {}  # commitment to a key -> the context it is for
        self._envelopes: dict[tuple[str, int, bytes], bytes] = {}
        self._opened: dict[tuple[str, str, int], set[bytes]] = defaultdict(set)
        self._totals: dict[str, set[Attempt]] = defaultdict(set)
        """Attempts of an institution that can be opened."""
        self._held: dict[tuple[str, bytes], set[Attempt]] = {}
        """What an institution's ledger held when it uploaded, by its name and the context."""

    def planned(self, plan: Plan) -> None:
        """Takes note of a plan that will be asked."""
        self._threshold[plan.digest] = plan.participation.threshold
        self._rounds[plan.digest] = plan.rounds

    # What leaves.

    def carried(self, machine: Machine, envelope: bytes, reply: bytes) -> None:
        """Looks at a sealed reply: one process answers one envelope in one way."""
        known = self._envelopes.setdefault((machine.label, machine.starts, envelope), reply)
        if known != reply:
            self._say(f"{machine.label} answered one envelope in two ways")

    def left(self, machine: Machine, request_bytes: bytes, reply_bytes: bytes) -> None:
        """Looks at what an institution has just said, and at whether it is noted."""
        request, reply = decode_request(request_bytes), decode_reply(reply_bytes)
        if isinstance(request, Begin):
            self._plan_of_session[request.session] = request.plan
        if isinstance(reply, Refuse):
            return
        key = (machine.name, request_bytes)
        if not isinstance(reply, Accept | Closed | Noted) and (
            self._replies.setdefault(key, reply_bytes) != reply_bytes
        ):
            self._say(f"{machine.label} answered one {type(request).__name__} in two ways")
        self._look(machine, request, reply, reply_bytes)

    def _look(self, machine: Machine, request: Request, reply: Reply, data: bytes) -> None:
        acknowledged, ledger = machine.acknowledged, Ledgered(machine.ledger_path)
        match request, reply:
            case Open(), Upload():
                attempt = self._uploaded(machine, request, reply, data)
                self._held.setdefault((machine.name, reply.context), set(ledger.spent))
                acknowledged.spent.add(attempt)
                acknowledged.said[data] = attempt[0]
            case Survivors() | Reveal(), SetSigned() | Revealed():
                self._agreed(machine, request, reply)
                acknowledged.said[data] = self._asked[reply.context][0]
            case _, Voted():
                self._vote(machine, reply)
                acknowledged.said[data] = self._attempt(machine, reply.context)[0]
            case Refund(), Noted():
                acknowledged.refunded.add(self._attempt(machine, reply.context))
            case _, Accept():
                acknowledged.reserved.add(reply.plan)
            case _, Closed():
                if reply.plan in ledger.reserved:
                    acknowledged.closed.add(reply.plan)
        self._check_held(machine, ledger)

    def _attempt(self, machine: Machine, context: bytes) -> Attempt:
        """Returns what a context asks; one that nobody's upload has named is in the records."""
        if context not in self._asked:
            with closing(
                sqlite3.connect(f"file:{machine.records_path}?mode=rw", uri=True)
            ) as connection:
                session, position, number = connection.execute(
                    "SELECT session, round, number FROM attempt WHERE context = ?", (context,)
                ).fetchone()
            plan = self._plan_of_session[bytes(session)]
            question = ("bins", 0) if position == 0 else ("step", position - 1)
            if position > self._rounds[plan]:
                question = ("evaluation", 0)
            self._asked[context] = (plan, *question, number)
        return self._asked[context]

    def _uploaded(self, machine: Machine, request: Open, reply: Upload, data: bytes) -> Attempt:
        plan = self._plan_of_session[request.session]
        attempt = (plan, request.question.value, request.round, request.attempt)
        self._asked[reply.context] = attempt
        known = self._uploads.setdefault((machine.name, request.session, attempt), data)
        if known != data:
            self._say(f"{machine.label} answered {attempt[1:]} of one session in two ways")
        place = reply.sealed.index(b"")
        size = len(reply.seeds) // len(reply.sealed)
        keys = [reply.header.noise, reply.header.own_mask]
        keys += [
            reply.seeds[size * peer : size * (peer + 1)]
            for peer in range(len(reply.sealed))
            if peer != place
        ]
        for one in keys:
            if self._used.setdefault(one, reply.context) != reply.context:
                self._say(f"{machine.label} used a key of noise or masks for two attempts")
        return attempt

    def _agreed(
        self, machine: Machine, request: Survivors | Reveal, reply: SetSigned | Revealed
    ) -> None:
        key = (machine.name, reply.context)
        if isinstance(request, Survivors):
            named = {one.header.institution for one in request.relayed}
            self._survivors[reply.context] |= named
        if self._sets.setdefault(key, reply.signature) != reply.signature:
            self._say(f"{machine.label} signed two sets of survivors for one attempt")
        if isinstance(reply, SetSigned):
            return
        if machine.name in self._voted[reply.context]:
            self._say(f"{machine.label} released shares after its vote to give up")
        was_open = self._is_open(reply.context)
        self._released[reply.context].add(machine.name)
        if self._is_open(reply.context) and not was_open:
            self._open(reply.context)

    def _open(self, context: bytes) -> None:
        """Looks at an attempt whose total can be opened from now on."""
        attempt = self._asked[context]
        opened = self._opened[attempt[:3]]
        opened.add(context)
        if len(opened) > 1 and attempt[1] != Question.STEP:  # a step's retry is paid as well
            self._say(f"{attempt[1]} of one plan can be opened twice")
        for (name, of), held in self._held.items():
            if of == context and name in self._survivors[context]:
                if self._totals[name] - held:
                    self._say(f"a ledger of {name} that has lost what was opened takes part again")
                self._totals[name].add(attempt)

    def _vote(self, machine: Machine, reply: Voted) -> None:
        if machine.name in self._released[reply.context]:
            self._say(f"{machine.label} voted to give up what it had released")
        self._voted[reply.context].add(machine.name)

    def opened_once(self, transcript: bytes) -> None:
        """Looks at the coordinator's own book: no question has two totals in it."""
        lines = [json.loads(line) for line in transcript.splitlines()]
        totals = [(line["question"], line["round"]) for line in lines if line.get("total")]
        if len(totals) != len(set(totals)):
            self._say("the transcript has two totals of one question")

    # What is held.

    def check(self, machine: Machine) -> None:
        """Looks at an institution's files: after a start, and at the end."""
        if machine.ledger_path.exists():
            self._check_held(machine, Ledgered(machine.ledger_path))

    def _check_held(self, machine: Machine, ledger: Ledgered) -> None:
        held = machine.acknowledged
        for what, missing in (
            ("an accepted plan", held.reserved - set(ledger.reserved)),
            ("an answer that left", held.spent - set(ledger.spent)),
            ("a refund it confirmed", held.refunded - ledger.refunded),
            ("the end of a plan", held.closed - ledger.closed),
        ):
            if missing:
                self._say(f"the ledger of {machine.label} lacks {what}")
        if not ledger.is_chain:
            self._say(f"the ledger of {machine.label} is no chain")
        if ledger.twice:
            self._say(f"the ledger of {machine.label} has paid one attempt twice")
        for attempt in ledger.refunded:
            self._check_refund(machine, ledger, attempt)
        self._check_noted(machine, ledger)

    def _check_refund(self, machine: Machine, ledger: Ledgered, attempt: Attempt) -> None:
        contexts = [one for one, asked in self._asked.items() if asked == attempt]
        given_up = any(
            len(self._voted[one]) >= self._threshold[attempt[0]] and not self._is_open(one)
            for one in contexts
        )
        if not given_up or attempt not in ledger.spent:
            self._say(f"{machine.label} took back what it paid for {attempt[1:]} without votes")

    def _is_open(self, context: bytes) -> bool:
        return len(self._released[context]) >= self._threshold[self._asked[context][0]]

    def _check_noted(self, machine: Machine, ledger: Ledgered) -> None:
        if not machine.records_path.exists():
            return
        wanted = {
            data for data, plan in machine.acknowledged.said.items() if plan not in ledger.closed
        }
        if not wanted:
            return
        with closing(
            sqlite3.connect(f"file:{machine.records_path}?mode=rw", uri=True)
        ) as connection:
            noted = {bytes(row[0]) for row in connection.execute("SELECT reply FROM said")}
        if wanted - noted:
            self._say(f"the records of {machine.label} lack what it said")

    def check_paid(self, machine: Machine, charged: dict[str, int]) -> None:
        """Compares what can be opened of an institution's people with what it is charged.

        Args:
            machine: whose files hold all that it has said.
            charged: what its own balance says, in budget units, by population.
        """
        ledger = Ledgered(machine.ledger_path)
        for context, attempt in self._asked.items():
            if (
                self._is_open(context)
                and (machine.name, context) in self._held
                and (attempt not in ledger.spent or attempt in ledger.refunded)
            ):
                self._say(f"{attempt[1:]} of {machine.label} was opened and is not paid")
        for population, units in charged.items():
            if units < ledger.charged(population):
                self._say(f"{machine.label} counts less than was spent of {population} people")
