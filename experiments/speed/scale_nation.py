"""What a national run would take, from what was measured; each assumption in words beside it."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec

from experiments.speed.growth import Expected, Law
from experiments.speed.scale import Scale
from experiments.speed.scale_parts import BINS, FEATURES, NUMBERS, OF_BINS, ROUNDS, Noise

LARGEST: Final = 10**8
"""People of the largest institution."""

LINE: Final = 100e6
"""Bits a second of an institution's line, each way."""

COORDINATOR_LINE: Final = 1e9
"""Bits a second of the coordinator's line, each way."""

TRIP: Final = 0.1
"""Seconds from an institution to the coordinator and back."""

TRIPS: Final = 4
"""In a round that nobody drops out of: two exchanges, each fetched and answered."""

BAD: Final = 0.05
"""Share of bad people, for the signal."""

_WORD_BYTES: Final = 8


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one party needs.

    Attributes:
        answer: CPU seconds of a round for its people; 0 for the coordinator.
        masks: CPU seconds of a round for masks, signatures and shares.
        other: seconds of a round for ledger, records, envelopes and checks.
        once: CPU seconds before the first round: reading the table, packing, the session.
        sent: bytes in a round.
        received: bytes in a round.
        memory: bytes at the most.
        disk: bytes.
    """

    answer: Expected
    masks: Expected
    other: float
    once: Expected
    sent: int
    received: int
    memory: int
    disk: int

    @property
    def seconds(self) -> Expected:
        """Of a round, without waiting for others."""
        both = added((self.answer, self.masks))
        return Expected(
            value=both.value + self.other, low=both.low + self.other, high=both.high + self.other
        )


class Nation(msgspec.Struct, frozen=True, kw_only=True):
    """A national run.

    Attributes:
        plan: its noise.
        even: an institution, if all have equally many people.
        largest: the largest institution.
        coordinator: the coordinator.
        apart: seconds of a round if every party has a machine of its own.
        together: seconds of a round if all parties shared the coordinator's two cores, as in the
            measurement of real processes; an upper bound.
    """

    plan: Noise
    even: Side
    largest: Side
    coordinator: Side
    apart: Expected
    together: Expected

    @property
    def signal(self) -> float:
        """Standard deviation of sampling in a total of a tenth of the people."""
        return math.sqrt(self.plan.people / BINS * BAD * (1 - BAD))


def nation_of(found: Scale) -> Nation:
    """Returns what the largest nation in the result would take."""
    plan = found.noise[-1]
    even = _institution(found, plan.people // plan.institutions)
    largest = _institution(found, LARGEST)
    coordinator = _coordinator(found)
    carrying = _carrying(coordinator, plan.institutions)
    waiting = Expected(
        value=carrying + found.live.polling,
        low=carrying + found.live.polling,
        high=carrying + found.live.polling,
    )
    working = added((largest.seconds, coordinator.seconds))
    return Nation(
        plan=plan,
        even=even,
        largest=largest,
        coordinator=coordinator,
        apart=added((working, waiting)),
        together=added((working, found.live.round.at(plan.institutions))),
    )


def added(parts: Sequence[Expected]) -> Expected:
    """Returns the sum of parts, their intervals added end to end: no wider one is possible."""
    return Expected(
        value=sum(part.value for part in parts),
        low=sum(part.low for part in parts),
        high=sum(part.high for part in parts),
    )


def times(part: Expected, count: float) -> Expected:
    """Returns a multiple of a part."""
    return Expected(value=count * part.value, low=count * part.low, high=count * part.high)


def ranged(values: Sequence[float]) -> Expected:
    """Returns the median of repeats, and the least and the most."""
    return Expected(value=median(values), low=min(values), high=max(values))


def of_repeats(values: Sequence[float], law: Law, size: float) -> Expected:
    """Returns the median of repeats at a size, and how far another measurement may lie.

    Args:
        values: measured at that size.
        law: fitted to this size and others; a single value has its interval of one further
            measurement, stretched to the value itself.
        size: institutions.
    """
    if len(values) > 1:
        return ranged(values)
    (value,) = values
    expected = law.at(size)
    return Expected(value=value, low=min(expected.low, value), high=max(expected.high, value))


def assumptions(found: Scale) -> tuple[str, ...]:
    """Returns what the national figures take for granted."""
    plan = found.noise[-1]
    return (
        f"a scorecard of {FEATURES} features of {BINS} bins each, {NUMBERS} numbers in a total, "
        f"64-bit words; {ROUNDS} rounds and two questions more (bins: {OF_BINS:,} numbers; "
        "evaluation)",
        f"{plan.institutions} institutions of equally many people, one row each, but the largest, "
        f"which has {LARGEST:,}; all of them are taken as trained",
        "every institution has cores like this machine's and uses one of them for an answer; the "
        "coordinator uses one",
        f"nobody drops out or is late; {plan.colluders} may conspire with the coordinator and "
        f"{plan.quorum} must answer",
        "the law of an answer, fitted up to "
        f"{found.step.largest:,.0f} people, goes on beyond; what was packed stays in the system's "
        "cache of files, or its disk is as fast",
        f"lines of {LINE / 1e6:.0f} Mbit/s at institutions and {COORDINATOR_LINE / 1e9:.0f} Gbit/s "
        f"at the coordinator, both ways in turns, and {TRIP:g} s there and back, "
        f"{TRIPS} times a round",
        "polling as in the smallest federation of real processes; ledger, records and envelopes as "
        "in the largest",
        "the upper figure for a round takes the law of real processes, fitted to 3 to "
        f"{found.live.round.largest:.0f} institutions that all shared "
        f"{found.live.cores} cores with the coordinator, to {plan.institutions}",
        "noise: everybody is in the total; the signal is the standard deviation that sampling "
        f"gives the bad people among a tenth of all, {BAD:.0%} of whom are bad",
    )


def _institution(found: Scale, people: int) -> Side:
    masks = found.masking[-1]
    largest = found.answering[-1]
    measured = (*found.answering, *([found.unseen] if found.unseen else []))
    peak = max(peak for one in measured for peak in one.peak_bytes)
    session = Expected(value=masks.session, low=masks.session, high=masks.session)
    return Side(
        answer=found.step.at(people),
        masks=of_repeats(masks.institution, found.institution, masks.institutions),
        other=found.live.other,
        once=added((found.intake.at(people), found.first_pass.at(people), session)),
        sent=masks.sent,
        received=masks.received,
        memory=max(peak, found.live.memory),
        disk=round((largest.packed + largest.snapshot) / largest.people * people),
    )


def _coordinator(found: Scale) -> Side:
    masks, files = found.masking[-1], found.kept[-1]
    nothing = Expected(value=0.0, low=0.0, high=0.0)
    each = files.transcript / files.institutions / files.questions
    return Side(
        answer=nothing,
        masks=of_repeats(masks.coordinator, found.coordinator, masks.institutions),
        other=0.0,
        once=nothing,
        sent=masks.received * masks.institutions,
        received=masks.sent * masks.institutions,
        memory=masks.peak_bytes,
        disk=round(each * masks.institutions * (ROUNDS + 2)),
    )


def _carrying(coordinator: Side, institutions: int) -> float:
    """Returns seconds that a round's bytes are on the way."""
    both = 8 * (coordinator.sent + coordinator.received)
    return both / COORDINATOR_LINE + both / institutions / LINE + TRIPS * TRIP


def bytes_of_training(side: Side) -> tuple[int, int]:
    """Returns bytes that an institution sends and receives in a whole training."""
    more = _WORD_BYTES * (OF_BINS - NUMBERS)
    return side.sent * (ROUNDS + 2) + more, side.received * (ROUNDS + 2)
