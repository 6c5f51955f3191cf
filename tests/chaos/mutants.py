"""Faults of the product itself, one at a time: the observer must find each of them.

with mutants.MUTANTS["notes after sending"]():
    outcome = schedule.run(seed)
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from clients import ledger, records, sessions
from clients.ledger import Ledger
from clients.records import Records
from clients.sessions import Sessions
from clients.taking import Taking
from experiments.entropy import SeededEntropy
from federation.sealed import SealedHandler, Seen
from federation.secure_aggregation.attempt import Aborted
from server.attempts import Attempt
from tests.chaos import machine
from tests.chaos.faults import Kind


@contextmanager
def _changed(owner: Any, name: str, to: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, to)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _notes_after_sending() -> AbstractContextManager[None]:
    """What is said is noted when the next thing is said."""
    real = Records.say
    waiting: dict[int, tuple[Any, Any]] = {}

    def say(self: Records, *arguments: Any, **named: Any) -> None:
        last = waiting.pop(id(self), None)
        waiting[id(self)] = (arguments, named)
        if last is not None:
            real(self, *last[0], **last[1])

    return _changed(Records, "say", say)


def _pays_in_memory() -> AbstractContextManager[None]:
    """An attempt at a step is charged to the process, not to the disk."""
    real = Ledger.spend

    def spend(self: Ledger, spent: Any) -> Any:
        if spent.question == "step" and spent.round == 1:
            sequence, head = self.head()
            return sequence + 1, head
        return real(self, spent)

    return _changed(Ledger, "spend", spend)


def _refunds_on_its_own_vote() -> AbstractContextManager[None]:
    """Whoever votes to give up takes its charge back without waiting for the others."""
    real = Sessions.abort

    def abort(self: Sessions, request: Any) -> Any:
        paid = self._current(request.context).paid
        reply = real(self, request)
        self.taking.refund(paid)
        return reply

    return _changed(Sessions, "abort", abort)


def _forgets_its_vote() -> AbstractContextManager[None]:
    """A vote to give up does not keep anybody from releasing afterwards."""
    table = records._TABLES
    without = table.replace("what IN ('released', 'abort')", "what IN ('released')")

    @contextmanager
    def both() -> Iterator[None]:
        with (
            _changed(records, "_TABLES", without),
            _changed(sessions, "on_abort", lambda standing: standing),
        ):
            yield

    return both()


def _votes_after_a_release() -> AbstractContextManager[None]:
    """A release does not keep anybody from voting to give up."""
    table = records._TABLES
    without = table.replace("what IN ('released', 'abort')", "what IN ('abort')")

    @contextmanager
    def both() -> Iterator[None]:
        with (
            _changed(records, "_TABLES", without),
            _changed(sessions, "on_abort", lambda _: Aborted()),
        ):
            yield

    return both()


def _begins_a_session_twice() -> AbstractContextManager[None]:
    """A session that was begun before is begun again, with another key."""
    real = Records._write

    def write(self: Records, statements: Any, *, refused: str) -> None:
        kept = [
            (text.replace("INSERT INTO session", "INSERT OR IGNORE INTO session"), values)
            for text, values in statements
        ]
        real(self, kept, refused=refused)

    return _changed(Records, "_write", write)


def _forgets_envelopes() -> AbstractContextManager[None]:
    """The ids of requests are not kept, nor is the last reply."""
    real = SealedHandler.__call__

    def call(self: SealedHandler, envelope: bytes) -> bytes:
        self._seen, self._last = Seen(), (b"", b"")
        return real(self, envelope)

    return _changed(SealedHandler, "__call__", call)


def _repeats_its_noise() -> AbstractContextManager[None]:
    """A process that starts again draws the noise that it drew before."""

    def entropy(seed: str) -> SeededEntropy:
        which = seed.rsplit(" ", 2)
        return SeededEntropy(f"{which[0]} {which[2]}")

    return _changed(machine, "SeededEntropy", entropy)


def _takes_no_lock() -> AbstractContextManager[None]:
    """Nothing keeps a second process from the files."""
    return _changed(ledger, "lock", lambda _path, _resources: None)


def _answers_unpaid_after_a_full_disk() -> AbstractContextManager[None]:
    """A charge that the disk refused does not keep the answer from leaving."""
    real = Taking.pay

    def pay(self: Taking, attempt: Any, query: Any) -> Any:
        before = self.ledger.head()
        try:
            return real(self, attempt, query)
        except sessions.ConfigurationError:
            self._paid[attempt] = True
            return before[0] + 1, before[1]

    return _changed(Taking, "pay", pay)


def _answers_a_question_twice() -> AbstractContextManager[None]:
    """Questions that are asked once are asked and answered again, though nobody gave them up."""
    real = Attempt.give_up

    def give_up(self: Attempt) -> bool:
        real(self)
        return True

    @contextmanager
    def both() -> Iterator[None]:
        with (
            _changed(Taking, "require_in_order", lambda _self, _attempt: None),
            _changed(Attempt, "give_up", give_up),
        ):
            yield

    return both()


def _trusts_any_ledger() -> AbstractContextManager[None]:
    """An older copy of the ledger is as good as the newest, to its owner and to the others."""
    real = Records.say

    def say(self: Records, *arguments: Any, **named: Any) -> None:
        real(self, *arguments, **{**named, "peers": None})

    @contextmanager
    def both() -> Iterator[None]:
        with (
            _changed(Ledger, "require_not_older_than", lambda _self, _sequence, _head: None),
            _changed(Records, "say", say),
        ):
            yield

    return both()


def _pays_after_saying() -> AbstractContextManager[None]:
    """The charge is written once the answer is noted, not before it is computed."""
    real_pay, real_say = Ledger.spend, Sessions._say
    due: dict[int, list[Any]] = {}

    def spend(self: Ledger, spent: Any) -> Any:
        due.setdefault(id(self), []).append(spent)
        sequence, head = self.head()
        return sequence + 1, head

    def say(self: Sessions, what: str, *arguments: Any, **named: Any) -> None:
        real_say(self, what, *arguments, **named)
        for spent in due.pop(id(self.taking.ledger), []):
            real_pay(self.taking.ledger, spent)

    @contextmanager
    def both() -> Iterator[None]:
        with _changed(Ledger, "spend", spend), _changed(Sessions, "_say", say):
            yield

    return both()


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault of the product.

    Attributes:
        made: makes it, while a context is open.
        shown_by: kinds of faults around the product by which it shows.
    """

    made: Callable[[], AbstractContextManager[None]]
    shown_by: tuple[Kind, ...]


MUTANTS: Final = {
    "notes after sending": Mutant(_notes_after_sending, (Kind.IDLE,)),
    "pays in memory": Mutant(_pays_in_memory, (Kind.IDLE,)),
    "pays after saying": Mutant(_pays_after_saying, (Kind.CRASH_AFTER_WRITE, Kind.OLD_REQUEST)),
    "answers unpaid after a full disk": Mutant(
        _answers_unpaid_after_a_full_disk, (Kind.FULL_AT_COMMIT, Kind.FULL_BEFORE_INSERT)
    ),
    "refunds on its own vote": Mutant(
        _refunds_on_its_own_vote, (Kind.DROP_REPLY, Kind.DROP_REQUEST, Kind.COORDINATOR_DURING)
    ),
    "forgets its vote": Mutant(_forgets_its_vote, (Kind.LATE_REQUEST,)),
    "votes after a release": Mutant(_votes_after_a_release, (Kind.DROP_REPLY, Kind.LATE_REPLY)),
    "begins a session twice": Mutant(_begins_a_session_twice, (Kind.OLD_REQUEST, Kind.STOP)),
    "forgets envelopes": Mutant(_forgets_envelopes, (Kind.OLD_REQUEST, Kind.DUPLICATE)),
    "repeats its noise": Mutant(_repeats_its_noise, (Kind.STOP, Kind.CRASH_AFTER_REPLY)),
    "answers a question twice": Mutant(
        _answers_a_question_twice, (Kind.DROP_REPLY, Kind.LATE_REPLY)
    ),
    "trusts any ledger": Mutant(_trusts_any_ledger, (Kind.RESTORE_ALL, Kind.STOP)),
    "takes no lock": Mutant(_takes_no_lock, (Kind.SECOND_DAEMON,)),
}
