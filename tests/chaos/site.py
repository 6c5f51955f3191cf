"""A federation of real processes on loopback, small enough that a training takes some seconds."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

import fedscore
from clients.configuration import load_daemon_configuration
from clients.premises import Premises
from federation.canonical import public_key_of
from federation.plan import Plan, plan_toml
from federation.schema import load_schema
from fedscore.coordinator_files import (
    TRAININGS,
    Front,
    admit,
    make_coordinator,
    open_office,
    settings_for,
)
from fedscore.institution_making import CONFIGURATION_FILE, make_institution
from fedscore.planning import new_plan
from fedscore.trainings import Training, Trainings
from tests.chaos.observer import Ledgered
from tests.federations import _SMALL, PURPOSE, SALT, names, small_table
from tests.flower_processes import free_port

CHECKOUT: Final = Path(fedscore.__file__).resolve().parents[1]
FEDERATION: Final = "chaos"
ROUNDS: Final = 7
DEADLINE: Final = 6
"""Seconds after which the coordinator counts an institution as silent."""
_PEOPLE: Final = 300
_STOP_SECONDS: Final = 40.0


class Site:
    """Everybody's directories, and their processes."""

    def __init__(self, directory: Path, institutions: int) -> None:
        """Makes keys, admits all, and signs a plan that all accept without asking anybody.

        Args:
            directory: empty.
            institutions: 3 or more; the quorum is all of 3, and one less than more of them.
        """
        self.directory = directory
        self.names = names(institutions)
        self.office = directory / "coordinator"
        self.schema = directory / "schema.toml"
        self.schema.write_text(_SMALL.format(rows="one"))
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.exits: list[tuple[str, int]] = []
        address = f"127.0.0.1:{free_port()}"
        settings = settings_for(FEDERATION, address, listen="", front=Front.OWN)
        settings = msgspec.structs.replace(settings, superlink_port=free_port())
        key = make_coordinator(self.office, settings)
        for number, name in enumerate(self.names):
            self._make(name, number, key, address)
        for name in self.names:
            for public in (self.schema, self.office / "ca.pem", self.office / "roster.toml"):
                shutil.copy(public, self.home(name) / public.name)
        self.plan = self._plan()
        self.plan_path = directory / "plan.toml"
        self.plan_path.write_text(plan_toml(self.plan))

    def _make(self, name: str, number: int, key: str, address: str) -> None:
        table = small_table(
            self.directory / f"{name}.parquet", _PEOPLE, number, first_person=number * _PEOPLE
        )
        _, card = make_institution(
            self.home(name),
            id=name,
            title=name.title(),
            most_people=2000,
            table=str(table),
            not_held=[],
            federation=FEDERATION,
            salt=SALT,
            held_out_fraction=0.25,
            address=address,
            coordinator=key,
            purposes=[PURPOSE],
            delta=1e-6,
            epsilon_per_plan=8.0,
            epsilon_per_year=16.0,
            epsilon_lifetime=16.0,
        )
        path = self.config(name)
        path.write_text(path.read_text().replace('approval = "person"', 'approval = "automatic"'))
        admit(open_office(self.office), card, card.key)

    def _plan(self) -> Plan:
        office = open_office(self.office)
        return new_plan(
            schema=load_schema(self.schema.read_text()),
            name="chaos",
            federation=FEDERATION,
            purpose=PURPOSE,
            coordinator=public_key_of(office.key),
            invited=self.names,
            quorum=3 if len(self.names) == 3 else len(self.names) - 1,
            colluders=1,
            spare_attempts=8,
            rounds=ROUNDS,
            people=2000,
            most_per_institution=2000,
            held_out_fraction=0.25,
            epsilon=8.0,
            delta=1e-6,
            valid_from=datetime.fromtimestamp(time.time() - 60, UTC),
            days=1,
            salt=SALT,
        ).signed(office.key)

    # Where things are.

    def home(self, name: str) -> Path:
        return self.directory / name

    def config(self, name: str) -> Path:
        return self.home(name) / CONFIGURATION_FILE

    def premises(self, name: str) -> Premises:
        return Premises(Path(load_daemon_configuration(self.config(name)).state))

    def ledger(self, name: str) -> Ledgered:
        """Returns what an institution's ledger holds, read from a copy: it is never touched."""
        path = self.premises(name).ledger
        scratch = self.directory / "looked at"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        for _ in range(5):
            for suffix in ("", "-wal"):
                part = path.with_name(path.name + suffix)
                with suppress(FileNotFoundError):
                    shutil.copy(part, scratch / part.name)
            with suppress(sqlite3.Error):  # copied in the middle of a checkpoint: once more
                return Ledgered(scratch / path.name)
        return Ledgered(scratch / path.name)

    @property
    def trainings(self) -> Trainings:
        return Trainings(self.office / TRAININGS)

    def training(self) -> Training | None:
        """Returns the latest training, None before there is one."""
        found = self.trainings.all()
        return found[-1] if found else None

    # Processes.

    def start(self, name: str, *, home: Path | None = None) -> subprocess.Popen[bytes]:
        """Starts an institution's daemon, from a copy of its home if one is given."""
        config = (home or self.home(name)) / CONFIGURATION_FILE
        process = self._started(f"{name}.log", "institution", "run", config)
        self.running[name] = process
        return process

    def start_beside(self, name: str) -> int:
        """Returns the exit code of a second daemon on a state that has one already."""
        second = self._started(f"{name}.second.log", "institution", "run", self.config(name))
        return second.wait(60)

    def coordinate(self, *, is_new: bool) -> subprocess.Popen[bytes]:
        """Starts the coordinator: a new training, or the one that was stopped."""
        if is_new:
            words: tuple[object, ...] = ("start", self.office, self.plan_path)
            words += ("--schema", self.schema)
        else:
            words = ("resume", self.office)
        return self._started(
            "coordinator.log", "coordinator", *words, "--deadline", DEADLINE, "--json"
        )

    def _started(self, log: str, *words: object) -> subprocess.Popen[bytes]:
        with (self.directory / log).open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "fedscore.command", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OPENBLAS_NUM_THREADS": "1"},
            )

    def stop_all(self) -> dict[str, int]:
        """Returns the exit codes of the daemons that still ran, told to end."""
        told = {name: one for name, one in self.running.items() if one.poll() is None}
        for process in told.values():
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        return {name: ended(process) for name, process in told.items()}

    def log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def ended(process: subprocess.Popen[bytes]) -> int:
    """Returns the exit code of a process that was told to end; it is killed if it does not."""
    try:
        return process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def child_of(process: subprocess.Popen[bytes], word: str) -> int | None:
    """Returns the process that a process has started with a word in its command, if any."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with suppress(OSError):
        for child in path.read_text().split():
            if word in Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace"):
                return int(child)
    return None
