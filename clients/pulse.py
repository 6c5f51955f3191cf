"""What an institution's process knows of its own state, for those who watch it.

The main loop writes, other threads read; nobody ever waits for anybody. What is written are whole
values, one assignment each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from federation.privacy.ledger_rules import Balance

TURN_SECONDS: Final = 600.0
"""A loop that has not turned for so long is stuck: a turn may carry a large message over a slow
line, and gives up on each request after some minutes."""

CONTACT_SECONDS: Final = 30.0
"""Longer without the coordinator is worth somebody's attention; it is asked five times a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where ledger and snapshot stood when the main loop looked last.

    Attributes:
        sequence: entries in the ledger.
        balance: of the ledger; None if it cannot be used.
        trouble: why it cannot be used, empty if it can.
        is_prepared: whether a snapshot is there, for the next plan or the one under way.
    """

    sequence: int
    balance: Balance | None
    trouble: str
    is_prepared: bool


class Pulse:
    """The state of one process; starts alive, with everything still to be found out."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Starts now.

        Args:
            now: seconds on a clock that never goes back.
        """
        self._now = now
        self._turned_at = now()
        self._contact_at: float | None = None
        self._work = ""
        self._standing: Standing | None = None
        self._is_stopping = False

    # The main loop writes.

    def turned(self, reached: bool) -> None:
        """Notes a turn of the loop, and whether the coordinator's SuperLink was reached."""
        self._turned_at = self._now()
        if reached:
            self._contact_at = self._turned_at

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Notes that something is done that may take long."""
        self._work = what
        try:
            yield
        finally:
            self._turned_at = self._now()
            self._work = ""

    def stands(self, standing: Standing) -> None:
        """Notes where ledger and snapshot stand."""
        self._standing = standing

    def stops(self) -> None:
        """Notes that the process was told to end."""
        self._is_stopping = True

    # Others read.

    @property
    def standing(self) -> Standing | None:
        """What was noted last."""
        return self._standing

    @property
    def contact_age(self) -> float | None:
        """Seconds since the SuperLink answered last, None if it never has."""
        at = self._contact_at
        return None if at is None else self._now() - at

    @property
    def is_connected(self) -> bool:
        """Whether the SuperLink answered lately; while an answer is made, nobody asks it."""
        age = self.contact_age
        return age is not None and (age <= CONTACT_SECONDS or bool(self._work))

    def why_dead(self) -> tuple[str, ...]:
        """Returns why this process should be started anew; empty if it should not.

        Work that is under way counts as life, however long it takes: how long depends on how many
        people an institution has.
        """
        still = self._now() - self._turned_at
        if still <= TURN_SECONDS or self._work:
            return ()
        return (f"the main loop has not turned for {still:.0f} seconds",)

    def why_not_ready(self) -> tuple[str, ...]:
        """Returns why an invitation would not be answered well now; empty if it would."""
        reasons = list(self.why_dead())
        standing = self._standing
        if self._is_stopping:
            reasons.append("it was told to stop")
        if standing is None:
            reasons.append(f"it is starting: {self._work or 'opening its state'}")
            return tuple(reasons)
        if standing.trouble:
            reasons.append(f"the ledger cannot be used: {standing.trouble}")
        if not standing.is_prepared:
            reasons.append("no snapshot of the table is prepared")
        age = self.contact_age
        if age is None:
            reasons.append("the coordinator has not been reached yet")
        elif not self.is_connected:
            reasons.append(f"the coordinator has not been reached for {age:.0f} seconds")
        return tuple(reasons)
