"""What can go wrong, and where: the faults of one schedule follow from its seed alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Point(StrEnum):
    """A place at which a fault can strike; each is counted from 0 within a schedule."""

    START = "start of an institution"
    WRITE = "durable write of an institution"
    DELIVERY = "message to an institution"
    EXCHANGE = "exchange of the coordinator"
    LINE = "durable write of the coordinator"


class Kind(StrEnum):
    """One kind of fault."""

    CRASH_BEFORE_WRITE = "institution killed before a write"
    CRASH_AFTER_WRITE = "institution killed after a write"
    CRASH_BEFORE_REQUEST = "institution killed before a request"
    CRASH_BEFORE_REPLY = "institution killed before its reply"
    CRASH_AFTER_REPLY = "institution killed after its reply"
    CRASH_AT_START = "institution killed while it starts"
    STOP = "institution stopped in order"
    LONG_GONE = "institution unreachable for a while"
    DROP_REQUEST = "request lost"
    DROP_REPLY = "reply lost"
    DUPLICATE = "request delivered twice"
    LATE_REQUEST = "request delivered after its deadline"
    LATE_REPLY = "reply delivered after its deadline"
    OLD_REQUEST = "old request delivered again"
    FULL_BEFORE_INSERT = "disk full at a statement"
    FULL_AT_COMMIT = "disk full at a commit"
    ERROR_AFTER_COMMIT = "disk error after a commit"
    FULL_FOR_A_WHILE = "disk full for several writes"
    FULL_AT_SNAPSHOT = "disk full at a snapshot"
    CLOCK_SMALL = "clock of an institution off by seconds"
    CLOCK_HOURS = "clock of an institution off by hours"
    CLOCK_BEYOND = "clock of an institution beyond the plan"
    CLOCK_1960 = "clock of an institution before 1970"
    CLOCK_COORDINATOR = "clock of the coordinator off"
    IDLE = "institution idle between messages"
    RESTORE_LEDGER = "older ledger restored"
    RESTORE_RECORDS = "older records restored"
    RESTORE_ALL = "older state restored"
    COPY = "identity copied to another machine"
    SECOND_DAEMON = "second daemon on one state"
    COORDINATOR_BEFORE = "coordinator killed before an exchange"
    COORDINATOR_DURING = "coordinator killed during an exchange"
    COORDINATOR_AFTER = "coordinator killed after an exchange"
    COORDINATOR_BEFORE_WRITE = "coordinator killed before a write"
    COORDINATOR_AFTER_WRITE = "coordinator killed after a write"
    COORDINATOR_TORN_WRITE = "coordinator killed in the middle of a write"
    COORDINATOR_RESTORED = "older transcript restored at the coordinator"
    COORDINATOR_FULL = "disk of the coordinator full"


POINT_OF: Final = {
    **dict.fromkeys(Kind, Point.DELIVERY),
    **dict.fromkeys((Kind.CRASH_AT_START, Kind.FULL_AT_SNAPSHOT), Point.START),
    **dict.fromkeys(
        (
            Kind.CRASH_BEFORE_WRITE,
            Kind.CRASH_AFTER_WRITE,
            Kind.FULL_BEFORE_INSERT,
            Kind.FULL_AT_COMMIT,
            Kind.ERROR_AFTER_COMMIT,
            Kind.FULL_FOR_A_WHILE,
        ),
        Point.WRITE,
    ),
    **dict.fromkeys(
        (
            Kind.COORDINATOR_BEFORE,
            Kind.COORDINATOR_DURING,
            Kind.COORDINATOR_AFTER,
            Kind.COORDINATOR_RESTORED,
            Kind.CLOCK_COORDINATOR,
        ),
        Point.EXCHANGE,
    ),
    **dict.fromkeys(
        (
            Kind.COORDINATOR_BEFORE_WRITE,
            Kind.COORDINATOR_AFTER_WRITE,
            Kind.COORDINATOR_TORN_WRITE,
            Kind.COORDINATOR_FULL,
        ),
        Point.LINE,
    ),
}

ROLLED_BACK: Final = frozenset(
    {Kind.RESTORE_LEDGER, Kind.RESTORE_RECORDS, Kind.RESTORE_ALL, Kind.COPY}
)
"""After these, an institution's files do not hold all that it has said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: its kind, and the number of the point at which it strikes."""

    kind: Kind
    at: int


def drawn(
    seed: int, chance: random.Random, points: dict[Point, int], kinds: Sequence[Kind]
) -> tuple[Fault, ...]:
    """Returns one to six faults; the first one's kind goes round with the seed.

    Args:
        seed: of the schedule.
        chance: of the schedule.
        points: how many of each there are in a training without any fault.
        kinds: to choose from.
    """
    chosen = [kinds[seed % len(kinds)]]
    while len(chosen) < 6 and chance.random() < 0.6:
        chosen.append(chance.choice(kinds))
    return tuple(Fault(kind=kind, at=chance.randrange(points[POINT_OF[kind]])) for kind in chosen)
