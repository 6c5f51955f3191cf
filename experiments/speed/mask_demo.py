"""Masks as a share of the demo's training: a clock around everything that only masks need."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import clients.sessions
import federation.door
import fedscore.simulation
import server.attempts
from clients.configuration import Configuration
from clients.policy import Peers, Policy
from clients.records import Records
from experiments.speed.mask_peers import Milliseconds
from federation.canonical import public_key_of
from federation.plan import MOST_ROUNDS
from federation.schema import load_schema
from federation.secure_aggregation.opening import Collected
from federation.secure_aggregation.session import Group
from fedscore.demo.__main__ import PEOPLE, PURPOSE, ROUNDS, SALT
from fedscore.demo.nation import (
    EPSILON_LIFETIME,
    EPSILON_PER_PLAN,
    EPSILON_PER_YEAR,
    HOLDERS,
    SCHEMA,
    Columns,
    deal_tables,
    not_held,
)
from fedscore.machine import system_clock
from fedscore.planning import default_delta, new_plan
from fedscore.simulation import simulate

_QUICK_ROUNDS: Final = 2
_TRAINING: Final = "training"
_PARTS: Final[dict[str, tuple[tuple[object, tuple[str, ...]], ...]]] = {
    _TRAINING: ((fedscore.simulation, ("run_training",)),),
    "sessions": ((clients.sessions, ("announce", "join")), (Group, ("of",))),
    "masking and sharing": (
        (clients.sessions, ("at_round", "draw_masks", "share")),
        (federation.door, ("masked",)),
    ),
    "checking each other": (
        (clients.sessions, ("checked", "sign_set", "reveal", "valid_signers")),
    ),
    "collecting and opening": (
        (server.attempts, ("require_fits",)),
        (Collected, ("disagreements", "relayed_to", "require_reveals", "opened")),
    ),
    "notes on disk": ((Records, ("begin_session", "begin_attempt", "say", "end_plan")),),
}


class Demo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the CPU time of the demo's training goes, columns as staged.

    Attributes:
        institutions: n.
        questions: totals that were opened: bins, rounds and evaluation.
        seconds: of the training, all parties.
        parts: of these: masks and sessions, and notes on disk.
    """

    institutions: int
    questions: int
    seconds: float
    parts: dict[str, float]


def watched_demo(*, quick: bool) -> Demo:
    """Trains once, with the plan of the demo; only a few rounds of it if it shall be quick."""
    rounds = _QUICK_ROUNDS if quick else ROUNDS
    spent = dict.fromkeys(_PARTS, 0.0)
    with _watched(spent), TemporaryDirectory() as scratch:
        _train(rounds, Path(scratch))
    return Demo(
        institutions=len(HOLDERS),
        questions=rounds + 2,
        seconds=spent.pop(_TRAINING),
        parts=spent,
    )


def _train(rounds: int, scratch: Path) -> None:
    schema = load_schema(SCHEMA.read_text())
    key = Ed25519PrivateKey.generate()
    plan = new_plan(
        schema=schema,
        name="demo",
        federation="taiwan-demo",
        purpose=PURPOSE,
        coordinator=public_key_of(key),
        invited=tuple(holder.id for holder in HOLDERS),
        quorum=len(HOLDERS),
        colluders=1,
        spare_attempts=2,
        rounds=rounds,
        people=PEOPLE,
        most_per_institution=10_000,
        held_out_fraction=0.25,
        epsilon=EPSILON_PER_PLAN,
        delta=default_delta(PEOPLE),
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=1,
        salt=SALT,
    ).signed(key)
    policy = Policy(
        coordinator=plan.coordinator,
        approved_peers=Peers.ROSTER,
        purposes=(PURPOSE,),
        least_participants=3,
        least_quorum=3,
        least_threshold=3,
        least_colluders=1,
        least_audited_share=0.0,
        longest_validity_days=3650,
        rounds_per_hour=MOST_ROUNDS,
        delta=plan.privacy.delta,
        epsilon_per_plan=EPSILON_PER_PLAN,
        epsilon_per_year=EPSILON_PER_YEAR,
        epsilon_lifetime=EPSILON_LIFETIME,
    )
    tables = deal_tables(scratch, Columns.AS_STAGED)
    simulate(
        plan=plan,
        schema=schema,
        members=tuple(
            Configuration(
                id=holder.id,
                title=holder.title,
                most_people=plan.people.most_per_institution,
                table=str(tables[holder.id]),
                not_held=not_held(holder, Columns.AS_STAGED),
                policy=policy,
            )
            for holder in HOLDERS
        ),
        key=key,
        out=scratch / "demo",
        watch=lambda _: None,
        inspect=False,
    )


@contextmanager
def _watched(spent: dict[str, float]) -> Iterator[None]:
    """Adds up the CPU seconds of functions, by part; within another part they count once."""
    inside: list[str] = []

    def clocked(part: str, function: Callable[..., object]) -> Callable[..., object]:
        @wraps(function)
        def wrapper(*args: object, **kwargs: object) -> object:
            if inside and inside[-1] != _TRAINING:
                return function(*args, **kwargs)
            inside.append(part)
            clock = Milliseconds()
            try:
                return function(*args, **kwargs)
            finally:
                spent[inside.pop()] += clock.lap() / 1000

        return wrapper

    originals = []
    for part, owners in _PARTS.items():
        for owner, names in owners:
            for name in names:
                original = vars(owner)[name]
                originals.append((owner, name, original))
                function = clocked(part, getattr(owner, name))
                bound = isinstance(original, classmethod)
                setattr(owner, name, staticmethod(function) if bound else function)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
