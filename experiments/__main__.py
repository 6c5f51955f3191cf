"""The experiments' command line.

python -m experiments list                     what there is, and what it answers
python -m experiments run NAME... [--quick]    answers it; --quick: seconds, on data that is here
python -m experiments run --all [--quick]      answers everything, one after the other
python -m experiments report                   one page with everything that was answered
python -m experiments prepare NAME ORIGINAL    makes a data set's file from its public original
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from experiments import prepare as preparing
from experiments.cache import CACHE, Cache
from experiments.catalogue import EXPERIMENTS
from experiments.datasets import DATASETS, VARIABLE, is_here
from experiments.experiment import Experiment, has_result
from experiments.report import PAGE, write_report
from federation.errors import ConfigurationError, FedscoreError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command("list")
def list_all() -> None:
    """Show experiments and data sets."""
    shown = Table("name", "question", "minutes it took", title="Experiments")
    for one in EXPERIMENTS.values():
        shown.add_row(one.name, one.question, _took(one))
    Console().print(shown)
    sets = Table("name", "title", "here", "where a user gets it", "terms", title="Data sets")
    for data in DATASETS.values():
        there = "yes" if is_here(data) else f"not in {VARIABLE}"
        sets.add_row(data.name, data.title, there, data.original, data.terms)
    Console().print(sets)


@app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All experiments, in order.")] = False,
    quick: Annotated[
        bool, typer.Option(help="A small version, seconds, on synthetic or shipped data.")
    ] = False,
) -> None:
    """Run experiments, from the cache where nothing changed, and write their results.

    Broken off and begun again, a run goes on where it stopped. Several experiments run one after
    the other, each in a process of its own; one that fails does not keep the others from running.
    What may be looked at once only, --all runs if it has no result yet.
    """
    wanted = list(EXPERIMENTS) if everything else names or []
    unknown = [name for name in wanted if name not in EXPERIMENTS]
    if unknown or not wanted:
        said = f"No experiment {', '.join(unknown)}" if unknown else "Name experiments, or --all"
        raise ConfigurationError(f"{said}. There are: {', '.join(EXPERIMENTS)}.")
    if len(wanted) == 1:
        _run_here(wanted[0], quick=quick)
        return
    if everything and not quick:
        kept = [name for name in wanted if EXPERIMENTS[name].once and has_result(name)]
        wanted = [name for name in wanted if name not in kept]
        for name in kept:
            print(f"== {name}: kept, as it may be looked at once only", flush=True)
    start, failed = time.perf_counter(), []
    for name in wanted:
        print(f"== {name}", flush=True)
        options = ["--quick"] if quick else []
        done = subprocess.run(
            [sys.executable, "-m", "experiments", "run", name, *options], check=False
        )
        if done.returncode:
            failed.append(name)
    minutes = (time.perf_counter() - start) / 60
    print(f"{len(wanted) - len(failed)} of {len(wanted)} experiments ran, {minutes:.1f} minutes.")
    if failed:
        raise ConfigurationError(f"Failed, see above: {', '.join(failed)}.")


@app.command()
def report() -> None:
    """Make one page of all committed results: tables, plots, and how each was made."""
    shown = write_report(EXPERIMENTS.values(), PAGE)
    print(f"{shown} of {len(EXPERIMENTS)} experiments have a result: {PAGE}")


@app.command()
def prepare(name: str, original: Path) -> None:
    """Make a data set's file from its public original, in the directory of FEDSCORE_DATA."""
    if name not in DATASETS:
        raise ConfigurationError(f"No data set {name!r}. There are: {', '.join(DATASETS)}.")
    print(preparing.prepare(DATASETS[name], original))


def _took(one: Experiment[Any]) -> str:
    try:
        result = one.result()
    except ConfigurationError:
        return "of another version: run it again"
    return "not run yet" if result is None else result.minutes


def _run_here(name: str, *, quick: bool) -> None:
    found, plot = EXPERIMENTS[name].execute(
        quick=quick, cache=Cache(CACHE / "quick") if quick else Cache()
    )
    if quick:
        print("A small version, to see that everything runs: its figures mean nothing.\n")
    for block, table in EXPERIMENTS[name].tables.items():
        try:
            print(f"{block}\n\n{table(found)}\n")
        except ConfigurationError as error:
            print(f"{block}: {error}")
    print(f"\nPlot: {plot}")


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
