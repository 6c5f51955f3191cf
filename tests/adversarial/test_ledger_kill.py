"""Kill -9 at random moments: whatever the ledger acknowledged is in it afterwards.

SIGKILL leaves the operating system's cache alone, so this shows that no moment between two writes
loses or tears an acknowledged entry. That an entry outlives a power cut rests on SQLite's
`synchronous=FULL`, which opening a ledger checks.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.ledger import Ledger
from federation.canonical import digest
from federation.privacy.ledger_entries import (
    Closed,
    Entry,
    Recorded,
    Recovered,
    Refunded,
    Reserved,
    Spent,
)
from federation.privacy.ledger_rules import Limits
from federation.privacy.units import BudgetUnits, Population, Price

LEDGERS = 13
LIVES = 10  # of each ledger; every life verifies all that the lives before it wrote
KILLED_WHILE_OPENING = 10  # one life in ten; all others are killed while they write
LONGEST_LIFE_SECONDS = 0.012
LIMITS = Limits(lifetime=BudgetUnits(2**60), yearly=BudgetUnits(2**60))
SPLIT = digest("test/split")
PRICE = Price(trained=BudgetUnits(90), held_out=BudgetUnits(50))
ALONE = Price(trained=BudgetUnits(60), held_out=BudgetUnits(30))


def noon() -> int:
    return 1_700_000_000


def entries_of_one_plan(life: int, number: int) -> list[Entry]:
    """A reservation, seven attempts, two of them refunded, and for every other plan its end."""
    plan = digest("test/plan", life.to_bytes(4, "big"), number.to_bytes(4, "big"))
    entries: list[Entry] = [Reserved(plan=plan, price=PRICE, alone=ALONE, split=SPLIT)]
    for round in range(7):
        population = Population.HELD_OUT if round % 3 == 2 else Population.TRAINED
        entries.append(
            Spent(
                plan=plan,
                question="train",
                round=round,
                attempt=life % 2,
                population=population,
                units=BudgetUnits(round + 1),
            )
        )
        if round in (1, 5):
            entries.append(Refunded(plan=plan, question="train", round=round, attempt=life % 2))
    return entries if number % 2 else [*entries, Closed(plan=plan)]


def live(path: Path, life: int, pipe: int) -> None:
    """Writes until it is killed, and reports each entry after the call that wrote it returned."""
    ledger = Ledger.open(path, noon)
    for number in range(10**6):
        for entry in entries_of_one_plan(life, number):
            match entry:
                case Reserved():
                    sequence, head = ledger.reserve(
                        entry.plan, entry.price, alone=entry.alone, split=entry.split, limits=LIMITS
                    )
                case Spent():
                    sequence, head = ledger.spend(entry)
                case Refunded():
                    sequence, head = ledger.refund(entry)
                case Closed():
                    sequence, head = ledger.close_plan(entry.plan)
            os.write(pipe, f"{sequence} {head}\n".encode())


def live_recovering(path: Path, life: int, pipe: int) -> None:
    """Reserves a plan and charges a gap of two entries after it, until it is killed."""
    ledger = Ledger.open(path, noon)
    for number in range(10**6):
        plan = digest("test/plan", life.to_bytes(4, "big"), number.to_bytes(4, "big"))
        sequence, head = ledger.reserve(plan, PRICE, alone=ALONE, split=SPLIT, limits=LIMITS)
        os.write(pipe, f"{sequence} {head}\n".encode())
        lost = digest("test/lost", head.encode())
        sequence, head = ledger.recover(
            Recovered(seen_sequence=sequence + 2, seen_head=lost, missing_since=0, price=PRICE)
        )
        os.write(pipe, f"{sequence} {head}\n".encode())


Life = Callable[[Path, int, int], None]


def acknowledged_before_the_kill(
    path: Path, life: int, seconds: float, *, is_writing: bool, live: Life = live
) -> list[tuple[int, str]]:
    """Returns sequence and hash of each entry that a killed child reported.

    The kill comes `seconds` after the child's first report if `is_writing`, else after its birth.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1  # only an error ends the loop before the kill does
        try:
            os.close(reading)
            live(path, life, writing)
        finally:
            os._exit(status)
    os.close(writing)
    first = os.read(reading, 4096) if is_writing else b""
    time.sleep(seconds)  # chooses the moment of the kill; nothing is waited for
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as report:
        lines = (first + report.read()).decode().splitlines()
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return [(int(sequence), head) for sequence, head in map(str.split, lines)]


def spent_units(entries: tuple[Recorded, ...], population: Population) -> int:
    """Returns what was spent and not refunded."""
    found = [recorded.entry for recorded in entries]
    back = {(e.plan, e.round, e.attempt) for e in found if isinstance(e, Refunded)}
    return sum(
        entry.units
        for entry in found
        if isinstance(entry, Spent)
        and entry.population is population
        and (entry.plan, entry.round, entry.attempt) not in back
    )


@pytest.mark.slow
# The child of the fork uses nothing but the ledger, and no thread of ours is running.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_what_was_acknowledged_before_a_kill_is_there_and_charged(tmp_path: Path) -> None:
    moments = random.Random(7)  # noqa: S311 - the same moments
    counts = [lives_of(tmp_path / f"{number}" / "ledger.db", moments) for number in range(LEDGERS)]
    assert sum(killed_while_writing for killed_while_writing, _ in counts) >= 100
    assert sum(logs_left for _, logs_left in counts) >= 100


def lives_of(path: Path, moments: random.Random) -> tuple[int, int]:
    """Kills a ledger's writer again and again; returns how often it wrote, and left a log."""
    path.parent.mkdir()
    Ledger.create(path, noon).close()
    every_acknowledged: dict[int, str] = {}
    killed_while_writing = logs_left = 0
    for life in range(LIVES):
        is_writing = life % KILLED_WHILE_OPENING > 0
        seconds = moments.uniform(0, LONGEST_LIFE_SECONDS)
        acknowledged = acknowledged_before_the_kill(path, life, seconds, is_writing=is_writing)
        every_acknowledged.update(acknowledged)
        killed_while_writing += bool(acknowledged)
        logs_left += path.with_name("ledger.db-wal").exists()

        # Two lives in three start from the log as a kill left it; opening to write folds it in.
        opening = Ledger.open_read_only if life % 3 else Ledger.open
        with opening(path, noon) as ledger:  # verifies every hash and every rule
            entries, balance = ledger.entries(), ledger.balance(LIMITS)
        hashes = {recorded.sequence: recorded.hash() for recorded in entries}
        assert every_acknowledged.items() <= hashes.items()
        assert len(entries) <= len(every_acknowledged) + life + 1, "one unreported entry a life"
        for population in Population:
            assert balance.of(population).charged_lifetime >= spent_units(entries, population)
    return killed_while_writing, logs_left


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_recovery_that_was_acknowledged_before_a_kill_is_there_and_charged(
    tmp_path: Path,
) -> None:
    path, moments = tmp_path / "ledger.db", random.Random(8)  # noqa: S311 - the same moments
    Ledger.create(path, noon).close()
    every_acknowledged: dict[int, str] = {}
    ended_with: set[str] = set()
    for life in range(40):
        seconds = moments.uniform(0, LONGEST_LIFE_SECONDS)
        acknowledged = acknowledged_before_the_kill(
            path, life, seconds, is_writing=True, live=live_recovering
        )
        every_acknowledged.update(acknowledged)
        opening = Ledger.open_read_only if life % 3 else Ledger.open
        with opening(path, noon) as ledger:  # verifies every hash and every rule
            entries, balance = ledger.entries(), ledger.balance(LIMITS)
            for recorded in entries:
                if isinstance(recorded.entry, Recovered):
                    ledger.require_not_older_than(
                        recorded.entry.seen_sequence, recorded.entry.seen_head
                    )
        hashes = {recorded.sequence: recorded.hash() for recorded in entries}
        assert every_acknowledged.items() <= hashes.items()
        assert len(entries) <= len(every_acknowledged) + life + 1, "one unreported entry a life"
        ended_with.add(entries[-1].kind)
        assert balance.trained.charged_lifetime == len(entries) * PRICE.trained
        kinds = [recorded.kind for recorded in reversed(entries)]
        since = kinds.index("recovered") if "recovered" in kinds else len(kinds)
        assert len(balance.open_plans) == since, "a recovery ends every plan before it, no other"
    assert ended_with == {"reserved", "recovered"}
