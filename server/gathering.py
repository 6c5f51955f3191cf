"""The session in which a training asks, and who is in it."""

from federation.asking import terms_of
from federation.errors import ProtocolError
from federation.messages import (
    Begin,
    Begun,
    Join,
    Joined,
    Reply,
    SeenHeader,
)
from federation.secure_aggregation.session import Announcement, Group, Terms
from federation.secure_aggregation.upload import Header
from federation.transcript import Joint
from server.attempts import Channel
from server.invitations import TRIES, Invitations
from server.past import Past, see
from server.running import Running
from server.training import Progress


class Gathering:
    """The session of the institutions that accepted a plan; a new one if somebody comes back."""

    def __init__(self, running: Running, channel: Channel, past: Past) -> None:
        """Starts with the session of an earlier process, or without participants.

        Args:
            running: the plan.
            channel: to all who are invited.
            past: how far an earlier process came.

        Attributes:
            group: the session that was joined last.
        """
        self._plan = running.plan
        self._roster = running.roster
        self._channel = channel
        self._entropy = running.entropy
        self._transcript = running.transcript
        self._watch = running.watch
        self._seen = dict(running.seen)
        for one in past.seen.values():
            see(self._seen, one)
        self._invitations = Invitations(
            plan=running.plan,
            channel=channel,
            seen=self._seen,
            gone=past.at_fault,
            watch=running.watch,
        )
        self.group = past.group
        self._is_joined = past.group is not None
        self._invitations.ready |= set(past.group.members if past.group else ()) - past.at_fault

    def session(self) -> Group:
        """Returns the session to ask in: a new one if somebody who was missing is there again.

        Raises:
            ProtocolError: fewer than the quorum take part, announce a key, or join.
        """
        invitations = self._invitations
        is_fresh = self.group is None  # then whoever is silent is not waited for
        what, replies = "take part", dict[str, Reply]()
        for _ in range(TRIES):
            before = set(invitations.ready)
            said = invitations.invite(everybody=invitations.is_short)
            if said is not None:
                what, replies = "take part", dict(said)
            self._is_joined = self._is_joined and not invitations.ready - before
            if not invitations.is_short:
                if not self._is_joined:
                    what, replies = self._join()
                if self._is_joined and self.group is not None:
                    return self.group
            elif is_fresh:
                break
        raise invitations.too_few(what, replies)

    def next_question(self) -> None:
        """Counts the questions, by which those who are missing are invited again."""
        self._invitations.next_question()

    def leave(self, name: str, reply: Reply | None) -> None:
        """Notes that somebody is not in the session any more; `reply` is what he said instead."""
        if name in self._invitations.ready:
            self._invitations.lose(name, reply)

    def exclude(self, names: set[str]) -> None:
        """Notes who is at fault and never asked again."""
        self._invitations.exclude(names)

    def see(self, context: bytes, header: Header) -> None:
        """Notes the latest header that an institution has signed."""
        see(self._seen, SeenHeader(context=context, header=header))

    def _join(self) -> tuple[str, dict[str, Reply]]:
        """Begins a session with all who are ready; whoever does not join it is ready no more."""
        invitations = self._invitations
        terms = terms_of(self._plan, self._roster, self._entropy())
        names = tuple(sorted(invitations.ready))
        replies = self._channel.exchange(Begin(plan=terms.plan, session=terms.session), names)
        announced = tuple(
            reply.announcement
            for name, reply in sorted(replies.items())
            if isinstance(reply, Begun) and self._is_valid(terms, name, reply.announcement)
        )
        keys = [one.key for one in announced]  # equal ones would cancel: nobody joins with them
        announced = tuple(one for one in announced if keys.count(one.key) == 1)
        for name in invitations.ready - {one.institution for one in announced}:
            invitations.lose(name, replies.get(name))
        if invitations.is_short:
            return "announced a key", replies
        group = Group.of(terms, announced)
        joining = Join(session=terms.session, announcements=announced)
        replies = self._channel.exchange(joining, group.members)
        for name in group.members:
            if not isinstance(replies.get(name), Joined):
                invitations.lose(name, replies.get(name))
        if invitations.ready == set(group.members):
            self._transcript.write(Joint(session=terms.session, announcements=announced))
            self.group, self._is_joined = group, True
        return "joined the session", replies

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
