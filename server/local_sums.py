"""The coordinator's side of a plan in local mode: answers that each can be read, added up.

There is no session and no retry: an institution answers a question once, and says the same however
often it is asked. Whoever does not answer in time is left out of that total. What the transcript
holds is durable before anything follows from it: a later process gets the totals from there, and
asks a question that was cut with the same bytes again.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation import canonical
from federation.asking import ASK_LABEL, AskingLocally, asking_locally
from federation.errors import ConfigurationError, PrivacyError, ProtocolError
from federation.messages import (
    Answered,
    Ask,
    Close,
    Model,
    RefusalCode,
    Refuse,
    Reply,
    model_digest,
    numbers_digest,
)
from federation.model.network import LARGEST_PARAMETER
from federation.model.release import load_release
from federation.plan import plan_toml
from federation.pricing import stddev_of_total
from federation.query import Question
from federation.secure_aggregation.roster import roster_toml
from federation.transcript import Answers, Asked, Fault, Planned
from server.attempts import Channel
from server.invitations import TRIES, Invitations
from server.past import taken_up
from server.running import Running
from server.training import Total

LARGEST_NUMBER: Final = 2**52
"""Beyond which no answer lies: 2^34 people times 2^16 units, and noise of at most 2^40 each."""

_BYTES: Final = 8


class LocalSums:
    """Asks the plan's questions of the institutions that accepted it, each for itself.

    A context manager: if the protocol ends the training early, the plan is closed at everybody
    invited, so that what was reserved and never spent returns to its budget.
    """

    def __init__(self, running: Running) -> None:
        """Starts without participants.

        Args:
            running: a plan in local mode; its entropy is not used.

        Raises:
            ConfigurationError: the transcript is another plan's, has ended, or contradicts itself.
        """
        plan = running.plan
        self._plan = plan
        self._schema = running.schema
        self._roster = running.roster
        self._channel = Channel(running.transport, running.watch)
        self._key = running.key
        self._keep_release = running.keep_release
        self.fewest_answers = len(plan.participation.invited)
        self.transcript = running.transcript
        beginning = Planned(plan=plan_toml(plan), roster=roster_toml(running.roster))
        self._past = taken_up(running.transcript, beginning)
        self._invitations = Invitations(
            plan=plan,
            channel=self._channel,
            seen=running.seen,
            gone=frozenset(),
            watch=running.watch,
        )
        self._sequences: dict[str, int] = {}
        for line in self._past.answers.values():
            self._take(line)

    def __enter__(self) -> Self:
        """Returns the sums; nobody has been asked yet."""
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
        """Returns once enough institutions take part.

        Raises:
            ProtocolError: fewer than the quorum; says how many refused with which code.
        """
        is_fresh = not self._past.was_told  # then whoever is silent is not waited for
        replies: Mapping[str, Reply] = {}
        for _ in range(1 if is_fresh else TRIES):
            replies = self._invitations.invite(everybody=True) or {}
            if not self._invitations.is_short:
                return
        raise self._invitations.too_few("take part", replies)

    def ask(self, question: Question, *, round_: int, model: Model | None) -> Total:
        """Returns the total of one question.

        Raises:
            ProtocolError: fewer institutions than the quorum answered.
            ConfigurationError: what an earlier process asked does not follow from its totals here.
        """
        self._invitations.next_question()
        told = self._past.answers.get((question, round_))
        if told is None:
            told = self._asked(question, round_, model)
        elif told.model != model_digest(model):
            raise ConfigurationError(
                f"The model at {question} {round_} is not the one that was asked about before: "
                "go on with the version of fedscore that began this training."
            )
        answers = len(told.headers)
        if not told.total:
            raise ProtocolError(
                f"No total of {question} {round_}: {answers} institutions answered, the quorum is "
                f"{self._plan.participation.quorum}. The plan ends; make a new one."
            )
        self.fewest_answers = min(self.fewest_answers, answers)
        return Total(
            values=np.array(told.total, dtype=np.int64) / question.bound,
            stddev=stddev_of_total(self._plan, question, answers),
            answers=answers,
        )

    def _asked(self, question: Question, round_: int, model: Model | None) -> Answers:
        """Returns what came of a question, as the transcript has it."""
        unsigned = Ask(
            plan=self._plan.digest, question=question, round=round_, model=model, signature=""
        )
        found = asking_locally(self._plan, self._schema, unsigned)
        signature = canonical.sign(self._key, ASK_LABEL, found.context)
        if self._past.cut != (question, round_, 0):
            self.transcript.write(
                Asked(question=question, round=round_, attempt=0, signature=signature)
            )
        answers, faults = self._collected(
            msgspec.structs.replace(unsigned, signature=signature), found
        )
        total = np.zeros(found.query.length, dtype=np.int64)
        for one in answers.values():
            total += _numbers(one)
        is_enough = len(answers) >= self._plan.participation.quorum
        line = Answers(
            question=question,
            round=round_,
            model=model_digest(model),
            columns=found.query.columns,
            signature=signature,
            headers=tuple(answers[name].header for name in sorted(answers)),
            total=tuple(total.tolist()) if is_enough else (),
            faults=tuple(faults),
        )
        self.transcript.write(line)
        self._take(line)
        return line

    def _collected(
        self, request: Ask, found: AskingLocally
    ) -> tuple[dict[str, Answered], list[Fault]]:
        """Returns the answers that fit, by name, and what did not fit.

        While they are fewer than the quorum, whoever may still answer is asked again.
        """
        answers: dict[str, Answered] = {}
        faults: list[Fault] = []
        refused: set[str] = set()
        invitations = self._invitations
        for _ in range(TRIES):
            is_short = len(invitations.ready - refused) < self._plan.participation.quorum
            invitations.invite(everybody=is_short)
            names = tuple(sorted(invitations.ready - refused - answers.keys()))
            replies = self._channel.exchange(request, names)
            for name in names:
                reply = replies.get(name)
                if isinstance(reply, Answered):
                    try:
                        self._require_fits(name, reply, found)
                    except ProtocolError as error:
                        faults.append(Fault(institution=name, accuser="", what=str(error)))
                        invitations.exclude({name})
                        continue
                    answers[name] = reply
                    continue
                if isinstance(reply, Refuse) and reply.code is not RefusalCode.UNAVAILABLE:
                    refused.add(name)
                invitations.lose(name, reply)
            if len(answers) >= self._plan.participation.quorum:
                break
        return answers, faults

    def _require_fits(self, name: str, reply: Answered, found: AskingLocally) -> None:
        """Returns only if an answer is what it should be.

        Raises:
            ProtocolError: it is another question's, unsigned, of another length or beyond what any
                people could bring, or its ledger did not grow.
        """
        header, key = reply.header, self._roster.key_of(name)
        if reply.context != found.context or header.institution != name or key is None:
            raise ProtocolError(f"{name} answers another question, or for somebody else.")
        header.require_signed_by(key, found.context)
        if header.numbers != numbers_digest(reply.numbers):
            raise ProtocolError(f"{name} sent other numbers than it signed.")
        if header.ledger_sequence <= self._sequences.get(name, 0):
            raise ProtocolError(f"The ledger of {name} did not grow between two answers.")
        if len(reply.numbers) != found.query.length * _BYTES:
            raise ProtocolError(f"{name} sent another number of cells than were asked for.")
        bound = found.query.question.bound
        is_network = found.query.question is Question.GRADIENT
        most = int(LARGEST_PARAMETER) * bound if is_network else LARGEST_NUMBER
        numbers = _numbers(reply)
        if ((numbers < -most) | (numbers > most)).any():
            raise ProtocolError(f"{name} sent numbers that no people could bring.")

    def _take(self, line: Answers) -> None:
        """Takes in whose ledger stands where, and who is at fault."""
        for header in line.headers:
            self._sequences[header.institution] = header.ledger_sequence
        self._invitations.exclude({fault.institution for fault in line.faults})

    def close(self, *, release: bytes) -> None:
        """Tells everybody invited that the plan has ended: an acceptance may have been lost."""
        if release:
            self._keep_release(release)
        closing = Close(plan=self._plan.digest, release=release, coins=None)
        self._channel.exchange(closing, self._plan.participation.invited)
        self.transcript.end(load_release(release).digest if release else "", self._key)


def _numbers(answered: Answered) -> NDArray[np.int64]:
    return np.frombuffer(answered.numbers, dtype="<i8").astype(np.int64)
