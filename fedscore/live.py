"""`make live`: a coordinator and five institutions as processes of their own, on this machine.

Every step is a command that a person would type; only the waiting between them is done here. The
institutions are those of the demo, so the people are real and the institutions staged. Where
PostgreSQL is installed the last of them has its table there, in a server that lives as long.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

from fedscore.demo import postgresql_server
from fedscore.demo.nation import (
    EPSILON_LIFETIME,
    EPSILON_PER_PLAN,
    EPSILON_PER_YEAR,
    HOLDERS,
    SCHEMA,
    Columns,
    Holder,
    deal_tables,
)

INSTITUTIONS: Final = 5
ROUNDS: Final = 20
SALT: Final = "7d" * 32
HELD_OUT: Final = "0.25"
DELTA: Final = "1e-6"
MOST_PEOPLE: Final = "10000"
_STOP_SECONDS: Final = 60.0


class Failed(Exception):  # noqa: N818  a command said no: its own words are the message
    """A command ended with an exit code other than zero."""


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen.

    Attributes:
        rounds: seconds of each training round, in order.
        training_seconds: from the first invitation to the release.
        setup_seconds: to make keys, cards, plan and decisions.
        memory_megabytes: largest resident memory of each daemon, empty where there is no /proc.
        exit_codes: of the daemons, when they were told to stop.
        checked: what was verified afterwards.
        postgresql: the institution whose table was read from there, empty if none was.
    """

    rounds: tuple[float, ...]
    training_seconds: float
    setup_seconds: float
    memory_megabytes: dict[str, float]
    exit_codes: dict[str, int]
    checked: tuple[str, ...]
    postgresql: str


def run_live(
    directory: Path,
    *,
    institutions: int,
    rounds: int,
    daemon: tuple[str, ...] = ("-m", "fedscore.command", "institution", "run"),
) -> Live:
    """Returns what happened when separate processes trained one card.

    Args:
        directory: empty and private; everything lies in it.
        institutions: 3 to 8.
        rounds: of the training.
        daemon: what the interpreter runs, before the configuration; tests inject entropy so.

    Raises:
        Failed: a command did.
    """
    started = time.monotonic()
    holders = HOLDERS[:institutions]
    plan, schema = directory / "plan.toml", directory / "schema.toml"
    schema.write_text(SCHEMA.read_text())
    with _database() as database:
        last = holders[-1].id if database else ""
        _set_up(directory, holders, plan, schema, rounds)
        if database:
            _move_table(directory / last, database)
        setup_seconds = time.monotonic() - started
        told, daemons, memory = _trained(directory, holders, plan, schema, daemon)
    training = json.loads(told)
    checked = _checked(Path(training["directory"]), directory, holders, plan, schema)
    return Live(
        rounds=tuple(one["seconds"] for one in training["steps"] if one["step"] == "round"),
        training_seconds=training["seconds"],
        setup_seconds=setup_seconds,
        memory_megabytes=memory,
        exit_codes={name: process.returncode for name, process in daemons.items()},
        checked=checked,
        postgresql=last,
    )


def _trained(
    directory: Path, holders: tuple[Holder, ...], plan: Path, schema: Path, daemon: tuple[str, ...]
) -> tuple[str, dict[str, subprocess.Popen[bytes]], dict[str, float]]:
    """Returns what the coordinator printed, the daemons, ended, and the most that each held."""
    with _daemons(directory, holders, daemon) as daemons:
        told = _fedscore(
            "coordinator", "start", directory / "coordinator", plan, "--schema", schema, "--json"
        )
        memory = {
            name: megabytes
            for name, process in daemons.items()
            if (megabytes := _peak_megabytes(process.pid)) is not None
        }
    return told, daemons, memory


@contextmanager
def _database() -> Iterator[Path | None]:
    """Yields the socket's directory of a PostgreSQL, None where it or psycopg is not installed."""
    programs = postgresql_server.installed()
    if programs is None or find_spec("psycopg") is None:
        yield None
        return
    with postgresql_server.running_server(programs) as socket_directory:
        yield socket_directory


def _move_table(home: Path, database: Path) -> None:
    """Puts an institution's table into PostgreSQL and makes its configuration say so."""
    configuration = home / "institution.toml"
    text = configuration.read_text()
    table = Path(tomllib.loads(text)["table"])
    connection = home / "postgresql.conninfo"
    connection.write_text(f"host={database} dbname=postgres user=postgres")
    connection.chmod(0o600)
    postgresql_server.load_table(connection.read_text(), "people", table)
    table.unlink()
    changed = re.sub(r"(?m)^table = .*$", 'table = "people"', text)
    configuration.write_text('postgresql_connection = "postgresql.conninfo"\n' + changed)


def _set_up(
    directory: Path, holders: tuple[Holder, ...], plan: Path, schema: Path, rounds: int
) -> None:
    """Makes everybody's keys, admits all, and has a plan approved by all."""
    tables = deal_tables(directory, Columns.AS_STAGED)
    office = directory / "coordinator"
    address = f"127.0.0.1:{_free_port()}"
    made = _fedscore(
        "coordinator", "init", office, "--federation", "taiwan-live", "--address", address
    )
    coordinator = _fingerprint_in(made).replace(" ", "")
    for holder in holders:
        home = directory / holder.id
        made = _fedscore(
            *("institution", "init", home, "--id", holder.id, "--title", holder.title),
            *("--table", tables[holder.id], "--not-held", ",".join(holder.not_held)),
            *("--most-people", MOST_PEOPLE, "--federation", "taiwan-live", "--salt", SALT),
            *("--held-out", HELD_OUT, "--coordinator", coordinator, "--address", address),
            *("--purpose", "credit-scoring", "--delta", DELTA),
            *("--epsilon-per-plan", EPSILON_PER_PLAN, "--epsilon-per-year", EPSILON_PER_YEAR),
            *("--epsilon-lifetime", EPSILON_LIFETIME),
        )
        read_out = _fingerprint_in(made)
        _fedscore("coordinator", "admit", office, home / "card.toml", "--fingerprint", read_out)
    for holder in holders:  # what the coordinator hands over once all are admitted
        home = directory / holder.id
        for public in (schema, office / "ca.pem", office / "roster.toml"):
            (home / public.name).write_bytes(public.read_bytes())
    drafted = _fedscore(
        *("plan", "new", "--schema", schema, "--coordinator", coordinator, "--name", "live"),
        *("--federation", "taiwan-live", "--purpose", "credit-scoring"),
        *("--invite", ",".join(holder.id for holder in holders)),
        *("--quorum", len(holders), "--colluders", 1, "--people", 30_000),
        *("--most-per-institution", MOST_PEOPLE, "--epsilon", EPSILON_PER_PLAN),
        *("--delta", DELTA, "--held-out", HELD_OUT, "--salt", SALT, "--rounds", rounds),
    )
    plan.write_text(drafted)
    _fedscore("plan", "sign", plan, "--key", office / "coordinator.key")
    for holder in holders:
        _fedscore("institution", "approve", directory / holder.id / "institution.toml", plan)


@contextmanager
def _daemons(
    directory: Path, holders: tuple[Holder, ...], daemon: tuple[str, ...]
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Yields one running process for each institution; they have ended afterwards."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for holder in holders:
            home = directory / holder.id
            with (home / "daemon.log").open("wb") as log:
                running[holder.id] = subprocess.Popen(  # noqa: S603  this interpreter
                    [sys.executable, *daemon, str(home / "institution.toml")],
                    stdin=subprocess.DEVNULL,
                    stderr=log,
                    env=_environment(),
                )
        yield running
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        for process in running.values():
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _checked(
    training: Path, directory: Path, holders: tuple[Holder, ...], plan: Path, schema: Path
) -> tuple[str, ...]:
    """Returns what was verified: release, transcript, and every ledger."""
    release = training / "release.json"
    _fedscore("release", "verify", release, "--plan", plan)
    _fedscore(
        *("transcript", "audit", training / "transcript.jsonl", "--schema", schema),
        *("--release", release),
    )
    for holder in holders:
        _fedscore("ledger", "verify", directory / holder.id / "state" / "ledger.sqlite")
        config = directory / holder.id / "institution.toml"
        status = json.loads(_fedscore("institution", "status", config, "--json"))
        if status["open_plans"]:
            raise Failed(f"{holder.id} did not close the plan.")
    return ("release", "transcript", *(f"ledger of {holder.id}" for holder in holders))


def _command(*words: object) -> list[str]:
    return [sys.executable, "-m", "fedscore.command", *map(str, words)]


def _environment() -> dict[str, str]:
    return {"OPENBLAS_NUM_THREADS": "1", **os.environ}


def _fedscore(*words: object) -> str:
    """Returns what a command printed."""
    done = subprocess.run(  # noqa: S603  this interpreter
        _command(*words),
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=_environment(),
    )
    if done.returncode:
        raise Failed(f"fedscore {' '.join(map(str, words[:2]))}: {done.stderr.strip()}")
    return done.stdout


def _fingerprint_in(text: str) -> str:
    found = re.search(r"([0-9a-f]{8} ){7}[0-9a-f]{8}", text)
    if found is None:
        raise Failed("No fingerprint was printed.")
    return found[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _peak_megabytes(process: int) -> float | None:
    """Returns the largest resident memory of a process, where the system says so."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return None if found is None else int(found[1]) / 1024


def main() -> int:
    """Runs it, prints the round log and what it took."""
    say = sys.stdout.write
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedscore-live-") as scratch:
        say(f"A coordinator and {INSTITUTIONS} institutions, each a process of its own.\n")
        try:
            seen = run_live(Path(scratch), institutions=INSTITUTIONS, rounds=ROUNDS)
        except Failed as error:
            say(f"{error}\n")
            for log in sorted(Path(scratch).glob("*/daemon.log")):
                say(f"--- {log.parent.name}\n{log.read_text()[-2000:]}")
            return 1
    for number, seconds in enumerate(seen.rounds, start=1):
        say(f"round {number:2d}  {seconds:6.2f} s\n")
    memory = ", ".join(f"{name} {value:.0f}" for name, value in seen.memory_megabytes.items())
    say(
        f"{sum(seen.rounds) / len(seen.rounds):.2f} seconds a round; training "
        f"{seen.training_seconds:.0f} s after {seen.setup_seconds:.0f} s of set-up; "
        f"{time.monotonic() - started:.0f} s in all.\n"
        f"Peak memory in MB: {memory or 'not known here'}.\n"
        f"Exit codes of the daemons: {seen.exit_codes}.\n"
        f"Verified: {', '.join(seen.checked)}.\n"
        f"Read from PostgreSQL: {seen.postgresql or 'nobody, it is not installed here'}.\n"
    )
    return 0 if not any(seen.exit_codes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
