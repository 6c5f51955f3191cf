"""The institution within a session: announce, join, answer attempts, release, vote, audit.

Keys live in memory only: a process that ends takes with it what could open its attempts, and the
next one joins a new session. What is said is noted durably before it leaves (`clients.records`),
and its order is decided by `federation.secure_aggregation.attempt`; so a later process may still
vote that an attempt be given up, and take its charge back on enough votes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients import audit
from clients.ledger import Head
from clients.records import ABORT, RELEASED, SET, UPLOAD, Records
from clients.taking import Attempt, Taking
from federation import canonical, door
from federation.asking import OPEN_LABEL, Asking, asking, question_at, terms_of
from federation.errors import ConfigurationError, PrivacyError, ProtocolError
from federation.messages import (
    Abort,
    Begin,
    Begun,
    Coins,
    Join,
    Joined,
    Noted,
    Open,
    Refund,
    Reply,
    Request,
    Voted,
    decode_request,
    encode,
)
from federation.privacy.entropy import Entropy
from federation.secure_aggregation.attempt import (
    Signed,
    Standing,
    Undecided,
    on_abort,
    on_signatures,
    on_survivors,
)
from federation.secure_aggregation.roster import Roster
from federation.secure_aggregation.session import (
    Announcing,
    Group,
    Session,
    Terms,
    announce,
    at_round,
    join,
)
from federation.secure_aggregation.survivors import (
    ABORT_LABEL,
    Checked,
    PeerFault,
    Reveal,
    SetSigned,
    Survivors,
    abort_body,
    checked,
    reveal,
    sign_set,
    valid_signers,
)
from federation.secure_aggregation.upload import Sharing, draw_masks, share


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """The one attempt that is under way."""

    asking: Asking
    paid: Attempt
    sharing: Sharing
    opening: audit.Opening
    standing: Standing = field(default_factory=Undecided)
    checked: Checked | None = None
    set_signature: bytes = b""


class Sessions:
    """One institution's part in the sessions of one plan."""

    def __init__(
        self,
        *,
        identifier: str,
        identity: Ed25519PrivateKey,
        roster: Roster,
        taking: Taking,
        records: Records,
        noise_entropy: Entropy,
        mask_entropy: Entropy,
        log: Callable[[str], None],
    ) -> None:
        """Starts without a session.

        Args:
            identifier: our id.
            identity: our Ed25519 identity key.
            roster: the pinned one.
            taking: the plan.
            records: ours, open.
            noise_entropy: 32 fresh secret bytes a call, for noise.
            mask_entropy: likewise, for session keys, own masks and shares.
            log: our own log.
        """
        self._identifier = identifier
        self._identity = identity
        self._roster = roster
        self.taking = taking
        self._records = records
        self._noise_entropy = noise_entropy
        self._mask_entropy = mask_entropy
        self._log = log
        self._announcing: Announcing | None = None
        self._session: Session | None = None
        self._attempt: _Attempt | None = None
        self._begun: set[bytes] = set()
        """Contexts of the attempts that this process has begun."""

    # 1. A session: a fresh key each, then one secret for each pair.

    def begin(self, request: Begin) -> Begun:
        """Returns our fresh key.

        Raises:
            ProtocolError: another plan's, or a session that was begun before.
        """
        if request.plan != self.taking.digest:
            raise ProtocolError("We do not take part in this plan.")
        self._records.begin_session(request.session, request.plan)
        terms = self._terms(request.session)
        self._announcing = announce(
            terms, self._identifier, identity=self._identity, session_key=self._mask_entropy()
        )
        self._session, self._attempt = None, None
        return Begun(session=request.session, announcement=self._announcing.announcement)

    def _terms(self, session: bytes) -> Terms:
        return terms_of(self.taking.plan, self._roster, session)

    def join(self, request: Join) -> Joined:
        """Returns once we share a secret with each member.

        Raises:
            ProtocolError: no such session, or announcements that we do not believe.
        """
        announcing = self._announcing
        if announcing is None or announcing.terms.session != request.session:
            raise ProtocolError("We have not announced a key for this session.")
        session = join(announcing, request.announcements)
        self._records.join_session(request.session, encode(request))
        self._session = session
        self._announcing = None  # the key is not needed any more
        return Joined(session=request.session)

    # 2. An attempt: check, pay, note, then look at people and send one masked sum.

    def open(self, request: Open) -> Reply:
        """Returns the masked sum of one attempt.

        Raises:
            ProtocolError: no such session, not in the plan, not signed, or not in order.
            BudgetExhausted: it is not paid for.
        """
        session = self._session
        if session is None or session.group.terms.session != request.session:
            raise ProtocolError("We are not in this session.")
        plan = self.taking.plan
        try:
            found = asking(plan, self.taking.schema, session.group, request)
        except (ConfigurationError, PrivacyError) as error:
            raise ProtocolError(f"The plan does not ask this: {error}") from error
        canonical.verify(plan.coordinator, OPEN_LABEL, found.context, request.signature)
        if request.coins is not None:
            self.draw_coin(request.coins)
        answered_from = self.taking.snapshot
        self.taking.leave_out_withdrawn()
        if self.taking.snapshot is not answered_from:
            self._attempt = None  # an audit of it would look at other people
        session = at_round(session, found.position)
        self._records.begin_attempt(
            found.context,
            session=request.session,
            round_=found.position,
            number=request.attempt,
        )
        self._begun.add(found.context)
        self._attempt = None  # an earlier attempt ends here, whatever becomes of this one
        paid = (request.question, request.round, request.attempt)
        sequence, head = self.taking.pay(paid, found.query)
        self._session = session
        masking = draw_masks(
            session, context=found.context, bits=found.bits, own_mask=self._mask_entropy()
        )
        noise_key = self._noise_entropy()
        masked = door.answer(
            found.query,
            self.taking.people(
                request.question, request.model, sample_key=audit.sample_key(noise_key)
            ),
            noise_key=noise_key,
            masks=masking.masks,
        )
        sharing, upload = share(
            masking,
            masked.words,
            share_key=self._mask_entropy(),
            noise=audit.noise_commitment(noise_key),
            ledger_sequence=sequence,
            ledger_head=head,
            identity=self._identity,
        )
        self._say(UPLOAD, request, upload, found.context, own_head=(sequence, head))
        self._attempt = _Attempt(
            asking=found,
            paid=paid,
            sharing=sharing,
            opening=audit.Opening(
                header=sharing.header,
                masking=masking,
                query=found.query,
                question=request.question,
                model=request.model,
                noise_key=noise_key,
            ),
        )
        return upload

    # 3. Survivors: one set at most, then shares and seeds for it, or a vote to give up.

    def survivors(self, request: Survivors) -> Reply:
        """Returns our signature on the set, or what opens the total if everybody uploaded.

        Raises:
            ProtocolError: not the attempt under way, or not the one set that we may sign.
            PeerFault: an upload does not fit.
        """
        attempt = self._current(request.context)
        session = attempt.sharing.masking.session
        group = session.group
        standing = on_survivors(
            attempt.standing,
            request.survivors,
            members=len(group.members),
            quorum=group.terms.quorum,
            place=session.place,
        )
        found = checked(attempt.sharing, request)
        peers = self._grown(found)
        signature = sign_set(found, self._identity)
        if isinstance(standing, Signed):
            reply: Reply = SetSigned(context=request.context, signature=signature)
            self._say(SET, request, reply, request.context, peers=peers)
        else:
            reply = reveal(found, signature)
            self._say(RELEASED, request, reply, request.context, peers=peers)
        attempt.standing, attempt.checked = standing, found
        attempt.set_signature = signature
        return reply

    def _grown(self, found: Checked) -> dict[str, int]:
        """Returns each peer's ledger sequence, all of them above what that peer signed before."""
        peers = {one.institution: one.ledger_sequence for one in found.headers}
        del peers[self._identifier]
        for institution, sequence in peers.items():
            seen = self._records.sequence_of(institution)
            if sequence <= seen:
                raise PeerFault(
                    institution, f"its ledger has {sequence} entries and had {seen} before."
                )
        return peers

    def reveal(self, request: Reveal) -> Reply:
        """Returns what opens the total over the set that we signed.

        Raises:
            ProtocolError: not the attempt under way, no set signed, or too few signatures.
        """
        attempt = self._current(request.context)
        if attempt.checked is None:
            raise ProtocolError("We have not signed a set of survivors.")
        group = attempt.sharing.masking.session.group
        signers = valid_signers(group, attempt.checked.body, request)
        standing = on_signatures(attempt.standing, signers, threshold=group.terms.threshold)
        reply = reveal(attempt.checked, attempt.set_signature)
        self._say(RELEASED, request, reply, request.context)
        attempt.standing = standing
        return reply

    def abort(self, request: Abort) -> Reply:
        """Returns our vote that the attempt be given up.

        Only the process that began an attempt knows what it has released for it: the records of an
        earlier one may be a copy from before that was noted.

        Raises:
            ProtocolError: not an attempt of this plan, not begun by this process, or we have
                released something for it.
        """
        if request.context not in self._begun:
            raise ProtocolError("This process has not begun this attempt: it cannot vote on it.")
        attempt = self._attempt
        is_current = attempt is not None and attempt.asking.context == request.context
        if attempt is not None and is_current:
            standing = on_abort(attempt.standing)
        signature = canonical.sign(self._identity, ABORT_LABEL, abort_body(request.context))
        reply = Voted(context=request.context, signature=bytes.fromhex(signature))
        self._say(ABORT, request, reply, request.context)  # refuses after a release
        if attempt is not None and is_current:
            attempt.standing = standing
        return reply

    def refund(self, request: Refund) -> Noted:
        """Takes the charge of an attempt back on proof that it was never opened.

        Raises:
            ProtocolError: not an attempt of this plan, or too few valid votes.
            PrivacyError: it was not paid.
        """
        paid, group = self._noted(request.context)
        voters = group.signed_by(
            request.voters, request.votes, ABORT_LABEL, abort_body(request.context)
        )
        if voters < group.terms.threshold:
            raise ProtocolError(
                f"{voters} votes are fewer than the threshold {group.terms.threshold}."
            )
        if not self._records.has_uploaded(request.context):  # another session's may have paid it
            raise ProtocolError("We have not answered this attempt: nothing was paid for it.")
        if self.taking.is_refunded(paid):
            return Noted(context=request.context)
        self.taking.refund(paid)
        if self._attempt is not None and self._attempt.asking.context == request.context:
            self._attempt = None
        self._log(f"{_named(paid)} was given up and refunded")
        return Noted(context=request.context)

    def _noted(self, context: bytes) -> tuple[Attempt, Group]:
        """Returns an attempt that was seen in this plan, also by an earlier process.

        Raises:
            ProtocolError: none was, in a session that we had joined.
        """
        noted = self._records.attempt(context)
        if noted is None:
            raise ProtocolError("We have not seen this attempt.")
        joined = self._records.joined(noted.session, self.taking.digest)
        if joined is None:
            raise ProtocolError("This attempt is not of the plan that is under way.")
        request = decode_request(joined)
        if not isinstance(request, Join):
            raise ProtocolError("What is noted of this session is no joining.")
        question, round_ = question_at(self.taking.plan, noted.round)
        group = Group.of(self._terms(noted.session), request.announcements)
        return (question, round_, noted.number), group

    # 4. The audit coin: is this attempt looked at again, inside this institution?

    def draw_coin(self, coins: Coins) -> None:
        """Draws the audit coin; if it falls on us, answers the question again and compares.

        Nothing happens if the coins are of an attempt whose total we had no part in.

        Raises:
            ProtocolError: these are not what the survivors' headers said.
        """
        attempt = self._attempt
        if attempt is None or attempt.asking.context != coins.context or attempt.checked is None:
            return
        coin = audit.coin_of_attempt(coins.context, attempt.checked.headers, coins.coins)
        self._attempt = None
        place = attempt.sharing.masking.session.place
        if audit.falls_on(coin, place, self.taking.plan.participation.audited_share):
            opening = attempt.opening
            people = self.taking.people(
                opening.question,
                opening.model,
                sample_key=audit.sample_key(opening.noise_key),
            )
            matches = audit.repeats(attempt.opening, people)
            said = audit.PASSED if matches else audit.FAILED
            self._log(f"audit of {_named(attempt.paid)}: the seed with the snapshot {said}")

    def _current(self, context: bytes) -> _Attempt:
        if self._attempt is None or self._attempt.asking.context != context:
            raise ProtocolError("This attempt is not under way.")
        return self._attempt

    def _say(
        self,
        what: str,
        request: Request,
        reply: Reply,
        context: bytes,
        *,
        peers: dict[str, int] | None = None,
        own_head: Head | None = None,
    ) -> None:
        self._records.say(
            what,
            context=context,
            request=encode(request),
            reply=encode(reply),
            peers=peers,
            own_head=own_head,
        )


def _named(paid: Attempt) -> str:
    """Returns an attempt as the log calls it."""
    question, round_, number = paid
    return f"attempt {number} at {question} {round_}"
