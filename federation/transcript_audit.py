"""Checks a transcript: recomputes what follows from it, and says who broke the protocol.

Whoever has the file can do this: no key and no data are needed. What a transcript cannot show is
what a total was really made of; what it can is that institutions signed what the coordinator says
they signed, and that the models, up to the release, follow from the totals that it names.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from federation import canonical
from federation.asking import (
    ASK_LABEL,
    OPEN_LABEL,
    Asking,
    asking_locally_of,
    asking_of,
    positions_of,
    question_at,
    terms_of,
)
from federation.errors import ConfigurationError, FedscoreError, ProtocolError
from federation.followed import Models, query_of
from federation.learning import Local
from federation.model.release import AnyRelease
from federation.outcome import require_gate
from federation.plan import Plan, load_plan
from federation.query import Question
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster, load_roster
from federation.secure_aggregation.session import Group
from federation.secure_aggregation.survivors import (
    ABORT_LABEL,
    SET_LABEL,
    abort_body,
    headers_digest,
    set_body,
)
from federation.secure_aggregation.upload import HEADER_LABEL, commitment_to
from federation.transcript import (
    TRANSCRIPT_LABEL,
    Answers,
    Asked,
    Attempted,
    Ended,
    Joint,
    Planned,
    ended_body,
    read_line,
)

COORDINATOR: Final = "coordinator"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that breaks the protocol.

    Attributes:
        line: of the transcript, from 1.
        who: "coordinator" or the id of an institution.
        what: in words.
        proven: whether signatures in the transcript prove it; else the coordinator says so.
    """

    line: int
    who: str
    what: str
    proven: bool


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit found.

    Attributes:
        plan: digest of the plan.
        attempts: that were made.
        opened: totals that were opened.
        models: whether the models were recomputed from the totals (that needs the schema).
        findings: what breaks the protocol, in order.
    """

    plan: str
    attempts: int
    opened: int
    models: bool
    findings: tuple[Finding, ...]


def audit(content: bytes, schema: Schema | None, release: AnyRelease | None) -> Audit:
    """Returns what a transcript shows.

    Args:
        content: of the file.
        schema: that the plan names; None leaves the models unchecked.
        release: that should have come of it, None leaves it unchecked.

    Raises:
        ConfigurationError: not a transcript: a line that does not decode, no plan at its beginning,
            or another schema than the plan's.
    """
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    try:
        parsed = [read_line(line) for line in lines]
        first = parsed[0]
        if not isinstance(first, Planned):
            raise ConfigurationError("This is not a transcript: it does not begin with a plan.")
        reading = _Reading(load_plan(first.plan), load_roster(first.roster), schema)
    except (msgspec.DecodeError, IndexError) as error:
        raise ConfigurationError(f"This is not a transcript: {error}.") from error
    reading.check_authority()
    ended: Ended | None = None
    for number, line in enumerate(parsed[1:], start=2):
        reading.line = number
        if ended is not None or isinstance(line, Planned):
            reading.blame(COORDINATOR, "a line that does not belong here")
        elif isinstance(line, Joint):
            reading.join(line)
        elif isinstance(line, Asked):
            reading.ask(line)
        elif isinstance(line, Attempted):
            reading.attempt(line)
        elif isinstance(line, Answers):
            reading.answers(line)
        else:
            ended = line
            reading.end(line, lines[: number - 1], release)
    if ended is None:
        reading.blame(COORDINATOR, "the transcript has no end: lines may be missing")
    return reading.audit()


@dataclass(slots=True)
class _Reading:
    """What is known after the lines so far."""

    plan: Plan
    roster: Roster
    schema: Schema | None
    line: int = 1
    asked: Asked | None = None
    group: Group | None = None
    models: Models | None = None
    attempts: int = 0
    position: int = -1
    opened: dict[tuple[Question, int], int] = field(default_factory=dict)
    last: dict[Question, tuple[int, int]] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    sessions: set[bytes] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.schema is not None and self.schema.digest != self.plan.schema:
            raise ConfigurationError("The transcript's plan was made for another schema.")
        if self.schema is not None:
            self.models = Models(plan=self.plan, schema=self.schema)

    def audit(self) -> Audit:
        return Audit(
            plan=self.plan.digest,
            attempts=self.attempts,
            opened=len(self.opened),
            models=self.schema is not None,
            findings=tuple(self.findings),
        )

    def blame(self, who: str, what: str, *, proven: bool = True) -> None:
        self.findings.append(Finding(line=self.line, who=who, what=what, proven=proven))

    def _holds(self, check: Callable[[], object], who: str, what: str) -> None:
        try:
            check()
        except FedscoreError as error:
            self.blame(who, f"{what}: {error}")

    def check_authority(self) -> None:
        self._holds(self.plan.require_signed, COORDINATOR, "the plan")
        coordinator = self.plan.coordinator
        self._holds(lambda: self.roster.require_signed_by(coordinator), COORDINATOR, "the roster")

    def join(self, line: Joint) -> None:
        self._require_told()
        self.group = None
        if isinstance(self.plan.mode, Local):
            self.blame(COORDINATOR, "a session, though the plan is in local mode")
        if line.session in self.sessions:
            self.blame(COORDINATOR, "a session that was begun before")
        self.sessions.add(line.session)
        try:
            terms = terms_of(self.plan, self.roster, line.session)
            self.group = Group.of(terms, line.announcements)
        except ProtocolError as error:
            self.blame(COORDINATOR, f"the session: {error}")

    def ask(self, line: Asked) -> None:
        self._require_told()
        self.asked = line

    def _require_told(self) -> None:
        if self.asked is not None:
            self.blame(COORDINATOR, "it is not told what became of an attempt that was asked")
        self.asked = None

    def attempt(self, line: Attempted) -> None:
        self.attempts += 1
        asked, self.asked = self.asked, None
        if asked is None or (asked.question, asked.round, asked.attempt, asked.signature) != (
            line.question,
            line.round,
            line.attempt,
            line.signature,
        ):
            self.blame(COORDINATOR, "an attempt that is not the one asked just before")
        try:
            self._attempt(line)
        except FedscoreError as error:
            self.blame(COORDINATOR, str(error))
        for fault in line.faults:
            accuser = f"{fault.accuser} says: " if fault.accuser else ""
            self.blame(fault.institution, f"{accuser}{fault.what}", proven=False)

    def answers(self, line: Answers) -> None:
        """Checks what became of a question in local mode."""
        self.attempts += 1
        asked, self.asked = self.asked, None
        if asked is None or (asked.question, asked.round, asked.signature) != (
            line.question,
            line.round,
            line.signature,
        ):
            self.blame(COORDINATOR, "answers to a question that is not the one asked just before")
        try:
            self._answers(line)
        except FedscoreError as error:
            self.blame(COORDINATOR, str(error))
        for fault in line.faults:
            self.blame(fault.institution, fault.what, proven=False)

    def _answers(self, line: Answers) -> None:
        query = query_of(self.plan, self.schema, line.question, line.columns)
        asking = asking_locally_of(self.plan, query, round_=line.round, model=line.model)
        canonical.verify(self.plan.coordinator, ASK_LABEL, asking.context, line.signature)
        if asking.position <= self.position:
            self.blame(COORDINATOR, f"{line.question} {line.round} does not follow in the plan")
        self.position = max(self.position, asking.position)
        names = [header.institution for header in line.headers]
        if names != sorted(set(names) & set(self.plan.participation.invited)):
            raise ProtocolError("answers that are not in order, or of institutions not invited")
        for header in line.headers:
            name = header.institution
            header.require_signed_by(self.roster.key_of(name) or "", asking.context)
            self._require_grown(name, header.ledger_sequence)
        is_enough = len(names) >= self.plan.participation.quorum
        if is_enough != bool(line.total):
            self.blame(COORDINATOR, "a total of fewer answers than the quorum, or none of enough")
        if line.total:
            self.opened[line.question, line.round] = self.line
            if len(line.total) != query.length:
                raise ProtocolError("a total of another length than the question's")
        self._check_model(line, len(names))

    def _require_grown(self, name: str, sequence: int) -> None:
        if sequence <= self.sequences.get(name, 0):
            self.blame(name, "its ledger did not grow between two signed headers")
        self.sequences[name] = sequence

    def _attempt(self, line: Attempted) -> None:
        if self.group is None:
            raise ProtocolError("an attempt outside any valid session")
        members = self.group.members
        asking = asking_of(
            self.plan,
            self.group,
            query_of(self.plan, self.schema, line.question, line.columns),
            round_=line.round,
            attempt=line.attempt,
            model=line.model,
        )
        canonical.verify(self.plan.coordinator, OPEN_LABEL, asking.context, line.signature)
        self._require_order(line)
        places = range(len(members))
        if (
            list(line.uploaded) != sorted(set(line.uploaded) & set(places))
            or len(line.headers) != len(line.uploaded)
            or len(line.signers) != len(line.set_signatures)
            or len(line.voters) != len(line.votes)
        ):
            raise ProtocolError("places, headers and signatures do not belong together")
        for place, header in zip(line.uploaded, line.headers, strict=True):
            if header.institution != members[place]:
                raise ProtocolError(f"a header of {members[place]} names somebody else")
            body = header.body(asking.context)
            self.group.require_signed(place, HEADER_LABEL, body, header.signature)
            self._require_grown(members[place], header.ledger_sequence)
        self._check_ending(line, asking)
        self._check_model(line, len(line.uploaded))

    def _require_order(self, line: Attempted) -> None:
        which = (line.question, line.round)
        if which in self.opened:
            self.blame(COORDINATOR, f"{line.question} {line.round} was opened before")
        number = (line.round, line.attempt)
        last = self.last.get(line.question, (-1, -1))
        if number <= last:
            self.blame(COORDINATOR, "an attempt that is not after the last one")
        elif line.attempt != (last[1] + 1 if line.round == last[0] else 0):
            self.blame(COORDINATOR, "an attempt before this one is missing")
        self.last[line.question] = number
        questions = 2 + self.plan.rounds
        if self.attempts > questions + self.plan.participation.spare_attempts:
            self.blame(COORDINATOR, "more attempts than the plan prices")

    def _check_ending(self, line: Attempted, asking: Asking) -> None:
        if self.group is None:
            return
        who = self.plan.participation
        set_signed = set_body(
            asking.context, line.uploaded, headers_digest(line.headers, asking.context)
        )
        for place, signature in zip(line.signers, line.set_signatures, strict=True):
            self.group.require_signed(place, SET_LABEL, set_signed, signature)
        for place, vote in zip(line.voters, line.votes, strict=True):
            self.group.require_signed(place, ABORT_LABEL, abort_body(asking.context), vote)
        everybody = len(line.uploaded) == len(self.group.members)
        for place in set(line.signers) & set(line.voters):
            if everybody:  # then a signature comes with shares
                self.blame(self.group.members[place], "it voted to give up what it had released")
        if not line.total:
            return
        self.opened[line.question, line.round] = self.line
        if len(line.total) != sum(line.columns):
            self.blame(COORDINATOR, "a total of another length than the question's")
        if len(line.uploaded) < who.quorum:
            self.blame(COORDINATOR, "a total of fewer institutions than the quorum")
        if len(set(line.signers)) < who.threshold:
            self.blame(COORDINATOR, "a total whose set fewer than the threshold signed")
        if len(set(line.voters)) >= who.threshold:
            self.blame(COORDINATOR, "a total of an attempt that was given up")
        if len(line.coins) != len(line.headers) or any(
            commitment_to(coin) != header.own_mask
            for coin, header in zip(line.coins, line.headers, strict=False)
        ):
            self.blame(COORDINATOR, "coins that are not what the headers committed to")

    def _check_model(self, line: Attempted | Answers, answers: int) -> None:
        """Compares the model with what follows from the totals, and takes the total in."""
        if self.models is None:
            return
        if line.model != self.models.digest_at(line.question):
            self.blame(COORDINATOR, "the model does not follow from the totals before it")
        if line.total:
            self.models.take(line.question, line.total, answers)

    def end(self, line: Ended, before: list[bytes], release: AnyRelease | None) -> None:
        if line.release:  # who gives up after a crash has no card to go on with that attempt
            self._require_told()
        self._holds(
            lambda: canonical.verify(
                self.plan.coordinator,
                TRANSCRIPT_LABEL,
                ended_body(before, line.release),
                line.signature,
            ),
            COORDINATOR,
            "the end of the transcript",
        )
        asked = {question_at(self.plan, one) for one in positions_of(self.plan)}
        if line.release and asked != set(self.opened):
            self.blame(COORDINATOR, "a release, though not every question of the plan was opened")
        elif line.release and (models := self.models) is not None:
            self._holds(lambda: require_gate(models.overall, self.plan), COORDINATOR, "a release")
        if release is None:
            return
        if release.digest != line.release or release.plan != self.plan.digest:
            self.blame(COORDINATOR, "the release is not the one that the transcript ends with")
        elif self.models is not None and not self.models.lead_to(release):
            self.blame(COORDINATOR, "the released model does not follow from the totals")
        elif self.models is not None and not self.models.is_as_good(release):
            self.blame(COORDINATOR, "the released AUC does not follow from the totals")
