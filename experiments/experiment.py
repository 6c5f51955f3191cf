"""What an experiment is, and what it is handed when it runs."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from experiments.cache import ROOT, Cache, digest_of_code
from experiments.provenance import Made, begun, grouped, moved_from
from federation.errors import ConfigurationError

RESULTS: Final = Path(__file__).parent / "results"
"""Committed: the documents' figures are made from these."""

OUTPUT: Final = ROOT / "experiments-output"
"""Not committed: plots, and the results of small versions."""

PERSON: Final = (
    "Epsilon is that of one trained person at one institution, bins and spare attempts included, "
    "at delta 1e-6, against the coordinator and one colluding institution; neighbours add or "
    "remove all rows of that person at that institution."
)
NO_EPSILON: Final = "Nothing here rests on an epsilon."

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(Generic[T]):
    """One result to compute, perhaps in another process.

    Attributes:
        made_from: all that the result depends on but code; plain values that JSON can hold.
        compute: a function of a module, which another process can import.
        arguments: of it, which pickle can carry.
    """

    made_from: Mapping[str, object]
    compute: Callable[..., T]
    arguments: tuple[object, ...]


def _end_with_parent() -> None:
    """Lets a worker end when the run is killed: it would wait for more work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@dataclass(slots=True, kw_only=True)
class Setting:
    """One run of an experiment.

    Attributes:
        name: of the experiment.
        quick: whether to run a small version, of seconds, on data that is always here.
        cache: of single results.
    """

    name: str
    quick: bool
    cache: Cache
    _bar: Progress = field(
        default_factory=lambda: Progress(*_columns(), console=Console(stderr=True)), repr=False
    )
    _steps: list[Mapping[str, object]] = field(default_factory=list, repr=False)
    _recalled: int = 0
    _kept_from: str | None = None

    def __enter__(self) -> "Setting":
        self._bar.start()
        self._bar.add_task(self.name, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def expect(self, steps: int) -> None:
        """Tells how many steps there will be, for the bar."""
        self._bar.update(self._bar.task_ids[0], total=steps)

    def advance(self) -> None:
        """Moves the bar by one step whose result is not kept, as times never are."""
        self._bar.advance(self._bar.task_ids[0])

    def step(self, made_from: Mapping[str, object], kind: type[T], compute: Callable[[], T]) -> T:
        """Returns one result, from the cache if it is there, and moves the bar."""
        key = _key(made_from, compute)
        known = self.cache.recall(key, kind)
        self._note(key, recalled=known is not None)
        found = self.cache.keep(key, compute()) if known is None else known
        self.advance()
        return found

    def steps(self, kind: type[T], works: Sequence[Work[T]]) -> list[T]:
        """Returns many results in the order of the works, computed on all cores.

        What is in the cache is not computed; what is computed is in the cache at once, so that a
        run that was broken off goes on where it stopped. Not for times: works share the machine.
        A small version computes here: a process takes longer to start than it has to work.
        """
        found: dict[int, T] = {}
        missing = []
        keys = [_key(work.made_from, work.compute) for work in works]
        for place, key in enumerate(keys):
            known = self.cache.recall(key, kind)
            self._note(key, recalled=known is not None)
            if known is None:
                missing.append(place)
            else:
                found[place] = known
                self.advance()
        if self.quick:
            for place in missing:
                work = works[place]
                found[place] = self.cache.keep(keys[place], work.compute(*work.arguments))
                self.advance()
        elif missing:
            self._on_all_cores(works, keys, missing, found)
        return [found[place] for place in range(len(works))]

    def _on_all_cores(
        self,
        works: Sequence[Work[T]],
        keys: Sequence[Mapping[str, object]],
        missing: Sequence[int],
        found: dict[int, T],
    ) -> None:
        """Computes the works at the missing places, and puts what they give into `found`."""
        workers = min(len(os.sched_getaffinity(0)), len(missing))
        context = multiprocessing.get_context("forkserver")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
        waiting = {
            pool.submit(works[place].compute, *works[place].arguments): place for place in missing
        }
        try:
            for done in as_completed(waiting):
                found[waiting[done]] = self.cache.keep(keys[waiting[done]], done.result())
                self.advance()
        finally:
            # Broken off, it begins no other work, and keeps what is done.
            pool.shutdown(cancel_futures=True)
            for done, place in waiting.items():
                if place not in found and not done.cancelled() and done.exception() is None:
                    self.cache.keep(keys[place], done.result())

    def _note(self, made_from: Mapping[str, object], *, recalled: bool) -> None:
        self._steps.append(made_from)
        self._recalled += recalled

    def last(self, kind: type[R]) -> R | None:
        """Returns the committed result of this experiment, None if there is none.

        The new result says that parts of it are older.
        """
        last = read_result(self.name, kind)
        if last is None:
            return None
        self._kept_from = (last.made and (last.made.kept_from or last.made.commit)) or "unknown"
        return last.found

    def made(self, start: Made, seconds: float) -> Made:
        """Returns how the result of this run came about.

        Args:
            start: what was known when it began.
            seconds: since then.
        """
        return msgspec.structs.replace(
            start,
            changed=None if start.changed is None else start.changed or moved_from(start),
            seconds=seconds,
            computed=len(self._steps) - self._recalled,
            recalled=self._recalled,
            steps=grouped(self._steps),
            kept_from=self._kept_from,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Generic[R]):
    """What lies in one file of results.

    Attributes:
        made: how it came about; None if it is older than this record.
        found: the figures.
    """

    made: Made | None
    found: R

    @property
    def minutes(self) -> str:
        """Minutes of the run that made it, for people; "?" if it does not say."""
        if self.made is None:
            return "?"
        least = "at least " if self.made.recalled else ""
        return f"{least}{self.made.seconds / 60:.1f}"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    made: Made | None
    found: msgspec.Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment(Generic[R]):
    """A question with a command that answers it.

    Attributes:
        name: as commands take it.
        question: for people.
        promise: what its epsilons mean: whose, at what delta, between which neighbours, against
            whom; NO_EPSILON if it shows none.
        kind: of the result.
        run: answers it.
        answer: one sentence, made from the result.
        tables: Markdown tables made from the result, by block name.
        plot: draws the result.
        once: whether a second look would spoil it: `run --all` keeps a result that is there.
    """

    name: str
    question: str
    promise: str
    kind: type[R]
    run: Callable[[Setting], R]
    answer: Callable[[R], str]
    tables: Mapping[str, Callable[[R], str]]
    plot: Callable[[R], Figure]
    once: bool = False

    def result(self) -> Result[R] | None:
        """Returns the committed result with its provenance, as `read_result` does."""
        return read_result(self.name, self.kind)

    def load(self) -> R:
        """Returns the figures of the committed result.

        Raises:
            ConfigurationError: there is none yet, or it is of another version.
        """
        result = self.result()
        if result is None:
            raise ConfigurationError(
                f"There is no result yet: python -m experiments run {self.name}."
            )
        return result.found

    def execute(self, *, quick: bool, cache: Cache) -> tuple[R, Path]:
        """Runs, writes the result and its plot, and returns both."""
        start, clock = begun(), time.perf_counter()
        with Setting(name=self.name, quick=quick, cache=cache) as setting:
            found = self.run(setting)
        made = setting.made(start, time.perf_counter() - clock)
        write_result(OUTPUT / "quick" if quick else RESULTS, self.name, made, found)
        return found, self.draw(found, quick=quick)

    def draw(self, found: R, *, quick: bool) -> Path:
        """Writes the plot of a result and returns where it is."""
        path = OUTPUT / ("quick" if quick else ".") / f"{self.name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.plot(found).savefig(path)
        return path


def _key(made_from: Mapping[str, object], compute: Callable[..., object]) -> dict[str, object]:
    """Returns what a step is kept by."""
    return {**made_from, "code": digest_of_code(compute)}


def write_result(directory: Path, name: str, made: Made, found: msgspec.Struct) -> None:
    """Writes a file of results, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode({"made": made, "found": found}), indent=1)
    unfinished = directory / f"{name}.json.unfinished"
    unfinished.write_bytes(content + b"\n")
    unfinished.replace(directory / f"{name}.json")


def has_result(name: str) -> bool:
    """Returns whether there is a committed result of an experiment, damaged or not."""
    return (RESULTS / f"{name}.json").exists()


def read_result(name: str, kind: type[R]) -> Result[R] | None:
    """Returns a committed result, None if there is none.

    Raises:
        ConfigurationError: it is of another version.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        return Result(made=file.made, found=msgspec.json.decode(file.found, type=kind))
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"{path.name} is damaged or of another version: python -m experiments run {name}."
        ) from error


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
