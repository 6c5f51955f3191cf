"""What Linux says about a process and a directory, at one moment."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KILO: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at one process.

    Attributes:
        who: whose process it is.
        process: its id.
        at: seconds since the soak began.
        resident: bytes of resident memory (RSS), what is shared with others included.
        proportional: the same with what is shared divided among those who share it (PSS); it
            falls when another process comes that shares.
        anonymous: the part of it that is no file's: heaps and stacks.
        descriptors: open ones.
        threads: of the process.
    """

    who: str
    process: int
    at: float
    resident: int
    proportional: int
    anonymous: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at one directory.

    Attributes:
        who: whose it is.
        plans: that had ended.
        sizes: bytes of every file below it, by its path from there.
    """

    who: str
    plans: int
    sizes: dict[str, int]


def sample_of(who: str, process: int, at: float) -> Sample | None:
    """Returns what a process holds now, None if it has ended."""
    place = Path(f"/proc/{process}")
    with suppress(OSError):
        status = (place / "status").read_text()
        parts = (place / "smaps_rollup").read_text()
        resident = _number("VmRSS", status)
        if resident:
            return Sample(
                who=who,
                process=process,
                at=at,
                resident=resident * _KILO,
                proportional=_number("Pss", parts) * _KILO,
                anonymous=_number("Anonymous", parts) * _KILO,
                descriptors=len(list((place / "fd").iterdir())),
                threads=_number("Threads", status),
            )
    return None


def _number(name: str, text: str) -> int:
    found = re.search(rf"(?m)^{name}:\s+(\d+)", text)
    return 0 if found is None else int(found[1])


def look_at(who: str, directory: Path, plans: int) -> Look:
    """Returns the size of every file below a directory; one that just goes is not there."""
    sizes = {}
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                sizes[str(path.relative_to(directory))] = path.stat().st_size
    return Look(who=who, plans=plans, sizes=sizes)


def load() -> float:
    """Returns how many processes wanted to run, over the last minute, on the whole machine."""
    return float(Path("/proc/loadavg").read_text().split()[0])
