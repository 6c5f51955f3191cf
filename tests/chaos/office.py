"""The coordinator's process in a world: it writes, is killed in the middle of it, and resumes."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from experiments.entropy import SeededEntropy
from federation.errors import ConfigurationError, FedscoreError
from federation.model.release import load_release
from federation.plan import Plan
from federation.sealed import SealedTransport
from federation.transcript_audit import COORDINATOR, audit
from fedscore import trainings
from fedscore.trainings import Training, Trainings
from server.rounds import MaskedSums
from server.running import Running
from server.training import run_training
from tests.chaos.carrier import Carrier
from tests.chaos.faults import Kind, Point
from tests.chaos.world import CoordinatorKilled, World
from tests.federations import KEY, ignore, roster_of

DEADLINE_SECONDS: Final = 60
MOST_PROCESSES: Final = 8
"""More of them in one schedule mean that a training does not end."""


class Office:
    """The coordinator: its directory, and one process after the other on it."""

    def __init__(self, world: World, directory: Path) -> None:
        """Names the directory, which exists."""
        self._world = world
        self._trainings = Trainings(directory)
        self._processes = 0

    def train(self, plan: Plan, *, sealed: bool) -> str:
        """Returns how one plan ended, in a word; what must not be is said to the world.

        Whenever the process is killed or its disk refuses, somebody starts it again; if it says
        that it cannot go on, he ends the training.
        """
        world = self._world
        world.observer.planned(plan)
        carrier = Carrier(world, sealed=sealed)
        give_up, ended = False, ""
        for _ in range(MOST_PROCESSES):
            carrier.revive()
            self._processes += 1
            try:
                with _watched_writes(world), self._trainings.alone():
                    training = self._training(plan)
                    if training is None:
                        return self._word(plan, ended)
                    ended = self._run(training, plan, carrier, sealed=sealed, give_up=give_up)
            except CoordinatorKilled:
                world.note("the coordinator is killed, and starts again")
                self._lose_lines()
                continue
            except ConfigurationError as error:
                self._understood(error)
                # What the disk refused can be tried again; else going on gives the same words.
                give_up = "No space" not in str(error) and "disk is full" not in str(error)
                continue
            except FedscoreError as error:
                self._understood(error)
                ended, give_up = type(error).__name__, True
        if self._trainings.under_way() is not None:
            world.broken("the training does not end, however often somebody starts it again")
        return ended

    def _training(self, plan: Plan) -> Training | None:
        """Returns the training to go on with, None if the plan's has ended."""
        under_way = self._trainings.under_way()
        if under_way is not None:
            return under_way
        known = [one for one in self._trainings.all() if one.plan().digest == plan.digest]
        if known and known[-1].past().has_ended:
            self._check(known[-1])
            return None
        found = self._world.shape  # nobody has heard of the last one, or there is none
        return self._trainings.new(plan, found.schema_text, roster_of(found.fed.plan))

    def _lose_lines(self) -> None:
        """Puts an older copy of the transcript in its place, if the world's faults say so."""
        lost, self._world.lost_lines = self._world.lost_lines, 0
        found = self._trainings.all()
        if lost and found:
            self._world.rolled_back.add(COORDINATOR)
            path = found[-1].directory / trainings.TRANSCRIPT_FILE
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(lines[: max(1, len(lines) - lost)]))

    def _word(self, plan: Plan, ended: str) -> str:
        """Returns how a training that has ended did: what its last process said, or its files."""
        known = [one for one in self._trainings.all() if one.plan().digest == plan.digest]
        return "release" if known[-1].release() is not None else ended or "no release"

    def _understood(self, error: FedscoreError) -> None:
        self._world.note(f"the coordinator stops: {type(error).__name__}: {error}")
        if len(str(error)) < 30 or not str(error).endswith("."):
            self._world.broken(f"an end that nobody understands: {error!r}")

    def _run(
        self, training: Training, plan: Plan, carrier: Carrier, *, sealed: bool, give_up: bool
    ) -> str:
        """Runs one process to its end; returns the word for it."""
        world, found = self._world, self._world.shape
        which = f"{world.seed} coordinator {self._processes}"

        def clock() -> float:
            return world.now + world.coordinator_offset

        with training.transcript() as transcript:
            sums = MaskedSums(
                Running(
                    plan=plan,
                    schema=found.fed.schema,
                    roster=training.roster(),
                    transport=SealedTransport(
                        carrier=carrier,
                        cards=found.cards,
                        key=KEY,
                        validity_seconds=DEADLINE_SECONDS + 60,
                        clock=clock,
                        entropy=SeededEntropy(f"{which} envelopes"),
                        report=lambda name, error: world.note(f"no reply of {name}: {error}"),
                    )
                    if sealed
                    else carrier,
                    key=KEY,
                    entropy=SeededEntropy(f"{which} sessions"),
                    transcript=transcript,
                    seen=self._trainings.seen_before(training, plan.participation.invited),
                    keep_release=training.keep_release,
                    watch=ignore,
                )
            )
            known = training.release()
            if known is not None or give_up:
                with sums:
                    sums.close(release=known or b"")
                return "release" if known else "given up"
            release = run_training(
                plan=plan,
                schema=found.fed.schema,
                sums=sums,
                key=KEY,
                now=datetime.fromtimestamp(clock(), UTC),
                watch=ignore,
            )
        world.note(f"the training ends with release {load_release(release).digest}")
        return "release"

    def _check(self, training: Training) -> None:
        """Audits what a training that has ended leaves: in these schedules everybody is honest."""
        world = self._world
        content = (training.directory / trainings.TRANSCRIPT_FILE).read_bytes()
        kept = training.release()
        release = None if kept is None else load_release(kept)
        if release is not None:
            release.require_signed_by(training.plan().coordinator)
        world.observer.opened_once(content)
        for finding in audit(content, training.schema(), release).findings:
            if finding.proven and finding.who not in world.rolled_back:
                world.broken(f"the transcript proves against {finding.who}: {finding.what}")


@contextmanager
def _watched_writes(world: World) -> Iterator[None]:
    """Lets every durable write of the coordinator fail as the world's faults say."""
    real_append, real_keep = trainings._append, Training.keep_release

    def append(handle: int, line: bytes) -> None:
        faults = world.fires(Point.LINE)
        _before(world, faults)
        if Kind.COORDINATOR_TORN_WRITE in faults:
            os.write(handle, line[: len(line) // 2])
            raise CoordinatorKilled
        real_append(handle, line)
        _after(faults)

    def keep(self: Training, release: bytes) -> None:
        faults = world.fires(Point.LINE)
        try:
            _before(world, faults)
        except OSError as error:
            raise ConfigurationError("Cannot write the release: the disk is full.") from error
        if Kind.COORDINATOR_TORN_WRITE in faults:
            (self.directory / f"{trainings.RELEASE_FILE}.new").write_bytes(release[:100])
            raise CoordinatorKilled
        real_keep(self, release)
        _after(faults)

    trainings._append, Training.keep_release = append, keep  # type: ignore[method-assign]
    try:
        yield
    finally:
        trainings._append, Training.keep_release = real_append, real_keep  # type: ignore[method-assign]


def _before(world: World, faults: list[Kind]) -> None:
    if Kind.COORDINATOR_BEFORE_WRITE in faults:
        raise CoordinatorKilled
    if Kind.COORDINATOR_FULL in faults:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    world.note("the coordinator writes")


def _after(faults: list[Kind]) -> None:
    if Kind.COORDINATOR_AFTER_WRITE in faults:
        raise CoordinatorKilled
