"""A process that ends between any two of its writes: what left was paid, and is never said anew.

One institution is stopped before and after each durable write of a plan with a dropout, an attempt
that is given up, and an end. What it said until then is compared with what its ledger and records
hold, and with what its next process says.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from clients.ledger import Ledger
from clients.records import Records
from federation.messages import (
    Abort,
    Close,
    Closed,
    Noted,
    Open,
    Refund,
    Refuse,
    Reply,
    Request,
    Voted,
    encode,
)
from federation.privacy.ledger_entries import Refunded, Spent
from federation.privacy.units import Population
from federation.query import Question
from federation.secure_aggregation.survivors import Reveal, Revealed, SetSigned
from federation.secure_aggregation.upload import Upload
from tests.exchanges import Table
from tests.federations import Federation, Seat, federation

ONE = "bank-00"


class Killed(BaseException):
    """The process is gone."""


class Writes:
    """Counts the durable writes of one institution, and ends its process at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, last: int, *, done: bool) -> None:
        self.count = 0
        self._last = last
        self._done = done
        self._of: set[int] = set()
        for owner, name in (
            (Ledger, "reserve"),
            (Ledger, "spend"),
            (Ledger, "refund"),
            (Ledger, "close_plan"),
            (Records, "_write"),
        ):
            patch.setattr(owner, name, self._ending(getattr(owner, name)))

    def watch(self, seat: Seat) -> None:
        self._of = {id(seat.ledger), id(seat.records)}

    def _ending(self, write: Callable[..., object]) -> Callable[..., object]:
        def wrapped(owner: object, *arguments: object, **named: object) -> object:
            if id(owner) not in self._of:
                return write(owner, *arguments, **named)
            self.count += 1
            if self.count == self._last and not self._done:
                raise Killed
            given = write(owner, *arguments, **named)
            if self.count == self._last:
                raise Killed
            return given

        return wrapped


class Conversation:
    """What one institution was asked and said before its process ended, if it did."""

    def __init__(self, fed: Federation, seats: dict[str, Seat]) -> None:
        self.said: list[tuple[Request, Reply]] = []
        self._fed = fed
        self._seats = seats

    def hold(self) -> None:
        """Bins with a dropout, a step that is given up, its spare attempt, and the end."""
        table = Table.of(self._fed, self._seats)
        self._open(table, table.open(Question.BINS), among=("bank-01", "bank-02"))
        step = table.open(Question.STEP)
        uploads = table.collected(step, ("bank-01", "bank-02", "bank-03"))
        self._say(step)
        context = uploads.context
        votes = {}
        for place, name in enumerate(table.group.members):
            reply = self._say(Abort(context=context)) if name == ONE else None
            reply = self._seats[name].send(Abort(context=context)) if reply is None else reply
            assert isinstance(reply, Voted)
            votes[place] = reply.signature
        refund = Refund(context=context, voters=tuple(votes), votes=tuple(votes.values()))
        assert isinstance(self._say(refund), Noted)
        again = table.open(Question.STEP, attempt=1)
        self._open(table, again, among=("bank-01", "bank-02", "bank-03"))
        assert isinstance(self._say(closing(self._fed)), Closed)

    def _open(self, table: Table, request: Open, *, among: tuple[str, ...]) -> None:
        collected = table.collected(request, among)
        own = self._say(request)
        assert isinstance(own, Upload)
        collected = replace(collected, uploads={0: own, **collected.uploads})
        signatures = {}
        for place in collected.survivors:
            told = collected.relayed_to(place)
            reply = self._say(told) if place == 0 else table.seat(place).send(told)
            assert isinstance(reply, SetSigned | Revealed)
            signatures[place] = reply.signature
        if len(collected.survivors) < len(table.group.members):
            asked = Reveal(
                context=collected.context,
                signers=tuple(signatures),
                signatures=tuple(signatures.values()),
            )
            assert isinstance(self._say(asked), Revealed)

    def _say(self, request: Request) -> Reply:
        reply = self._seats[ONE].send(request)
        assert not isinstance(reply, Refuse), self._seats[ONE].log
        self.said.append((request, reply))
        return reply


def closing(fed: Federation) -> Close:
    return Close(plan=fed.plan.digest, release=b"", coins=None)


def check_ledger(seat: Seat, said: list[tuple[Request, Reply]], fed: Federation) -> None:
    """Raises unless every upload that left is charged, and only what was noted is refunded."""
    entries = [recorded.entry for recorded in seat.ledger.entries()]
    paid = [(e.question, e.round, e.attempt) for e in entries if isinstance(e, Spent)]
    back = [(e.question, e.round, e.attempt) for e in entries if isinstance(e, Refunded)]
    left = [(r.question, r.round, r.attempt) for r, u in said if isinstance(u, Upload)]  # type: ignore[union-attr]
    assert paid[: len(left)] == left
    assert len(paid) <= len(left) + 1
    assert len(back) <= 1
    if back:
        assert any(isinstance(reply, Voted) for _, reply in said)
    charged = seat.ledger.balance(fed.members[0].policy.limits).of(Population.TRAINED)
    owed = [e.units for e in entries if isinstance(e, Spent) and e.question == "bins"]
    assert charged.charged_lifetime >= sum(owed)


def check_records(seat: Seat, said: list[tuple[Request, Reply]]) -> None:
    """Raises unless what left is noted byte for byte, and a release rules out a vote."""
    for request, reply in said:
        noted = seat.records.reply_to(encode(request))
        if isinstance(reply, Upload | SetSigned | Revealed | Voted):
            assert noted == encode(reply)


def run_to(fed: Federation, out: str, last: int, *, done: bool) -> int | None:
    """Ends one institution's process at a write; returns the writes if there are not so many."""
    with (
        pytest.MonkeyPatch.context() as patch,
        replace(fed, members=fed.members[1:]).seats(out=out) as others,
    ):
        with (
            replace(fed, members=fed.members[:1]).seats(out=out) as first,
            ExitStack() as process,
        ):
            writes = Writes(patch, last, done=done)
            writes.watch(first[ONE])
            talk = Conversation(fed, {**first, **others})
            process.callback(patch.undo)
            try:
                talk.hold()
            except Killed:
                pass
            else:
                return writes.count
        with replace(fed, members=fed.members[:1]).seats(out=out) as restarted:
            seat = restarted[ONE]
            has_ended = not seat.ledger.balance(fed.members[0].policy.limits).open_plans
            check_ledger(seat, talk.said, fed)
            if not has_ended:
                check_records(seat, talk.said)
            for request, reply in talk.said:  # keys are gone: what was said may be said again
                again = seat.send(request)
                assert isinstance(again, Refuse | Noted) or again == reply
            check_ledger(seat, talk.said, fed)
            if not has_ended:
                assert isinstance(seat.send(closing(fed)), Closed)
            assert not seat.ledger.balance(fed.members[0].policy.limits).open_plans
            check_ledger(seat, talk.said, fed)
            seat.ledger.verify()
    return None


@pytest.mark.slow
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_between_any_two_writes_what_left_was_paid_and_noted_and_nothing_is_said_anew(
    tmp_path: Path, done: bool
) -> None:
    fed = federation(tmp_path, people=20, quorum=3)
    last, writes = 0, None
    while writes is None:
        last += 1
        writes = run_to(fed, f"killed at {last}", last, done=done)
    assert writes == last - 1
    # Note the plan and reserve; begin a session and join it; three attempts of noting, paying and
    # uploading; a set and a release; a vote and a refund; a release; the end in both files.
    assert writes == 2 + 2 + 3 * 3 + 2 + 2 + 1 + 2
