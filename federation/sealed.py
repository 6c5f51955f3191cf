"""The two ends of the envelopes: around any `Transport`, and around an institution."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.card import Card
from federation.envelope import Received, open_reply, open_request, seal_reply, seal_request
from federation.errors import ProtocolError
from federation.privacy.entropy import Entropy
from federation.transport import Transport

Clock = Callable[[], float]
"""Returns seconds since 1970, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The requests that were opened and have not yet expired, by id.

    It is kept in memory. After a restart a carrier may deliver a request once more until it
    expires; what was said about it is durable, so that says nothing new.
    """

    expiries: Mapping[bytes, int] = field(default_factory=dict)

    def after(self, request: Received, now: float) -> "Seen":
        """Returns this with one more request, and without those that have expired.

        Raises:
            ProtocolError: it was seen before.
        """
        if request.id in self.expiries:
            raise ProtocolError("This request was delivered before.")
        valid = {id_: expiry for id_, expiry in self.expiries.items() if expiry > now}
        return Seen(expiries={**valid, request.id: request.expires_at})


class SealedTransport:
    """A `Transport` that seals what another one carries; what does not open did not arrive."""

    def __init__(
        self,
        *,
        carrier: Transport,
        cards: Mapping[str, Card],
        key: Ed25519PrivateKey,
        validity_seconds: int,
        clock: Clock,
        entropy: Entropy,
        report: Callable[[str, ProtocolError], None],
    ) -> None:
        """Starts without any request under way.

        Args:
            carrier: trusted with nothing.
            cards: of the admitted institutions, by id.
            key: the coordinator's.
            validity_seconds: of a request; not less than the carrier's deadline.
            clock: the coordinator's.
            entropy: 32 fresh secret bytes a call.
            report: told which institution's reply did not open, and why.
        """
        self._carrier = carrier
        self._cards = cards
        self._key = key
        self._validity_seconds = validity_seconds
        self._clock = clock
        self._entropy = entropy
        self._report = report

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns the replies that came in time and are their institutions' own.

        Whoever has no card is not reached, and so does not answer.
        """
        expires_at = int(self._clock()) + self._validity_seconds
        asked = {
            name: seal_request(
                message,
                coordinator=self._key,
                receiver=self._cards[name],
                expires_at=expires_at,
                entropy=self._entropy,
            )
            for name, message in requests.items()
            if name in self._cards
        }
        carried = self._carrier.exchange({name: one.envelope for name, one in asked.items()})
        replies = {}
        for name, one in asked.items():
            if name in carried:
                try:
                    replies[name] = open_reply(carried[name], one)
                except ProtocolError as error:
                    self._report(name, error)
        return replies


class SealedHandler:
    """The institution behind its envelopes: bytes from a carrier in, bytes for the carrier out.

    A carrier that lost a reply may deliver the last envelope again and gets the same reply; of
    every other one that was seen it gets nothing.
    """

    def __init__(
        self,
        handle: Callable[[bytes], bytes],
        *,
        institution: str,
        federation: str,
        identity: Ed25519PrivateKey,
        coordinator: str,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        """Starts without any request seen.

        Args:
            handle: the institution.
            institution: its id.
            federation: that it takes part in.
            identity: its key.
            coordinator: the one it obeys, 64 hexadecimal digits.
            clock: its own.
            entropy: 32 fresh secret bytes a call.
        """
        self._handle = handle
        self._institution = institution
        self._federation = federation
        self._identity = identity
        self._coordinator = coordinator
        self._clock = clock
        self._entropy = entropy
        self._seen = Seen()
        self._last: tuple[bytes, bytes] | None = None

    def __call__(self, envelope: bytes) -> bytes:
        """Returns the sealed reply to a sealed request.

        Raises:
            ProtocolError: as `open_request`, or delivered before: nothing is to be sent.
        """
        if self._last is not None and envelope == self._last[0]:
            return self._last[1]
        now = self._clock()
        request = open_request(
            envelope,
            institution=self._institution,
            federation=self._federation,
            identity=self._identity,
            coordinator=self._coordinator,
            now=now,
        )
        self._seen = self._seen.after(request, now)
        reply = seal_reply(
            self._handle(request.message),
            request=request,
            institution=self._institution,
            identity=self._identity,
            entropy=self._entropy,
        )
        self._last = (envelope, reply)
        return reply
