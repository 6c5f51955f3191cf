"""The coordinator's side of one attempt, from its opening to one total or to abort votes.

`Attempt.run` names the steps in the order of PROTOCOL.md. What does not fit is left out and written
to the transcript with the name of whoever sent it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from federation.asking import Asking
from federation.errors import ProtocolError
from federation.messages import (
    Abort,
    Open,
    Refund,
    RefusalCode,
    Refuse,
    Reply,
    Request,
    Voted,
    decode_reply,
    encode,
    model_digest,
)
from federation.secure_aggregation.opening import Collected, Opened, require_fits
from federation.secure_aggregation.session import Group
from federation.secure_aggregation.survivors import (
    ABORT_LABEL,
    PeerFault,
    Reveal,
    Revealed,
    SetSigned,
    abort_body,
)
from federation.secure_aggregation.upload import Upload
from federation.transcript import Asked, Attempted, Fault
from federation.transport import Transport
from server.training import Progress


class Channel:
    """Carries messages to institutions and back; what is no reply counts as silence."""

    def __init__(self, transport: Transport, watch: Callable[[Progress], None]) -> None:
        """Uses a transport, and tells whoever watches about bytes that are no reply."""
        self._transport = transport
        self._watch = watch

    def exchange(self, request: Request, names: tuple[str, ...]) -> dict[str, Reply]:
        """Returns the replies to one request, by name."""
        return self._replies(dict.fromkeys(names, encode(request)))

    def exchange_each(self, requests: Mapping[str, Request]) -> dict[str, Reply]:
        """Returns the replies to a request for each name."""
        return self._replies({name: encode(request) for name, request in requests.items()})

    def _replies(self, sent: Mapping[str, bytes]) -> dict[str, Reply]:
        found: dict[str, Reply] = {}
        for name, reply in self._transport.exchange(sent).items():
            if name not in sent:
                continue
            try:
                found[name] = decode_reply(reply)
            except ProtocolError:
                self._watch(Progress(step="malformed", number=1, of=len(sent), answers=0))
        return found


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Who is not asked any more, by place in the session.

    Attributes:
        at_fault: for the rest of the session.
        silent: for the rest of one question.
    """

    at_fault: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)

    @property
    def places(self) -> set[int]:
        """All of them."""
        return self.at_fault | self.silent


class Attempt:
    """One attempt at one question: open, collect, agree on who survived, open the total."""

    def __init__(
        self,
        *,
        group: Group,
        channel: Channel,
        asking: Asking,
        opening: Open,
        left_out: LeftOut,
        colluders: int,
    ) -> None:
        """Starts with nobody asked.

        Args:
            group: of the session.
            channel: to its members.
            asking: what is asked.
            opening: the signed message that asks it.
            left_out: who is not asked; grows by whoever is at fault here.
            colluders: c of the plan.
        """
        self.group = group
        self._channel = channel
        self.asking = asking
        self._open = opening
        self._left_out = left_out
        self._colluders = colluders
        self.uploads: dict[int, Upload] = {}
        self.refused: dict[str, Refuse] = {}
        self.why = ""
        self._set_signatures: dict[int, bytes] = {}
        self._votes: dict[int, bytes] = {}
        self._faults: list[Fault] = []

    def run(self) -> Opened | None:
        """Returns the total, None if the attempt failed; then `why` says so."""
        self._collect()
        quorum = self.group.terms.quorum
        if len(self.uploads) < quorum:
            self.why = f"only {len(self.uploads)} institutions answered"
            return None
        collected = Collected(
            self.group, self.asking.context, self.asking.bits, dict(sorted(self.uploads.items()))
        )
        revealed = self._agreed(collected)
        if revealed is None:
            return None
        try:
            return collected.opened(revealed)
        except PeerFault as fault:
            self._note(fault.peer, "", str(fault))
            self.why = f"{fault.peer} shared another mask than it used"
        except ProtocolError as error:
            self.why = str(error).rstrip(".").lower()
        return None

    def _collect(self) -> None:
        """Takes every upload that fits and cancels; who was left out is not asked, and not paid."""
        members = self.group.members
        nbytes = self.asking.query.length * self.asking.bits // 8
        asked = tuple(
            name for place, name in enumerate(members) if place not in self._left_out.places
        )
        for name, reply in self._channel.exchange(self._open, asked).items():
            place = members.index(name)
            if isinstance(reply, Refuse):
                self.refused[name] = reply
            if not isinstance(reply, Upload):
                continue
            try:
                require_fits(self.group, self.asking.context, place, reply, nbytes)
            except PeerFault as fault:
                self._note(fault.peer, "", str(fault))
            else:
                self.uploads[place] = reply
        everybody = Collected(self.group, self.asking.context, self.asking.bits, self.uploads)
        pairs = everybody.disagreements()
        for low, high in pairs:
            self._note(members[low], members[high], "the seeds of this pair differ.")
        self._leave_out(pairs)
        for place in self._left_out.places:
            self.uploads.pop(place, None)

    def _agreed(self, collected: Collected) -> dict[int, Revealed] | None:
        """Returns what opens the total over the survivors, None if nobody was asked to release it.

        If somebody dropped out, all survivors must sign their set and release; who is silent is
        asked once more. Unless all have signed, nobody is asked to release: it would be in vain.
        """
        members = self.group.members
        told: dict[str, Request] = {
            members[place]: collected.relayed_to(place) for place in collected.survivors
        }
        if len(collected.survivors) == len(members):
            replies = self._by_place(self._channel.exchange_each(told))
        else:
            self._note_signatures(collected, self._asked_twice(told, SetSigned))
            signers = tuple(sorted(self._set_signatures))
            if signers != collected.survivors:
                self.why = f"only {len(signers)} of {len(told)} survivors signed who survived"
                return None
            asked = Reveal(
                context=self.asking.context,
                signers=signers,
                signatures=tuple(self._set_signatures[place] for place in signers),
            )
            replies = self._asked_twice(dict.fromkeys(told, asked), Revealed)
        revealed: dict[int, Revealed] = {}
        for place, reply in replies.items():
            if isinstance(reply, Revealed):
                try:
                    collected.require_reveals(place, reply)
                except PeerFault as fault:
                    self._note(fault.peer, "", str(fault))
                else:
                    revealed[place] = reply
                    self._set_signatures[place] = reply.signature
        self.why = f"only {len(revealed)} institutions released their shares"
        return revealed

    def _asked_twice(
        self, requests: Mapping[str, Request], wanted: type[SetSigned] | type[Revealed]
    ) -> dict[int, Reply]:
        """Returns the replies of survivors, all of whom are needed.

        Whoever stays silent, or says anything but what is wanted or whom it accuses, has uploaded,
        and so made itself needed. It is named, and left out of this question's other attempts.
        """

        def says_nothing(place: int) -> bool:
            reply = replies.get(place)
            if isinstance(reply, Refuse):
                return reply.code is not RefusalCode.PEER
            return not (isinstance(reply, wanted) and reply.context == self.asking.context)

        replies = self._by_place(self._channel.exchange_each(requests))
        members = self.group.members
        silent = {
            name: request for name, request in requests.items() if says_nothing(members.index(name))
        }
        if silent:
            replies |= self._by_place(self._channel.exchange_each(silent))
        for place in (members.index(name) for name in silent):
            if says_nothing(place):
                what = "it uploaded, and was silent when all survivors were needed."
                self._faults.append(Fault(institution=members[place], accuser="", what=what))
                self._left_out.silent.add(place)
        return replies

    def _by_place(self, replies: Mapping[str, Reply]) -> dict[int, Reply]:
        """Returns replies by place; notes who refuses, and whoever accuses a peer."""
        members = self.group.members
        found = {members.index(name): reply for name, reply in replies.items()}
        accused: list[tuple[int, int]] = []
        for place, reply in found.items():
            if isinstance(reply, Refuse):
                self.refused[members[place]] = reply
            if (
                isinstance(reply, Refuse)
                and reply.code is RefusalCode.PEER
                and reply.peer in members
            ):
                self._note(reply.peer, members[place], "its upload does not fit, the peer says.")
                accused.append((place, members.index(reply.peer)))
        self._leave_out(accused)
        return found

    def _leave_out(self, at_odds: Sequence[tuple[int, int]]) -> None:
        """Leaves out both of each pair that is at odds, from here on: one of the two is at fault.

        Whoever is at odds with more than c others is at odds with an honest one, and so at fault
        for certain: the others of these pairs stay. Whoever is left out already is not heard.
        """
        at_odds = [pair for pair in at_odds if not self._left_out.at_fault & set(pair)]
        with_whom: dict[int, set[int]] = {}
        for one, other in at_odds:
            with_whom.setdefault(one, set()).add(other)
            with_whom.setdefault(other, set()).add(one)
        colluders = self._colluders
        at_fault = {place for place, others in with_whom.items() if len(others) > colluders}
        for pair in at_odds:
            self._left_out.at_fault.update(at_fault & set(pair) or set(pair))

    def _note_signatures(self, collected: Collected, replies: Mapping[int, Reply]) -> None:
        for place, reply in replies.items():
            if isinstance(reply, SetSigned) and reply.context == self.asking.context:
                try:
                    collected.require_signed_set(place, reply.signature)
                except PeerFault as fault:
                    self._note(fault.peer, "", str(fault))
                else:
                    self._set_signatures[place] = reply.signature

    def _note(self, institution: str, accuser: str, what: str) -> None:
        """Notes a fault; whoever is at fault for certain, as we see ourselves, is left out."""
        if not accuser:
            self._left_out.at_fault.add(self.group.members.index(institution))
        self._faults.append(Fault(institution=institution, accuser=accuser, what=what))

    def give_up(self) -> bool:
        """Returns whether enough members voted that nothing was opened; then all are told so."""
        members = self.group.members  # also who did not answer: an upload may have been lost
        context = self.asking.context
        replies = self._channel.exchange(Abort(context=context), members)
        for place, reply in sorted((members.index(name), one) for name, one in replies.items()):
            if isinstance(reply, Voted) and reply.context == context:
                try:
                    self.group.require_signed(
                        place, ABORT_LABEL, abort_body(context), reply.signature
                    )
                except ProtocolError as error:
                    self._note(members[place], "", str(error))
                else:
                    self._votes[place] = reply.signature
        if len(self._votes) < self.group.terms.threshold:
            return False
        refund = Refund(
            context=context, voters=tuple(self._votes), votes=tuple(self._votes.values())
        )
        self._channel.exchange(refund, members)
        return True

    def opening(self) -> Asked:
        """Returns what the transcript says before anybody is asked."""
        return Asked(
            question=self._open.question,
            round=self._open.round,
            attempt=self._open.attempt,
            signature=self._open.signature,
        )

    def line(self, opened: Opened | None) -> Attempted:
        """Returns what the transcript says of it."""
        uploaded = tuple(sorted(self.uploads))
        signers = tuple(sorted(self._set_signatures))
        return Attempted(
            question=self._open.question,
            round=self._open.round,
            attempt=self._open.attempt,
            model=model_digest(self._open.model),
            columns=self.asking.query.columns,
            signature=self._open.signature,
            uploaded=uploaded,
            headers=tuple(self.uploads[place].header for place in uploaded),
            signers=signers,
            set_signatures=tuple(self._set_signatures[place] for place in signers),
            voters=tuple(self._votes),
            votes=tuple(self._votes.values()),
            coins=() if opened is None else opened.coins,
            total=() if opened is None else tuple(np.asarray(opened.total).tolist()),
            faults=tuple(self._faults),
        )
