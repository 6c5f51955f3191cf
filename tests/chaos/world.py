"""The world of one schedule: its clock, its machines, its faults, and the trace of its events."""

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from federation.messages import decode_reply, decode_request
from tests.chaos.faults import POINT_OF, ROLLED_BACK, Fault, Kind, Point
from tests.chaos.machine import GONE, LEDGER, RECORDS, Acknowledged, Killed, Machine, copy_state
from tests.chaos.observer import Observer
from tests.chaos.shapes import DAY, Shape
from tests.federations import NOW


class CoordinatorKilled(BaseException):
    """The coordinator's process is gone."""


@dataclass(slots=True, kw_only=True)
class _Backup:
    """A copy of a state directory, and what had been let out when it was made."""

    directory: Path
    acknowledged: Acknowledged


@dataclass(slots=True)
class World:
    """Everything around the product; all of it follows from the seed."""

    seed: int
    shape: Shape
    directory: Path
    chance: random.Random
    faults: tuple[Fault, ...] = ()
    now: float = float(NOW)
    coordinator_offset: float = 0.0
    lost_lines: int = 0
    """Of the coordinator's transcript, when its next process starts."""
    is_calm: bool = False
    trace: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    injected: Counter[Kind] = field(default_factory=Counter)
    machines: dict[str, Machine] = field(default_factory=dict)
    copies: dict[str, Machine] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    """Whose files do not hold all that they have said; "coordinator" for the coordinator."""
    observer: Observer = field(init=False)
    _counts: Counter[Point] = field(default_factory=Counter)
    _backups: dict[str, list[_Backup]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.observer = Observer(self.broken)
        for name in self.shape.names:
            base = self.directory / name
            base.mkdir(mode=0o700)
            self.machines[name] = Machine(self, name, name, base)

    # What happened.

    def note(self, what: str) -> None:
        """Adds a line to the trace."""
        words = what.replace(str(self.directory), "...")
        self.trace.append(f"{self.now - NOW:9.1f}  {words}")

    def note_exchange(self, machine: Machine, request: bytes, reply: bytes) -> None:
        asked, said = decode_request(request), decode_reply(reply)
        code = getattr(said, "code", "")
        digest = hashlib.sha256(request + reply).hexdigest()[:12]
        self.note(
            f"{machine.label} hears {type(asked).__name__}, says {type(said).__name__} {code} "
            f"{digest}"
        )

    def broken(self, what: str) -> None:
        """Notes that a promise was broken."""
        if what not in self.violations:
            self.violations.append(what)
            self.note(f"BROKEN: {what}")

    def fires(self, point: Point) -> list[Kind]:
        """Returns the faults that strike at this point, and counts it."""
        number = self._counts[point]
        self._counts[point] += 1
        if self.is_calm:
            return []
        found = [
            one.kind for one in self.faults if one.at == number and POINT_OF[one.kind] is point
        ]
        for kind in found:
            self.injected[kind] += 1
            self.note(f"FAULT: {kind}")
        return found

    @property
    def counts(self) -> dict[Point, int]:
        """How many of each point there were so far."""
        return dict(self._counts)

    # What is done to machines.

    def start(self, machine: Machine) -> None:
        machine.start()
        self.observer.check(machine)

    def kill(self, machine: Machine) -> None:
        """Kills a process; it starts again after some messages to it were lost, or never."""
        machine.kill()
        machine.down_for = self.chance.choice((0, 0, 1, 2, 4, GONE))

    def reached(self, name: str, faults: list[Kind]) -> Machine:
        """Returns the machine that the next message to an institution reaches, after its faults."""
        machine = self.machines[name]
        wants_backups = any(one.kind in ROLLED_BACK for one in self.faults) and not self.is_calm
        if wants_backups and self.chance.random() < 0.3:
            self._back_up(machine)
        for kind in faults:
            self._strike(machine, kind)
        copy = self.copies.get(name)
        if copy is not None and self.chance.random() < 0.5:
            machine = copy
        if not machine.is_up and not machine.down_for:
            self.start(machine)
        return machine

    def _strike(self, machine: Machine, kind: Kind) -> None:
        match kind:
            case Kind.CRASH_BEFORE_REQUEST if machine.is_up:
                self.kill(machine)
            case Kind.STOP if machine.is_up:
                machine.stop()
                machine.down_for = self.chance.choice((0, 1))
            case Kind.LONG_GONE:
                machine.down_for = self.chance.choice((2, 4, 8))
            case Kind.IDLE:
                self._idle(machine)
            case Kind.CLOCK_SMALL:
                machine.offset += self.chance.choice((-3, -1, 1, 3))
            case Kind.CLOCK_HOURS:
                machine.offset += self.chance.choice((-7200, 7200, 30_000))
            case Kind.CLOCK_BEYOND:
                machine.offset += self.chance.choice((-3 * DAY, 3 * DAY, 400 * DAY, 10**11))
            case Kind.CLOCK_1960:
                machine.offset = -self.now - 3e8
            case Kind.RESTORE_LEDGER | Kind.RESTORE_RECORDS | Kind.RESTORE_ALL:
                self._restore(machine, kind)
            case Kind.COPY if machine.name not in self.copies:
                self._copy(machine)
            case Kind.SECOND_DAEMON if machine.is_up and not machine.is_locked():
                self.broken(f"two processes have the state of {machine.label} open")

    def _idle(self, machine: Machine) -> None:
        try:
            machine.rest()
        except Killed:
            self.kill(machine)

    def shift_coordinator(self) -> None:
        """Lets the coordinator's clock jump."""
        self.coordinator_offset = self.chance.choice(
            (-2.0, 2.0, 7200.0, -7200.0, 3.0 * DAY, -self.now - 100)
        )

    def _back_up(self, machine: Machine) -> None:
        kept = self._backups.setdefault(machine.name, [])
        directory = self.directory / f"backup of {machine.name} {len(kept)}"
        if machine.ledger_path.exists() and machine.records_path.exists():
            copy_state(machine.directory, directory)
            kept.append(_Backup(directory=directory, acknowledged=machine.acknowledged.copy()))

    def _restore(self, machine: Machine, kind: Kind) -> None:
        kept = self._backups.get(machine.name)
        if not kept:
            return
        backup = self.chance.choice(kept)
        if machine.is_up:
            machine.stop()
        wanted = {
            Kind.RESTORE_LEDGER: (LEDGER,),
            Kind.RESTORE_RECORDS: (RECORDS,),
            Kind.RESTORE_ALL: (LEDGER, RECORDS),
        }[kind]
        machine.restore(backup.directory, wanted)
        before = backup.acknowledged
        if LEDGER in wanted:
            held = before.copy()
            held.said = machine.acknowledged.said
            machine.acknowledged = held
        if RECORDS in wanted:
            machine.acknowledged.said = dict(before.said)
        self.rolled_back.add(machine.name)

    def _copy(self, machine: Machine) -> None:
        if not machine.directory.exists():
            return
        base = self.directory / f"copy of {machine.name}"
        base.mkdir()
        copy_state(machine.directory, base / "0")
        copy = Machine(self, machine.name, f"copy of {machine.name}", base)
        copy.acknowledged = machine.acknowledged.copy()
        self.copies[machine.name] = copy
        self.rolled_back.add(machine.name)
