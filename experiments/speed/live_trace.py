"""What the time of one thread goes to: named parts, measured around functions of the product.

Nothing of this is in the product. A part's time excludes that of the parts within it, so that all
parts and what is left over add up to the time that passed.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

_main: Final = threading.main_thread()


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time had gone by one moment.

    Attributes:
        at: seconds of the clock that all processes of a machine share.
        seconds: of each part until then.
        calls: likewise, how often it began.
    """

    at: float
    seconds: dict[str, float]
    calls: dict[str, int]


class Trace:
    """The main thread's parts so far; of other threads it is counted how often they begin one."""

    def __init__(self) -> None:
        """Starts with nothing measured."""
        self.marks: list[Mark] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._calls: defaultdict[str, int] = defaultdict(int)
        self._within = [0.0]
        self._counting = threading.Lock()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time within, less that of parts within it, towards a part."""
        if threading.current_thread() is not _main:
            with self._counting:
                self._calls[name] += 1
            yield
            return
        started = time.monotonic()
        self._within.append(0.0)
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self._seconds[name] += seconds - self._within.pop()
            with self._counting:
                self._calls[name] += 1
            self._within[-1] += seconds

    def mark(self) -> None:
        """Notes where the time has gone by now; only outside of all parts is nothing missed."""
        with self._counting:
            calls = dict(self._calls)
        self.marks.append(Mark(at=time.monotonic(), seconds=dict(self._seconds), calls=calls))

    def around(
        self, function: Callable[..., Any], name: str | Callable[..., str]
    ) -> Callable[..., Any]:
        """Returns the function, its time counted.

        Args:
            function: of the product.
            name: of the part, or what names it, from the function's arguments.
        """

        def measured(*arguments: object, **named: object) -> object:
            part = name if isinstance(name, str) else name(*arguments, **named)
            with self.part(part):
                return function(*arguments, **named)

        return measured

    def wrap(self, place: object, attribute: str, name: str | Callable[..., str]) -> None:
        """Puts the measured function in the place of a module's or a class's own."""
        setattr(place, attribute, self.around(getattr(place, attribute), name))


def between(marks: tuple[Mark, ...], start: float, end: float) -> tuple[float, Mark]:
    """Returns what passed from the first mark after `start` to the first one after `end`.

    Returns:
        Seconds in all, and the parts of them.
    """
    first = next(one for one in marks if one.at >= start)
    last = next((one for one in marks if one.at >= end), marks[-1])
    return last.at - first.at, Mark(
        at=last.at,
        seconds={name: all_ - first.seconds.get(name, 0.0) for name, all_ in last.seconds.items()},
        calls={name: all_ - first.calls.get(name, 0) for name, all_ in last.calls.items()},
    )
