"""Institutions spoken to message by message, by a coordinator that says what a test wants.

    with room(tmp_path) as spoken:
        spoken.join()
        asked = spoken.ask(Question.BINS)
        assert (asked.open(2).total == asked.plain(2)).all()

The institutions are the product's, each with its ledger and records on disk; all their secrets are
remembered, so that a test can look for them in whatever leaves.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from clients.audit import sample_key
from clients.institution import Institution
from clients.ledger import Ledger
from clients.policy import Peers, Policy
from clients.records import Records
from clients.snapshot import take_snapshot
from federation import canonical, door
from federation.asking import OPEN_LABEL, Asking, asking
from federation.canonical import framed, public_key_of
from federation.messages import (
    Abort,
    Accept,
    Begin,
    Begun,
    Close,
    Closed,
    Coins,
    Invite,
    Join,
    Joined,
    Noted,
    Open,
    Refund,
    RefusalCode,
    Refuse,
    Reply,
    Request,
    Voted,
    decode_reply,
    encode,
)
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan, plan_toml
from federation.query import Question
from federation.secure_aggregation import merkle
from federation.secure_aggregation.opening import Collected, Opened, require_fits
from federation.secure_aggregation.roster import Member, Roster
from federation.secure_aggregation.session import (
    Announcement,
    Group,
    Session,
    Terms,
    place_bytes,
)
from federation.secure_aggregation.survivors import Reveal, Revealed, SetSigned, Survivors
from federation.secure_aggregation.upload import HEADER_LABEL, Header, Upload, leaves_of
from tests.federations import KEY, clock, signed_plan, small_schema, small_table

SCHEMA: Final = small_schema()
PEOPLE: Final = 40
"""In each table."""


class Remembering:
    """Entropy from a seed that remembers what it handed out."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self.keys: list[bytes] = []

    def __call__(self) -> bytes:
        number = len(self.keys).to_bytes(8, "little")
        self.keys.append(hashlib.sha256(b"remembered" + number + self._seed).digest())
        return self.keys[-1]


@lru_cache
def plan_of(institutions: int, **changes: Any) -> Plan:
    """Returns a signed plan with the smallest quorum that its rules allow, one colluder."""
    threshold = (institutions + 1) // 2 + 1
    invited = tuple(f"bank-{place}" for place in range(institutions))
    settings = {"invited": invited, "quorum": max(threshold, 3), **changes}
    return signed_plan(SCHEMA, **settings)


@lru_cache
def identity(name: str) -> Ed25519PrivateKey:
    """Returns the identity key of an institution, always the same."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"id" + name.encode()).digest())


def roster_of(plan: Plan, *, without: str = "") -> Roster:
    """Returns the roster of those whom a plan invites."""
    members = tuple(
        Member(id=name, key=public_key_of(identity(name)))
        for name in plan.participation.invited
        if name != without
    )
    return Roster(federation=plan.federation, members=members, signature="").signed(KEY)


def policy_of(plan: Plan, **changes: Any) -> Policy:
    """Returns a policy that allows a plan, and a few like it."""
    settings = {
        "coordinator": plan.coordinator,
        "approved_peers": Peers.ROSTER,
        "purposes": (plan.purpose,),
        "modes": (plan.mode_name,),
        "least_participants": 3,
        "least_quorum": 3,
        "least_threshold": 3,
        "least_colluders": 1,
        "least_audited_share": 0.0,
        "longest_validity_days": 366,
        "rounds_per_hour": 10_000,
        "delta": plan.privacy.delta,
        "epsilon_per_plan": plan.privacy.epsilon,
        "epsilon_per_year": 5 * plan.privacy.epsilon,
        "epsilon_lifetime": 5 * plan.privacy.epsilon,
    }
    return Policy(**{**settings, **changes})


def card(weight: int = 0) -> AdditiveCard:
    """Returns a card of single cells whose first weight is as said."""
    cells = [len(grid.labels) for grid in SCHEMA.grids if grid.role == "scored"]
    weights = [[0] * size for size in cells]
    weights[0][0] = weight
    return AdditiveCard(
        base=0,
        bin_of_cell=tuple(tuple(range(size)) for size in cells),
        weights=tuple(tuple(of) for of in weights),
    )


def resigned(header: Header, context: bytes, *, by: str = "", **changes: Any) -> Header:
    """Returns a header with changes, signed by its owner unless `by` somebody else."""
    changed = msgspec.structs.replace(header, **changes)
    key = identity(by or changed.institution)
    signature = canonical.sign(key, HEADER_LABEL, changed.body(context))
    return msgspec.structs.replace(changed, signature=bytes.fromhex(signature))


def again(
    upload: Upload,
    context: bytes,
    *,
    shares: Mapping[int, bytes] | None = None,
    seeds: Mapping[int, bytes] | None = None,
    sealed: Mapping[int, bytes] | None = None,
    **header: Any,
) -> Upload:
    """Returns an upload with other contents that its owner has signed, consistent in itself.

    Args:
        upload: the true one.
        context: of the attempt.
        shares: digests of shares, by holder, to replace.
        seeds: digests of seeds, by peer, to replace.
        sealed: sealed shares, by holder, to replace.
        header: fields of the header to replace.
    """
    said = {"shares": parts(upload.shares), "seeds": parts(upload.seeds)}
    for name, changes in (("shares", shares), ("seeds", seeds)):
        for place, digest in (changes or {}).items():
            said[name][place] = digest
    of = list(upload.sealed)
    for place, one in (sealed or {}).items():
        of[place] = one
    root = merkle.root(leaves_of(said["shares"], said["seeds"]))
    return msgspec.structs.replace(
        upload,
        header=resigned(upload.header, context, **{"leaves": root, **header}),
        shares=b"".join(said["shares"]),
        seeds=b"".join(said["seeds"]),
        sealed=tuple(of),
    )


def parts(joined: bytes, size: int = merkle.HASH_BYTES) -> list[bytes]:
    """Returns what was joined."""
    return [joined[start : start + size] for start in range(0, len(joined), size)]


def sealed_for(session: Session, holder: int, context: bytes, content: bytes) -> bytes:
    """Returns anything, sealed for a peer as a share should be."""
    data = framed("share", context, place_bytes(session.place), place_bytes(holder))
    return AESGCM(session.key_to(holder, context)).encrypt(bytes(12), content, data)


@dataclass(slots=True, kw_only=True)
class Seat:
    """One institution with its files, its log, and all that it drew."""

    name: str
    directory: Path
    institution: Institution
    ledger: Ledger
    records: Records
    policy: Policy
    noise: Remembering
    masks: Remembering
    log: list[str]

    def handle(self, request: Request | bytes) -> bytes:
        """Returns the bytes of the reply."""
        data = request if isinstance(request, bytes) else encode(request)
        return self.institution.handle(data)

    def send(self, request: Request | bytes) -> Reply:
        """Returns the reply."""
        return decode_reply(self.handle(request))

    def secrets(self) -> list[bytes]:
        """Returns whatever this institution must not give away in an attempt that is not opened."""
        found = [*self.noise.keys, *self.masks.keys]
        sessions = self.institution._entered
        if sessions is not None and sessions._session is not None:
            found += sessions._session.chains
        if sessions is not None and sessions._attempt is not None:
            sharing, checked = sessions._attempt.sharing, sessions._attempt.checked
            found += [sharing.own_share, *sharing.masking.seeds]
            found += () if checked is None else checked.shares
        return [one for one in found if one]

    @property
    def session(self) -> Session:
        """The session that it is in, with its secrets."""
        found = self.institution._entered._session  # type: ignore[union-attr]
        assert found is not None
        return found

    def charged(self) -> tuple[int, int]:
        """Returns what its people are charged for good and for now, in budget units."""
        balance = self.ledger.balance(self.policy.limits)
        return balance.trained.charged_lifetime, balance.held_out.charged_lifetime

    def require_refused(self, request: Request | bytes, code: RefusalCode, peer: str = "") -> None:
        """Refuses to go on unless the institution refuses, at no cost, and gives nothing away."""
        before, secrets = self.ledger.head(), self.secrets()
        reply = self.handle(request)
        assert decode_reply(reply) == Refuse(code=code, peer=peer), (decode_reply(reply), self.log)
        assert not [one for one in (*secrets, *self.secrets()) if one in reply]
        assert self.ledger.head() == before


@dataclass(slots=True, kw_only=True)
class Room:
    """Institutions, a plan, and a coordinator's key.

    Attributes:
        plan: signed.
        roster: that all have pinned.
        seats: by name.
        group: of the session that was joined last.
    """

    plan: Plan
    roster: Roster
    seats: Mapping[str, Seat]
    group: Group | None = None
    sessions: int = 0

    @property
    def members(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(sorted(self.seats))

    def seat(self, place: int) -> Seat:
        """Returns a seat by its place in a session of all."""
        return self.seats[self.members[place]]

    def terms(self, session: bytes) -> Terms:
        """Returns the terms of a session of this plan."""
        return Terms(
            session=session,
            plan=self.plan.digest,
            roster=self.roster,
            threshold=self.plan.participation.threshold,
            quorum=self.plan.participation.quorum,
        )

    def invite(self) -> None:
        """Returns once everybody accepted."""
        for seat in self.seats.values():
            reply = seat.send(Invite(plan=plan_toml(self.plan)))
            assert isinstance(reply, Accept), (reply, seat.log)

    def new_session(self) -> bytes:
        """Returns a name of a session that was not used before."""
        self.sessions += 1
        return hashlib.sha256(f"{self.plan.digest} {self.sessions}".encode()).digest()

    def begin(self, session: bytes) -> tuple[Announcement, ...]:
        """Returns everybody's announcement."""
        begin = Begin(plan=self.plan.digest, session=session)
        replies = [self.seats[name].send(begin) for name in self.members]
        assert all(isinstance(reply, Begun) for reply in replies), replies
        return tuple(reply.announcement for reply in replies if isinstance(reply, Begun))

    def join(self) -> Group:
        """Returns a new session that everybody has joined."""
        session = self.new_session()
        announcements = self.begin(session)
        joining = Join(session=session, announcements=announcements)
        for seat in self.seats.values():
            assert seat.send(joining) == Joined(session=session), seat.log
        self.group = Group.of(self.terms(session), announcements)
        return self.group

    def opening(
        self,
        question: Question,
        *,
        round_: int = 0,
        attempt: int = 0,
        card: AdditiveCard | None = None,
        coins: Coins | None = None,
    ) -> Open:
        """Returns a signed `Open` of the session."""
        assert self.group is not None
        unsigned = Open(
            session=self.group.terms.session,
            question=question,
            round=round_,
            attempt=attempt,
            model=card,
            coins=coins,
            signature="",
        )
        return self.signed(unsigned)

    def signed(self, unsigned: Open) -> Open:
        """Returns an `Open` with the coordinator's signature."""
        assert self.group is not None
        context = asking(self.plan, SCHEMA, self.group, unsigned).context
        signature = canonical.sign(KEY, OPEN_LABEL, context)
        return msgspec.structs.replace(unsigned, signature=signature)

    def ask(self, question: Question, **named: Any) -> "Asked":
        """Returns an attempt for which everybody uploaded."""
        assert self.group is not None
        message = self.opening(question, **named)
        asked = Asked(
            room=self,
            group=self.group,
            message=message,
            asking=asking(self.plan, SCHEMA, self.group, message),
        )
        for place, name in enumerate(self.members):
            reply = self.seats[name].send(message)
            assert isinstance(reply, Upload), (reply, self.seats[name].log)
            asked.uploads[place] = reply
            asked.noise_keys[place] = self.seats[name].noise.keys[-1]
        return asked

    def close(self) -> None:
        """Ends the plan at everybody."""
        for seat in self.seats.values():
            reply = seat.send(Close(plan=self.plan.digest, release=b"", coins=None))
            assert isinstance(reply, Closed), (reply, seat.log)


@dataclass(slots=True, kw_only=True)
class Asked:
    """One attempt, as an honest coordinator that has everybody's upload would go on with it.

    Attributes:
        room: all of it.
        group: of the session.
        message: as sent.
        asking: what it means.
        uploads: by place.
        noise_keys: by place.
    """

    room: Room
    group: Group
    message: Open
    asking: Asking
    uploads: dict[int, Upload] = field(default_factory=dict)
    noise_keys: dict[int, bytes] = field(default_factory=dict)

    @property
    def context(self) -> bytes:
        """Of the attempt."""
        return self.asking.context

    def collected(self, *dropped: int) -> Collected:
        """Returns the uploads of all but some, each one checked."""
        nbytes = self.asking.query.length * self.asking.bits // 8
        uploads = {place: one for place, one in self.uploads.items() if place not in dropped}
        for place, one in uploads.items():
            require_fits(self.group, self.context, place, one, nbytes)
        found = Collected(self.group, self.context, self.asking.bits, uploads)
        assert not found.disagreements()
        return found

    def survivors(self, place: int, *dropped: int) -> Survivors:
        """Returns what one survivor is told if some dropped out."""
        return self.collected(*dropped).relayed_to(place)

    def signatures(self, *dropped: int, but: Sequence[int] = ()) -> dict[int, bytes]:
        """Returns the survivors' signatures of their set; `but` are not asked."""
        found = {}
        for place in self.collected(*dropped).survivors:
            if place not in but:
                reply = self.room.seat(place).send(self.survivors(place, *dropped))
                assert isinstance(reply, SetSigned), (reply, self.room.seat(place).log)
                found[place] = reply.signature
        return found

    def reveal(self, signatures: Mapping[int, bytes]) -> Reveal:
        """Returns the request that follows from signatures."""
        places = tuple(sorted(signatures))
        return Reveal(
            context=self.context,
            signers=places,
            signatures=tuple(signatures[place] for place in places),
        )

    def open(self, *dropped: int) -> Opened:
        """Returns the total over all but some."""
        collected = self.collected(*dropped)
        if dropped:
            asked = self.reveal(self.signatures(*dropped))
            requests: dict[int, Request] = dict.fromkeys(collected.survivors, asked)
        else:
            requests = {place: self.survivors(place) for place in collected.survivors}
        return self.opened_by(
            collected, {place: self.room.seat(place).send(one) for place, one in requests.items()}
        )

    def opened_by(self, collected: Collected, replies: Mapping[int, Reply]) -> Opened:
        """Returns the total that replies open, each of which must be a `Revealed` that fits."""
        found = {}
        for place, reply in replies.items():
            assert isinstance(reply, Revealed), (reply, self.room.seat(place).log)
            collected.require_reveals(place, reply)
            found[place] = reply
        return collected.opened(found)

    def plain(self, *dropped: int) -> NDArray[np.int64]:
        """Returns the plain sum over all but some: no masks, the same noise."""
        total = np.zeros(self.asking.query.length, dtype=np.int64)
        for place, noise_key in self.noise_keys.items():
            if place not in dropped:
                taking = self.room.seat(place).institution.taking
                people = taking.people(
                    self.message.question,
                    self.message.model,
                    sample_key=sample_key(noise_key),
                )
                gridded = door.sum_of(self.asking.query, people)
                total += door.add_noise(gridded, self.asking.query, noise_key=noise_key).total
        return total

    def votes(self, *places: int) -> dict[int, bytes]:
        """Returns votes to give up."""
        found = {}
        for place in places:
            reply = self.room.seat(place).send(Abort(context=self.context))
            assert isinstance(reply, Voted), (reply, self.room.seat(place).log)
            found[place] = reply.signature
        return found

    def refund(self, votes: Mapping[int, bytes]) -> Refund:
        """Returns the request that follows from votes."""
        voters = tuple(sorted(votes))
        return Refund(
            context=self.context, voters=voters, votes=tuple(votes[place] for place in voters)
        )

    def give_up(self) -> None:
        """Returns once everybody has voted and taken the charge back."""
        refund = self.refund(self.votes(*self.uploads))
        for place in self.uploads:
            assert self.room.seat(place).send(refund) == Noted(context=self.context)


@contextmanager
def room(directory: Path, plan: Plan | None = None, *, invited: bool = True) -> Iterator[Room]:
    """Yields four institutions, or as many as the plan invites.

    Args:
        directory: exists; if it held a room before, its ledgers and records are opened again.
        plan: `plan_of(4)` unless said.
        invited: whether they take part in the plan already.
    """
    chosen = plan or plan_of(4)
    with ExitStack() as files:
        seats = {
            name: seat(directory, chosen, name, files) for name in chosen.participation.invited
        }
        found = Room(plan=chosen, roster=roster_of(chosen), seats=seats)
        if invited:
            found.invite()
        yield found


def seat(
    directory: Path,
    plan: Plan,
    name: str,
    files: ExitStack,
    *,
    roster: Roster | None = None,
    **policy: Any,
) -> Seat:
    """Returns one institution whose files lie in a directory, made anew or opened again.

    Args:
        directory: exists.
        plan: that its policy allows.
        name: that the plan invites.
        files: closes them.
        roster: that it has pinned; `roster_of` the plan unless said.
        policy: changes to `policy_of`.
    """
    own = directory / name
    own.mkdir(mode=0o700, exist_ok=True)
    number = int(name.rpartition("-")[2])
    path, table = own / "ledger.sqlite", own / "table.parquet"
    if not table.exists():
        small_table(table, PEOPLE, seed=number, first_person=number * PEOPLE)
    ledger = files.enter_context((Ledger.open if path.exists() else Ledger.create)(path, clock))
    noted = own / "records.sqlite"
    records = files.enter_context(Records(noted) if noted.exists() else Records.create(noted))
    life = f"{name} {ledger.head()}"
    noise, masks = Remembering(f"noise {life}"), Remembering(f"masks {life}")
    log: list[str] = []
    allowed = policy_of(plan, **policy)
    institution = Institution(
        identifier=name,
        identity=identity(name),
        roster=roster or roster_of(plan),
        schema=SCHEMA,
        read_table=lambda into: take_snapshot(
            SCHEMA, table, not_held=frozenset(), split=plan.people.split, directory=into
        ),
        most_people=100,
        split=plan.people.split,
        policy=allowed,
        ledger=ledger,
        records=records,
        workspace=own,
        is_approved=lambda _: True,
        keep_release=lambda _: None,
        withdrawals=None,
        clock=clock,
        noise_entropy=noise,
        mask_entropy=masks,
        log=log.append,
    )
    institution.resume()
    return Seat(
        name=name,
        directory=own,
        institution=institution,
        ledger=ledger,
        records=records,
        policy=allowed,
        noise=noise,
        masks=masks,
        log=log,
    )
