"""Who is invited to a training, and who of them is there; who was missing may come back."""

from collections.abc import Callable, Mapping, Set
from typing import Final

from federation.errors import ProtocolError
from federation.messages import Accept, Invite, RefusalCode, Refuse, Reply, SeenHeader
from federation.plan import Plan, plan_toml
from server.attempts import Channel
from server.training import Progress

TRIES: Final = 12
"""How often those who are missing are invited, or something is tried, before the plan is ended."""

_MAY_COME_BACK: Final = (RefusalCode.OUT_OF_ORDER, RefusalCode.UNAVAILABLE)
"""Refusals of an invitation by an institution that is not ready yet; others are for good."""


class Invitations:
    """The invited institutions of one plan.

    Attributes:
        ready: who has accepted and answered since.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        channel: Channel,
        seen: Mapping[str, SeenHeader],
        gone: Set[str],
        watch: Callable[[Progress], None],
    ) -> None:
        """Starts with nobody ready.

        Args:
            plan: signed.
            channel: to all who are invited.
            seen: the latest header of each institution; whoever owns it keeps it up to date.
            gone: who is at fault, and never asked again.
            watch: told about progress.
        """
        self._plan = plan
        self._channel = channel
        self._seen = seen
        self._watch = watch
        self.ready: set[str] = set()
        self._gone = set(gone)
        self._question = 0
        self._losses: dict[str, int] = {}
        self._due: dict[str, int] = {}

    @property
    def is_short(self) -> bool:
        """Whether fewer than the quorum are ready."""
        return len(self.ready) < self._plan.participation.quorum

    def next_question(self) -> None:
        """Counts the questions, by which those who are missing are invited again."""
        self._question += 1

    def invite(self, *, everybody: bool) -> Mapping[str, Reply] | None:
        """Invites who is missing and returns their replies; None if nobody is to be invited.

        Args:
            everybody: whether all who are missing, and not only those whose time it is.
        """
        names = [
            name
            for name in self._plan.participation.invited
            if name not in self.ready | self._gone
            and (everybody or self._question >= self._due.get(name, 0))
        ]
        if not names:
            return None
        plan = plan_toml(self._plan)
        replies = self._channel.exchange_each(
            {name: Invite(plan=plan, seen=self._seen.get(name)) for name in names}
        )
        for name in names:
            reply = replies.get(name)
            if isinstance(reply, Accept) and reply.plan == self._plan.digest:
                self.ready.add(name)
            else:
                self.lose(name, reply)
            if isinstance(reply, Refuse) and reply.code not in _MAY_COME_BACK:
                self._gone.add(name)
        self._watch(
            Progress(
                step="accepted",
                number=len(self.ready),
                of=len(self._plan.participation.invited),
                answers=len(replies),
            )
        )
        return replies

    def lose(self, name: str, reply: Reply | None) -> None:
        """Notes that somebody is missing; `reply` is what it said instead of what was asked."""
        self.ready.discard(name)
        losses = self._losses.get(name, 0)
        patience = 2**losses if reply else 2 ** (losses + 2)  # waiting for the silent takes long
        self._due[name], self._losses[name] = self._question + patience, losses + 1

    def exclude(self, names: Set[str]) -> None:
        """Notes who is at fault and never asked again."""
        self._gone |= names
        self.ready -= names

    def too_few(self, what: str, replies: Mapping[str, Reply]) -> ProtocolError:
        """Returns the error that a plan ends with if fewer than the quorum are ready.

        Args:
            what: those have done, in words.
            replies: that came last, by name.
        """
        invited = self._plan.participation.invited
        said = ", ".join(
            f"{name}: {reply.code}"
            for name, reply in sorted(replies.items())
            if isinstance(reply, Refuse)
        )
        silent = [
            name
            for name in invited
            if name not in self.ready and not isinstance(replies.get(name), Refuse)
        ]
        return ProtocolError(
            f"{len(self.ready)} of {len(invited)} institutions {what}, the plan needs "
            f"{self._plan.participation.quorum}. Refusals: {said or 'none'}; no answer: "
            f"{', '.join(silent) or 'none'}."
        )
