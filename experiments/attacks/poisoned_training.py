"""A training of ten institutions with a poisoner, and what the others see of it at home."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from clients.configuration import Configuration
from clients.home import train_at_home
from clients.institution import Institution
from clients.snapshot import take_snapshot
from experiments.attacks.poison import (
    Poisoner,
    false_table,
    with_plain_steps,
    without_cap,
    without_clip,
)
from experiments.datasets import TAIWAN
from experiments.division import INSTITUTIONS, divided
from experiments.entropy import SeededEntropy
from experiments.plain import plain_sums
from experiments.quality.utility import CLIPS, network
from experiments.trial import DELTA, People, deal, policy_for
from federation.canonical import public_key_of
from federation.errors import ProtocolError
from federation.grid import Role
from federation.learning import NetworkModel, ScorecardModel
from federation.model.exact_auc import auc_difference, auc_of
from federation.model.release import AnyRelease
from federation.outcome import require_gate
from federation.plan import Plan
from federation.privacy.units import Population
from federation.schema import Schema
from fedscore.planning import SCORECARD, STANDARD_SCALE, new_plan
from fedscore.simulation import PlainSums, simulate
from server.training import Progress, Sums

EPSILON: Final = 1.0
ROUNDS: Final = 20
HELD_OUT: Final = 0.2
LEAST_AUC: Final = 0.75
"""Of the gate: a little below what institutions' own cards reach, as they see at home."""

PLAIN_STEP: Final = 0.2
"""Of a network without Adam: below 2 / curvature, whose largest value is a quarter of its inputs
that are 1 at once, about 46."""

_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
_POISONER: Final = INSTITUTIONS[0]
_FEATURE: Final = "limit_bal"
_NOW: Final = 1_700_000_000


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One training.

    Attributes:
        auc: on test people of everybody.
        others: mean over the nine honest institutions, each on its own held-out people.
        alone: the same of the card that each trains at home.
        reported: AUC in the release, falsified or not; None if it reports none.
        refused: whether a gate at `LEAST_AUC` refuses it.
        worse: honest institutions at which the national model is below the own card, by the paired
            95 % interval of the report at home.
    """

    auc: float
    others: float
    alone: float
    reported: float | None
    refused: bool
    worse: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """One honest institution's held-out people, and its own card.

    Attributes:
        people: held out.
        alone: int64[people], points by the card that was trained at home.
    """

    people: People
    alone: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nation:
    """Ten institutions, one of which has a share of all people.

    Attributes:
        schema: of all tables.
        tables: the true ones, by name.
        test: people at no institution.
        homes: of the honest ones.
    """

    schema: Schema
    tables: Mapping[str, pa.Table]
    test: People
    homes: tuple[Home, ...]


@cache
def nation(share: float) -> Nation:
    """Returns always the same nation for a share of people at the first institution."""
    with divided(TAIWAN, 0) as data, tempfile.TemporaryDirectory() as scratch:
        place = np.random.default_rng(17).permutation(data.train.num_rows) / data.train.num_rows
        others = 1 + (place - share) / (1 - share) * (len(INSTITUTIONS) - 1)
        owners = np.where(place < share, 0, others).astype(np.int64)
        deal(data.train, owners, INSTITUTIONS, Path(scratch))
        tables = {name: Path(scratch) / f"{name}.parquet" for name in INSTITUTIONS}
        return Nation(
            schema=data.schema,
            tables={name: pq.read_table(path) for name, path in tables.items()},
            test=data.people,
            homes=tuple(_home(data.schema, tables[name]) for name in INSTITUTIONS[1:]),
        )


def _home(schema: Schema, table: Path) -> Home:
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = take_snapshot(
            schema,
            table,
            not_held=frozenset(),
            split=_plan(schema, SCORECARD).people.split,
            directory=Path(scratch) / "snapshot",
        )
        card = train_at_home(schema, snapshot, STANDARD_SCALE)
        blocks = list(snapshot.blocks(Population.HELD_OUT))
        scored = schema.places(Role.SCORED)
        people = People(
            codes=np.concatenate([block.codes[scored] for block in blocks], axis=1),
            bad=np.concatenate([block.bad for block in blocks]).astype(bool),
        )
    return Home(people=people, alone=card.scores(people.codes))


def _plan(schema: Schema, model: ScorecardModel | NetworkModel, rounds: int = ROUNDS) -> Plan:
    return new_plan(
        schema=schema,
        name="poisoned",
        federation="poisoned",
        purpose="attack",
        coordinator=public_key_of(_KEY),
        invited=INSTITUTIONS,
        quorum=len(INSTITUTIONS),
        colluders=1,
        spare_attempts=0,
        model=model,
        rounds=rounds,
        people=22_500,
        most_per_institution=11_250,
        held_out_fraction=HELD_OUT,
        epsilon=EPSILON,
        delta=DELTA,
        valid_from=datetime.fromtimestamp(_NOW, UTC),
        days=1,
        salt="0" * 64,
    ).signed(_KEY)


def trained(model: str, attack: str, build: str, share: float, seed: int) -> Outcome:
    """Returns what one training gives.

    Args:
        model: "scorecard" or "network".
        attack: of the first institution.
        build: "product", "no cap" or "plain steps".
        share: of all people, at the first institution.
        seed: of the noise.
    """
    found = nation(share)
    deep = network(found.schema, CLIPS[TAIWAN.name], hidden=(16,), rate=0.03)
    plan = _plan(found.schema, SCORECARD if model == "scorecard" else deep)
    with tempfile.TemporaryDirectory() as scratch, _attacked(attack, build) as poisoner:
        release = _released(found, plan, poisoner, attack=attack, scratch=Path(scratch), seed=seed)
    gains, others, alone = [], [], []
    for home in found.homes:
        points, bad = release.points(home.people.codes), home.people.bad
        others.append(auc_of(points, bad).value)
        alone.append(auc_of(home.alone, bad).value)
        gains.append(auc_difference(points, home.alone, bad))
    overall = release.report.overall
    return Outcome(
        auc=found.test.auc_of_release(release),
        others=float(np.mean(others)),
        alone=float(np.mean(alone)),
        reported=None if overall is None else overall.auc.value,
        refused=not _passes(release, plan),
        worse=sum(gain.high < 0 for gain in gains),
    )


def _passes(release: AnyRelease, plan: Plan) -> bool:
    try:
        require_gate(release.report.overall, msgspec.structs.replace(plan, least_auc=LEAST_AUC))
    except ProtocolError:
        return False
    return True


@contextmanager
def _attacked(attack: str, build: str) -> Iterator[Poisoner | None]:
    with ExitStack() as stack:
        poisoner = None
        if attack in ("vectors", "unbounded"):
            poisoner = Poisoner(is_bounded=attack == "vectors")
            stack.enter_context(poisoner.at_work())
        if attack == "unbounded":
            stack.enter_context(without_clip())
        if build == "no cap":
            stack.enter_context(without_cap())
        if build == "plain steps":
            stack.enter_context(with_plain_steps(PLAIN_STEP))
        yield poisoner


def _released(
    found: Nation,
    plan: Plan,
    poisoner: Poisoner | None,
    *,
    attack: str,
    scratch: Path,
    seed: int,
) -> AnyRelease:
    members = []
    for name, table in found.tables.items():
        path = scratch / f"{name}.parquet"
        lie = attack if name == _POISONER else "none"
        told = false_table(
            table,
            lie=lie,
            outcome=TAIWAN.outcome,
            feature=_FEATURE,
            features=[grid.name for grid in found.schema.scored_grids],
        )
        pq.write_table(told, path)
        members.append(
            Configuration(
                id=name,
                title=name,
                most_people=plan.people.most_per_institution,
                table=str(path),
                policy=policy_for(plan),
            )
        )
    entropy = SeededEntropy(f"poisoning {seed}")
    return simulate(
        plan=plan,
        schema=found.schema,
        members=tuple(members),
        key=_KEY,
        out=scratch / "run",
        watch=lambda _: None,
        inspect=False,
        clock=lambda: _NOW,
        noise_entropy=entropy,
        plain=_sums(entropy, poisoner),
    ).release


def _sums(entropy: SeededEntropy, poisoner: Poisoner | None) -> PlainSums:
    honest = plain_sums(entropy)

    def made(
        plan: Plan,
        schema: Schema,
        institutions: Mapping[str, Institution],
        watch: Callable[[Progress], None],
    ) -> Sums:
        if poisoner is not None:
            poisoner.institution = institutions[_POISONER]
        return honest(plan, schema, institutions, watch)

    return made
