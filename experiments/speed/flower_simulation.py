"""How fast a simulated nation is beside Flower's own simulation engine, with the same work.

300 institutions of 500 made-up people. Flower's engine (Ray) runs a ClientApp that adds up the
residuals of each institution's coded people with the product's own functions, without noise, masks
and ledgers; each of its totals is checked against the sum over all people. Ours in plain integers
does the same and adds every institution's noise; since sums of integers are exact in any order, it
adds up the people of all institutions at once. Beside it: the same one institution after the other
with every answer charged to a ledger on disk, and all of the product, masked. Ours uses one thread,
Flower's engine a process for each core. Rounds are timed at whoever takes the step, each training
in a process of its own; set-up is left out. Nothing is kept in the cache: a time is measured when
it is asked for.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np
from matplotlib.figure import Figure

from clients.configuration import Configuration
from clients.snapshot import take_snapshot
from experiments.cache import SCHEMAS
from experiments.entropy import SeededEntropy
from experiments.experiment import Setting
from experiments.made_up import KEY, PEOPLE_EACH, made_up, plan_of_size
from experiments.plain import plain_sums
from experiments.tables import markdown
from federation.errors import ConfigurationError
from federation.grid import Role
from federation.plan import Plan, plan_toml
from federation.privacy.entropy import Entropy
from federation.privacy.units import Population
from federation.schema import Schema
from fedscore.dealing import deal_table
from fedscore.simulation import PlainSums, simulate
from server.training import Progress

INSTITUTIONS: Final = 300
ROUNDS: Final = 100
FLOWER_ROUNDS: Final = 10
CHARGED_ROUNDS: Final = 5
MASKED_ROUNDS: Final = 1
EXTRA: Final = "flower-simulation"


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One way to simulate.

    Attributes:
        rounds: seconds of each.
        load: of the machine in the minute before, as `uptime` says it.
    """

    rounds: tuple[float, ...]
    load: float

    @property
    def seconds(self) -> float:
        """Of the median round."""
        return median(self.rounds)


class FlowerSimulation(msgspec.Struct, frozen=True, kw_only=True):
    """What `run flower_simulation` found.

    Attributes:
        institutions: in each simulation.
        people_each: of each institution, a quarter of them held out.
        cores: of the machine.
        versions: of flwr and ray.
        plain: ours, plain integers.
        flower: Flower's engine.
        charged: ours, plain integers, each answer charged to a ledger.
        masked: ours, secure aggregation.
    """

    institutions: int
    people_each: int
    cores: int
    versions: dict[str, str]
    plain: Engine
    flower: Engine
    charged: Engine
    masked: Engine

    @property
    def times(self) -> float:
        """How many times as long Flower's median round takes as ours in plain integers."""
        return self.flower.seconds / self.plain.seconds


def run_flower_simulation(setting: Setting) -> FlowerSimulation:
    """Simulates the same nation three times.

    Raises:
        ConfigurationError: Flower's simulation engine is not installed.
    """
    if find_spec("ray") is None or find_spec("flwr") is None:
        raise ConfigurationError(
            "This needs Flower's simulation engine: install the extra "
            f"fedscore[{EXTRA}], in a checkout: uv pip install --constraint constraints.txt "
            f"--editable '.[{EXTRA}]'."
        )
    institutions = 6 if setting.quick else INSTITUTIONS
    setting.expect(4)

    def measured(way: Callable[[int, int], tuple[float, ...]], count: int) -> Engine:
        load = os.getloadavg()[0]
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            found = alone.submit(way, institutions, 2 if setting.quick else count).result()
        setting.advance()
        return Engine(rounds=found, load=load)

    return FlowerSimulation(
        plain=measured(_plain, ROUNDS),
        flower=measured(_flower, FLOWER_ROUNDS),
        charged=measured(_charged, CHARGED_ROUNDS),
        masked=measured(_masked, MASKED_ROUNDS),
        institutions=institutions,
        people_each=PEOPLE_EACH,
        cores=os.cpu_count() or 1,
        versions={name: version(name) for name in ("flwr", "ray")},
    )


def _plain(institutions: int, rounds: int) -> tuple[float, ...]:
    entropy = SeededEntropy("flower simulation")
    return _ours(institutions, rounds, entropy, plain_sums(entropy, charged=False))


def _charged(institutions: int, rounds: int) -> tuple[float, ...]:
    entropy = SeededEntropy("flower simulation")
    return _ours(institutions, rounds, entropy, plain_sums(entropy))


def _masked(institutions: int, rounds: int) -> tuple[float, ...]:
    return _ours(institutions, rounds, SeededEntropy("flower simulation"), None)


def _ours(
    institutions: int, rounds: int, entropy: Entropy, plain: PlainSums | None
) -> tuple[float, ...]:
    ends: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.step in ("bins", "round"):
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        plan, schema, members = _dealt(directory, institutions, rounds)
        simulate(
            plan=plan,
            schema=schema,
            members=members,
            key=KEY,
            out=directory / "run",
            watch=watch,
            inspect=False,
            noise_entropy=entropy,
            plain=plain,
        )
    return tuple(np.diff(ends).tolist())


def _flower(institutions: int, rounds: int) -> tuple[float, ...]:
    from experiments.speed.flower_peer import PLAN, SCHEMA, flower_rounds  # noqa: PLC0415  an extra

    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        plan, schema, members = _dealt(directory, institutions, 1 + rounds)
        scored = schema.places(Role.SCORED)
        for number, member in enumerate(members):
            snapshot = take_snapshot(
                schema,
                Path(member.table),
                not_held=frozenset(),
                split=plan.people.split,
                directory=directory / f"snapshot-{number}",
            )
            blocks = list(snapshot.blocks(Population.TRAINED))
            np.savez(
                directory / f"{number}.npz",
                codes=np.concatenate([block.codes[scored] for block in blocks], axis=1),
                bad=np.concatenate([block.bad for block in blocks]),
            )
        (directory / SCHEMA).write_text((SCHEMAS / "nation.toml").read_text())
        (directory / PLAN).write_text(plan_toml(plan))
        return flower_rounds(directory, institutions, rounds)


def _dealt(
    directory: Path, institutions: int, rounds: int
) -> tuple[Plan, Schema, tuple[Configuration, ...]]:
    schema, table = made_up(directory, institutions)
    plan = plan_of_size(schema, institutions, rounds)
    (directory / "dealt").mkdir()
    return plan, schema, deal_table(plan, schema, table, directory / "dealt")


def table(found: FlowerSimulation) -> str:
    """Seconds of a round, and of each institution's part of it."""
    rows = []
    for title, one in (
        ("fedscore, plain integers", found.plain),
        ("Flower's simulation engine", found.flower),
        ("fedscore, plain integers, ledgers on disk", found.charged),
        ("fedscore, masked", found.masked),
    ):
        rows.append(
            [
                title,
                f"{len(one.rounds)}",
                f"{one.seconds:.3g}",
                f"{min(one.rounds):.3g} to {max(one.rounds):.3g}",
                f"{1000 * one.seconds / found.institutions:.2f}",
                f"{one.seconds / found.plain.seconds:.1f}",
                f"{one.load:.1f}",
            ]
        )
    heads = [
        f"{found.institutions} institutions",
        "rounds",
        "seconds a round, median",
        "all",
        "ms an institution",
        "times plain",
        "load before",
    ]
    peers = ", ".join(f"{name} {of}" for name, of in found.versions.items())
    return f"{markdown(heads, rows)}\n\n{peers}; {found.cores} cores."


def _span(one: Engine) -> str:
    if len(one.rounds) == 1:
        return f"{one.seconds:.2g} s (once)"
    return f"{one.seconds:.2g} s ({min(one.rounds):.2g} to {max(one.rounds):.2g})"


def answer(found: FlowerSimulation) -> str:
    """One sentence with the ratio."""
    return (
        f"{found.institutions} institutions: the median round takes {_span(found.plain)} in plain "
        f"integers, {_span(found.flower)} with the same work in Flower's engine, "
        f"{found.times:.0f} times as long; masked {_span(found.masked)} "
        "(in brackets the shortest and the longest)"
    )


def plot(found: FlowerSimulation) -> Figure:
    """Seconds of the median round."""
    figure = Figure(figsize=(6.2, 2.4), layout="constrained")
    axes = figure.add_subplot()
    names = ["masked", "with ledgers", "Flower's engine", "plain integers"]
    ways = (found.masked, found.charged, found.flower, found.plain)
    axes.barh(names, [one.seconds for one in ways])
    axes.set_xscale("log")
    axes.set_xlabel(f"seconds a round, {found.institutions} institutions")
    return figure
