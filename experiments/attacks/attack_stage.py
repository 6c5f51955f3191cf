"""Real institutions on real ledgers, and a coordinator that says to each what it likes.

The institutions are the product's own, with their tables, ledgers and records on disk. The
coordinator holds its true key, so that whatever it says is signed; what it may not say, they
refuse. Institutions differ: each holds people of one level of credit limit, so that the average of
all says little about one.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
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

from clients.institution import Institution
from clients.ledger import Ledger
from clients.records import Records
from clients.snapshot import take_snapshot
from experiments.datasets import TAIWAN, locate
from experiments.division import schema_of
from experiments.entropy import SeededEntropy
from experiments.trial import DELTA, deal, policy_for
from federation import canonical, door
from federation.asking import OPEN_LABEL, Asking, asking
from federation.canonical import public_key_of
from federation.errors import ProtocolError
from federation.learning import NetworkModel, ScorecardModel
from federation.messages import (
    Begin,
    Begun,
    Invite,
    Join,
    Model,
    Open,
    Reply,
    Request,
    decode_reply,
    encode,
)
from federation.plan import Plan, plan_toml
from federation.query import BoundedSum
from federation.schema import Schema
from federation.secure_aggregation.opening import Collected
from federation.secure_aggregation.roster import Member, Roster
from federation.secure_aggregation.session import Group, Terms
from federation.secure_aggregation.survivors import Reveal, Revealed, SetSigned
from federation.secure_aggregation.upload import Upload
from fedscore.planning import new_plan

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
NAMES: Final = tuple(f"bank-{number}" for number in range(6))
QUORUM: Final = 5
ROUNDS: Final = 20
EPSILON: Final = 1.0

_NOW: Final = 1_700_000_000
_PURPOSE: Final = "attack"

Whole = NDArray[np.int64]
Build = Callable[[], AbstractContextManager[None]]


def stage_plan(schema: Schema, model: ScorecardModel | NetworkModel) -> Plan:
    """Returns the plan that is attacked: one of six institutions may be missing, one may collude.

    Args:
        schema: of all tables.
        model: that is trained.
    """
    return new_plan(
        schema=schema,
        name="attacked",
        federation="attacked",
        purpose=_PURPOSE,
        coordinator=public_key_of(KEY),
        invited=NAMES,
        quorum=QUORUM,
        colluders=1,
        spare_attempts=0,
        model=model,
        rounds=ROUNDS,
        people=30_000,
        most_per_institution=10_000,
        held_out_fraction=0.0,
        epsilon=EPSILON,
        delta=DELTA,
        valid_from=datetime.fromtimestamp(_NOW, UTC),
        days=1,
        salt="0" * 64,
    ).signed(KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Institutions that have joined one session, spoken to message by message.

    Attributes:
        plan: that they take part in.
        schema: of their tables.
        institutions: by name.
        group: of the session; a member's place is its number in `NAMES`.
        conspirators: by place, the build that answers there; all others run the product.
    """

    plan: Plan
    schema: Schema
    institutions: Mapping[str, Institution]
    group: Group
    conspirators: Mapping[int, Build] = field(default_factory=dict)

    def send(self, place: int, request: Request) -> Reply:
        """Returns one institution's reply."""
        with self.conspirators.get(place, nullcontext)():
            return decode_reply(self.institutions[NAMES[place]].handle(encode(request)))

    def opening(self, round_: int, model: Model) -> Open:
        """Returns the signed training question of a round at a model."""
        unsigned = Open(
            session=self.group.terms.session,
            question=self.plan.training_question,
            round=round_,
            attempt=0,
            model=model,
            coins=None,
            signature="",
        )
        signature = canonical.sign(KEY, OPEN_LABEL, self.asking(unsigned).context)
        return msgspec.structs.replace(unsigned, signature=signature)

    def asking(self, request: Open) -> Asking:
        """Returns what a request asks."""
        return asking(self.plan, self.schema, self.group, request)

    def uploads(self, requests: Mapping[int, Open]) -> dict[int, Upload]:
        """Returns what institutions upload, each for its own request.

        Raises:
            ProtocolError: one of them refuses, which no attack here begins with.
        """
        found = {}
        for place, request in requests.items():
            reply = self.send(place, request)
            if not isinstance(reply, Upload):
                raise ProtocolError(f"{NAMES[place]} answers no question: {reply}.")
            found[place] = reply
        return found

    def collected(self, request: Open, uploads: Mapping[int, Upload]) -> Collected:
        """Returns uploads as if they all belonged to one request; nothing is checked."""
        found = self.asking(request)
        return Collected(self.group, found.context, found.bits, dict(sorted(uploads.items())))

    def told(self, collected: Collected, places: Iterable[int]) -> dict[int, Reply]:
        """Returns what survivors say when they are told who survived."""
        return {place: self.send(place, collected.relayed_to(place)) for place in places}

    def released(self, collected: Collected, replies: Mapping[int, Reply]) -> dict[int, Reply]:
        """Returns what those who signed a set say when they are shown all signatures on it."""
        reveal = reveal_of(collected, replies)
        return {place: self.send(place, reveal) for place in reveal.signers}

    def truth(self, place: int, query: BoundedSum, model: Model) -> NDArray[np.float64]:
        """Returns float64[length]: one institution's sum without noise, people or clip norms."""
        people = self.institutions[NAMES[place]].taking.people(
            query.question, model, sample_key=bytes(32)
        )
        return door.sum_of(query, people).total / query.question.bound


def reveal_of(collected: Collected, replies: Mapping[int, Reply]) -> Reveal:
    """Returns the request to release what a set needs, with all signatures that there are."""
    signed = {
        place: one.signature for place, one in sorted(replies.items()) if isinstance(one, SetSigned)
    }
    return Reveal(
        context=collected.context, signers=tuple(signed), signatures=tuple(signed.values())
    )


def opened(collected: Collected, replies: Mapping[int, Reply]) -> Whole | None:
    """Returns the total that replies open, int64[length]; None if they open none."""
    revealed = {place: one for place, one in replies.items() if isinstance(one, Revealed)}
    try:
        for place, one in revealed.items():
            collected.require_reveals(place, one)
        return collected.opened(revealed).total
    except ProtocolError:
        return None


@contextmanager
def staged(model: ScorecardModel | NetworkModel, seed: str) -> Iterator[Stage]:
    """Yields the institutions of a new federation that have joined a session.

    Args:
        model: of the plan.
        seed: of all noise and masks.
    """
    schema = schema_of(TAIWAN)
    plan = stage_plan(schema, model)
    identities = {
        name: Ed25519PrivateKey.from_private_bytes(SeededEntropy(f"identity {name}")())
        for name in NAMES
    }
    members = tuple(Member(id=name, key=public_key_of(key)) for name, key in identities.items())
    roster = Roster(federation=plan.federation, members=members, signature="").signed(KEY)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as files:
        directory = Path(scratch)
        people = pq.read_table(locate(TAIWAN))
        deal(people, _owners(people), NAMES, directory)
        institutions = {
            name: _institution(
                name,
                identities[name],
                roster=roster,
                schema=schema,
                plan=plan,
                directory=directory,
                files=files,
                seed=seed,
            )
            for name in NAMES
        }
        yield _joined(plan, schema, roster, institutions)


def _owners(people: pa.Table) -> NDArray[np.int64]:
    """Returns each person's institution: equally many people each, by their credit limit."""
    order = np.argsort(people.column("limit_bal").to_numpy(), kind="stable")
    owners = np.empty(len(order), dtype=np.int64)
    owners[order] = np.arange(len(order)) * len(NAMES) // len(order)
    return owners


def _institution(
    name: str,
    identity: Ed25519PrivateKey,
    *,
    roster: Roster,
    schema: Schema,
    plan: Plan,
    directory: Path,
    files: ExitStack,
    seed: str,
) -> Institution:
    own = directory / name
    own.mkdir(mode=0o700)
    split = plan.people.split
    found = Institution(
        identifier=name,
        identity=identity,
        roster=roster,
        schema=schema,
        read_table=lambda into: take_snapshot(
            schema,
            directory / f"{name}.parquet",
            not_held=frozenset(),
            split=split,
            directory=into,
        ),
        most_people=plan.people.most_per_institution,
        split=split,
        policy=policy_for(plan),
        ledger=files.enter_context(Ledger.create(own / "ledger.sqlite", lambda: _NOW)),
        records=files.enter_context(Records.create(own / "records.sqlite")),
        workspace=own,
        is_approved=lambda _: True,
        keep_release=lambda _: None,
        withdrawals=None,
        clock=lambda: _NOW,
        noise_entropy=SeededEntropy(f"noise {name} {seed}"),
        mask_entropy=SeededEntropy(f"masks {name} {seed}"),
        log=lambda _: None,
    )
    found.prepare()
    return found


def _joined(
    plan: Plan, schema: Schema, roster: Roster, institutions: Mapping[str, Institution]
) -> Stage:
    session = SeededEntropy("session")()
    participation = plan.participation
    terms = Terms(
        session=session,
        plan=plan.digest,
        roster=roster,
        threshold=participation.threshold,
        quorum=participation.quorum,
    )

    def said(request: Request) -> list[Reply]:
        return [decode_reply(institutions[name].handle(encode(request))) for name in NAMES]

    said(Invite(plan=plan_toml(plan)))
    begun = said(Begin(plan=plan.digest, session=session))
    announcements = tuple(one.announcement for one in begun if isinstance(one, Begun))
    said(Join(session=session, announcements=announcements))
    return Stage(
        plan=plan,
        schema=schema,
        institutions=institutions,
        group=Group.of(terms, announcements),
    )
