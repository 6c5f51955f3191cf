"""An answer in local mode that does not fit is left out, and whoever sent it is named."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from experiments.entropy import SeededEntropy
from federation.errors import ConfigurationError, ProtocolError
from federation.messages import (
    Answered,
    Ask,
    Invite,
    SeenHeader,
    decode_reply,
    decode_request,
    encode,
    numbers_digest,
)
from federation.query import Question
from federation.secure_aggregation.upload import Header
from federation.transcript import Answers, Asked, Transcript
from federation.transport import Transport
from server.local_sums import LARGEST_NUMBER
from server.running import Running
from server.sums import sums_of
from server.training import Sums
from tests.federations import (
    KEY,
    Federation,
    federation,
    identity_of,
    ignore,
    in_process,
    roster_of,
)
from tests.local_mode import CARD, ask, flat_network, local, net

LIAR = "bank-01"

Lie = Callable[[Answered], Answered]


class Lying:
    """A transport on which one institution's answers to one question are changed."""

    def __init__(self, inner: Transport, lie: Lie, question: Question) -> None:
        self._inner, self._lie, self._question = inner, lie, question
        self.asked: list[tuple[str, Question, int]] = []
        self.invites: dict[str, Invite] = {}

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        replies = dict(self._inner.exchange(requests))
        for name, data in requests.items():
            request = decode_request(data)
            if isinstance(request, Invite):
                self.invites[name] = request
            if isinstance(request, Ask):
                self.asked.append((name, request.question, request.round))
                reply = decode_reply(replies[name])
                if name == LIAR and request.question is self._question:
                    assert isinstance(reply, Answered)
                    replies[name] = encode(self._lie(reply))
        return replies


def sums(fed: Federation, transport: Transport, transcript: Transcript, **changes: Any) -> Sums:
    settings: dict[str, Any] = {"roster": roster_of(fed.plan), "seen": {}, **changes}
    return sums_of(
        Running(
            plan=fed.plan,
            schema=fed.schema,
            transport=transport,
            key=KEY,
            entropy=SeededEntropy("unused"),
            transcript=transcript,
            keep_release=lambda _: None,
            watch=ignore,
            **settings,
        )
    )


def resigned(reply: Answered, *, numbers: bytes | None = None, **changes: Any) -> Answered:
    """Returns an answer with changes that its own institution has signed."""
    sent = reply.numbers if numbers is None else numbers
    header = msgspec.structs.replace(reply.header, numbers=numbers_digest(sent), **changes)
    signed = header.signed(identity_of(LIAR), reply.context)
    return msgspec.structs.replace(reply, header=signed, numbers=sent)


def first_is(number: int) -> Lie:
    def lie(reply: Answered) -> Answered:
        return resigned(reply, numbers=np.int64(number).tobytes() + reply.numbers[8:])

    return lie


LIES: dict[str, Lie] = {
    "other numbers than were signed": lambda reply: msgspec.structs.replace(
        reply, numbers=bytes(8) + reply.numbers[8:]
    ),
    "no signature": lambda reply: msgspec.structs.replace(
        reply, header=msgspec.structs.replace(reply.header, signature=bytes(64))
    ),
    "another question's": lambda reply: msgspec.structs.replace(reply, context=bytes(32)),
    "somebody else's": lambda reply: resigned(reply, institution="bank-02"),
    "another ledger sequence, unsigned": lambda reply: msgspec.structs.replace(
        reply,
        header=msgspec.structs.replace(
            reply.header, ledger_sequence=reply.header.ledger_sequence + 1
        ),
    ),
    "a ledger that has not grown": lambda reply: resigned(reply, ledger_sequence=0),
    "a number less": lambda reply: resigned(reply, numbers=reply.numbers[8:]),
    "a byte less": lambda reply: resigned(reply, numbers=reply.numbers[1:]),
    "no numbers": lambda reply: resigned(reply, numbers=b""),
    "a number beyond any people": first_is(LARGEST_NUMBER + 1),
    "a number below any people": first_is(-LARGEST_NUMBER - 1),
    "the least number there is": first_is(-(2**63)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_answer_that_does_not_fit_is_not_added_and_its_owner_is_named_and_asked_no_more(
    tmp_path: Path, lie: Lie
) -> None:
    fed = local(tmp_path, CARD, people=20, quorum=3)
    transcript = Transcript()
    with fed.seats() as seats:
        transport = Lying(in_process(seats), lie, Question.BINS)
        asking = sums(fed, transport, transcript)
        asking.begin()
        assert asking.ask(Question.BINS, round_=0, model=None).answers == 3
        model = ask(fed, Question.STEP).model
        assert asking.ask(Question.STEP, round_=0, model=model).answers == 3
        assert (LIAR, Question.STEP, 0) not in transport.asked
    bins, step = (line for line in transcript.lines() if isinstance(line, Answers))
    assert [fault.institution for fault in bins.faults] == [LIAR]
    assert step.faults == ()
    again = sums(fed, transport, Transcript(transcript.content()))
    assert LIAR in again._invitations._gone, "the next process does not ask it either"


def test_a_plan_that_ends_for_want_of_an_answer_that_fits_names_its_owner_once(
    tmp_path: Path,
) -> None:
    fed = local(tmp_path, CARD, people=20, quorum=4)
    transcript = Transcript()
    with fed.seats() as seats:
        transport = Lying(in_process(seats), LIES["no signature"], Question.BINS)
        asking = sums(fed, transport, transcript)
        asking.begin()
        with pytest.raises(ProtocolError, match="3 institutions answered, the quorum is 4"):
            asking.ask(Question.BINS, round_=0, model=None)
        assert transport.asked.count((LIAR, Question.BINS, 0)) == 1
    (line,) = (line for line in transcript.lines() if isinstance(line, Answers))
    assert [fault.institution for fault in line.faults] == [LIAR]
    assert line.total == ()


def test_parameters_beyond_their_public_bound_are_not_averaged(tmp_path: Path) -> None:
    fed = local(tmp_path, net(steps=1), people=20, quorum=3)
    transcript = Transcript()
    with fed.seats() as seats:
        lie = first_is(64 * 2**24 + 1)
        asking = sums(fed, Lying(in_process(seats), lie, Question.GRADIENT), transcript)
        asking.begin()
        total = asking.ask(Question.GRADIENT, round_=0, model=flat_network(fed))
    assert total.answers == 3
    (line,) = (line for line in transcript.lines() if isinstance(line, Answers))
    assert [fault.institution for fault in line.faults] == [LIAR]


def test_an_institution_is_told_the_latest_header_of_earlier_trainings(tmp_path: Path) -> None:
    fed = local(tmp_path, CARD, people=20, quorum=3)
    header = Header(
        institution=LIAR,
        masked=b"",
        own_mask=b"",
        leaves=b"",
        noise=b"",
        ledger_sequence=7,
        ledger_head="ab" * 32,
        signature=bytes(64),
    )
    seen = SeenHeader(context=bytes(32), header=header)
    with fed.seats() as seats:
        transport = Lying(in_process(seats), lambda reply: reply, Question.BINS)
        asking = sums(fed, transport, Transcript(), seen={LIAR: seen})
        asking.begin()
    assert transport.invites[LIAR].seen == seen
    assert transport.invites["bank-00"].seen is None


def test_a_transcript_that_ended_or_is_of_masked_sums_is_not_taken_up(tmp_path: Path) -> None:
    fed = local(tmp_path, CARD, people=20)
    transcript = Transcript()
    with fed.seats() as seats:
        sums(fed, in_process(seats), transcript).close(release=b"")
        with pytest.raises(ConfigurationError, match="has ended"):
            sums(fed, in_process(seats), Transcript(transcript.content()))
    joint = federation(tmp_path, people=20)
    masked = Transcript()
    masked.write(transcript.lines()[0])
    with pytest.raises(ConfigurationError, match="another plan"):
        sums(joint, in_process({}), masked)


def test_a_question_is_written_down_before_anybody_is_asked(tmp_path: Path) -> None:
    fed = local(tmp_path, CARD, people=20)
    told: list[bool] = []

    class Watching:
        def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
            if isinstance(decode_request(next(iter(requests.values()))), Ask):
                told.append(isinstance(transcript.lines()[-1], Asked))
            return in_process(seats).exchange(requests)

    transcript = Transcript()
    with fed.seats() as seats:
        asking = sums(fed, Watching(), transcript)
        asking.begin()
        asking.ask(Question.BINS, round_=0, model=None)
    assert told == [True]
