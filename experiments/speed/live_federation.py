"""A federation of real processes on this machine, for measuring: set up, run, taken down."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clients.configuration import Carrier, Configuration
from experiments.cache import ROOT, SCHEMAS
from experiments.nation import BEHAVIOUR, COMMON, REPAYMENT, nation
from experiments.speed.live_daemon import CARRYING, ENVELOPES, LOOKING, WAITING, read_marks
from experiments.speed.live_trace import Mark, Trace, between
from experiments.speed.processes import Memory, MemoryWatch, cpu_seconds, family
from federation import sealed
from federation.canonical import public_key_of
from federation.card import fingerprint_of
from federation.errors import ConfigurationError
from federation.plan import Plan
from federation.schema import Schema, load_schema
from federation.secure_aggregation.opening import Collected
from fedscore.coordinating import run_over_flower
from fedscore.coordinator_files import (
    AUTHORITY,
    ROSTER,
    TRAININGS,
    Front,
    admit,
    make_coordinator,
    settings_for,
)
from fedscore.coordinator_files import open_office as opened
from fedscore.dealing import deal_table
from fedscore.institution_making import CONFIGURATION_FILE, STATE, make_institution
from fedscore.machine import system_clock
from fedscore.planning import default_delta, new_plan
from fedscore.trainings import Trainings
from server import attempts
from server.flower_driver import FlowerTransport
from server.training import Progress

FEDERATION: Final = "measured"
SALT: Final = "7d" * 32
HELD_OUT: Final = 0.25
EPSILON: Final = 1.0
AT_ONCE: Final = "carrying several at once"
OPENING: Final = "masks: checked and opened"
_SCHEMA: Final = SCHEMAS / "nation.toml"
_DEADLINE_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 60.0
_NO_PANDAS: Final = 'raise ImportError("No institution has it: only experiments do.")\n'


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What one thread's time went to in a round, in seconds.

    Attributes:
        seconds: of a round, all parts and what is left over.
        parts: seconds by name.
        calls: how often each part began in a round.
    """

    seconds: float
    parts: dict[str, float]
    calls: dict[str, float]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One federation's training.

    Attributes:
        institutions: how many.
        rounds: seconds of each.
        cpu: seconds of all processors that all processes used for a round.
        memory: of the processes of each institution, when they held most.
        coordinator: its time.
        institution: the mean institution's time; None behind a stock SuperNode.
        load: of the machine in the minute before, as `uptime` says it.
    """

    institutions: int
    rounds: tuple[float, ...]
    cpu: float
    memory: tuple[Memory, ...]
    coordinator: Parts
    institution: Parts | None
    load: float


def measured(
    directory: Path, *, institutions: int, people_each: int, rounds: int, carrier: Carrier
) -> Measured:
    """Returns what a training took with daemons of their own, or behind stock SuperNodes.

    Args:
        directory: empty; everything lies in it.
        institutions: at least 3.
        people_each: in each table, roughly.
        rounds: of the plan.
        carrier: how the daemons are reached.
    """
    load = os.getloadavg()[0]
    office_directory = directory / "coordinator"
    host, port = "127.0.0.1", _free_port()
    address = f"{host}:{port}"
    make_coordinator(
        office_directory, settings_for(FEDERATION, address, listen=host, front=Front.OWN)
    )
    office = opened(office_directory)
    schema = load_schema(_SCHEMA.read_text())
    plan = _plan(schema, institutions, people_each, rounds, public_key_of(office.key))
    plan = plan.signed(office.key)
    dealt = _dealt(directory, plan, schema, institutions * people_each)
    homes = _institutions(directory, plan, dealt, carrier, f"{host}:{port}")
    trace = Trace()
    cpu: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.step in ("bins", "round"):
            trace.mark()
            cpu.append(cpu_seconds(family([os.getpid()])))

    trainings = Trainings(office_directory / TRAININGS)
    office = opened(office_directory)
    training = trainings.new(plan, _SCHEMA.read_text(), office.roster)
    with (
        _measuring(trace),
        _running(directory, homes, carrier, f"{host}:{port}") as roots,
        MemoryWatch(roots) as memory,
    ):
        run_over_flower(
            office,
            trainings,
            training,
            deadline_seconds=_DEADLINE_SECONDS,
            give_up=False,
            watch=watch,
        )
    at = [mark.at for mark in trace.marks]
    start, end = at[0], at[-1]
    marks = [read_marks(directory / f"{home.name}.trace") for home in homes]
    return Measured(
        institutions=institutions,
        rounds=tuple(np.diff(at).tolist()),
        cpu=(cpu[-1] - cpu[0]) / rounds,
        memory=tuple(memory.peaks.values()),
        coordinator=_parts([between(tuple(trace.marks), start, end)], rounds),
        institution=(
            _parts([between(one, start, end) for one in marks], rounds)
            if carrier is Carrier.NODE
            else None
        ),
        load=load,
    )


def _plan(
    schema: Schema, institutions: int, people_each: int, rounds: int, coordinator: str
) -> Plan:
    people = institutions * people_each
    return new_plan(
        schema=schema,
        name="measured",
        federation=FEDERATION,
        purpose="measuring",
        coordinator=coordinator,
        invited=tuple(f"bank-{number:02}" for number in range(institutions)),
        quorum=institutions,
        colluders=1,
        spare_attempts=2,
        rounds=rounds,
        people=people,
        most_per_institution=2 * people_each,
        held_out_fraction=HELD_OUT,
        epsilon=EPSILON,
        delta=default_delta(people),
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=1,
        salt=SALT,
    )


def _dealt(directory: Path, plan: Plan, schema: Schema, people: int) -> tuple[Configuration, ...]:
    """Returns everybody's table, dealt from one of made-up people."""
    table, dealt = directory / "all.parquet", directory / "dealt"
    blocks = (
        block.table(np.ones(block.people, np.bool_), COMMON + BEHAVIOUR + REPAYMENT)
        for block in nation(people, seed=0)
    )
    pq.write_table(pa.concat_tables(blocks), table)
    dealt.mkdir()
    return deal_table(plan, schema, table, dealt)


def _institutions(
    directory: Path, plan: Plan, dealt: tuple[Configuration, ...], carrier: Carrier, address: str
) -> tuple[Path, ...]:
    """Makes and admits everybody; returns their directories."""
    office, homes = directory / "coordinator", []
    for member in dealt:
        home = directory / member.id
        _, card = make_institution(
            home,
            id=member.id,
            title=member.title,
            most_people=member.most_people,
            table=member.table,
            not_held=[],
            federation=FEDERATION,
            salt=SALT,
            held_out_fraction=HELD_OUT,
            address=address,
            coordinator=plan.coordinator,
            purposes=[plan.purpose],
            delta=plan.privacy.delta,
            epsilon_per_plan=EPSILON,
            epsilon_per_year=EPSILON,
            epsilon_lifetime=EPSILON,
        )
        admit(opened(office), card, fingerprint_of(card.key))
        config = home / CONFIGURATION_FILE
        config.write_text(
            f'carrier = "{carrier}"\n'
            + config.read_text().replace('approval = "person"', 'approval = "automatic"')
        )
        homes.append(home)
    for home in homes:
        for public in (office / AUTHORITY, office / ROSTER):
            (home / public.name).write_bytes(public.read_bytes())
        (home / "schema.toml").write_text(_SCHEMA.read_text())
    return tuple(homes)


@contextmanager
def _running(
    directory: Path, homes: tuple[Path, ...], carrier: Carrier, address: str
) -> Iterator[dict[str, list[int]]]:
    """Yields the processes of each institution; they have ended afterwards."""
    hidden = directory / "hidden"
    hidden.mkdir()
    (hidden / "pandas.py").write_text(_NO_PANDAS)  # pyarrow would import it where it is installed
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(hidden)]),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    with ExitStack() as stack:
        roots: dict[str, list[int]] = {}
        for home in homes:
            written = str(directory / f"{home.name}.trace")
            command = [sys.executable, "-m", "experiments.speed.live_daemon"]
            command += [str(home / CONFIGURATION_FILE), written]
            started = [stack.enter_context(_process(command, environment, home / "daemon.log"))]
            if carrier is Carrier.SOCKET:
                own = {**environment, "FLWR_HOME": str(home / "flower")}
                command = _supernode(home, address)
                started += [
                    stack.enter_context(_process(command, own, home / "supernode.log")),
                ]
            roots[home.name] = started
        yield roots


def _supernode(home: Path, address: str) -> list[str]:
    """Returns the command that the documentation of `clients.flower_app` gives."""
    state = home / STATE
    return [
        *("flower-supernode", "--superlink", address),
        *("--root-certificates", str(home / AUTHORITY)),
        *("--auth-supernode-private-key", str(state / "node.key")),
        *("--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(_free_port())),
        *("--node-config", f'socket="{state / "socket" / "daemon"}"'),
    ]


@contextmanager
def _process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[int]:
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=written, stderr=written, env=environment
        )
    try:
        yield process.pid
        if process.poll() is not None:
            raise ConfigurationError(f"{command[-1]} has ended: {log.read_text()[-2000:]}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _measuring(trace: Trace) -> Iterator[None]:
    """Has the coordinator's functions measured within."""
    from flwr.supercore.runtime import RuntimeHttpClient  # noqa: PLC0415  heavy

    places: list[tuple[object, str, str | Callable[..., str]]] = [
        (
            RuntimeHttpClient,
            "_unary_unary",
            lambda *_, path, **__: LOOKING if path.endswith("/pull-messages") else CARRYING,
        ),
        (FlowerTransport, "_at_once", AT_ONCE),
        (time, "sleep", WAITING),
        (sealed, "seal_request", ENVELOPES),
        (sealed, "open_reply", ENVELOPES),
        (attempts, "require_fits", OPENING),
        (Collected, "disagreements", OPENING),
        (Collected, "relayed_to", OPENING),
        (Collected, "require_reveals", OPENING),
        (Collected, "opened", OPENING),
    ]
    originals = [(place, name, getattr(place, name)) for place, name, _ in places]
    try:
        for place, name, part in places:
            trace.wrap(place, name, part)
        yield
    finally:
        for place, name, original in originals:
            setattr(place, name, original)


def _parts(found: list[tuple[float, Mark]], rounds: int) -> Parts:
    """Returns the mean over institutions of what one round's time went to."""
    names = sorted({name for _, mark in found for name in mark.seconds})
    count = len(found) * rounds
    return Parts(
        seconds=sum(seconds for seconds, _ in found) / count,
        parts={n: sum(mark.seconds.get(n, 0.0) for _, mark in found) / count for n in names},
        calls={n: sum(mark.calls.get(n, 0) for _, mark in found) / count for n in names},
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
