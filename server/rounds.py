"""The coordinator's side of the masked rounds: one session, then one attempt after the other.

`MaskedSums.ask` gets one total, `_Attempt.run` names the steps in the order of PROTOCOL.md. What
does not fit is left out and written to the transcript with the name of whoever sent it.
"""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.asking import OPEN_LABEL, Asking, asking
from federation.errors import ProtocolError
from federation.messages import (
    Abort,
    Accept,
    Begin,
    Begun,
    Close,
    Coins,
    Invite,
    Join,
    Joined,
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
from federation.model.release import load_release
from federation.model.scorecard import AdditiveCard
from federation.plan import Plan, plan_toml
from federation.pricing import stddev_of_total
from federation.privacy.entropy import Entropy
from federation.query import UNITS_PER_ONE, Question
from federation.schema import Schema
from federation.secure_aggregation.opening import Collected, Opened, require_fits
from federation.secure_aggregation.roster import Roster, roster_toml
from federation.secure_aggregation.session import Announcement, Group, Terms
from federation.secure_aggregation.survivors import (
    ABORT_LABEL,
    PeerFault,
    Reveal,
    Revealed,
    SetSigned,
    abort_body,
)
from federation.secure_aggregation.upload import Upload
from federation.transcript import Attempted, Fault, Joint, Planned, Transcript
from federation.transport import Transport
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
        self._transport = transport
        self._key = key
        self._entropy = entropy
        self._watch = watch
        self._accepted: tuple[str, ...] = ()
        self._group: Group | None = None
        self._left_out: set[int] = set()
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
        replies = self._exchange(Invite(plan=plan_toml(self._plan)), invited)
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
        replies = self._exchange(Begin(plan=terms.plan, session=terms.session), names)
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
        replies = self._exchange(joining, group.members)
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
        while True:
            attempt = _Attempt(self, question, round_, number, card)
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

    def _total(self, attempt: "_Attempt", opened: Opened) -> Total:
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
        self._exchange(closing, self._plan.participation.invited)
        self.transcript.end(load_release(release).digest if release else "", self._key)

    def _exchange(self, request: Request, names: tuple[str, ...]) -> dict[str, Reply]:
        return self._exchange_each(dict.fromkeys(names, request))

    def _exchange_each(self, requests: Mapping[str, Request]) -> dict[str, Reply]:
        found: dict[str, Reply] = {}
        encoded: dict[int, bytes] = {}
        for request in requests.values():
            if id(request) not in encoded:
                encoded[id(request)] = encode(request)
        sent = {name: encoded[id(request)] for name, request in requests.items()}
        for name, reply in self._transport.exchange(sent).items():
            if name not in sent:
                continue
            try:
                found[name] = decode_reply(reply)
            except ProtocolError:  # who sends what is no reply has not answered
                self._watch(Progress(step="malformed", number=1, of=len(requests), answers=0))
        return found


class _Attempt:
    """One attempt at one question: open, collect, agree on who survived, open the total."""

    def __init__(
        self,
        sums: MaskedSums,
        question: Question,
        round_: int,
        number: int,
        card: AdditiveCard | None,
    ) -> None:
        group = sums._group
        if group is None:
            raise ProtocolError("No session has begun.")
        unsigned = Open(
            session=group.terms.session,
            question=question,
            round=round_,
            attempt=number,
            card=card,
            coins=sums._coins,
            signature="",
        )
        sums._coins = None
        self._sums = sums
        self._group = group
        self.asking: Asking = asking(sums._plan, sums._schema, group, unsigned)
        self._open = Open(
            session=unsigned.session,
            question=question,
            round=round_,
            attempt=number,
            card=card,
            coins=unsigned.coins,
            signature=canonical.sign(sums._key, OPEN_LABEL, self.asking.context),
        )
        self.uploads: dict[int, Upload] = {}
        self.why = ""
        self._set_signatures: dict[int, bytes] = {}
        self._votes: dict[int, bytes] = {}
        self._faults: list[Fault] = []

    def run(self) -> Opened | None:
        """Returns the total, None if the attempt failed; then `why` says so."""
        self._collect()
        quorum = self._group.terms.quorum
        if len(self.uploads) < quorum:
            self.why = f"only {len(self.uploads)} institutions answered"
            return None
        collected = Collected(
            self._group, self.asking.context, self.asking.bits, dict(sorted(self.uploads.items()))
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
            self.why = str(error)
        return None

    def _collect(self) -> None:
        """Takes every upload that fits and cancels; who was left out is not asked, and not paid."""
        members = self._group.members
        nbytes = self.asking.query.length * self.asking.bits // 8
        asked = tuple(
            name for place, name in enumerate(members) if place not in self._sums._left_out
        )
        for name, reply in self._sums._exchange(self._open, asked).items():
            place = members.index(name)
            if not isinstance(reply, Upload):
                continue
            try:
                require_fits(self._group, self.asking.context, place, reply, nbytes)
            except PeerFault as fault:
                self._note(fault.peer, "", str(fault))
            else:
                self.uploads[place] = reply
        everybody = Collected(self._group, self.asking.context, self.asking.bits, self.uploads)
        pairs = everybody.disagreements()
        for low, high in pairs:
            self._note(members[low], members[high], "the seeds of this pair differ.")
        self._leave_out(pairs)
        for place in self._sums._left_out:
            self.uploads.pop(place, None)

    def _agreed(self, collected: Collected) -> dict[int, Revealed] | None:
        """Returns what opens the total over the survivors, None if too few released it."""
        told = {
            self._group.members[place]: collected.relayed_to(place) for place in collected.survivors
        }
        replies = self._by_place(self._sums._exchange_each(told))
        if len(collected.survivors) < len(self._group.members):
            self._note_signatures(collected, replies)
            signers = tuple(sorted(self._set_signatures))
            if len(signers) < self._group.terms.threshold:
                self.why = f"only {len(signers)} institutions signed who survived"
                return None
            asked = Reveal(
                context=self.asking.context,
                signers=signers,
                signatures=tuple(self._set_signatures[place] for place in signers),
            )
            replies = self._by_place(self._sums._exchange(asked, tuple(told)))
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

    def _by_place(self, replies: Mapping[str, Reply]) -> dict[int, Reply]:
        """Returns replies by place; notes whoever accuses a peer."""
        members = self._group.members
        found = {members.index(name): reply for name, reply in replies.items()}
        accused: list[tuple[int, int]] = []
        for place, reply in found.items():
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
        at_odds = [pair for pair in at_odds if not self._sums._left_out & set(pair)]
        with_whom: dict[int, set[int]] = {}
        for one, other in at_odds:
            with_whom.setdefault(one, set()).add(other)
            with_whom.setdefault(other, set()).add(one)
        colluders = self._sums._plan.participation.colluders
        at_fault = {place for place, others in with_whom.items() if len(others) > colluders}
        for pair in at_odds:
            self._sums._left_out |= at_fault & set(pair) or set(pair)

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
            self._sums._left_out.add(self._group.members.index(institution))
        self._faults.append(Fault(institution=institution, accuser=accuser, what=what))

    def give_up(self) -> bool:
        """Returns whether enough members voted that nothing was opened; then all are told so."""
        members = self._group.members  # also who did not answer: an upload may have been lost
        context = self.asking.context
        replies = self._by_place(self._sums._exchange(Abort(context=context), members))
        for place, reply in sorted(replies.items()):
            if isinstance(reply, Voted) and reply.context == context:
                try:
                    self._group.require_signed(
                        place, ABORT_LABEL, abort_body(context), reply.signature
                    )
                except ProtocolError as error:
                    self._note(members[place], "", str(error))
                else:
                    self._votes[place] = reply.signature
        if len(self._votes) < self._group.terms.threshold:
            return False
        refund = Refund(
            context=context, voters=tuple(self._votes), votes=tuple(self._votes.values())
        )
        self._sums._exchange(refund, members)
        return True

    def line(self, opened: Opened | None) -> Attempted:
        """Returns what the transcript says of it."""
        uploaded = tuple(sorted(self.uploads))
        signers = tuple(sorted(self._set_signatures))
        return Attempted(
            question=self._open.question,
            round=self._open.round,
            attempt=self._open.attempt,
            model=model_digest(self._open.card),
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
