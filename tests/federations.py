"""Small federations for tests: schema, tables, plan, and institutions in one process.

Everything is deterministic: fixed keys, a clock that stands still, seeded tables and entropy. A
whole training of four institutions takes a fraction of a second:

    done = federation(tmp_path).run(noise_entropy=SeededEntropy(1))

`tests.exchanges` speaks to its institutions by messages.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.audit import sample_key
from clients.configuration import Configuration
from clients.institution import Institution
from clients.ledger import Ledger
from clients.policy import Peers, Policy
from clients.reading import Reading
from clients.records import Records
from clients.withdrawals import Withdrawals
from experiments.entropy import SeededEntropy
from federation import door
from federation.asking import sum_for
from federation.canonical import Digest, public_key_of
from federation.learning import Institution as InstitutionMode
from federation.messages import Accept, Invite, Reply, Request, decode_reply, encode
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan, plan_toml
from federation.privacy.entropy import Entropy
from federation.query import Question
from federation.schema import Schema, load_schema
from federation.secure_aggregation.roster import Member, Roster
from fedscore.planning import new_plan
from fedscore.simulation import InProcess, PlainSums, Simulation, simulate
from server.training import Progress

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
"""The coordinator's key in every test."""

OTHER_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
"""Somebody else's key."""

PURPOSE: Final = "credit-scoring"
SALT: Final = "5a" * 32
NOW: Final = 1_700_000_000
"""What the clock says, seconds since 1970."""

CITIES: Final = ("north", "south", "west")

_SMALL: Final = """
format = 1
name = "Small"
person_key = "person"
rows_per_person = "{rows}"
[outcome]
column = "bad"
window = "default within a year"
[[feature]]
name = "income"
role = "scored"
kind = "number"
unit = "EUR"
reason = "Income"
lower = 0
upper = 100
cells = 10
missing = true
[[feature]]
name = "late"
role = "scored"
kind = "count"
unit = "payments"
reason = "Late payments"
lower = 0
upper = 5
[[feature]]
name = "home"
role = "scored"
kind = "category"
reason = "Housing"
categories = ["rent", "own"]
other = true
[[feature]]
name = "city"
role = "protected"
kind = "category"
categories = ["north", "south", "west"]
"""


def clock() -> int:
    """Returns the same second for ever."""
    return NOW


def ignore(_: Progress) -> None:
    """Watches nothing."""


def small_schema(*, rows: str = "one") -> Schema:
    """Returns three scored features and a protected one.

    Args:
        rows: "one" or "many" rows a person.
    """
    return load_schema(_SMALL.format(rows=rows))


def wide_schema(*, features: int = 8, cells: int = 250) -> Schema:
    """Returns scored features "f0", "f1", ... with integer categories 0 to cells - 1 each."""
    head = _SMALL.partition("[[feature]]")[0].format(rows="one")
    listed = ", ".join(str(code) for code in range(cells))
    return load_schema(
        head
        + "".join(
            f'[[feature]]\nname = "f{number}"\nrole = "scored"\nkind = "category"\n'
            f'reason = "Reason {number}"\ncategories = [{listed}]\n'
            for number in range(features)
        )
    )


def small_table(
    path: Path, people: int, seed: int, *, rows_each: int = 1, first_person: int = 0
) -> Path:
    """Writes a table that keeps `small_schema`; late payers and poor people are bad more often.

    Args:
        path: of a new .parquet file.
        people: how many.
        seed: equal seeds give equal tables.
        rows_each: rows of every person, adjacent.
        first_person: key of the first person; the others follow.
    """
    generator = np.random.default_rng(seed)
    rows = people * rows_each
    income = np.round(generator.uniform(0, 100, rows), 3)
    late = generator.integers(0, 6, rows)
    risk = 1 / (1 + np.exp(2.0 - 0.5 * late + 0.02 * income))
    content = {
        "person": pa.array(first_person + np.arange(rows) // rows_each),
        "bad": pa.array((generator.random(rows) < risk).astype(np.int64)),
        "income": pa.array(income, mask=generator.random(rows) < 0.05),
        "late": pa.array(late),
        "home": pa.array(np.array(["rent", "own", "boat"])[generator.integers(0, 3, rows)]),
        "city": pa.array(np.array(CITIES)[generator.integers(0, len(CITIES), rows)]),
    }
    pq.write_table(pa.table(content), path)
    return path


def names(institutions: int) -> tuple[str, ...]:
    """Returns "bank-00", "bank-01", ..., sorted."""
    return tuple(f"bank-{number:02d}" for number in range(institutions))


def signed_plan(schema: Schema, **changes: Any) -> Plan:
    """Returns a small plan signed by `KEY`: 4 institutions, 3 rounds, epsilon 4.

    Args:
        schema: that it is for.
        changes: arguments of `fedscore.planning.new_plan`; `quorum` follows `invited` unless said.
    """
    invited = changes.get("invited", names(4))
    settings: dict[str, Any] = {
        "name": "test-plan",
        "federation": "test-federation",
        "purpose": PURPOSE,
        "coordinator": public_key_of(KEY),
        "invited": invited,
        "quorum": len(invited),
        "colluders": 1,
        "spare_attempts": 1,
        "rounds": 3,
        "people": 2000,
        "most_per_institution": 2000,
        "held_out_fraction": 0.25,
        "epsilon": 4.0,
        "delta": 1e-6,
        "valid_from": datetime.fromtimestamp(NOW, UTC),
        "days": 1,
        "salt": SALT,
    }
    return new_plan(schema=schema, **{**settings, **changes}).signed(KEY)


def open_policy(plan: Plan, **changes: Any) -> Policy:
    """Returns a policy that allows the plan once and a few more like it.

    Args:
        plan: to be allowed.
        changes: fields of the policy.
    """
    epsilon = plan.privacy.epsilon
    if isinstance(plan.mode, InstitutionMode):  # whose target is not a person's, which is charged
        epsilon *= 4
    settings: dict[str, Any] = {
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
        "epsilon_per_plan": epsilon,
        "epsilon_per_year": min(100.0, 4 * epsilon),
        "epsilon_lifetime": min(100.0, 8 * epsilon),
    }
    return Policy(**{**settings, **changes})


def identity_of(name: str) -> Ed25519PrivateKey:
    """Returns the identity key of an institution, always the same."""
    seed = hashlib.sha256(f"fedscore test identity {name}".encode()).digest()
    return Ed25519PrivateKey.from_private_bytes(seed)


def roster_of(plan: Plan) -> Roster:
    """Returns the roster of all whom a plan invites, signed by `KEY`."""
    members = tuple(
        Member(id=name, key=public_key_of(identity_of(name))) for name in plan.participation.invited
    )
    return Roster(federation=plan.federation, members=members, signature="").signed(KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One institution, open, with its ledger, its records and its own log."""

    name: str
    institution: Institution
    ledger: Ledger
    records: Records
    noise_entropy: Entropy
    mask_entropy: SeededEntropy
    log: list[str]
    releases: list[bytes]

    def send(self, request: Request | bytes) -> Reply:
        """Returns the decoded reply to a request."""
        data = request if isinstance(request, bytes) else encode(request)
        return decode_reply(self.institution.handle(data))

    def accept(self, plan: Plan) -> Accept:
        """Invites the institution; it must accept."""
        reply = self.send(Invite(plan=plan_toml(plan)))
        assert isinstance(reply, Accept), (reply, self.log)
        return reply

    def answer(
        self,
        plan: Plan,
        question: Question,
        card: AdditiveCard | None,
        *,
        round_: int = 0,
        attempt: int = 0,
    ) -> np.ndarray:
        """Returns int64[length]: what the institution would mask, which never leaves it.

        It is paid for and noised by the product, in the product's order; only masks are left out.
        """
        taking = self.institution.taking
        query = sum_for(plan, taking.schema, question, card)
        taking.pay((question, round_, attempt), query)
        noise_key = self.noise_entropy()
        people = taking.people(question, card, sample_key=sample_key(noise_key))
        summed = door.sum_of(query, people)
        return door.add_noise(summed, query, noise_key=noise_key).total


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """A plan with everything that is needed to run it in this process."""

    directory: Path
    plan: Plan
    schema: Schema
    members: tuple[Configuration, ...]

    def run(
        self,
        *,
        noise_entropy: Entropy | None = None,
        plain: PlainSums | None = None,
        inspect: bool = False,
        out: str = "out",
        watch: Callable[[Progress], None] = ignore,
    ) -> Simulation:
        """Runs `fedscore.simulation.simulate` into `directory / out`."""
        return simulate(
            plan=self.plan,
            schema=self.schema,
            members=self.members,
            key=KEY,
            out=self.directory / out,
            watch=watch,
            inspect=inspect,
            clock=clock,
            noise_entropy=SeededEntropy(0) if noise_entropy is None else noise_entropy,
            mask_entropy=SeededEntropy("masks"),
            plain=plain,
        )

    @contextmanager
    def seats(
        self,
        *,
        entropy: Callable[[str], Entropy] = SeededEntropy,
        roster: Roster | None = None,
        time: Callable[[], int] = clock,
        is_approved: Callable[[Digest], bool] = lambda _: True,
        out: str = "seats",
    ) -> Iterator[dict[str, Seat]]:
        """Yields the institutions themselves, by name, to speak to one by one.

        Entered again after it was left, it is the restart of all of them: new processes, the old
        ledgers and records.

        Args:
            entropy: makes the noise entropy of one institution, given its name.
            roster: that all have pinned; `roster_of` the plan if not said.
            time: their clock.
            is_approved: what their people say to the plan with this digest.
            out: directory for ledgers, records and snapshots.
        """
        (self.directory / out).mkdir(exist_ok=True)
        pinned = roster_of(self.plan) if roster is None else roster
        with ExitStack() as files:
            yield {
                member.id: self._seat(
                    member,
                    files,
                    roster=pinned,
                    out=out,
                    entropy=entropy(member.id),
                    time=time,
                    is_approved=is_approved,
                )
                for member in self.members
            }

    def _seat(
        self,
        member: Configuration,
        files: ExitStack,
        *,
        roster: Roster,
        out: str,
        entropy: Entropy,
        time: Callable[[], int],
        is_approved: Callable[[Digest], bool],
    ) -> Seat:
        workspace = self.directory / out / member.id
        workspace.mkdir(mode=0o700, exist_ok=True)
        path = workspace / "ledger.sqlite"
        opened = Ledger.open if path.exists() else Ledger.create
        ledger = files.enter_context(opened(path, time))
        noted = workspace / "records.sqlite"
        records = files.enter_context(Records(noted) if noted.exists() else Records.create(noted))
        masks = SeededEntropy(f"masks {member.id} {ledger.head()}")
        log: list[str] = []
        releases: list[bytes] = []
        withdrawals = Withdrawals(workspace / "withdrawn")
        if not withdrawals.path.exists():
            Withdrawals.create(withdrawals.path, bytes(32))
        institution = Institution(
            identifier=member.id,
            identity=identity_of(member.id),
            roster=roster,
            schema=self.schema,
            read_table=Reading(
                configuration=member,
                schema=self.schema,
                split=self.plan.people.split,
                clock=time,
                withdrawals=withdrawals,
            ),
            most_people=member.most_people,
            split=self.plan.people.split,
            policy=member.policy,
            ledger=ledger,
            records=records,
            workspace=workspace,
            is_approved=is_approved,
            keep_release=releases.append,
            withdrawals=withdrawals,
            clock=time,
            noise_entropy=entropy,
            mask_entropy=masks,
            log=log.append,
        )
        institution.resume()
        return Seat(
            name=member.id,
            institution=institution,
            ledger=ledger,
            records=records,
            noise_entropy=entropy,
            mask_entropy=masks,
            log=log,
            releases=releases,
        )


def federation(
    directory: Path,
    *,
    institutions: int = 4,
    people: int = 150,
    rows_each: int = 1,
    schema: Schema | None = None,
    table: Callable[[Path, int], Path] | None = None,
    not_held: Mapping[str, tuple[str, ...]] | None = None,
    policy: Mapping[str, Any] | None = None,
    **plan: Any,
) -> Federation:
    """Returns a federation whose tables lie in `directory`.

    Args:
        directory: exists.
        institutions: how many are invited and take part.
        people: of each institution; keys do not overlap.
        rows_each: rows of each person.
        schema: of the tables; `small_schema` if not said.
        table: writes the table of institution number i to a path; `small_table` if not said.
        not_held: features that institutions do not hold, by name (their columns stay unread).
        policy: changes to `open_policy`.
        plan: changes to `signed_plan`.
    """
    chosen = schema or small_schema(rows="one" if rows_each == 1 else "many")
    invited = names(institutions)
    signed = signed_plan(chosen, **{"invited": invited, **plan})

    def small(path: Path, number: int) -> Path:
        return small_table(path, people, number, rows_each=rows_each, first_person=number * people)

    return Federation(
        directory=directory,
        plan=signed,
        schema=chosen,
        members=tuple(
            Configuration(
                id=name,
                title=name.title(),
                most_people=2000,
                table=str((table or small)(directory / f"{name}.parquet", number)),
                not_held=(not_held or {}).get(name, ()),
                policy=open_policy(signed, **(policy or {})),
            )
            for number, name in enumerate(invited)
        ),
    )


def in_process(seats: Mapping[str, Seat]) -> InProcess:
    """Returns a transport to open seats."""
    return InProcess({name: seat.institution for name, seat in seats.items()})


def flat_card(schema: Schema) -> AdditiveCard:
    """Returns the card that scores everybody 0 (even odds), each cell its own bin."""
    cells = [len(grid.labels) for grid in schema.grids if grid.role == "scored"]
    return AdditiveCard(
        base=0,
        bin_of_cell=tuple(tuple(range(size)) for size in cells),
        weights=tuple((0,) * size for size in cells),
    )
