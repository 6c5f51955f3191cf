"""Continuous plans: daemons that stay, and a coordinator that runs one small plan after the other.

Everything is what people run: `fedscore institution run` for each institution, all the time, and
`fedscore coordinator start` with a plan that was signed a moment ago, again and again. The policies
let hundreds of plans in without asking anybody.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from federation.canonical import public_key_of
from federation.plan import Plan, plan_toml
from federation.schema import Schema, load_schema
from fedscore.coordinator_files import open_office
from fedscore.planning import new_plan
from fedscore.progress import Trained
from tests.chaos.site import CHECKOUT, FEDERATION, Site, child_of
from tests.federations import PURPOSE, SALT
from tests.soak.sampling import Look, Sample, load, look_at, sample_of

ROUNDS: Final = 3
_SAMPLE_SECONDS: Final = 3.0
_PEOPLE: Final = 2000
_EPSILON: Final = 2.0
_DEADLINE: Final = 60
_POLICY: Final[Mapping[str, str]] = {
    "rounds_per_hour": "100000",
    "epsilon_per_plan": str(_EPSILON),
    "epsilon_per_year": "100.0",
    "epsilon_lifetime": "100.0",
}
_CHILDREN: Final[Mapping[str, str]] = {"SuperLink": "flower_superlink", "front": "server.front"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One plan.

    Attributes:
        at: seconds from the beginning of the soak to the start of its coordinator.
        seconds: from there until that process ended.
        code: with which it ended.
        trained: what it printed, None if it failed.
    """

    at: float
    seconds: float
    code: int
    trained: Trained | None

    @property
    def rounds(self) -> int:
        """Training rounds that were done."""
        steps = () if self.trained is None else self.trained.steps
        return sum(one.step == "round" for one in steps)

    def seconds_of(self, step: str) -> float:
        """Seconds that steps of this name took together."""
        steps = () if self.trained is None else self.trained.steps
        return sum(one.seconds for one in steps if one.step == step)


@dataclass(slots=True, kw_only=True)
class Seen:
    """All that was seen of a soak.

    Attributes:
        names: of the institutions.
        seconds: it took, from the moment all daemons were ready.
        plans: in order.
        samples: of processes, in order of time.
        looks: at directories, after each plan.
        loads: of the machine.
        exits: exit codes of the daemons, when they were told to stop.
        left: files that were left in the directory for temporary ones.
        failure: what the coordinator said when a plan failed; empty if none did.
    """

    names: tuple[str, ...]
    seconds: float = 0.0
    plans: list[Ran] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    exits: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    failure: str = ""


def soak(
    directory: Path,
    *,
    institutions: int,
    is_enough: Callable[[Seen], bool],
    tell: Callable[[Seen], None],
) -> Seen:
    """Runs plans until it is enough or one fails; returns what was seen.

    Args:
        directory: empty and private.
        institutions: 3 or more.
        is_enough: asked after each plan.
        tell: told after each plan.
    """
    scratch = directory / "temporary"
    scratch.mkdir()
    (directory / "site").mkdir()
    os.environ["TMPDIR"] = str(scratch)  # of every process that is started from here on
    site = Site(directory / "site", institutions)
    for name in site.names:
        _allow_many_plans(site.config(name))
    schema = load_schema(site.schema.read_text())
    seen = Seen(names=site.names)
    _look(site, seen)
    try:
        for name in site.names:
            site.start(name)
        _wait_until_ready(site)
        began = time.monotonic()
        while not seen.failure and not is_enough(seen):
            _run_one(site, schema, seen, began)
            seen.seconds = time.monotonic() - began
            tell(seen)
    finally:
        seen.exits = {
            name: code for name, one in site.running.items() if (code := one.poll()) is not None
        }
        seen.exits |= site.stop_all()
    _look(site, seen)
    seen.left = sorted(str(one.relative_to(scratch)) for one in scratch.rglob("*"))
    return seen


def _allow_many_plans(configuration: Path) -> None:
    text = configuration.read_text()
    for name, value in _POLICY.items():
        text, found = re.subn(rf"(?m)^{name} = \S+", f"{name} = {value}", text)
        if found != 1:
            raise RuntimeError(f"{configuration} has no one {name}.")
    configuration.write_text(text)


def _wait_until_ready(site: Site) -> None:
    deadline = time.monotonic() + 120
    while not all("ready, at ledger sequence" in site.log(name) for name in site.names):
        if time.monotonic() > deadline:
            raise RuntimeError("The daemons are not ready after two minutes.")
        time.sleep(0.2)


def _run_one(site: Site, schema: Schema, seen: Seen, began: float) -> None:
    """Runs one plan and looks at everybody while it runs and after it."""
    number = len(seen.plans) + 1
    plan_file, told = site.directory / "plan.toml", site.directory / "told.json"
    plan_file.write_text(plan_toml(_plan(site, schema, number)))
    log = site.directory / "coordinator.log"
    started = time.monotonic()
    with told.open("wb") as output, log.open("ab") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fedscore.command", "coordinator", "start"),
                *(str(site.office), str(plan_file), "--schema", str(site.schema)),
                *("--deadline", str(_DEADLINE), "--json"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=site.directory,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            _watch(site, process, seen, began)
        finally:
            process.terminate()
            process.wait()
    trained = None
    if process.returncode == 0:
        trained = msgspec.convert(json.loads(told.read_bytes()), Trained)
    seen.plans.append(
        Ran(
            at=started - began,
            seconds=time.monotonic() - started,
            code=process.returncode,
            trained=trained,
        )
    )
    _look(site, seen)
    for name in site.names:
        daemon = site.running[name].poll()
        if daemon is not None:
            seen.failure += f"{name} ended with {daemon}: {site.log(name)[-500:]}\n"
    if trained is None:
        seen.failure += f"Plan {number} ended with {process.returncode}: {log.read_text()[-1000:]}"


def _look(site: Site, seen: Seen) -> None:
    plans = len(seen.plans)
    for name in site.names:
        seen.looks.append(look_at(name, site.premises(name).directory, plans))
    seen.looks.append(look_at("coordinator", site.office, plans))
    seen.looks.append(look_at("logs", site.directory, plans))


def _watch(site: Site, process: subprocess.Popen[bytes], seen: Seen, began: float) -> None:
    """Takes samples until the coordinator's process has ended."""
    while process.poll() is None:
        looked_for = {name: one.pid for name, one in site.running.items()}
        looked_for["coordinator"] = process.pid
        for name, word in _CHILDREN.items():
            child = child_of(process, word)
            if child is not None:
                looked_for[name] = child
        now = time.monotonic() - began
        for name, one in looked_for.items():
            sample = sample_of(name, one, now)
            if sample is not None:
                seen.samples.append(sample)
        seen.loads.append(load())
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SAMPLE_SECONDS)


def _plan(site: Site, schema: Schema, number: int) -> Plan:
    office = open_office(site.office)
    return new_plan(
        schema=schema,
        name=f"soak-{number:04d}",
        federation=FEDERATION,
        purpose=PURPOSE,
        coordinator=public_key_of(office.key),
        invited=site.names,
        quorum=3 if len(site.names) == 3 else len(site.names) - 1,
        colluders=1,
        spare_attempts=4,
        rounds=ROUNDS,
        people=_PEOPLE,
        most_per_institution=_PEOPLE,
        held_out_fraction=0.25,
        epsilon=_EPSILON,
        delta=1e-6,
        valid_from=datetime.fromtimestamp(time.time() - 60, UTC),
        days=1,
        salt=SALT,
    ).signed(office.key)
