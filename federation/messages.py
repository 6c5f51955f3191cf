"""Every message that may cross the wire, and the one way each becomes bytes.

The list in `Request` and `Reply` is all there is. Only `Masked` sums, refusal codes from a fixed
list and public digests have an encoding; decoding accepts exactly what encoding makes.
"""

from enum import StrEnum
from typing import Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation.door import Masked
from federation.errors import FedscoreError, ProtocolError
from federation.model.scorecard import AdditiveCard
from federation.query import Question

PROTOCOL_VERSION: Final = 1
LARGEST_MESSAGE: Final = 2**28


class RefusalCode(StrEnum):
    """Why an institution says no: computable without looking at any person's row."""

    SIGNATURE = "signature"
    VALIDITY = "validity"
    SCHEMA = "schema"
    PARTICIPANTS = "participants"
    PRICE = "price"
    POLICY = "policy"
    OUT_OF_ORDER = "out-of-order"
    UNAVAILABLE = "unavailable"


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """What all messages share: the version of the protocol."""

    version: int = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        if self.version != PROTOCOL_VERSION:
            raise ProtocolError(f"Expected protocol version {PROTOCOL_VERSION}.")


class Invite(_Message, frozen=True, kw_only=True):
    """Coordinator: here is a signed plan; will you take part?

    Attributes:
        plan: the plan's TOML, as `federation.plan.plan_toml` writes it.
    """

    plan: str


class Ask(_Message, frozen=True, kw_only=True):
    """Coordinator: answer this question of the plan, for this attempt.

    Attributes:
        plan: digest of the plan.
        question: which of the plan's questions.
        round: 0 for bins and evaluation, else the training round from 0.
        attempt: 0, or the number of the spare attempt.
        card: the scorecard that a step or an evaluation is about; None for bins.
    """

    plan: str
    question: Question
    round: int
    attempt: int
    card: AdditiveCard | None


class Close(_Message, frozen=True, kw_only=True):
    """Coordinator: the plan has ended; nothing more of it will be asked.

    Attributes:
        plan: digest of the plan.
        release: the signed release, empty if the plan was aborted.
    """

    plan: str
    release: bytes


class Accept(_Message, frozen=True, kw_only=True):
    """Institution: I reserved the price and take part.

    Attributes:
        plan: digest of the plan.
        ledger_sequence: entries in this institution's ledger.
        ledger_head: digest of the last entry.
    """

    plan: str
    ledger_sequence: int
    ledger_head: str


class Answer(_Message, frozen=True, kw_only=True):
    """Institution: my masked, noised sum.

    Attributes:
        plan: digest of the plan.
        question: as asked.
        round: as asked.
        attempt: as asked.
        total: little-endian int64 words.
    """

    plan: str
    question: Question
    round: int
    attempt: int
    total: bytes

    def vector(self, length: int) -> NDArray[np.int64]:
        """Returns the sum as int64[length].

        Raises:
            ProtocolError: another length.
        """
        if len(self.total) != 8 * length:
            raise ProtocolError(f"Expected {length} words, got {len(self.total)} bytes.")
        return np.frombuffer(self.total, dtype="<i8")


class Refuse(_Message, frozen=True, kw_only=True):
    """Institution: no. The reason in words stays in its own log."""

    plan: str
    code: RefusalCode


class Closed(_Message, frozen=True, kw_only=True):
    """Institution: I closed the plan in my ledger."""

    plan: str
    ledger_sequence: int
    ledger_head: str


Request = Invite | Ask | Close
Reply = Accept | Answer | Refuse | Closed

_M = TypeVar("_M", Request, Reply)

_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
_requests: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_replies: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """Returns the one encoding of a message."""
    return _encoder.encode(message)


def answered(ask: Ask, masked: Masked) -> Answer:
    """Returns the answer that carries a masked sum; no other stage of the door has an encoder."""
    return Answer(
        plan=ask.plan,
        question=ask.question,
        round=ask.round,
        attempt=ask.attempt,
        total=masked.total.astype("<i8").tobytes(),
    )


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
    except (msgspec.DecodeError, FedscoreError) as error:
        raise ProtocolError(f"These bytes are not a message of this protocol: {error}") from error
    if encode(message) != data:
        raise ProtocolError("This message is not in its canonical encoding.")
    return message
