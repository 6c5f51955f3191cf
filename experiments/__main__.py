"""The experiments' command line.

python -m experiments list                     what there is, and what it answers
python -m experiments run NAME [--quick]       answers it; --quick: seconds, on data that is here
python -m experiments report                   draws all plots and prints all tables again
python -m experiments prepare NAME ORIGINAL    makes a data set's file from its public original
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from experiments import prepare as preparing
from experiments.cache import Cache
from experiments.catalogue import EXPERIMENTS
from experiments.datasets import DATASETS, VARIABLE, is_here
from experiments.experiment import RESULTS
from federation.errors import ConfigurationError, FedscoreError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command("list")
def list_all() -> None:
    """Show experiments and data sets."""
    shown = Table("name", "question", "minutes", "result", title="Experiments")
    for one in EXPERIMENTS.values():
        there = "yes" if (RESULTS / f"{one.name}.json").exists() else "not yet"
        shown.add_row(one.name, one.question, str(one.minutes), there)
    Console().print(shown)
    sets = Table("name", "title", "here", "where a user gets it", "terms", title="Data sets")
    for data in DATASETS.values():
        there = "yes" if is_here(data) else f"not in {VARIABLE}"
        sets.add_row(data.name, data.title, there, data.original, data.terms)
    Console().print(sets)


@app.command()
def run(
    name: str,
    quick: Annotated[
        bool, typer.Option(help="A small version, seconds, on synthetic or shipped data.")
    ] = False,
) -> None:
    """Run an experiment, from the cache where nothing changed, and write its result."""
    if name not in EXPERIMENTS:
        raise ConfigurationError(f"No experiment {name!r}. There are: {', '.join(EXPERIMENTS)}.")
    one = EXPERIMENTS[name]
    found, plot = one.execute(quick=quick, cache=Cache())
    if quick:
        print("A small version, to see that everything runs: its figures mean nothing.\n")
    _show(one.name, found)
    print(f"\nPlot: {plot}")


@app.command()
def report() -> None:
    """Draw all plots and print all tables again, from the committed results."""
    for one in EXPERIMENTS.values():
        found = one.load()
        _show(one.name, found)
        print(f"Plot: {one.draw(found, quick=False)}\n")


@app.command()
def prepare(name: str, original: Path) -> None:
    """Make a data set's file from its public original, in the directory of FEDSCORE_DATA."""
    if name not in DATASETS:
        raise ConfigurationError(f"No data set {name!r}. There are: {', '.join(DATASETS)}.")
    print(preparing.prepare(DATASETS[name], original))


def _show(name: str, found: object) -> None:
    for block, table in EXPERIMENTS[name].tables.items():
        try:
            print(f"{block}\n\n{table(found)}\n")
        except ConfigurationError as error:
            print(f"{block}: {error}")


def main() -> int:
    """Runs a command; returns the exit status."""
    try:
        app()
    except FedscoreError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
