"""A charge comes back for the attempt that was paid, not for another one of the same number."""

from pathlib import Path

from federation.messages import Abort, Noted, Refund, Refuse, Voted
from federation.privacy.ledger_entries import Refunded
from federation.query import Question
from tests.exchanges import Table
from tests.federations import federation


def test_votes_on_a_second_session_do_not_give_back_what_the_first_one_opened(
    tmp_path: Path,
) -> None:
    fed = federation(tmp_path, people=20, quorum=3)
    with fed.seats() as seats:
        first = Table.of(fed, seats)
        first.total(first.open(Question.BINS))
        again = Table.again(fed, seats, session=b"\x02" * 32)
        request = again.open(Question.BINS)
        context = again.asking(request).context
        assert all(isinstance(seat.send(request), Refuse) for seat in seats.values())
        votes = {}
        for place, name in enumerate(again.group.members):
            reply = seats[name].send(Abort(context=context))
            assert isinstance(reply, Voted | Refuse)
            if isinstance(reply, Voted):
                votes[place] = reply.signature
        refund = Refund(context=context, voters=tuple(votes), votes=tuple(votes.values()))
        for seat in seats.values():
            assert not isinstance(seat.send(refund), Noted)
            assert not any(isinstance(one.entry, Refunded) for one in seat.ledger.entries())
