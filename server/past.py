"""What a transcript tells the coordinator's next process: how far the training came."""

from dataclasses import dataclass, field
from typing import Self

from federation.asking import asking_of, terms_of
from federation.errors import ConfigurationError
from federation.messages import Coins, SeenHeader
from federation.plan import Plan, load_plan
from federation.query import BoundedSum, Question
from federation.secure_aggregation.roster import load_roster
from federation.secure_aggregation.session import Group
from federation.transcript import Answers, Asked, Attempted, Ended, Joint, Planned, Transcript

Place = tuple[Question, int, int]
"""A question of the plan, its round, and the attempt at it."""


@dataclass(slots=True)
class Past:
    """How far a training came.

    Attributes:
        told: what became of each attempt.
        coins: of each attempt that was opened.
        answers: what became of each question and round, in local mode.
        cut: the attempt in whose middle the earlier process stopped.
        group: the session that was joined last; its members may still be in it.
        at_fault: members of it that were left out.
        seen: the latest header of each institution.
        was_told: whether anybody may have heard of the plan.
        has_ended: whether the plan was closed.
    """

    told: dict[Place, Attempted] = field(default_factory=dict)
    coins: dict[Place, Coins] = field(default_factory=dict)
    answers: dict[tuple[Question, int], Answers] = field(default_factory=dict)
    cut: Place | None = None
    group: Group | None = None
    at_fault: set[str] = field(default_factory=set)
    seen: dict[str, SeenHeader] = field(default_factory=dict)
    was_told: bool = False
    has_ended: bool = False

    @classmethod
    def of(cls, transcript: Transcript) -> Self:
        """Returns what a transcript of our own tells; one without lines tells nothing.

        Raises:
            ConfigurationError: it does not begin with a plan and its roster, or its lines do not
                follow each other.
            ProtocolError: an announcement in it was changed.
        """
        lines = transcript.lines()
        past = cls(was_told=bool(lines))
        if not lines:
            return past
        first, *others = lines
        if not isinstance(first, Planned):
            raise ConfigurationError("The transcript does not begin with a plan.")
        plan = load_plan(first.plan)
        roster = load_roster(first.roster)
        for line in others:
            match line:
                case Joint():
                    terms = terms_of(plan, roster, line.session)
                    past.group = Group.of(terms, line.announcements)
                case Asked():
                    past.cut = (line.question, line.round, line.attempt)
                case Attempted():
                    past._take(line, plan)
                case Answers():
                    past.cut = None
                    past.answers[line.question, line.round] = line
                case Ended():
                    past.has_ended = True
                case Planned():
                    raise ConfigurationError("The transcript has a second plan.")
        return past

    def _take(self, line: Attempted, plan: Plan) -> None:
        if self.group is None:
            raise ConfigurationError("The transcript has an attempt before any session.")
        query = BoundedSum(
            question=line.question,
            columns=line.columns,
            share_variance=plan.noise.of(line.question),
        )
        asked = asking_of(
            plan, self.group, query, round_=line.round, attempt=line.attempt, model=line.model
        )
        place = (line.question, line.round, line.attempt)
        self.cut = None
        self.told[place] = line
        if line.total:
            self.coins[place] = Coins(context=asked.context, coins=line.coins)
        uploaded = {header.institution for header in line.headers}
        named = {name for fault in line.faults for name in (fault.institution, fault.accuser)}
        self.at_fault |= named & set(self.group.members) - uploaded
        for header in line.headers:
            see(self.seen, SeenHeader(context=asked.context, header=header))


def taken_up(transcript: Transcript, first: Planned) -> Past:
    """Returns how far a training came; a new one begins with its first line.

    Args:
        transcript: empty, or that of an earlier process.
        first: what it begins with.

    Raises:
        ConfigurationError: it was begun with another plan or roster, has ended, or contradicts
            itself.
    """
    past = Past.of(transcript)
    lines = transcript.lines()
    if not lines:
        transcript.write(first)
    elif lines[0] != first:
        raise ConfigurationError("The transcript was begun with another plan or roster.")
    elif past.has_ended:
        raise ConfigurationError("This training has ended: there is nothing to take up again.")
    return past


def see(seen: dict[str, SeenHeader], found: SeenHeader) -> None:
    """Notes a header unless one is known that names as many entries of its institution's ledger.

    Whoever signs two headers for the same entries has two ledgers: the first one stays, for that
    is the one which the ledger that comes next must be held against.
    """
    name = found.header.institution
    known = seen.get(name)
    if known is None or found.header.ledger_sequence > known.header.ledger_sequence:
        seen[name] = found
