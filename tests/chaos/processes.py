"""Runs of real processes: daemons, coordinator and SuperLink, killed, stopped and starved."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clients.ledger import Ledger
from federation.errors import FedscoreError, LedgerCorrupt
from federation.model.release import load_release
from federation.transcript import Attempted, read_line
from federation.transcript_audit import audit
from fedscore.trainings import TRANSCRIPT_FILE
from tests.chaos.observer import Ledgered
from tests.chaos.shapes import scratch
from tests.chaos.site import DEADLINE, ROUNDS, Site, child_of, ended

_LONGEST_SECONDS: Final = 420.0
_LOCKED: Final = 78
_DISTRUSTED: Final = LedgerCorrupt.exit_code
_RESTARTS: Final = 6


@dataclass(slots=True)
class Run:
    """One training of real processes, and what was done to it."""

    seed: int
    site: Site
    chance: random.Random
    coordinator: subprocess.Popen[bytes]
    events: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    rolled_back: set[str] = field(default_factory=set)
    left_alone: set[str] = field(default_factory=set)
    starved: set[str] = field(default_factory=set)
    later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def note(self, what: str) -> None:
        self.events.append(f"{time.monotonic() - self.began:7.1f}  {what}")

    def broken(self, what: str) -> None:
        self.violations.append(what)
        self.note(f"BROKEN: {what}")

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self.later.append((time.monotonic() + seconds, what))

    def restart(self, name: str) -> None:
        if self.site.running[name].poll() is not None:
            self.site.start(name)
            self.note(f"{name} starts again")


# The faults: each is done to one institution while the training is under way.


def kill_daemon(run: Run, name: str) -> None:
    run.site.running[name].kill()
    run.site.running[name].wait()
    run.left_alone.add(name)
    run.after(run.chance.uniform(0, 3), lambda: _back(run, name))


def terminate_daemon(run: Run, name: str) -> None:
    process = run.site.running[name]
    time.sleep(run.chance.uniform(0, 1))
    process.terminate()
    code = ended(process)
    if code != 0:
        run.broken(f"{name} ended with {code} when it was told to stop")
    _back(run, name)


def pause_daemon(run: Run, name: str) -> None:
    process = run.site.running[name]
    process.send_signal(signal.SIGSTOP)
    run.after(DEADLINE + run.chance.uniform(1, 4), lambda: process.send_signal(signal.SIGCONT))


def kill_superlink(run: Run, _: str) -> None:
    _kill_child(run, "flower_superlink")


def kill_front(run: Run, _: str) -> None:
    _kill_child(run, "server.front")


def _kill_child(run: Run, word: str) -> None:
    child = child_of(run.coordinator, word)
    if child is None:
        run.note(f"no {word} to kill")
    else:
        os.kill(child, signal.SIGKILL)


def kill_coordinator(run: Run, _: str) -> None:
    run.coordinator.kill()
    run.coordinator.wait()
    run.note("coordinator resumes")
    time.sleep(2)  # its SuperLink ends with it, and gives the port back
    run.coordinator = run.site.coordinate(is_new=False)


def terminate_coordinator(run: Run, _: str) -> None:
    run.coordinator.terminate()
    ended(run.coordinator)
    run.note("coordinator resumes")
    run.coordinator = run.site.coordinate(is_new=False)


def restore_backup(run: Run, name: str) -> None:
    state = run.site.premises(name).directory
    backup = run.site.directory / f"backup of {name}"
    _copy(state, backup)
    run.after(4, lambda: _put_back(run, name, state, backup))


def _put_back(run: Run, name: str, state: Path, backup: Path) -> None:
    if len(run.site.ledger(name).spent) < _spent_in(backup) + 2 and run.coordinator.poll() is None:
        run.after(0.5, lambda: _put_back(run, name, state, backup))
        return
    run.site.running[name].kill()
    run.site.running[name].wait()
    shutil.rmtree(state)
    shutil.copytree(backup, state)
    run.rolled_back.add(name)
    run.note(f"the state of {name} is an older one")
    run.restart(name)


def copy_identity(run: Run, name: str) -> None:
    copied = run.site.directory / f"copy of {name}"
    _copy(run.site.home(name), copied)
    run.after(4, lambda: _run_copy(run, name, copied))


def _run_copy(run: Run, name: str, copied: Path) -> None:
    if (
        len(run.site.ledger(name).spent) < _spent_in(copied / "state") + 2
        and run.coordinator.poll() is None
    ):
        run.after(0.5, lambda: _run_copy(run, name, copied))
        return
    run.site.running[name].kill()
    run.site.running[name].wait()
    run.rolled_back.add(name)
    run.note(f"{name} answers from a copy of its machine")
    run.site.start(name, home=copied)


def second_daemon(run: Run, name: str) -> None:
    code = run.site.start_beside(name)
    if code != _LOCKED:
        run.broken(f"a second daemon on the state of {name} ended with {code}, not {_LOCKED}")
    if "stop the other" not in run.site.log(f"{name}.second"):
        run.broken(f"a second daemon on the state of {name} does not say what is wrong")


def fill_disk(run: Run, name: str) -> None:
    log = run.site.premises(name).ledger.with_name("ledger.sqlite-wal")
    size = max(4096, log.stat().st_size if log.exists() else 0)
    process = run.site.running[name]
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    run.starved.add(name)

    def relieve() -> None:
        with suppress(ProcessLookupError):
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)

    run.after(run.chance.uniform(3, 8), relieve)


FAULTS: Final[dict[str, Callable[[Run, str], None]]] = {
    "daemon killed": kill_daemon,
    "SuperLink killed": kill_superlink,
    "front killed": kill_front,
    "coordinator killed": kill_coordinator,
    "daemon paused beyond the deadline": pause_daemon,
    "older state restored": restore_backup,
    "identity copied": copy_identity,
    "second daemon on one state": second_daemon,
    "disk full": fill_disk,
    "daemon told to stop": terminate_daemon,
    "coordinator told to stop": terminate_coordinator,
}


def run(seed: int) -> tuple[Run, tuple[str, ...], str]:
    """Returns a finished run, the faults that were done, and how the training ended."""
    chance = random.Random(seed)  # noqa: S311  a schedule, not a secret
    directory = scratch()
    site = Site(directory, institutions=3 if seed % 3 == 0 else 4)
    kinds = list(FAULTS)
    faults = [kinds[seed % len(kinds)]]
    if chance.random() < 0.5:
        faults.append(chance.choice(kinds))
    due = sorted((chance.randint(1, ROUNDS - 1), kind) for kind in faults)
    try:
        for name in site.names:
            site.start(name)
        found = Run(seed, site, chance, site.coordinate(is_new=True))
        how = _watch(found, due)
        _check(found)
        return found, tuple(faults), how
    finally:
        for process in site.running.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _watch(run: Run, due: list[tuple[int, str]]) -> str:
    """Does the faults when they are due; returns how the training ended."""
    restarts = 0
    while time.monotonic() - run.began < _LONGEST_SECONDS:
        for at, what in [one for one in run.later if one[0] <= time.monotonic()]:
            run.later.remove((at, what))
            what()
        _see_to_daemons(run)
        if due and _is_up(run) and len(run.site.ledger(run.site.names[0]).spent) > due[0][0]:
            _, kind = due.pop(0)
            up = [one for one in run.site.names if run.site.running[one].poll() is None]
            name = run.chance.choice(up)
            time.sleep(run.chance.uniform(0, 0.7))  # chooses the moment; nothing is waited for
            run.note(f"FAULT: {kind}: {name}")
            FAULTS[kind](run, name)
        code = run.coordinator.poll()
        if code is not None:
            training = run.site.training()
            if training is None or training.past().has_ended:
                return _said(run, code, training is not None and training.release() is not None)
            restarts += 1
            run.note(f"the coordinator ended with {code} and resumes")
            if restarts > _RESTARTS:
                break
            run.coordinator = run.site.coordinate(is_new=False)
        time.sleep(0.1)
    run.coordinator.kill()
    run.coordinator.wait()
    run.broken("the training does not end")
    return "endless"


def _is_up(run: Run) -> bool:
    return any(process.poll() is None for process in run.site.running.values())


def _see_to_daemons(run: Run) -> None:
    """Starts a daemon again whose disk was full; one that distrusts its ledger stays down."""
    for name, process in tuple(run.site.running.items()):
        code = process.poll()
        if code is None or name in run.left_alone:
            continue
        run.note(f"{name} ended with {code}")
        run.left_alone.add(name)
        if code == _DISTRUSTED and name in run.rolled_back:
            continue
        if code in (_LOCKED, 74) and name in run.starved:
            run.after(6, lambda name=name: _back(run, name))
        else:
            run.broken(f"{name} ended with {code}: {run.site.log(name)[-300:]}")


def _back(run: Run, name: str) -> None:
    run.left_alone.discard(name)
    run.restart(name)


def _said(run: Run, code: int, has_release: bool) -> str:
    """Returns how a training ended that has ended; its words must be a person's."""
    log = run.site.log("coordinator")
    if code == 0 and has_release:
        return "release"
    last = log.strip().splitlines()[-1] if log.strip() else ""
    run.note(f"the coordinator ended with {code}: {last}")
    if len(last) < 20:
        run.broken(f"the coordinator ended with {code} and said {last!r}")
    return "ended with words"


def _check(run: Run) -> None:
    """Looks at everything that is left when all processes have ended."""
    for name, code in run.site.stop_all().items():
        is_new = code == -signal.SIGTERM and name in run.rolled_back  # it had only just started
        if code != 0 and not is_new and name not in run.starved:
            run.broken(f"{name} ended with {code} when it was told to stop")
    for log in run.site.directory.glob("*.log"):
        if "Traceback" in log.read_text(errors="replace"):
            run.broken(f"{log.name} has a traceback: {log.read_text()[-1500:]}")
    training = run.site.training()
    if training is None:
        run.broken("there was no training")
        return
    content = (training.directory / TRANSCRIPT_FILE).read_bytes()
    kept = training.release()
    release = None if kept is None else load_release(kept)
    if release is not None:
        release.require_signed_by(run.site.plan.coordinator)
    for finding in audit(content, training.schema(), release).findings:
        if finding.proven and finding.who not in run.rolled_back:
            run.broken(f"the transcript proves against {finding.who}: {finding.what}")
    for name in run.site.names:
        _check_ledger(run, name, content)


def _check_ledger(run: Run, name: str, transcript: bytes) -> None:
    """Compares a ledger with what was opened: each signed head is in it, each answer is paid."""
    premises = run.site.premises(name)
    try:
        with Ledger.open(premises.ledger, lambda: int(time.time())) as ledger:
            ledger.verify()
            hashes = {one.sequence: one.hash() for one in ledger.entries()}
    except FedscoreError as error:
        run.broken(f"the ledger of {name} does not verify: {error}")
        return
    held = run.site.ledger(name)
    if not held.is_chain or held.twice:
        run.broken(f"the ledger of {name} is no chain, or paid something twice")
    opened: set[tuple[str, int]] = set()
    for line in map(read_line, transcript.splitlines()):
        if not isinstance(line, Attempted) or not line.total:
            continue
        if (line.question.value, line.round) in opened:
            run.broken(f"{line.question} {line.round} was opened twice")
        opened.add((line.question.value, line.round))
        attempt = (run.site.plan.digest, line.question.value, line.round, line.attempt)
        for header in line.headers:
            if header.institution != name or name in run.rolled_back:
                continue
            if hashes.get(header.ledger_sequence) != header.ledger_head:
                run.broken(f"the ledger of {name} lacks a head that it has signed")
            if attempt not in held.spent or attempt in held.refunded:
                run.broken(f"{attempt[1:]} of {name} was opened and is not paid")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*-shm", "*.lock"))


def _spent_in(state: Path) -> int:
    scratch_copy = state.with_name(f"{state.name} looked at")
    shutil.rmtree(scratch_copy, ignore_errors=True)
    shutil.copytree(state, scratch_copy)
    return len(Ledgered(scratch_copy / "ledger.sqlite").spent)
