"""Every message that may cross the wire, and the one way each becomes bytes.

The list in `Request` and `Reply` is all there is. Of an institution's people only a `Masked` sum
has an encoding (in `Upload`); the rest are keys, seals, digests, signatures, and refusal codes from
a fixed list. Decoding accepts exactly what encoding makes.
"""

from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from federation.canonical import hash_of
from federation.errors import FedscoreError, ProtocolError
from federation.message import Message
from federation.model.network import Network
from federation.model.scorecard import AdditiveCard
from federation.query import Question
from federation.secure_aggregation.session import Announcement
from federation.secure_aggregation.survivors import Reveal, Revealed, SetSigned, Survivors
from federation.secure_aggregation.upload import Header, Upload

LARGEST_MESSAGE: Final = 2**28

Model = AdditiveCard | Network
"""What people can be asked about."""


class RefusalCode(StrEnum):
    """Why an institution says no: computable without looking at any person's row."""

    SIGNATURE = "signature"
    VALIDITY = "validity"
    SCHEMA = "schema"
    PARTICIPANTS = "participants"
    PRICE = "price"
    POLICY = "policy"
    OUT_OF_ORDER = "out-of-order"
    PEER = "peer"
    UNAVAILABLE = "unavailable"


class SeenHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The latest header that an institution is known to have signed.

    Attributes:
        context: of the attempt that it was signed for.
        header: of that institution's upload.
    """

    context: bytes
    header: Header


class Invite(Message, frozen=True, kw_only=True):
    """Coordinator: here is a signed plan; will you take part?

    Attributes:
        plan: the plan's TOML, as `federation.plan.plan_toml` writes it.
        seen: the receiver's own, so that it finds out if it runs on an old copy of its ledger; None
            if none is known.
    """

    plan: str
    seen: SeenHeader | None = None


class Begin(Message, frozen=True, kw_only=True):
    """Coordinator: a session of the plan begins; announce a fresh key.

    Attributes:
        plan: digest of the plan.
        session: 32 bytes, never used before.
    """

    plan: str
    session: bytes


class Join(Message, frozen=True, kw_only=True):
    """Coordinator: these announced keys; from here on they are the session.

    Attributes:
        session: as begun.
        announcements: in order of the institutions' ids.
    """

    session: bytes
    announcements: tuple[Announcement, ...]


class Coins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each survivor of an opened attempt adds to the audit coin.

    Attributes:
        context: the attempt's.
        coins: one for each survivor, in order.
    """

    context: bytes
    coins: tuple[bytes, ...]


class Open(Message, frozen=True, kw_only=True):
    """Coordinator: answer this question of the plan, for this attempt.

    Attributes:
        session: as joined.
        question: which of the plan's questions.
        round: 0 for bins and evaluation, else the training round from 0.
        attempt: 0, or the number of the spare attempt.
        model: that a step, a gradient, an update or an evaluation is about; None for bins.
        coins: of the attempt that was opened before, None if there is none.
        signature: the coordinator's, of the attempt's context.
    """

    session: bytes
    question: Question
    round: int
    attempt: int
    model: Model | None
    coins: Coins | None
    signature: str


class Abort(Message, frozen=True, kw_only=True):
    """Coordinator: this attempt failed; vote that it be given up, if you have released nothing.

    Attributes:
        context: the attempt's.
    """

    context: bytes


class Refund(Message, frozen=True, kw_only=True):
    """Coordinator: enough members voted; the attempt was never opened and never will be.

    Attributes:
        context: the attempt's.
        voters: places in order.
        votes: one signature for each.
    """

    context: bytes
    voters: tuple[int, ...]
    votes: tuple[bytes, ...]


class Close(Message, frozen=True, kw_only=True):
    """Coordinator: the plan has ended; nothing more of it will be asked.

    Attributes:
        plan: digest of the plan.
        release: the signed release, empty if the plan was aborted.
        coins: of the attempt that was opened last, None if there is none.
    """

    plan: str
    release: bytes
    coins: Coins | None


class Accept(Message, frozen=True, kw_only=True):
    """Institution: I reserved the price and take part.

    Attributes:
        plan: digest of the plan.
        ledger_sequence: entries in this institution's ledger.
        ledger_head: digest of the last entry.
    """

    plan: str
    ledger_sequence: int
    ledger_head: str


class Begun(Message, frozen=True, kw_only=True):
    """Institution: my fresh key of the session.

    Attributes:
        session: as begun.
        announcement: signed.
    """

    session: bytes
    announcement: Announcement


class Joined(Message, frozen=True, kw_only=True):
    """Institution: I share a secret with each member of the session.

    Attributes:
        session: as joined.
    """

    session: bytes


class Voted(Message, frozen=True, kw_only=True):
    """Institution: I have released nothing for this context and never will.

    Attributes:
        context: the attempt's.
        signature: see `federation.secure_aggregation.survivors.abort_body`.
    """

    context: bytes
    signature: bytes


class Noted(Message, frozen=True, kw_only=True):
    """Institution: I have seen it.

    Attributes:
        context: the attempt's.
    """

    context: bytes


class Refuse(Message, frozen=True, kw_only=True):
    """Institution: no. The reason in words stays in its own log.

    Attributes:
        code: why.
        peer: whose upload does not fit, if that is why; empty else.
    """

    code: RefusalCode
    peer: str = ""


class Closed(Message, frozen=True, kw_only=True):
    """Institution: I closed the plan in my ledger."""

    plan: str
    ledger_sequence: int
    ledger_head: str


Request = Invite | Begin | Join | Open | Survivors | Reveal | Abort | Refund | Close
Reply = Accept | Begun | Joined | Upload | SetSigned | Revealed | Voted | Noted | Closed | Refuse

_M = TypeVar("_M", Request, Reply)

_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_requests: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_replies: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """Returns the one encoding of a message."""
    return _encoder.encode(message)


def model_digest(model: Model | None) -> bytes:
    """Returns the digest of the model that a question is about, 32 bytes."""
    return hash_of("fedscore/model/3", _encoder.encode(model))


def decode_request(data: bytes) -> Request:
    """Returns the request that these bytes are.

    Raises:
        ProtocolError: not the canonical encoding of a request of this version.
    """
    return _decoded(_requests, data)


def decode_reply(data: bytes) -> Reply:
    """Returns the reply that these bytes are.

    Raises:
        ProtocolError: not the canonical encoding of a reply of this version.
    """
    return _decoded(_replies, data)


def _decoded(decoder: msgspec.msgpack.Decoder[_M], data: bytes) -> _M:
    if len(data) > LARGEST_MESSAGE:
        raise ProtocolError(f"A message of {len(data)} bytes is larger than any that exists.")
    try:
        message = decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError, FedscoreError) as error:
        raise ProtocolError(f"These bytes are not a message of this protocol: {error}") from error
    if encode(message) != data:
        raise ProtocolError("This message is not in its canonical encoding.")
    return message
