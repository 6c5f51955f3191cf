"""Progress of a training for people: one bar on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from server.training import Progress


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
