"""The carrier between the coordinator and the institutions, at its worst."""

from collections import defaultdict
from collections.abc import Mapping

from tests.chaos.faults import Kind, Point
from tests.chaos.machine import Killed, Machine
from tests.chaos.world import CoordinatorKilled, World

MOST_EXCHANGES = 400
"""More of them in one schedule means that a training does not end."""


class Carrier:
    """A transport that loses, repeats, reorders and delays, and kills both its ends."""

    def __init__(self, world: World, *, sealed: bool) -> None:
        """Starts with nothing under way.

        Args:
            world: whose machines it reaches.
            sealed: whether what it carries is in envelopes.
        """
        self._world = world
        self._sealed = sealed
        self._late_requests: dict[str, list[bytes]] = defaultdict(list)
        self._late_replies: dict[str, list[bytes]] = defaultdict(list)
        self._carried: dict[str, list[bytes]] = defaultdict(list)
        self.exchanges = 0
        self.is_cut = False
        """Whether the coordinator's process is gone."""

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns the replies that came in time."""
        if self.is_cut:
            raise CoordinatorKilled
        self.exchanges += 1
        if self.exchanges > MOST_EXCHANGES:
            self._world.broken("the training does not end")
            raise CoordinatorKilled
        faults = self._world.fires(Point.EXCHANGE)
        if Kind.CLOCK_COORDINATOR in faults:
            self._world.shift_coordinator()
        if Kind.COORDINATOR_RESTORED in faults:
            self._world.lost_lines = self._world.chance.randint(1, 4)
            self._cut()
        if Kind.COORDINATOR_BEFORE in faults:
            self._cut()
        order = sorted(requests)
        self._world.chance.shuffle(order)
        replies: dict[str, bytes] = {}
        for number, name in enumerate(order):
            if number == len(order) // 2 and Kind.COORDINATOR_DURING in faults:
                self._cut()
            reply = self._carry(name, requests[name])
            if reply is not None:
                replies[name] = reply
        self._world.now += self._world.chance.choice((0.4, 3.0, 20.0))
        if Kind.COORDINATOR_AFTER in faults:
            self._cut()
        return replies

    def revive(self) -> None:
        """Connects the coordinator's next process; what is late is still under way."""
        self.is_cut = False

    def _cut(self) -> None:
        self.is_cut = True
        self._world.note("the coordinator is killed")
        raise CoordinatorKilled

    def _carry(self, name: str, data: bytes) -> bytes | None:
        world = self._world
        faults = world.fires(Point.DELIVERY)
        machine = world.reached(name, faults)
        for late in self._late_requests.pop(name, []):
            if world.chance.random() < 0.5:
                self._deliver(machine, late)
            else:
                self._late_requests[name].append(late)
        self._carried[name].append(data)
        if machine.down_for or Kind.DROP_REQUEST in faults:
            machine.down_for = max(0, machine.down_for - 1)
            return None
        if Kind.LATE_REQUEST in faults:
            self._late_requests[name].append(data)
            return None
        if Kind.OLD_REQUEST in faults:
            old = self._deliver(machine, world.chance.choice(self._carried[name]))
            if old is not None and world.chance.random() < 0.3:
                return old
        reply = self._deliver(machine, data, dies=Kind.CRASH_BEFORE_REPLY in faults)
        if Kind.DUPLICATE in faults:
            again = self._deliver(machine, data)
            if again is not None and world.chance.random() < 0.5:
                reply = again
        if Kind.CRASH_AFTER_REPLY in faults and machine.is_up:
            world.kill(machine)
        return self._returned(name, reply, faults)

    def _returned(self, name: str, reply: bytes | None, faults: list[Kind]) -> bytes | None:
        late = self._late_replies[name]
        if reply is None or Kind.DROP_REPLY in faults:
            reply = None
        elif Kind.LATE_REPLY in faults:
            late.append(reply)
            reply = None
        elif late and self._world.chance.random() < 0.5:
            reply = late.pop(0)
        return reply

    def _deliver(self, machine: Machine, data: bytes, *, dies: bool = False) -> bytes | None:
        """Returns what left the institution."""
        world = self._world
        if not machine.is_up:
            return None
        try:
            reply = machine.hear(data, sealed=self._sealed)
            if dies:
                raise Killed
        except Killed:
            world.kill(machine)
            return None
        if reply is None:
            return None
        if machine.heard is not None:
            request, said = machine.heard
            world.note_exchange(machine, request, said)
            world.observer.left(machine, request, said)
        if self._sealed:
            world.observer.carried(machine, data, reply)
        return reply
