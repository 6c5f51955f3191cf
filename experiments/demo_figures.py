"""What the demo shows when it is run ten times: one run's differences are mostly noise.

python -m experiments.demo_figures         runs it and writes results/demo.json
"""

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from experiments.division import reach
from experiments.entropy import SeededEntropy
from experiments.experiment import RESULTS, write_result
from experiments.provenance import begun, grouped
from federation.errors import DataError
from federation.model.evaluation import Figure
from fedscore.demo.__main__ import run_demo
from fedscore.demo.report import Demo
from fedscore.simulation import Simulation

NAME: Final = "demo"
RUNS: Final = 10
_NORMAL_975: Final = 1.959964


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over runs with half its 95 % interval.

    Attributes:
        value: the mean.
        reach: half the interval. Of a gain: noise of the runs and sampling of held-out people.
            Of a mean AUC: noise of the runs only, the people being the same.
    """

    value: float
    reach: float


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """One staged institution; AUC on its own held-out people, which only a simulation knows."""

    title: str
    people: int
    bad_rate: float
    alone: float
    national: Estimate
    gain: Estimate


class DemoFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The demo over several runs.

    Attributes:
        runs: how many, each with its own noise.
        epsilon: of a trained person, in each run.
        delta: of the promise.
        neighbours: of the promise.
        against: of the promise.
        exact: AUC of the national card on all held-out people.
        shared_only: the same if nobody has the five columns that not everybody holds.
        everything: the same if everybody has them.
        door: the AUC that the door's noisy sums gave in the first run, with its interval.
        first_exact: the exact AUC of the first run.
        mean_gain: mean over institutions, each counted once.
        holders: the institutions.
    """

    runs: int
    epsilon: float
    delta: float
    neighbours: str
    against: str
    exact: Estimate
    shared_only: Estimate
    everything: Estimate
    door: Figure
    first_exact: float
    mean_gain: Estimate
    holders: tuple[Holder, ...]


def figures_of(demos: list[Demo]) -> DemoFigures:
    """Returns the figures of some runs.

    Args:
        demos: two or more.
    """
    staged = [demo.as_staged for demo in demos]
    statement = staged[0].release.statement
    quality = staged[0].release.report.overall
    if quality is None:
        raise DataError("The noise hides the quality: the demo's plan is wrong.")
    members = list(zip(*(one.members for one in staged), strict=True))
    gains = np.array([[_known(one.gain).value for one in runs] for runs in members])
    sampling = np.array([_variance(_known(runs[0].gain)) for runs in members])
    return DemoFigures(
        runs=len(demos),
        epsilon=statement.epsilon,
        delta=statement.delta,
        neighbours=statement.neighbours,
        against=statement.against,
        exact=_exact(staged),
        shared_only=_exact([demo.shared_only for demo in demos]),
        everything=_exact([demo.everything for demo in demos]),
        door=quality.auc,
        first_exact=_known(staged[0].exact).value,
        mean_gain=_estimate(gains.mean(axis=0), sampling=float(sampling.sum()) / len(members) ** 2),
        holders=tuple(
            Holder(
                title=runs[0].title,
                people=runs[0].trained + runs[0].held_out,
                bad_rate=runs[0].bad_rate,
                alone=_known(runs[0].alone).value,
                national=_estimate(np.array([_known(one.national).value for one in runs])),
                gain=_estimate(gains[number], sampling=float(sampling[number])),
            )
            for number, runs in enumerate(members)
        ),
    )


def _exact(simulations: list[Simulation]) -> Estimate:
    return _estimate(np.array([_known(one.exact).value for one in simulations]))


def _estimate(values: np.ndarray, *, sampling: float = 0.0) -> Estimate:
    """Returns the mean; Student's interval of the noise, the normal one of a known sampling."""
    noise, people = reach(values.tolist()), _NORMAL_975 * sampling**0.5
    return Estimate(value=float(values.mean()), reach=math.hypot(noise, people))


def _variance(figure: Figure) -> float:
    return ((figure.high - figure.low) / 2 / _NORMAL_975) ** 2


def _known(figure: Figure | None) -> Figure:
    if figure is None:
        raise DataError("An institution of the demo has no good or no bad held-out people.")
    return figure


def main() -> int:
    """Runs the demo `RUNS` times and writes the figures."""
    start, clock, demos = begun(), time.perf_counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        for run in track(range(RUNS), "Demo", console=Console(stderr=True, quiet=True)):
            demos.append(run_demo(Path(scratch) / str(run), entropy=SeededEntropy(f"demo {run}")))
    steps = grouped([{"what": "demo", "seed": f"demo {run}"} for run in range(RUNS)])
    made = msgspec.structs.replace(
        start, seconds=time.perf_counter() - clock, computed=RUNS, steps=steps
    )
    write_result(RESULTS, NAME, made, figures_of(demos))
    return 0


if __name__ == "__main__":
    sys.exit(main())
