"""A whole federation in one process: real institutions, real ledgers, an in-process transport.

Beside the release it computes what nobody outside a simulation may know: exact figures of each
institution. They are marked "simulation only" wherever they are shown.
"""

import resource
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.configuration import Configuration
from clients.institution import Institution
from clients.ledger import Ledger
from clients.reading import Reading
from clients.records import Records
from federation.canonical import public_key_of
from federation.errors import ConfigurationError, DataError, ProtocolError
from federation.model.evaluation import Figure
from federation.model.release import AnyRelease, load_release
from federation.plan import Plan, plan_toml
from federation.population import Split
from federation.privacy.entropy import Entropy
from federation.schema import Schema
from federation.secure_aggregation.roster import Member as RosterMember
from federation.secure_aggregation.roster import Roster, roster_toml
from federation.transcript import Transcript
from fedscore.inspection import Member, inspect_institution, pooled
from fedscore.machine import system_clock, system_entropy
from server.running import Running
from server.sums import sums_of
from server.training import Progress, Sums, run_training

RELEASE_FILE: Final = "release.json"
PLAN_FILE: Final = "plan.toml"
TRANSCRIPT_FILE: Final = "transcript.jsonl"
ROSTER_FILE: Final = "roster.toml"
LEDGERS: Final = "ledgers"
RECORDS: Final = "records"
SNAPSHOTS: Final = "snapshots"
_FILES_OF_A_LEDGER: Final = 4  # itself, its lock, its log, the log's index
_OTHER_FILES: Final = 128


class InProcess:
    """A transport within one process: bytes in, bytes out, one institution after the other."""

    def __init__(self, institutions: Mapping[str, Institution]) -> None:
        """Connects institutions by their identifiers."""
        self._institutions = institutions

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns every institution's reply."""
        return {
            name: self._institutions[name].handle(request)
            for name, request in requests.items()
            if name in self._institutions
        }


PlainSums = Callable[[Plan, Schema, Mapping[str, Institution], Callable[[Progress], None]], Sums]
"""Makes the sums of an experiment that adds plain integers; only experiments and tests have one."""


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a simulation.

    Attributes:
        release: what the world would see.
        seconds: of the training itself, inspection excluded.
        exact: AUC of the released card on all held-out people; simulation only.
        members: simulation only.
        log: what institutions wrote in their own logs.
    """

    release: AnyRelease
    seconds: float
    exact: Figure | None
    members: tuple[Member, ...]
    log: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seat:
    """One institution in its place, with what the simulation needs to look at it afterwards."""

    configuration: Configuration
    institution: Institution
    ledger: Ledger


def simulate(
    *,
    plan: Plan,
    schema: Schema,
    members: tuple[Configuration, ...],
    key: Ed25519PrivateKey,
    out: Path,
    watch: Callable[[Progress], None],
    inspect: bool = True,
    clock: Callable[[], int] = system_clock,
    noise_entropy: Entropy = system_entropy,
    mask_entropy: Entropy = system_entropy,
    plain: PlainSums | None = None,
) -> Simulation:
    """Runs a signed plan with all institutions in this process.

    Args:
        plan: signed by `key`.
        schema: that it names.
        members: one configuration for each institution that shall answer.
        key: the coordinator's.
        out: a directory that does not exist yet: gets plan, release and the new ledgers; nothing
            is left of it if the run fails. No real ledger is ever touched.
        watch: told about progress.
        inspect: whether to train every institution's own card and compute exact figures.
        clock: whole seconds since 1970.
        noise_entropy: 32 fresh bytes a call, for noise; each institution draws its own.
        mask_entropy: likewise, for keys and masks.
        plain: how experiments add plain integers instead of running secure aggregation; None, the
            only thing that commands say, runs it.

    Raises:
        ConfigurationError: `out` exists, or an institution's configuration does not fit.
        FedscoreError: whatever stopped the training.
    """
    if out.exists():
        raise ConfigurationError(f"{out} exists already. Name a new directory.")
    _allow_files(_FILES_OF_A_LEDGER * len(members) + _OTHER_FILES)
    unfinished = out.with_name(out.name + ".unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a run that was killed
        unfinished.mkdir(parents=True, mode=0o700)
        simulation = _run(
            plan=plan,
            schema=schema,
            members=members,
            key=key,
            out=unfinished,
            watch=watch,
            inspect=inspect,
            clock=clock,
            noise_entropy=noise_entropy,
            mask_entropy=mask_entropy,
            plain=plain,
        )
        shutil.rmtree(unfinished / SNAPSHOTS)
        unfinished.rename(out)
    except OSError as error:
        raise ConfigurationError(f"Cannot write {error.filename}: {error.strerror}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return simulation


def _allow_files(files: int) -> None:
    """Raises this process's limit of open files to `files` where it is lower.

    A system's usual 1,024, or 256, are fewer than the ledgers of some hundred institutions need.

    Raises:
        ConfigurationError: the system does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= files:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"So many institutions need {files:,} open files, this system allows {hard:,}: raise "
            "its hard limit (ulimit -Hn), or simulate fewer."
        ) from error


def _run(
    *,
    plan: Plan,
    schema: Schema,
    members: tuple[Configuration, ...],
    key: Ed25519PrivateKey,
    out: Path,
    watch: Callable[[Progress], None],
    inspect: bool,
    clock: Callable[[], int],
    noise_entropy: Entropy,
    mask_entropy: Entropy,
    plain: PlainSums | None,
) -> Simulation:
    for directory in (LEDGERS, RECORDS, SNAPSHOTS):
        (out / directory).mkdir(mode=0o700)
    (out / PLAN_FILE).write_text(plan_toml(plan))
    log: list[str] = []
    identities = {one.id: Ed25519PrivateKey.from_private_bytes(mask_entropy()) for one in members}
    roster = _roster(plan, identities, key, mask_entropy)
    (out / ROSTER_FILE).write_text(roster_toml(roster))
    with ExitStack() as files:
        seats = tuple(
            _seat(
                one,
                files,
                identity=identities[one.id],
                roster=roster,
                schema=schema,
                split=plan.people.split,
                out=out,
                clock=clock,
                noise_entropy=noise_entropy,
                mask_entropy=mask_entropy,
                log=log,
            )
            for one in members
        )
        institutions = {seat.configuration.id: seat.institution for seat in seats}
        transcript = Transcript()
        sums = (
            sums_of(
                Running(
                    plan=plan,
                    schema=schema,
                    roster=roster,
                    transport=InProcess(institutions),
                    key=key,
                    entropy=mask_entropy,
                    transcript=transcript,
                    seen={},
                    keep_release=lambda _: None,  # written below, whole or not at all
                    watch=watch,
                )
            )
            if plain is None
            else plain(plan, schema, institutions, watch)
        )
        started = time.perf_counter()
        try:
            data = run_training(
                plan=plan,
                schema=schema,
                sums=sums,
                key=key,
                now=datetime.fromtimestamp(clock(), UTC),
                watch=watch,
            )
        except ProtocolError as error:
            raise ProtocolError("\n".join([str(error), *log])) from error
        seconds = time.perf_counter() - started
        (out / RELEASE_FILE).write_bytes(data)
        if plain is None:
            (out / TRANSCRIPT_FILE).write_bytes(transcript.content())
        release = load_release(data)
        looked = [
            inspect_institution(
                seat.configuration,
                seat.ledger,
                plan=plan,
                schema=schema,
                release=release,
                clock=clock,
                directory=out / SNAPSHOTS / seat.configuration.id / "inspection",
            )
            for seat in (seats if inspect else ())
        ]
    return Simulation(
        release=release,
        seconds=seconds,
        exact=pooled([held_out for _, held_out in looked]),
        members=tuple(member for member, _ in looked),
        log=tuple(log),
    )


def _roster(
    plan: Plan,
    identities: Mapping[str, Ed25519PrivateKey],
    key: Ed25519PrivateKey,
    entropy: Entropy,
) -> Roster:
    """Returns a roster of all who are invited; whoever has no seat has a key that nobody holds."""
    keys = {
        name: identities.get(name) or Ed25519PrivateKey.from_private_bytes(entropy())
        for name in {*plan.participation.invited, *identities}
    }
    members = tuple(RosterMember(id=name, key=public_key_of(keys[name])) for name in sorted(keys))
    return Roster(federation=plan.federation, members=members, signature="").signed(key)


def _seat(
    configuration: Configuration,
    files: ExitStack,
    *,
    identity: Ed25519PrivateKey,
    roster: Roster,
    schema: Schema,
    split: Split,
    out: Path,
    clock: Callable[[], int],
    noise_entropy: Entropy,
    mask_entropy: Entropy,
    log: list[str],
) -> _Seat:
    name = configuration.id
    workspace = out / SNAPSHOTS / name
    workspace.mkdir(mode=0o700)
    ledger = files.enter_context(Ledger.create(out / LEDGERS / f"{name}.sqlite", clock))
    records = files.enter_context(Records.create(out / RECORDS / f"{name}.sqlite"))
    try:
        institution = Institution(
            identifier=name,
            identity=identity,
            roster=roster,
            schema=schema,
            read_table=Reading(
                configuration=configuration,
                schema=schema,
                split=split,
                clock=clock,
                withdrawals=None,
            ),
            most_people=configuration.most_people,
            split=split,
            policy=configuration.policy,
            ledger=ledger,
            records=records,
            workspace=workspace,
            is_approved=lambda _: True,  # a simulation has no people to ask
            keep_release=lambda _: None,  # the coordinator's copy lies beside it
            withdrawals=None,
            clock=clock,
            noise_entropy=noise_entropy,
            mask_entropy=mask_entropy,
            log=lambda text: log.append(f"{name}: {text}"),
        )
        institution.prepare()
    except (ConfigurationError, DataError) as error:
        raise type(error)(f"{configuration.title} ({name}): {error}") from error
    return _Seat(configuration=configuration, institution=institution, ledger=ledger)
