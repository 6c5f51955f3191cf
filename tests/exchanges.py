"""Masked exchanges by messages: trainings over a wire that tests cut, and sessions spoken by hand.

with fed.seats() as seats:
    release = train(fed, Wire(seats, losing(Upload, of="bank-02", at=1)))

with fed.seats() as seats:
    table = Table.of(fed, seats)
    total = table.total(table.open(Question.BINS))
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import EllipsisType

import msgspec
import numpy as np

from experiments.entropy import SeededEntropy
from federation import canonical
from federation.asking import OPEN_LABEL, Asking, asking
from federation.errors import FedscoreError
from federation.messages import (
    Begin,
    Begun,
    Coins,
    Join,
    Joined,
    Model,
    Open,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode,
)
from federation.model.release import Release, load_release
from federation.query import Question
from federation.secure_aggregation.opening import Collected
from federation.secure_aggregation.session import Group, Terms
from federation.secure_aggregation.survivors import Revealed
from federation.secure_aggregation.upload import Upload
from federation.transcript import Transcript
from federation.transport import Transport
from fedscore.simulation import InProcess
from server.rounds import MaskedSums
from server.running import Running
from server.training import Progress, run_training
from tests.federations import (
    KEY,
    NOW,
    Federation,
    Seat,
    ignore,
    in_process,
    roster_of,
)
from tests.networks import model_for

Change = Callable[[str, Request, Reply], Reply | bytes | None]
"""What becomes of one institution's reply: another one, bytes that are none, or nothing."""


def unchanged(_name: str, _request: Request, reply: Reply) -> Reply:
    """Hands on every reply as it is."""
    return reply


def losing(kind: type, *, of: str | Iterable[str], at: int | Iterable[int] | None = None) -> Change:
    """Returns the change that loses replies of one kind.

    Args:
        kind: of reply.
        of: whose.
        at: which of them, counted from 0 for each institution; all if not said.
    """
    names = {of} if isinstance(of, str) else set(of)
    numbers = {at} if isinstance(at, int) else None if at is None else set(at)
    seen: dict[str, int] = {}

    def change(name: str, _: Request, reply: Reply) -> Reply | None:
        if not isinstance(reply, kind):
            return reply
        number = seen[name] = seen.get(name, -1) + 1
        return None if name in names and (numbers is None or number in numbers) else reply

    return change


def silent(*names: str, to: type, at: int | Iterable[int] | None = None) -> "Unheard":
    """Returns that some institutions do not hear requests of one kind.

    Args:
        names: who.
        to: the kind of request.
        at: which of them, counted from 0 for each institution; all if not said.
    """
    numbers = {at} if isinstance(at, int) else None if at is None else set(at)
    return Unheard(names=frozenset(names), kind=to, numbers=numbers)


@dataclass(slots=True, kw_only=True)
class Unheard:
    """Requests that do not arrive; counts them."""

    names: frozenset[str]
    kind: type
    numbers: set[int] | None
    _seen: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str, request: Request) -> bool:
        """Returns whether this request is lost on its way."""
        if not isinstance(request, self.kind) or name not in self.names:
            return False
        number = self._seen[name] = self._seen.get(name, -1) + 1
        return self.numbers is None or number in self.numbers


class Wire:
    """A transport in one process on which requests and replies are lost or changed.

    Attributes:
        passed: whose reply to which request was handed on, in order, as the coordinator got it.
    """

    def __init__(
        self,
        seats: Mapping[str, Seat],
        change: Change = unchanged,
        *,
        unheard: Callable[[str, Request], bool] = lambda _name, _request: False,
    ) -> None:
        """Connects the seats.

        Args:
            seats: by name.
            change: of replies.
            unheard: of requests.
        """
        self._inner: InProcess = in_process(seats)
        self._change = change
        self._unheard = unheard
        self.passed: list[tuple[str, Request, Reply | bytes]] = []

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns what is left of the replies."""
        read = {name: decode_request(data) for name, data in requests.items()}
        heard = {
            name: data for name, data in requests.items() if not self._unheard(name, read[name])
        }
        found = {}
        for name, data in self._inner.exchange(heard).items():
            reply = self._change(name, read[name], decode_reply(data))
            if reply is not None:
                self.passed.append((name, read[name], reply))
                found[name] = reply if isinstance(reply, bytes) else encode(reply)
        return found


def masked_sums(
    fed: Federation, transport: Transport, watch: Callable[[Progress], None] = ignore
) -> MaskedSums:
    """Returns the coordinator's side of a federation's masked rounds."""
    return MaskedSums(
        Running(
            plan=fed.plan,
            schema=fed.schema,
            roster=roster_of(fed.plan),
            transport=transport,
            key=KEY,
            entropy=SeededEntropy("coordinator"),
            transcript=Transcript(),
            seen={},
            keep_release=lambda _: None,
            watch=watch,
        )
    )


def train(
    fed: Federation, transport: Transport, watch: Callable[[Progress], None] = ignore
) -> Release:
    """Runs the whole plan over a transport."""
    return load_release(
        run_training(
            plan=fed.plan,
            schema=fed.schema,
            sums=masked_sums(fed, transport, watch),
            key=KEY,
            now=datetime.fromtimestamp(NOW, UTC),
            watch=watch,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Institutions that have joined one session, and the coordinator's part, message by message."""

    fed: Federation
    seats: Mapping[str, Seat]
    group: Group

    @classmethod
    def of(
        cls, fed: Federation, seats: Mapping[str, Seat], *, session: bytes = b"\x01" * 32
    ) -> "Table":
        """Returns the table once all of these have accepted the plan and joined a session."""
        for seat in seats.values():
            seat.accept(fed.plan)
        return cls.again(fed, seats, session=session)

    @classmethod
    def again(cls, fed: Federation, seats: Mapping[str, Seat], *, session: bytes) -> "Table":
        """Returns the table of another session of the plan that all of these have accepted."""
        who = fed.plan.participation
        terms = Terms(
            session=session,
            plan=fed.plan.digest,
            roster=roster_of(fed.plan),
            threshold=who.threshold,
            quorum=who.quorum,
        )
        begun = [
            seat.send(Begin(plan=terms.plan, session=session)) for _, seat in sorted(seats.items())
        ]
        assert all(isinstance(reply, Begun) for reply in begun), begun
        announced = tuple(reply.announcement for reply in begun)  # type: ignore[union-attr]
        for seat in seats.values():
            joined = seat.send(Join(session=session, announcements=announced))
            assert isinstance(joined, Joined), (joined, seat.log)
        return cls(fed=fed, seats=seats, group=Group.of(terms, announced))

    def open(
        self,
        question: Question,
        card: Model | EllipsisType | None = ...,
        *,
        round_: int = 0,
        attempt: int = 0,
        coins: Coins | None = None,
    ) -> Open:
        """Returns a request, signed unless the plan has no such question.

        Args:
            question: of the plan.
            card: that it is about; a plain one, or none for bins, if not said.
            round_: of the question.
            attempt: at it.
            coins: of the attempt before.
        """
        if card is ...:
            card = model_for(self.fed.plan, self.fed.schema, question)
        request = Open(
            session=self.group.terms.session,
            question=question,
            round=round_,
            attempt=attempt,
            model=card,
            coins=coins,
            signature="",
        )
        try:
            signature = canonical.sign(KEY, OPEN_LABEL, self.asking(request).context)
        except FedscoreError:
            return request
        return msgspec.structs.replace(request, signature=signature)

    def asking(self, request: Open) -> Asking:
        """Returns what a request asks."""
        return asking(self.fed.plan, self.fed.schema, self.group, request)

    def collected(self, request: Open, names: Iterable[str] | None = None) -> Collected:
        """Returns the uploads of some institutions, all if not said; each of them must upload."""
        uploads = {}
        for name in self.group.members if names is None else sorted(names):
            reply = self.seats[name].send(request)
            assert isinstance(reply, Upload), (name, reply, self.seats[name].log)
            uploads[self.group.members.index(name)] = reply
        found = self.asking(request)
        return Collected(self.group, found.context, found.bits, uploads)

    def told(self, collected: Collected) -> dict[int, Reply]:
        """Returns what the survivors say when they are told who survived."""
        return {
            place: self.seat(place).send(collected.relayed_to(place))
            for place in collected.survivors
        }

    def seat(self, place: int) -> Seat:
        """Returns the seat of a member."""
        return self.seats[self.group.members[place]]

    def total(self, request: Open) -> np.ndarray:
        """Returns int64[length]: the total of an attempt that everybody stays in to the end."""
        collected = self.collected(request)
        revealed = self.told(collected)
        for place, reply in revealed.items():
            assert isinstance(reply, Revealed), (reply, self.seat(place).log)
            collected.require_reveals(place, reply)
        return collected.opened(revealed).total  # type: ignore[arg-type]
