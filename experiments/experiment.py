"""What an experiment is, and what it is handed when it runs."""

import multiprocessing
import os
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

from experiments.cache import ROOT, Cache
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
        made_from: all that the result depends on; plain values that JSON can hold.
        compute: a function of a module, which another process can import.
        arguments: of it, which pickle can carry.
    """

    made_from: Mapping[str, object]
    compute: Callable[..., T]
    arguments: tuple[object, ...]


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
        found = self.cache.remember(made_from, kind, compute)
        self.advance()
        return found

    def steps(self, kind: type[T], works: Sequence[Work[T]]) -> list[T]:
        """Returns many results in the order of the works, computed on all cores.

        What is in the cache is not computed; what is computed is in the cache at once, so that a
        run that was broken off goes on where it stopped. Not for times: works share the machine.
        """
        found: dict[int, T] = {}
        missing = []
        for place, work in enumerate(works):
            known = self.cache.recall(work.made_from, kind)
            if known is None:
                missing.append(place)
            else:
                found[place] = known
                self.advance()
        workers = min(len(os.sched_getaffinity(0)), len(missing))
        if workers:
            context = multiprocessing.get_context("forkserver")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                waiting = {
                    pool.submit(works[place].compute, *works[place].arguments): place
                    for place in missing
                }
                for done in as_completed(waiting):
                    place = waiting[done]
                    found[place] = self.cache.remember(works[place].made_from, kind, done.result)
                    self.advance()
        return [found[place] for place in range(len(works))]

    def last(self, kind: type[R]) -> R | None:
        """Returns the committed result of this experiment, None if there is none."""
        path = RESULTS / f"{self.name}.json"
        return _read(path, kind) if path.exists() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment(Generic[R]):
    """A question with a command that answers it.

    Attributes:
        name: as commands take it.
        question: for people.
        promise: what its epsilons mean: whose, at what delta, between which neighbours, against
            whom; NO_EPSILON if it shows none.
        minutes: of a first run on two cores, roughly; later runs take it from the cache.
        kind: of the result.
        run: answers it.
        answer: one sentence, made from the result.
        tables: Markdown tables made from the result, by block name.
        plot: draws the result.
    """

    name: str
    question: str
    promise: str
    minutes: int
    kind: type[R]
    run: Callable[[Setting], R]
    answer: Callable[[R], str]
    tables: Mapping[str, Callable[[R], str]]
    plot: Callable[[R], Figure]

    def load(self) -> R:
        """Returns the committed result.

        Raises:
            ConfigurationError: there is none yet, or it is of another version.
        """
        path = RESULTS / f"{self.name}.json"
        if not path.exists():
            raise ConfigurationError(
                f"There is no result yet: python -m experiments run {self.name}."
            )
        return _read(path, self.kind)

    def execute(self, *, quick: bool, cache: Cache) -> tuple[R, Path]:
        """Runs, writes the result and its plot, and returns both."""
        with Setting(name=self.name, quick=quick, cache=cache) as setting:
            found = self.run(setting)
        results = OUTPUT / "quick" if quick else RESULTS
        results.mkdir(parents=True, exist_ok=True)
        content = msgspec.json.format(msgspec.json.encode(found), indent=1)
        unfinished = results / f"{self.name}.json.unfinished"
        unfinished.write_bytes(content + b"\n")
        unfinished.replace(results / f"{self.name}.json")
        return found, self.draw(found, quick=quick)

    def draw(self, found: R, *, quick: bool) -> Path:
        """Writes the plot of a result and returns where it is."""
        path = OUTPUT / ("quick" if quick else ".") / f"{self.name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.plot(found).savefig(path)
        return path


def _read(path: Path, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"{path.name} is damaged or of another version: python -m experiments run {path.stem}."
        ) from error


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
