"""One schedule: a training amid its faults, then the same states in a calm world."""

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.errors import FedscoreError
from federation.transcript_audit import COORDINATOR
from tests.chaos.faults import Kind, Point, drawn
from tests.chaos.machine import Machine
from tests.chaos.office import Office
from tests.chaos.shapes import DAY, SHAPES, Shape, scratch, shape
from tests.chaos.world import World
from tests.federations import NOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one schedule.

    Attributes:
        seed: of it.
        ended: how the training did, in a word or two.
        after: how the plan after it did; empty if there was none.
        violations: what was broken.
        injected: how many faults struck, by kind.
        trace: one line an event.
    """

    seed: int
    ended: str
    after: str
    violations: tuple[str, ...]
    injected: Counter[Kind]
    trace: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the trace: equal for equal seeds."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def run(seed: int, kinds: Sequence[Kind] = tuple(Kind)) -> Outcome:
    """Returns what became of the schedule of a seed; equal seeds give equal traces.

    Args:
        seed: of the schedule.
        kinds: of faults to choose from; a replay of `python -m tests.chaos` has all of them.
    """
    found = shape(seed)
    chance = random.Random(seed)  # noqa: S311  a schedule, not a secret
    directory = scratch()
    try:
        world = World(
            seed, found, directory, chance, faults=drawn(seed, chance, points(seed % SHAPES), kinds)
        )
        return _outcome(world)
    finally:
        shutil.rmtree(directory)


def calm(found: Shape) -> World:
    """Returns the world after a training without any fault."""
    directory = scratch()
    try:
        world = World(0, found, directory, random.Random(0), is_calm=True)  # noqa: S311
        _outcome(world)
    finally:
        shutil.rmtree(directory)
    return world


_points: dict[int, dict[Point, int]] = {}


def points(number: int) -> dict[Point, int]:
    """Returns how many points of each kind a training of a shape has without any fault."""
    if number not in _points:
        counts = calm(shape(number)).counts
        _points[number] = {point: counts.get(point, 1) for point in Point}
    return _points[number]


def _outcome(world: World) -> Outcome:
    sealed = world.seed % 2 == 0
    for machine in world.machines.values():
        world.start(machine)
    office = Office(world, _new(world.directory / "coordinator"))
    ended = office.train(world.shape.fed.plan, sealed=sealed)
    counted = world.counts
    for machine in (*world.machines.values(), *world.copies.values()):
        _check_at_the_end(world, machine)
    after = _plan_after(world, office) if world.faults and world.seed % 4 == 1 else ""
    for machine in (*world.machines.values(), *world.copies.values()):
        if machine.is_up:
            machine.stop()
    world._counts = Counter(counted)
    return Outcome(
        seed=world.seed,
        ended=ended,
        after=after,
        violations=tuple(world.violations),
        injected=world.injected,
        trace=tuple(world.trace),
    )


def _check_at_the_end(world: World, machine: Machine) -> None:
    """Looks at a machine's files once more, through its own eyes and the observer's."""
    world.observer.check(machine)
    world.is_calm = True
    machine.offset, machine.full_writes = 0.0, 0
    if machine.is_up:
        machine.stop()
    try:
        charged = machine.charged()
    except FedscoreError as error:
        world.broken(f"the files of {machine.label} cannot be opened any more: {error}")
        return
    if machine.name not in world.rolled_back:
        world.observer.check_paid(machine, charged)


def _plan_after(world: World, office: Office) -> str:
    """Returns how another plan ended on the same states, everything being in order."""
    world.now = max(world.now, NOW + 2.0 * DAY + 60)
    world.coordinator_offset = 0.0
    for name, copy in tuple(world.copies.items()):
        if copy.is_up:
            copy.stop()
        if world.chance.random() < 0.5:
            world.machines[name], world.copies[name] = copy, world.machines[name]
        for machine in (world.copies.pop(name),):
            if machine.is_up:
                machine.stop()
    for machine in world.machines.values():
        machine.down_for = 0
        world.start(machine)
    ended = office.train(world.shape.next_plan, sealed=True)
    if ended != "release" and not world.rolled_back - {COORDINATOR}:
        world.broken(f"the plan after it ends without a release: {ended}")
    for machine in world.machines.values():
        world.observer.check(machine)
    return ended


def _new(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    return directory
