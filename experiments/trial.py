"""One federation of an experiment: tables on disk, a plan on fixed terms, a whole training.

The product runs as it is: plans, ledgers, snapshots, the door, the release. Only the keys that
noise is expanded from are seeded, so that a run can be repeated.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from clients.policy import Peers, Policy
from clients.snapshot import take_snapshot
from experiments.cache import digest_of_files
from experiments.entropy import SeededEntropy
from experiments.plain import plain_sums
from federation.canonical import public_key_of
from federation.grid import Role
from federation.learning import Institution, Joint, Local, NetworkModel, ScorecardModel
from federation.model.exact_auc import auc_of
from federation.model.release import AnyRelease, require_scorecard
from federation.model.scorecard import AdditiveCard
from federation.plan import MOST_ROUNDS, Plan
from federation.population import Split
from federation.pricing import noise_for
from federation.privacy.accountant import LARGEST_EPSILON
from federation.privacy.units import Population
from federation.schema import Schema
from fedscore.machine import system_clock
from fedscore.planning import BINS_SHARE, JOINT, SCORECARD, STANDARD_SCALE, new_plan
from fedscore.simulation import Simulation, simulate

DELTA: Final = 1e-6

_PURPOSE: Final = "comparison"
_SALT: Final = "0" * 64
_NOBODY_HELD_OUT: Final = Split(salt=_SALT, held_out_fraction=0.0)
_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment decides about a plan.

    Attributes:
        epsilon: of a trained person, bins and spare attempts included, at delta 1e-6, against the
            coordinator and one institution; neighbours add or remove one person at one
            institution.
        rounds: of training.
        people: public figure for everyone in the federation.
        most_per_institution: public figure that no institution exceeds.
        spare_attempts: rounds that may be asked once more; their price is paid all the same.
        bins_share: the part of mu^2 that the noisy counts for bins get.
        mode: who is protected, and by whose noise.
        model: what is trained.
    """

    epsilon: float
    rounds: int
    people: int
    most_per_institution: int
    spare_attempts: int = 2
    bins_share: float = BINS_SHARE
    mode: Joint | Local | Institution = JOINT
    model: ScorecardModel | NetworkModel = SCORECARD


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Institutions with their tables. All of them must answer; one may collude.

    Attributes:
        schema: of all tables.
        tables: of each institution, by its identifier; one person is one row.
        not_held: features that an institution does not have; nothing for those that have all.
        digest: of schema, tables and what is not held.
    """

    schema: Schema
    tables: Mapping[str, Path]
    not_held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over all that a training reads."""
        held = ";".join(f"{name}:{','.join(of)}" for name, of in sorted(self.not_held.items()))
        parts = f"{self.schema.digest} {held} {digest_of_files(self.tables.values())}"
        return hashlib.sha256(parts.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """People to score: only an experiment sees them all.

    Attributes:
        codes: uint8[scored features, people].
        bad: bool[people].
    """

    codes: NDArray[np.uint8]
    bad: NDArray[np.bool_]

    def auc(self, card: AdditiveCard) -> float:
        """Returns the exact AUC of a card in points."""
        return auc_of(card.scores(self.codes), self.bad).value

    def auc_of_release(self, release: AnyRelease) -> float:
        """Returns the exact AUC of a released model of any kind."""
        return auc_of(release.points(self.codes), self.bad).value


def deal(people: pa.Table, owners: NDArray[np.int64], names: tuple[str, ...], into: Path) -> None:
    """Writes the table of each institution.

    Args:
        people: one row a person.
        owners: int64[people], the position of each person's institution in `names`; those that
            have none carry -1.
        names: of institutions.
        into: an existing directory; gets NAME.parquet for each.
    """
    for number, name in enumerate(names):
        pq.write_table(people.filter(pa.array(owners == number)), into / f"{name}.parquet")


def owners_by_hash(keys: NDArray[np.int64], institutions: int) -> NDArray[np.int64]:
    """Returns int64[keys]: the institution that a hash of each key names."""
    width = 1 if institutions <= 10 else 8
    return np.array(
        [
            int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:width], "big") % institutions
            for key in keys.tolist()
        ],
        dtype=np.int64,
    )


def made_from(federation: Federation, terms: Terms, noise_seed: int) -> dict[str, object]:
    """Returns all that the result of `train` depends on but code, for the cache."""
    plan = msgspec.to_builtins(plan_of(federation, terms))
    for name in ("valid_from", "valid_until", "signature", "coordinator"):
        del plan[name]
    return {
        "what": "training",
        "federation": federation.digest,
        "plan": plan,
        "seed": noise_seed,
    }


def train(federation: Federation, terms: Terms, noise_seed: int) -> AdditiveCard:
    """Runs a whole training and returns the released card, in points."""
    return require_scorecard(released(federation, terms, noise_seed).release).card


def released(federation: Federation, terms: Terms, noise_seed: int) -> Simulation:
    """Runs a whole training of any model and returns what came of it."""
    plan = plan_of(federation, terms).signed(_KEY)
    policy = policy_for(plan)
    members = tuple(
        Configuration(
            id=name,
            title=name,
            most_people=terms.most_per_institution,
            table=str(table),
            not_held=federation.not_held.get(name, ()),
            policy=policy,
        )
        for name, table in federation.tables.items()
    )
    with tempfile.TemporaryDirectory() as scratch:
        entropy = SeededEntropy(f"{terms.epsilon} {noise_seed}")
        return simulate(
            plan=plan,
            schema=federation.schema,
            members=members,
            key=_KEY,
            out=Path(scratch) / "run",
            watch=lambda _: None,
            inspect=False,
            noise_entropy=entropy,
            plain=plain_sums(entropy),
        )


def policy_for(plan: Plan) -> Policy:
    """Returns a policy that allows a plan, once."""
    # An institution's epsilon is promised there, and a person's, which is larger, is charged.
    in_institutions = isinstance(plan.mode, Institution)
    limit = LARGEST_EPSILON if in_institutions else plan.privacy.epsilon
    return Policy(
        coordinator=plan.coordinator,
        approved_peers=Peers.ROSTER,
        purposes=(plan.purpose,),
        modes=(plan.mode_name,),
        least_participants=3,
        least_quorum=plan.participation.quorum,
        least_threshold=3,
        least_colluders=1,
        least_audited_share=0.0,
        longest_validity_days=3650,
        rounds_per_hour=MOST_ROUNDS,
        delta=DELTA,
        epsilon_per_plan=limit,
        epsilon_per_year=limit,
        epsilon_lifetime=limit,
    )


def train_alone(schema: Schema, table: Path, not_held: tuple[str, ...] = ()) -> AdditiveCard:
    """Returns the card that the people of one table give without noise, as at home."""
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = take_snapshot(
            schema,
            table,
            not_held=frozenset(not_held),
            split=_NOBODY_HELD_OUT,
            directory=Path(scratch) / "snapshot",
        )
        return train_at_home(schema, snapshot, STANDARD_SCALE)


def people_of(schema: Schema, table: Path, not_held: tuple[str, ...] = ()) -> People:
    """Returns the people of a table as the product codes them, in the order of the table."""
    scored = schema.places(Role.SCORED)
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = take_snapshot(
            schema,
            table,
            not_held=frozenset(not_held),
            split=_NOBODY_HELD_OUT,
            directory=Path(scratch) / "snapshot",
        )
        blocks = list(snapshot.blocks(Population.TRAINED))
    return People(
        codes=np.concatenate([block.codes[scored] for block in blocks], axis=1),
        bad=np.concatenate([block.bad for block in blocks]).astype(bool),
    )


def plan_of(federation: Federation, terms: Terms) -> Plan:
    """Returns the unsigned plan of an experiment's terms."""
    names = tuple(federation.tables)
    plan = new_plan(
        schema=federation.schema,
        name="comparison",
        federation="comparison",
        purpose=_PURPOSE,
        coordinator=public_key_of(_KEY),
        invited=names,
        quorum=len(names),
        colluders=1,
        spare_attempts=terms.spare_attempts,
        mode=terms.mode,
        model=terms.model,
        rounds=terms.rounds,
        people=terms.people,
        most_per_institution=terms.most_per_institution,
        held_out_fraction=0.0,
        epsilon=terms.epsilon,
        delta=DELTA,
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=1,
        salt=_SALT,
    )
    noise = noise_for(
        schema=federation.schema,
        participation=plan.participation,
        mode=plan.mode,
        model=plan.model,
        rounds=terms.rounds,
        epsilon=terms.epsilon,
        delta=DELTA,
        bins_share=terms.bins_share,
    )
    return msgspec.structs.replace(plan, noise=noise)
