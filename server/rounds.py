"""The coordinator's side of the masked rounds: one session, then one attempt after the other.

`MaskedSums.ask` gets one total; the steps of an attempt are in `server.attempts`.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.asking import OPEN_LABEL, asking
from federation.errors import ProtocolError
from federation.messages import (
    Accept,
    Begin,
    Begun,
    Close,
    Coins,
    Invite,
    Join,
    Joined,
    Open,
    Refuse,
    Reply,
)
from federation.model.release import load_release
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan, plan_toml
from federation.pricing import stddev_of_total
from federation.privacy.entropy import Entropy
from federation.query import UNITS_PER_ONE, Question
from federation.schema import Schema
from federation.secure_aggregation.opening import Opened
from federation.secure_aggregation.roster import Roster, roster_toml
from federation.secure_aggregation.session import Announcement, Group, Terms
from federation.transcript import Joint, Planned, Transcript
from federation.transport import Transport
from server.attempts import Attempt, Channel, LeftOut
from server.training import Progress, Total

_SESSIONS: Final = 3
"""How often a session is begun anew without those who announced a key and did not join."""


class MaskedSums:
    """Asks the plan's questions of the institutions that accepted it, attempt by attempt.

    A context manager: whatever ends the training early, the plan is closed at everybody invited, so
    that what was reserved and never spent returns to its budget.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        schema: Schema,
        roster: Roster,
        transport: Transport,
        key: Ed25519PrivateKey,
        entropy: Entropy,
        watch: Callable[[Progress], None],
    ) -> None:
        """Starts without participants.

        Args:
            plan: signed by `key`.
            schema: that it names.
            roster: signed by `key`.
            transport: reaches the invited institutions.
            key: the coordinator's.
            entropy: 32 fresh bytes a call, for the names of sessions.
            watch: told about progress.
        """
        self._plan = plan
        self._digest = plan.digest
        self._schema = schema
        self._roster = roster
        self._channel = Channel(transport, watch)
        self._key = key
        self._entropy = entropy
        self._watch = watch
        self._accepted: tuple[str, ...] = ()
        self._group: Group | None = None
        self._left_out = LeftOut()
        self._coins: Coins | None = None
        self._spare = plan.participation.spare_attempts
        self.fewest_answers = len(plan.participation.invited)
        self.transcript = Transcript()
        self.transcript.write(Planned(plan=plan_toml(plan), roster=roster_toml(roster)))

    def __enter__(self) -> Self:
        """Returns the rounds; nobody has been asked yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the plan without a release if the training did not come to its end."""
        if kind is not None:
            self.close(release=b"")

    # 1. Who takes part, and in which session.

    def begin(self) -> None:
        """Returns once enough institutions take part and share secrets with each other.

        Raises:
            ProtocolError: fewer than the quorum; says how many refused with which code.
        """
        invited = self._plan.participation.invited
        replies = self._channel.exchange(Invite(plan=plan_toml(self._plan)), invited)
        self._accepted = tuple(
            name
            for name, reply in replies.items()
            if isinstance(reply, Accept) and reply.plan == self._digest
        )
        self._watch(
            Progress(
                step="accepted",
                number=len(self._accepted),
                of=len(invited),
                answers=len(replies),
            )
        )
        self._require_quorum(self._accepted, "take part", replies)
        names = self._accepted
        for _ in range(_SESSIONS):
            group, joined = self._session(names)
            if joined == group.members:
                self._group = group
                return
            names = joined
        raise ProtocolError("Institutions announce keys and do not join. The plan ends.")

    def _session(self, names: tuple[str, ...]) -> tuple[Group, tuple[str, ...]]:
        """Returns a new session of those who announced a valid key, and who of them joined it."""
        participation = self._plan.participation
        terms = Terms(
            session=self._entropy(),
            plan=self._digest,
            roster=self._roster,
            threshold=participation.threshold,
            quorum=participation.quorum,
        )
        replies = self._channel.exchange(Begin(plan=terms.plan, session=terms.session), names)
        announced = tuple(
            reply.announcement
            for name, reply in sorted(replies.items())
            if isinstance(reply, Begun) and self._is_valid(terms, name, reply.announcement)
        )
        keys = [one.key for one in announced]  # equal ones would cancel: nobody joins with them
        announced = tuple(one for one in announced if keys.count(one.key) == 1)
        self._require_quorum([one.institution for one in announced], "announced a key", replies)
        group = Group.of(terms, announced)
        joining = Join(session=terms.session, announcements=announced)
        replies = self._channel.exchange(joining, group.members)
        joined = tuple(name for name in group.members if isinstance(replies.get(name), Joined))
        self._require_quorum(joined, "joined the session", replies)
        self.transcript.write(Joint(session=terms.session, announcements=announced))
        return group, joined

    def _is_valid(self, terms: Terms, name: str, announcement: Announcement) -> bool:
        alone = Terms(
            session=terms.session,
            plan=terms.plan,
            roster=terms.roster,
            threshold=terms.threshold,
            quorum=1,
        )
        try:
            return Group.of(alone, [announcement]).members == (name,)
        except ProtocolError:
            self._watch(Progress(step="malformed", number=1, of=1, answers=0))
            return False

    def _require_quorum(
        self, names: tuple[str, ...] | list[str], what: str, replies: Mapping[str, Reply]
    ) -> None:
        invited = self._plan.participation.invited
        quorum = self._plan.participation.quorum
        if len(names) < quorum:
            said = ", ".join(
                f"{name}: {reply.code}"
                for name, reply in sorted(replies.items())
                if isinstance(reply, Refuse)
            )
            raise ProtocolError(
                f"{len(names)} of {len(invited)} institutions {what}, the plan needs {quorum}. "
                f"Refusals: {said or 'none'}; {len(invited) - len(replies)} did not answer."
            )

    # 2. One total.

    def ask(self, question: Question, *, round_: int, card: AdditiveCard | None) -> Total:
        """Returns the total of one question, spending spare attempts if needed.

        Raises:
            ProtocolError: no total could be opened, and no attempt is left.
        """
        number = 0
        self._left_out.silent.clear()
        while True:
            attempt = self._attempt(question, round_, number, card)
            opened = attempt.run()
            given_up = opened is None and attempt.give_up()
            self.transcript.write(attempt.line(opened))
            if opened is not None:
                return self._total(attempt, opened)
            may_ask_again = question is Question.STEP or given_up
            if not may_ask_again or self._spare == 0:
                raise ProtocolError(
                    f"No total of {question} {round_} could be opened: {attempt.why}, the quorum "
                    f"is {self._plan.participation.quorum}, and no attempt is left. The plan "
                    "ends; make a new one."
                )
            self._spare -= 1
            number += 1
            self._watch(
                Progress(
                    step="retry",
                    number=round_,
                    of=self._plan.rounds,
                    answers=len(attempt.uploads),
                )
            )

    def _attempt(
        self, question: Question, round_: int, number: int, card: AdditiveCard | None
    ) -> Attempt:
        """Returns an attempt that is ready to run: its context signed, the last coin with it."""
        if self._group is None:
            raise ProtocolError("No session has begun.")
        unsigned = Open(
            session=self._group.terms.session,
            question=question,
            round=round_,
            attempt=number,
            card=card,
            coins=self._coins,
            signature="",
        )
        self._coins = None
        found = asking(self._plan, self._schema, self._group, unsigned)
        signature = canonical.sign(self._key, OPEN_LABEL, found.context)
        return Attempt(
            group=self._group,
            channel=self._channel,
            asking=found,
            opening=msgspec.structs.replace(unsigned, signature=signature),
            left_out=self._left_out,
            colluders=self._plan.participation.colluders,
        )

    def _total(self, attempt: Attempt, opened: Opened) -> Total:
        answers = len(attempt.uploads)
        self.fewest_answers = min(self.fewest_answers, answers)
        self._coins = Coins(context=attempt.asking.context, coins=opened.coins)
        return Total(
            values=opened.total / UNITS_PER_ONE,
            stddev=stddev_of_total(attempt.asking.query.share_variance, answers),
            answers=answers,
        )

    def close(self, *, release: bytes) -> None:
        """Tells everybody invited that the plan has ended: an acceptance may have been lost."""
        closing = Close(plan=self._digest, release=release, coins=self._coins)
        self._channel.exchange(closing, self._plan.participation.invited)
        self.transcript.end(load_release(release).digest if release else "", self._key)
