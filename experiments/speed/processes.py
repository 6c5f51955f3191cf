"""What running processes hold and use, from Linux' /proc (proc(5))."""

import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

_EVERY_SECONDS: Final = 1.0
_MAPPING: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+)\s*(.*)")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_GONE: Final = (FileNotFoundError, ProcessLookupError, PermissionError)


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of processes held at the moment when it was most, in bytes.

    Attributes:
        once: each page of a file once for all of them, and everything else.
        resident: the sum of what each of them has resident, shared pages counted again.
        processes: how many there were then.
    """

    once: int
    resident: int
    processes: int


def family(roots: Iterable[int]) -> tuple[int, ...]:
    """Returns these processes and all that descend from them and are there."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(*_GONE):
            fields = entry.read_text().rpartition(")")[2].split()
            children[int(fields[1])].append(int(entry.parent.name))
    found = list(roots)
    for one in found:  # grows while it is read
        found += children[one]
    return tuple(found)


def cpu_seconds(processes: Iterable[int]) -> float:
    """Returns what they have used, and those of their children that ended and were waited for."""
    ticks = 0
    for process in processes:
        with suppress(*_GONE):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(one) for one in fields[11:15])
    return ticks / _TICKS


def memory(processes: Iterable[int]) -> Memory:
    """Returns what they hold now."""
    files: dict[str, int] = {}
    private = resident = count = 0
    for process in processes:
        with suppress(*_GONE):
            own: defaultdict[str, int] = defaultdict(int)
            name = ""
            for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
                if found := _MAPPING.fullmatch(line):
                    name = found[2] if found[1] != "0" else ""
                elif line.startswith("Rss:"):
                    own[name] += int(line.split()[1]) * 1024
                elif line.startswith("Anonymous:") and name:  # a page of a file, written to
                    written = int(line.split()[1]) * 1024
                    own[name] -= written
                    own[""] += written
            if own:
                count += 1
                resident += sum(own.values())
                private += own.pop("", 0)
                for file, pages in own.items():
                    files[file] = max(files.get(file, 0), pages)
    return Memory(once=private + sum(files.values()), resident=resident, processes=count)


class MemoryWatch:
    """Looks at groups of processes every second; a context manager."""

    def __init__(self, groups: Mapping[str, Iterable[int]]) -> None:
        """Starts without a look.

        Args:
            groups: the processes from which each group descends.
        """
        self._groups = {name: tuple(roots) for name, roots in groups.items()}
        self.peaks: dict[str, Memory] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        """Returns the watch, looking."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Returns once it has stopped looking."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            for name, roots in self._groups.items():
                found = memory(family(roots))
                peak = self.peaks.get(name)
                if peak is None or found.once > peak.once:
                    self.peaks[name] = found
