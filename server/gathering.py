"""Who takes part in a training, and the session they are in; who was missing may come back."""

from collections.abc import Callable, Mapping
from typing import Final

from federation.asking import terms_of
from federation.errors import ProtocolError
from federation.messages import (
    Accept,
    Begin,
    Begun,
    Invite,
    Join,
    Joined,
    RefusalCode,
    Refuse,
    Reply,
    SeenHeader,
)
from federation.plan import Plan, plan_toml
from federation.privacy.entropy import Entropy
from federation.secure_aggregation.roster import Roster
from federation.secure_aggregation.session import Announcement, Group, Terms
from federation.secure_aggregation.upload import Header
from federation.transcript import Joint, Transcript
from server.attempts import Channel
from server.past import Past, see
from server.training import Progress

_TRIES: Final = 12
"""How often those who are missing are invited, or a session is begun, before the plan is ended."""

MAY_COME_BACK: Final = (RefusalCode.OUT_OF_ORDER, RefusalCode.UNAVAILABLE)
"""Refusals of an invitation by an institution that is not ready yet; others are for good."""


class Gathering:
    """The institutions that accepted a plan, and their session; who was missing may come back."""

    def __init__(
        self,
        *,
        plan: Plan,
        roster: Roster,
        channel: Channel,
        entropy: Entropy,
        transcript: Transcript,
        past: Past,
        seen: Mapping[str, SeenHeader],
        watch: Callable[[Progress], None],
    ) -> None:
        """Starts with the session of an earlier process, or without participants.

        Args:
            plan: signed.
            roster: signed by the plan's coordinator.
            channel: to all who are invited.
            entropy: 32 fresh bytes a call, for the names of sessions.
            transcript: gets each session.
            past: how far an earlier process came.
            seen: the latest header of each institution, from trainings before this.
            watch: told about progress.

        Attributes:
            group: the session that was joined last.
        """
        self._plan = plan
        self._digest = plan.digest
        self._roster = roster
        self._channel = channel
        self._entropy = entropy
        self._transcript = transcript
        self._seen = dict(seen)
        for one in past.seen.values():
            see(self._seen, one)
        self._watch = watch
        self.group = past.group
        self._is_joined = past.group is not None
        self._gone = set(past.at_fault)
        self._ready = set(past.group.members if past.group else ()) - self._gone
        self._question = 0
        self._losses: dict[str, int] = {}
        self._due: dict[str, int] = {}

    def session(self) -> Group:
        """Returns the session to ask in: a new one if somebody who was missing is there again.

        Raises:
            ProtocolError: fewer than the quorum take part, announce a key, or join.
        """
        invited = self._plan.participation.invited
        quorum = self._plan.participation.quorum
        is_fresh = self.group is None  # then whoever is silent is not waited for
        what, replies = "take part", dict[str, Reply]()
        for _ in range(_TRIES):
            is_short = len(self._ready) < quorum
            missing = [
                name
                for name in invited
                if name not in self._ready | self._gone
                and (is_short or self._question >= self._due.get(name, 0))
            ]
            if missing:
                what, replies = "take part", self._invited(missing)
            if len(self._ready) >= quorum:
                if not self._is_joined:
                    what, replies = self._join()
                if self._is_joined and self.group is not None:
                    return self.group
            elif is_fresh:
                break
        raise too_few(self._plan, self._ready, what, replies)

    def _invited(self, names: list[str]) -> dict[str, Reply]:
        plan = plan_toml(self._plan)
        replies = self._channel.exchange_each(
            {name: Invite(plan=plan, seen=self._seen.get(name)) for name in names}
        )
        for name in names:
            reply = replies.get(name)
            if isinstance(reply, Accept) and reply.plan == self._digest:
                self._ready.add(name)
                self._is_joined = False
            else:
                self._lose(name, reply)
            if isinstance(reply, Refuse) and reply.code not in MAY_COME_BACK:
                self._gone.add(name)
        self._watch(
            Progress(
                step="accepted",
                number=len(self._ready),
                of=len(self._plan.participation.invited),
                answers=len(replies),
            )
        )
        return replies

    def next_question(self) -> None:
        """Counts the questions, by which those who are missing are invited again."""
        self._question += 1

    def leave(self, name: str, reply: Reply | None) -> None:
        """Notes that somebody is not in the session any more; `reply` is what he said instead."""
        if name in self._ready:
            self._lose(name, reply)

    def _lose(self, name: str, reply: Reply | None) -> None:
        self._ready.discard(name)
        losses = self._losses.get(name, 0)
        patience = 2**losses if reply else 2 ** (losses + 2)  # waiting for the silent takes long
        self._due[name], self._losses[name] = self._question + patience, losses + 1

    def exclude(self, names: set[str]) -> None:
        """Notes who is at fault and never asked again."""
        self._gone |= names
        self._ready -= names

    def see(self, context: bytes, header: Header) -> None:
        """Notes the latest header that an institution has signed."""
        see(self._seen, SeenHeader(context=context, header=header))

    def _join(self) -> tuple[str, dict[str, Reply]]:
        """Begins a session with all who are ready; whoever does not join it is ready no more."""
        terms = terms_of(self._plan, self._roster, self._entropy())
        names = tuple(sorted(self._ready))
        replies = self._channel.exchange(Begin(plan=terms.plan, session=terms.session), names)
        announced = tuple(
            reply.announcement
            for name, reply in sorted(replies.items())
            if isinstance(reply, Begun) and self._is_valid(terms, name, reply.announcement)
        )
        keys = [one.key for one in announced]  # equal ones would cancel: nobody joins with them
        announced = tuple(one for one in announced if keys.count(one.key) == 1)
        for name in self._ready - {one.institution for one in announced}:
            self._lose(name, replies.get(name))
        if len(self._ready) < terms.quorum:
            return "announced a key", replies
        group = Group.of(terms, announced)
        joining = Join(session=terms.session, announcements=announced)
        replies = self._channel.exchange(joining, group.members)
        for name in group.members:
            if not isinstance(replies.get(name), Joined):
                self._lose(name, replies.get(name))
        if self._ready == set(group.members):
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


def too_few(plan: Plan, ready: set[str], what: str, replies: Mapping[str, Reply]) -> ProtocolError:
    """Returns the error that a plan ends with if fewer than the quorum are ready.

    Args:
        plan: of the training.
        ready: who is.
        what: those have done, in words.
        replies: that came last, by name.
    """
    invited = plan.participation.invited
    said = ", ".join(
        f"{name}: {reply.code}"
        for name, reply in sorted(replies.items())
        if isinstance(reply, Refuse)
    )
    silent = [
        name for name in invited if name not in ready and not isinstance(replies.get(name), Refuse)
    ]
    return ProtocolError(
        f"{len(ready)} of {len(invited)} institutions {what}, the plan needs "
        f"{plan.participation.quorum}. Refusals: {said or 'none'}; no answer: "
        f"{', '.join(silent) or 'none'}."
    )
