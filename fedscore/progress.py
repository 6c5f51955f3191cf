"""Progress of a training for people: one bar on standard error, and what took how long."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from server.training import Progress


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a training, and how long after the step before.

    Attributes:
        step: as `server.training.Progress` names it.
        number: likewise.
        answers: likewise.
        seconds: since the step before, or since the SuperLink was up.
    """

    step: str
    number: int
    answers: int
    seconds: float


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a training.

    Attributes:
        directory: its plan, roster, transcript and release.
        release: digest of the release.
        seconds: from the first invitation to the release.
        steps: in order.
    """

    directory: str
    release: str
    seconds: float
    steps: tuple[Step, ...]

    @property
    def seconds_per_round(self) -> float:
        """The mean over all training rounds, what they were asked once more included; else 0."""
        rounds = [one for one in self.steps if one.step in ("round", "retry")]
        number = sum(one.step == "round" for one in rounds)
        return sum(one.seconds for one in rounds) / number if number else 0.0


@contextmanager
def watching(title: str, rounds: int) -> Iterator[Callable[[Progress], None]]:
    """Yields a function that shows what a training reports.

    Args:
        title: what is being trained.
        rounds: of the plan.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rounds {task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=rounds, note="")

        def show(progress: Progress) -> None:
            match progress.step:
                case "round":
                    bar.update(
                        task, completed=progress.number, note=f"({progress.answers} answered)"
                    )
                case "accepted":
                    bar.update(task, note=f"({progress.number} of {progress.of} take part)")
                case "retry":
                    bar.update(task, note=f"(round {progress.number + 1} is asked once more)")
                case _:
                    bar.update(task, note=f"({progress.step})")

        yield show
