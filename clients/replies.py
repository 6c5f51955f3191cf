"""Which request of a plan that is under way gets which reply."""

from clients.local_answers import LocalAnswers
from clients.sessions import Sessions
from federation.errors import ProtocolError
from federation.messages import Abort, Ask, Begin, Join, Open, Refund, Reply, Request
from federation.secure_aggregation.survivors import Reveal, Survivors


def reply_of(entered: Sessions | LocalAnswers, request: Request) -> Reply:
    """Returns the reply to a request: in local mode questions alone are answered.

    Raises:
        ProtocolError: it is none of this plan's, or not now.
        BudgetExhausted: it is not paid for.
    """
    match entered, request:
        case LocalAnswers(), Ask():
            return entered.answer(request)
        case LocalAnswers(), _:
            raise ProtocolError("A plan in local mode has no session: only questions are answered.")
        case Sessions(), Begin():
            return entered.begin(request)
        case Sessions(), Join():
            return entered.join(request)
        case Sessions(), Open():
            return entered.open(request)
        case Sessions(), Survivors():
            return entered.survivors(request)
        case Sessions(), Reveal():
            return entered.reveal(request)
        case Sessions(), Abort():
            return entered.abort(request)
        case Sessions(), Refund():
            return entered.refund(request)
        case _:
            raise ProtocolError("This message belongs to no session.")
