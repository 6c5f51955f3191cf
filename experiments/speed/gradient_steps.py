"""What a step of private training costs beside one without privacy, on one core.

The ways of `experiments.speed.gradient_ways`, in a process of its own with one thread. Nothing is
kept in the cache: a time is measured when it is asked for.
"""

import os
import subprocess
import sys
import warnings
from typing import Final

import msgspec
from matplotlib.figure import Figure

from experiments.cache import ROOT
from experiments.experiment import Setting
from experiments.tables import OURS, PEER, Middle, error_bars, in_brackets, markdown, middle, ratio

BATCH: Final = 4_096
HIDDEN: Final = 64
INPUTS: Final = 32
REPEATS: Final = 60
PATIENCE: Final = 20
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One step.

    Attributes:
        number: of the turn; those of the same number were taken one after the other.
        seconds: of wall time.
        cpu: seconds of the process.
    """

    number: int
    seconds: float
    cpu: float


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to take a step.

    Attributes:
        way: short name.
        turns: that were measured; slow ways sit some out.
    """

    way: str
    turns: tuple[Turn, ...]


class GradientSteps(msgspec.Struct, frozen=True, kw_only=True):
    """What `run gradient_steps` found.

    Attributes:
        batch: rows of a step, each of them a person.
        hidden: width of the two hidden layers.
        load: runnable processes of the machine in the minute before, on `cores`.
        cores: of the machine.
        ways: the first is the one without privacy.
    """

    batch: int
    hidden: int
    load: float
    cores: int
    ways: tuple[Way, ...]

    def times_plain(self, one: Way) -> Middle:
        """Returns how many times the CPU of the step without privacy it takes, turn by turn."""
        plain = {turn.number: turn.cpu for turn in self.ways[0].turns}
        return ratio((turn.cpu for turn in one.turns), (plain[turn.number] for turn in one.turns))

    def in_brackets(self) -> str:
        """Says what the ranges are."""
        return in_brackets(*(len(one.turns) for one in self.ways))


def run_gradient_steps(setting: Setting) -> GradientSteps:
    """Measures all ways."""
    batch, hidden, repeats, patience = (BATCH, HIDDEN, REPEATS, PATIENCE)
    if setting.quick:
        batch, hidden, repeats, patience = 16, 4, 1, 1
    setting.expect(1)
    load = os.getloadavg()[0]
    by = _here if setting.quick else _alone
    ways = by(batch, hidden, repeats, patience)
    setting.advance()
    return GradientSteps(
        batch=batch,
        hidden=hidden,
        load=load,
        cores=os.cpu_count() or 1,
        ways=ways,
    )


def _alone(batch: int, hidden: int, repeats: int, patience: int) -> tuple[Way, ...]:
    """Returns what each way takes in a process of its own, with one thread."""
    words = [sys.executable, "-m", "experiments.speed.gradient_ways"]
    words += map(str, (batch, hidden, repeats, patience))
    threads = dict.fromkeys(_ONE_THREAD, "1")
    done = subprocess.run(
        words, check=True, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, **threads}
    )
    return msgspec.json.decode(done.stdout, type=tuple[Way, ...])


def _here(batch: int, hidden: int, repeats: int, patience: int) -> tuple[Way, ...]:
    """Returns the same of this process, which may have torch already: it imports for seconds."""
    from experiments.speed.gradient_ways import taken  # noqa: PLC0415  torch and Opacus

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus' about hooks on inputs that need no gradient
        return tuple(taken(batch, hidden, repeats, patience))


TITLES: Final = {
    "plain": "SGD in torch, without privacy",
    "closed": "ours, a network of linear layers",
    "ghost": "Opacus, ghost clipping",
    "hooks": "Opacus, hooks",
    "functorch": "torch.func, vmap of grad",
    "module": "ours, any module, a row at a time",
}


def table(found: GradientSteps) -> str:
    """Returns the times of each way."""
    heads = ["a step", "milliseconds of CPU", "times plain SGD", "milliseconds", "turns"]
    rows = [
        [
            TITLES[one.way],
            f"{middle(turn.cpu * 1e3 for turn in one.turns):.1f}",
            f"{found.times_plain(one):.1f}" if place else "1",
            f"{middle(turn.seconds * 1e3 for turn in one.turns):.1f}",
            str(len(one.turns)),
        ]
        for place, one in enumerate(found.ways)
    ]
    return (
        f"{markdown(heads, rows)}\n\nBatch {found.batch:,}, network "
        f"{INPUTS}-{found.hidden}-{found.hidden}-1 with tanh, one thread, medians of turns taken "
        "by all ways one after the other, the ratio turn by turn; in brackets "
        f"{found.in_brackets()}. Ours has an additive layer as well; it clips, checks "
        "and adds up in whole numbers, draws discrete noise and takes the step. Load before: "
        f"{found.load:.1f} on {found.cores} cores."
    )


def answer(found: GradientSteps) -> str:
    """Returns one sentence."""
    times = {one.way: found.times_plain(one) for one in found.ways}
    return (
        f"A private step takes {times['closed']:.1f} times the CPU of plain SGD; Opacus' ghost "
        f"clipping {times['ghost']:.1f} times, its hooks {times['hooks']:.0f} times; a module of "
        f"one's own, a row at a time, {times['module']:.0f} times (in brackets "
        f"{found.in_brackets()})"
    )


def plot(found: GradientSteps) -> Figure:
    """Times plain SGD of each way."""
    figure = Figure(figsize=(6.2, 2.6), layout="constrained")
    axes = figure.add_subplot()
    ways = found.ways[::-1]
    colors = [OURS if "ours" in TITLES[one.way] else PEER for one in ways]
    times = list(map(found.times_plain, ways))
    axes.barh(
        [TITLES[one.way] for one in ways],
        [one.median for one in times],
        xerr=error_bars(times),
        color=colors,
    )
    axes.set_xscale("log")
    axes.set_xlabel("CPU of a step, times that of plain SGD")
    return figure
