"""The coordinator's side of the masked rounds: one attempt after the other, until a total opens.

`MaskedSums.ask` gets one total. Who is asked, and in which session, is in `server.gathering`; the
steps of an attempt are in `server.attempts`. Each line of the
transcript is durable before anything follows from it, so a later process gets the totals that this
one had from there, and goes on where it stopped.
"""

from types import TracebackType
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation import canonical
from federation.asking import OPEN_LABEL, asking
from federation.errors import ConfigurationError, PrivacyError, ProtocolError
from federation.messages import (
    Close,
    Coins,
    Model,
    Open,
    RefusalCode,
    model_digest,
)
from federation.model.release import load_release
from federation.plan import plan_toml
from federation.pricing import stddev_of_total
from federation.query import Question
from federation.secure_aggregation.opening import Opened
from federation.secure_aggregation.roster import roster_toml
from federation.secure_aggregation.session import Group
from federation.transcript import Attempted, Planned
from server.attempts import Attempt, Channel, LeftOut
from server.gathering import Gathering
from server.past import taken_up
from server.running import Running
from server.training import Progress, Total


class MaskedSums:
    """Asks the plan's questions of the institutions that accepted it, attempt by attempt.

    A context manager: if the protocol ends the training early, the plan is closed at everybody
    invited, so that what was reserved and never spent returns to its budget. Whatever else stops
    it, the transcript holds how far it came, and a later process goes on from there.
    """

    def __init__(self, running: Running) -> None:
        """Starts without participants.

        Args:
            running: a plan in joint or institution mode.

        Raises:
            ConfigurationError: the transcript is another plan's, has ended, or contradicts itself.
        """
        plan = running.plan
        self._plan = plan
        self._digest = plan.digest
        self._schema = running.schema
        self._channel = Channel(running.transport, running.watch)
        self._key = running.key
        self._keep_release = running.keep_release
        self._watch = running.watch
        self._coins: Coins | None = None
        self._spare = plan.participation.spare_attempts
        self.fewest_answers = len(plan.participation.invited)
        self.transcript = running.transcript
        beginning = Planned(plan=plan_toml(plan), roster=roster_toml(running.roster))
        self._past = taken_up(running.transcript, beginning)
        self._gathering = Gathering(running, self._channel, self._past)
        members = self._past.group.members if self._past.group else ()
        self._left_out = LeftOut(
            at_fault={members.index(name) for name in self._past.at_fault & set(members)}
        )

    def __enter__(self) -> Self:
        """Returns the rounds; nobody has been asked yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the plan without a release if it cannot come to its end."""
        if isinstance(error, ProtocolError | PrivacyError):
            self.close(release=b"")

    def begin(self) -> None:
        """Returns once enough institutions take part and share secrets with each other.

        Raises:
            ProtocolError: fewer than the quorum; says how many refused with which code.
        """
        if self._gathering.group is None:
            self._session()

    def _session(self) -> Group:
        """Returns the session to ask in; in a new one nobody is left out yet."""
        before = self._gathering.group
        group = self._gathering.session()
        if group is not before:
            self._left_out = LeftOut()
        return group

    def ask(self, question: Question, *, round_: int, model: Model | None) -> Total:
        """Returns the total of one question, spending spare attempts if needed.

        Raises:
            ProtocolError: no total could be opened, and no attempt is left.
            ConfigurationError: what an earlier process asked does not follow from its totals here.
        """
        number = 0
        self._left_out.silent.clear()
        self._gathering.next_question()
        while True:
            total, given_up, why = self._outcome(question, round_, number, model)
            if total is not None:
                return total
            may_ask_again = question is self._plan.training_question or given_up
            if not may_ask_again or self._spare == 0:
                raise ProtocolError(
                    f"No total of {question} {round_} could be opened: {why}, the quorum "
                    f"is {self._plan.participation.quorum}, and no attempt is left. The plan "
                    "ends; make a new one."
                )
            self._spare -= 1
            number += 1
            self._watch(Progress(step="retry", number=round_, of=self._plan.rounds, answers=0))

    def _outcome(
        self, question: Question, round_: int, number: int, model: Model | None
    ) -> tuple[Total | None, bool, str]:
        """Returns an attempt's total; if there is none, whether it was given up, and why."""
        place = (question, round_, number)
        if (told := self._past.told.get(place)) is not None:
            if told.model != model_digest(model):
                raise ConfigurationError(
                    f"The model at {question} {round_} is not the one that was asked about before: "
                    "go on with the version of fedscore that began this training."
                )
            if told.total:
                values = np.array(told.total, dtype=np.int64)
                return self._total(told, values, self._past.coins[place]), False, ""
            threshold = self._plan.participation.threshold
            self._coins = None  # they went with it
            given_up = len(told.voters) >= threshold or not told.uploaded
            return None, given_up, "an attempt had failed before"
        if self._past.cut == place and self._gathering.group is not None:
            # The very same is asked again: whoever has answered says what it said before.
            attempt = self._attempt(self._gathering.group, place, model)
        else:
            attempt = self._attempt(self._session(), place, model)
            self.transcript.write(attempt.opening())
        opened = attempt.run()
        given_up = opened is None and (attempt.give_up() or not attempt.uploads)
        line = attempt.line(opened)
        self.transcript.write(line)
        self._look_after(attempt, opened)
        if opened is None:
            return None, given_up, attempt.why
        coins = Coins(context=attempt.asking.context, coins=opened.coins)
        return self._total(line, opened.total, coins), False, ""

    def _attempt(
        self, group: Group, place: tuple[Question, int, int], model: Model | None
    ) -> Attempt:
        """Returns an attempt that is ready to run: its context signed, the last coin with it."""
        question, round_, number = place
        unsigned = Open(
            session=group.terms.session,
            question=question,
            round=round_,
            attempt=number,
            model=model,
            coins=self._coins,
            signature="",
        )
        self._coins = None
        found = asking(self._plan, self._schema, group, unsigned)
        signature = canonical.sign(self._key, OPEN_LABEL, found.context)
        return Attempt(
            group=group,
            channel=self._channel,
            asking=found,
            opening=msgspec.structs.replace(unsigned, signature=signature),
            left_out=self._left_out,
            colluders=self._plan.participation.colluders,
        )

    def _look_after(self, attempt: Attempt, opened: Opened | None) -> None:
        """Notes who is at fault, who has left the session, and whose ledger stands where.

        Whoever is merely late stays in the session, unless that made the attempt fail.
        """
        members = attempt.group.members
        self._gathering.exclude({members[place] for place in self._left_out.at_fault})
        for place, name in enumerate(members):
            refused = attempt.refused.get(name)
            if place in attempt.uploads:
                self._gathering.see(attempt.asking.context, attempt.uploads[place].header)
            has_left = refused is not None and refused.code is not RefusalCode.PEER
            is_missing = opened is None and place not in attempt.uploads
            if place not in self._left_out.at_fault and (has_left or is_missing):
                self._gathering.leave(name, refused)

    def _total(self, line: Attempted, units: NDArray[np.int64], coins: Coins) -> Total:
        answers = len(line.uploaded)
        self.fewest_answers = min(self.fewest_answers, answers)
        self._coins = coins
        return Total(
            values=units / line.question.bound,
            stddev=stddev_of_total(self._plan, line.question, answers),
            answers=answers,
        )

    def close(self, *, release: bytes) -> None:
        """Tells everybody invited that the plan has ended: an acceptance may have been lost."""
        if release:
            self._keep_release(release)
        closing = Close(plan=self._digest, release=release, coins=self._coins)
        self._channel.exchange(closing, self._plan.participation.invited)
        self.transcript.end(load_release(release).digest if release else "", self._key)
