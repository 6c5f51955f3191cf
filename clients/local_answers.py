"""The institution in local mode: each question is paid, noised and answered by itself.

There is no session and no mask: whoever gets the answer can read it, so all of the noise is in it
(`federation.door.LocalRelease`). A question is answered once; whoever asks with the same bytes
again gets the same bytes, also from a later process, and another question in its place is refused.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.local_training import local_release
from clients.records import RELEASED, Records
from clients.taking import Taking
from federation import canonical
from federation.asking import ASK_LABEL, AskingLocally, asking_locally
from federation.canonical import hash_of
from federation.errors import ConfigurationError, PrivacyError, ProtocolError
from federation.messages import (
    Answered,
    AnswerHeader,
    Ask,
    encode,
    numbers_digest,
)
from federation.privacy.entropy import Entropy


class LocalAnswers:
    """One institution's answers to one plan in local mode."""

    def __init__(
        self,
        *,
        identifier: str,
        identity: Ed25519PrivateKey,
        taking: Taking,
        records: Records,
        noise_entropy: Entropy,
    ) -> None:
        """Starts where the records and the ledger say.

        Args:
            identifier: our id.
            identity: our Ed25519 identity key.
            taking: the plan.
            records: ours, open.
            noise_entropy: 32 fresh secret bytes a call.
        """
        self._identifier = identifier
        self._identity = identity
        self.taking = taking
        self._records = records
        self._noise_entropy = noise_entropy

    def answer(self, request: Ask) -> Answered:
        """Returns the answer to a question.

        Raises:
            ProtocolError: it is no question of this plan, not signed, or not in order.
            BudgetExhausted: it is not paid for.
        """
        plan = self.taking.plan
        if request.plan != self.taking.digest:
            raise ProtocolError("We do not take part in this plan.")
        try:
            found = asking_locally(plan, self.taking.schema, request)
        except (ConfigurationError, PrivacyError) as error:
            raise ProtocolError(f"The plan does not ask this: {error}") from error
        canonical.verify(plan.coordinator, ASK_LABEL, found.context, request.signature)
        paid = (request.question, request.round, 0)
        self.taking.require_in_order(paid)
        self.taking.leave_out_withdrawn()
        self._note(found)
        sequence, head = self.taking.pay(paid, found.query)
        numbers = local_release(
            self.taking,
            found.query,
            request.model,
            noise_entropy=self._noise_entropy,
        ).encoded()
        header = AnswerHeader(
            institution=self._identifier,
            numbers=numbers_digest(numbers),
            ledger_sequence=sequence,
            ledger_head=head,
            signature=b"",
        ).signed(self._identity, found.context)
        reply = Answered(context=found.context, header=header, numbers=numbers)
        self._records.say(
            RELEASED,
            context=found.context,
            request=encode(request),
            reply=encode(reply),
            own_head=(sequence, head),
        )
        return reply

    def _note(self, found: AskingLocally) -> None:
        """Notes the question durably: no other one is ever answered in its place.

        One that was noted and not paid, when a process was killed, may still be answered.
        """
        plan = self.taking.digest
        session = hash_of("fedscore/local-session/1", bytes.fromhex(plan))
        if not self._records.has_begun(plan):
            self._records.begin_session(session, plan)
        if self._records.attempt(found.context) is None:
            self._records.begin_attempt(
                found.context, session=session, round_=found.position, number=0
            )
