"""What a soak shows: figures of what was seen, and which of them are not allowed.

A trend is the straight line of least squares through the samples after the warm-up. Its standard
error takes them for independent, which neighbours in time are not quite: it is a lower bound.
"""

import math
import re
from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Final

import msgspec

from tests.soak.sampling import Look, Sample
from tests.soak.site import Ran, Seen

WARM_UP_SECONDS: Final = 120.0
MOST_GROWTH: Final = 8e6
"""Bytes by which the line of a daemon's resident memory may rise from the warm-up to the end."""
MOST_MORE: Final = 2
"""Descriptors or threads by which the median may rise from the first quarter to the last."""
LEAST_SAMPLES: Final = 20
"""After the warm-up; of fewer there is no trend."""
_HOUR: Final = 3600.0
_MEGA: Final = 1e6


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """How much files of one kind may grow.

    Attributes:
        who: "institution", "coordinator" or "logs".
        kind: of files, for people.
        pattern: of their paths; the first bound that fits a file counts.
        a_plan: bytes that each plan may add for good.
        at_most: bytes that there may be beside that, at any time.
    """

    who: str
    kind: str
    pattern: str
    a_plan: int
    at_most: int


_NO_MORE: Final = 0
BOUNDS: Final = (
    Bound(
        who="institution",
        kind="write-ahead logs and their indices",  # SQLite starts them again at 1000 pages
        pattern=r".*\.sqlite-(wal|shm)",
        a_plan=_NO_MORE,
        at_most=10_000_000,
    ),
    Bound(
        who="institution",
        kind="ledger",
        pattern=r"ledger\.sqlite",
        a_plan=16_384,
        at_most=65_536,
    ),
    Bound(
        who="institution",
        kind="records",
        pattern=r"records\.sqlite",
        a_plan=8_192,
        at_most=1_000_000,
    ),
    Bound(
        who="institution",
        kind="releases",
        pattern=r"releases/.*",
        a_plan=32_768,
        at_most=_NO_MORE,
    ),
    Bound(
        who="institution",
        kind="snapshot, keys and all else",
        pattern=r".*",
        a_plan=_NO_MORE,
        at_most=1_000_000,
    ),
    Bound(
        who="coordinator",
        kind="trainings",
        pattern=r"trainings/.*",
        a_plan=131_072,
        at_most=_NO_MORE,
    ),
    Bound(
        who="coordinator",
        kind="SuperLink and front, logs and files",
        pattern=r"superlink/.*",
        a_plan=_NO_MORE,
        at_most=65_536,
    ),
    Bound(
        who="coordinator",
        kind="keys, cards and all else",
        pattern=r".*",
        a_plan=_NO_MORE,
        at_most=65_536,
    ),
    Bound(
        who="logs", kind="log of a daemon", pattern=r"bank-00\.log", a_plan=2_048, at_most=4_096
    ),
    Bound(
        who="logs", kind="log of the coordinator", pattern=r"coordinator\.log", a_plan=2_048,
        at_most=4_096,
    ),
)  # fmt: skip


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """How something went over the time after the warm-up.

    Attributes:
        early: at the end of the warm-up (median of a tenth of the samples).
        half: in the middle.
        end: at the end.
        an_hour: slope of the line.
        error: its standard error.
        risen: by how much the line has risen in all.
    """

    early: float
    half: float
    end: float
    an_hour: float
    error: float
    risen: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon over the soak.

    Attributes:
        resident: megabytes of RSS; None if the soak was too short for a trend.
        proportional: megabytes of PSS; likewise.
        anonymous: megabytes of heaps and stacks; likewise.
        descriptors: least, median early, median late, most.
        threads: likewise.
    """

    resident: Trend | None
    proportional: Trend | None
    anonymous: Trend | None
    descriptors: tuple[float, float, float, float]
    threads: tuple[float, float, float, float]


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Files of one kind over the soak.

    Attributes:
        bound: what is allowed.
        number: of files, after the first plan and at the end.
        before: bytes before the first plan.
        first: bytes after the first plan.
        half: bytes after half of the plans.
        end: bytes when all processes had ended.
        most: bytes at any look.
        a_plan: bytes that each plan has added, on average.
    """

    bound: Bound
    number: tuple[int, int]
    before: int
    first: int
    half: int
    end: int
    most: int
    a_plan: float


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How fast it went in one quarter of the plans.

    Attributes:
        plan: seconds of a plan, from the start of its process to the end.
        accepted: seconds until all have accepted, once the SuperLink was up.
        round: seconds of a training round.
        rounds_a_minute: training rounds.
    """

    plan: float
    accepted: float
    round: float
    rounds_a_minute: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a soak.

    Attributes:
        seconds: it took.
        plans: that gave a release.
        rounds: of training, in all.
        first: the first quarter of the plans.
        last: the last quarter.
        memory: of each daemon.
        peaks: megabytes of RSS at most in a plan: coordinator, SuperLink and front, in the first
            and in the last quarter of the plans.
        files: of each kind; for institutions those of the first one.
        load: of the machine: mean and most.
        exits: exit codes of the daemons.
        problems: what is not allowed, in words; empty if all is well.
    """

    seconds: float
    plans: int
    rounds: int
    first: Times
    last: Times
    memory: dict[str, Memory]
    peaks: dict[str, tuple[float, float]]
    files: tuple[Files, ...]
    load: tuple[float, float]
    exits: dict[str, int]
    problems: tuple[str, ...]


def report_of(seen: Seen) -> Report:
    """Returns the figures of a soak in which one plan at least was done."""
    done = [one for one in seen.plans if one.trained is not None]
    memory = {
        name: _memory([one for one in seen.samples if one.who == name]) for name in seen.names
    }
    files = tuple(_files(bound, seen) for bound in BOUNDS)
    quarter = max(len(done) // 4, 1)
    return Report(
        seconds=seen.seconds,
        plans=len(done),
        rounds=sum(one.rounds for one in done),
        first=_times(done[:quarter]),
        last=_times(done[-quarter:]),
        memory=memory,
        peaks={
            who: (
                _peak(who, done[:quarter], seen.samples),
                _peak(who, done[-quarter:], seen.samples),
            )
            for who in ("coordinator", "SuperLink", "front")
        },
        files=files,
        load=(mean(seen.loads), max(seen.loads)),
        exits=seen.exits,
        problems=tuple(_problems(seen, memory, files)),
    )


def trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """Returns the trend of values over seconds, None for fewer than LEAST_SAMPLES of them."""
    number = len(points)
    if number < LEAST_SAMPLES:
        return None
    values = [value for _, value in points]
    middle, level = mean(at for at, _ in points), mean(values)
    spread = sum((at - middle) ** 2 for at, _ in points)
    slope = sum((at - middle) * (value - level) for at, value in points) / spread
    off = sum((value - level - slope * (at - middle)) ** 2 for at, value in points)
    tenth = max(number // 10, 1)
    about = (number - tenth) // 2
    return Trend(
        early=median(values[:tenth]),
        half=median(values[about : about + tenth]),
        end=median(values[-tenth:]),
        an_hour=slope * _HOUR,
        error=math.sqrt(off / (number - 2) / spread) * _HOUR,
        risen=slope * (points[-1][0] - points[0][0]),
    )


def _memory(samples: Sequence[Sample]) -> Memory:
    warm = [one for one in samples if one.at >= WARM_UP_SECONDS]
    return Memory(
        resident=trend([(one.at, one.resident / _MEGA) for one in warm]),
        proportional=trend([(one.at, one.proportional / _MEGA) for one in warm]),
        anonymous=trend([(one.at, one.anonymous / _MEGA) for one in warm]),
        descriptors=_counts(warm or samples, lambda one: one.descriptors),
        threads=_counts(warm or samples, lambda one: one.threads),
    )


def _counts(
    samples: Sequence[Sample], of: Callable[[Sample], int]
) -> tuple[float, float, float, float]:
    values = [of(one) for one in samples]
    quarter = max(len(values) // 4, 1)
    return min(values), median(values[:quarter]), median(values[-quarter:]), max(values)


def _times(plans: Sequence[Ran]) -> Times:
    rounds = sum(one.rounds for one in plans)
    return Times(
        plan=mean(one.seconds for one in plans),
        accepted=mean(one.seconds_of("accepted") for one in plans),
        round=sum(one.seconds_of("round") for one in plans) / rounds,
        rounds_a_minute=60 * rounds / sum(one.seconds for one in plans),
    )


def _peak(who: str, plans: Sequence[Ran], samples: Sequence[Sample]) -> float:
    """Returns the mean over plans of the most that a process of theirs held, in megabytes."""
    peaks = []
    for plan in plans:
        end = plan.at + plan.seconds
        held = [one.resident for one in samples if one.who == who and plan.at <= one.at <= end]
        if held:
            peaks.append(max(held) / _MEGA)
    return mean(peaks) if peaks else 0.0


def _files(bound: Bound, seen: Seen) -> Files:
    who = seen.names[0] if bound.who == "institution" else bound.who
    looks = [one for one in seen.looks if one.who == who]
    sizes = [_of_kind(bound, one) for one in looks]
    totals = [sum(one) for one in sizes]
    plans = looks[-1].plans
    return Files(
        bound=bound,
        number=(len(sizes[1]), len(sizes[-1])),
        before=totals[0],
        first=totals[1],
        half=totals[1 + plans // 2],
        end=totals[-1],
        most=max(totals),
        a_plan=(totals[-1] - totals[0]) / plans,
    )


def _of_kind(bound: Bound, look: Look) -> list[int]:
    """Returns the bytes of each file that this bound is the first to fit."""
    return [size for path, size in look.sizes.items() if _bound_of(bound.who, path) is bound]


def _bound_of(who: str, path: str) -> Bound | None:
    fitting = (one for one in BOUNDS if one.who == who and re.fullmatch(one.pattern, path))
    return next(fitting, None)


def _problems(seen: Seen, memory: dict[str, Memory], files: Sequence[Files]) -> Sequence[str]:
    found = [seen.failure] if seen.failure else []
    found += [f"{name} ended with {code}" for name, code in seen.exits.items() if code]
    found += [f"a temporary file was left: {one}" for one in seen.left]
    for name, one in memory.items():
        if one.resident is not None and one.resident.risen * _MEGA > MOST_GROWTH:
            found.append(
                f"the memory of {name} has grown by {one.resident.risen:.1f} MB, "
                f"{MOST_GROWTH / _MEGA:.0f} are allowed"
            )
        for what, counts in (("descriptors", one.descriptors), ("threads", one.threads)):
            if counts[2] - counts[1] > MOST_MORE:
                found.append(f"{name} had {counts[1]:g} {what} early and {counts[2]:g} late")
    plans = len(seen.plans)
    for kind in files:
        allowed = kind.bound.at_most + kind.bound.a_plan * plans
        if kind.most > allowed:
            found.append(
                f"{kind.bound.who}, {kind.bound.kind}: {kind.most:,} bytes after {plans} plans, "
                f"{allowed:,} are allowed"
            )
        if not kind.bound.a_plan and kind.number[1] > kind.number[0]:
            found.append(f"{kind.bound.who}, {kind.bound.kind}: there are more and more files")
    return found
