"""Envelopes: what the coordinator and an institution say to each other, past whoever carries it.

A carrier can delay and drop. It cannot read, change or make a message, hand one institution what
was meant for another, or answer a new request with an old reply. It sees sizes and times.

    request   coordinator -> institution: sealed to the key on its card, brings a fresh key
    reply     institution -> coordinator: sealed to that fresh key, names the request's digest

Both are a box (fresh X25519 key, HKDF-SHA256, AES-256-GCM under a key used once) and the sender's
Ed25519 signature over it. The header, which says who writes to whom about what, goes into the
derivation of the key, the associated data and the signature.
"""

from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation import canonical
from federation.canonical import framed, hash_of, public_key_of
from federation.card import Card, sealing_key_of
from federation.errors import ProtocolError
from federation.messages import LARGEST_MESSAGE
from federation.privacy.entropy import Entropy

LONGEST_VALIDITY_SECONDS: Final = 86_400
LARGEST_ENVELOPE: Final = LARGEST_MESSAGE + 2**12
REQUEST_LABEL: Final = "fedscore/request-envelope/1"
REPLY_LABEL: Final = "fedscore/reply-envelope/1"
_KEY_BYTES: Final = 32
_ZERO_NONCE: Final = bytes(12)


class _RequestHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who asks whom; `reply_to` is a fresh X25519 public key."""

    federation: str
    coordinator: str
    institution: str
    id: bytes
    expires_at: int
    reply_to: bytes


class _ReplyHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who answers; `request` is the digest of the whole envelope that is answered."""

    institution: str
    request: bytes


_H = TypeVar("_H", _RequestHeader, _ReplyHeader)


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As carried: header in clear, one-time public key, box, signature over the three."""

    header: bytes
    ephemeral: bytes
    box: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request on its way, and what opens its one reply.

    Attributes:
        envelope: to be carried.
        receiver: card of the institution that is asked.
        reply_key: never used for anything else.
    """

    envelope: bytes = field(repr=False)
    receiver: Card
    reply_key: X25519PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request that an institution has opened.

    Attributes:
        message: that the coordinator sealed.
        id: 32 bytes that no other request has.
        expires_at: whole seconds since 1970.
        digest: of its envelope, 32 bytes.
        reply_to: X25519 key that the reply is sealed to, 32 bytes.
    """

    message: bytes = field(repr=False)
    id: bytes
    expires_at: int
    digest: bytes
    reply_to: bytes


def seal_request(
    message: bytes,
    *,
    coordinator: Ed25519PrivateKey,
    receiver: Card,
    expires_at: int,
    entropy: Entropy,
) -> Asked:
    """Returns a message in an envelope that only this institution opens.

    Args:
        message: any bytes.
        coordinator: the key that signs.
        receiver: an admitted institution.
        expires_at: whole seconds since 1970; refused afterwards.
        entropy: 32 fresh secret bytes a call.
    """
    reply_key = X25519PrivateKey.from_private_bytes(entropy())
    header = _RequestHeader(
        federation=receiver.federation,
        coordinator=public_key_of(coordinator),
        institution=receiver.institution,
        id=entropy(),
        expires_at=expires_at,
        reply_to=reply_key.public_key().public_bytes_raw(),
    )
    envelope = _seal(
        REQUEST_LABEL,
        header,
        message,
        signer=coordinator,
        to=bytes.fromhex(receiver.sealing),
        fresh=entropy(),
    )
    return Asked(envelope=envelope, receiver=receiver, reply_key=reply_key)


def open_request(
    envelope: bytes,
    *,
    institution: str,
    federation: str,
    identity: Ed25519PrivateKey,
    coordinator: str,
    now: float,
) -> Received:
    """Returns the message that our coordinator sealed for us.

    Args:
        envelope: as carried.
        institution: our id.
        federation: that we take part in.
        identity: our key; what opens is derived from it.
        coordinator: the one we obey, 64 hexadecimal digits.
        now: seconds since 1970.

    Raises:
        ProtocolError: malformed, not the coordinator's, not for us or this federation, changed,
            expired, or valid for longer than a day.
    """
    header, message = _open(
        REQUEST_LABEL, _RequestHeader, envelope, signer=coordinator, key=sealing_key_of(identity)
    )
    if (header.federation, header.coordinator, header.institution) != (
        federation,
        coordinator,
        institution,
    ):
        raise ProtocolError("This request is for another institution or federation.")
    if len(header.id) != _KEY_BYTES:
        raise ProtocolError(f"The identifier of a request has {_KEY_BYTES} bytes.")
    if not now < header.expires_at <= now + LONGEST_VALIDITY_SECONDS:
        raise ProtocolError(
            "This request has expired, or expires in more than a day: compare the clocks."
        )
    return Received(
        message=message,
        id=header.id,
        expires_at=header.expires_at,
        digest=hash_of(REQUEST_LABEL, envelope),
        reply_to=header.reply_to,
    )


def seal_reply(
    message: bytes,
    *,
    request: Received,
    institution: str,
    identity: Ed25519PrivateKey,
    entropy: Entropy,
) -> bytes:
    """Returns a message in an envelope that only whoever made this request opens.

    Args:
        message: any bytes.
        request: that it answers.
        institution: our id.
        identity: our key.
        entropy: 32 fresh secret bytes a call.

    Raises:
        ProtocolError: the request names no usable key for its reply.
    """
    header = _ReplyHeader(institution=institution, request=request.digest)
    return _seal(
        REPLY_LABEL, header, message, signer=identity, to=request.reply_to, fresh=entropy()
    )


def open_reply(envelope: bytes, asked: Asked) -> bytes:
    """Returns what the institution that was asked has answered to exactly this request.

    Raises:
        ProtocolError: malformed, not that institution's, to another request, or changed.
    """
    header, message = _open(
        REPLY_LABEL, _ReplyHeader, envelope, signer=asked.receiver.key, key=asked.reply_key
    )
    if header != _ReplyHeader(
        institution=asked.receiver.institution, request=hash_of(REQUEST_LABEL, asked.envelope)
    ):
        raise ProtocolError(f"{asked.receiver.institution} has answered another request.")
    return message


def _seal(
    label: str,
    header: _RequestHeader | _ReplyHeader,
    message: bytes,
    *,
    signer: Ed25519PrivateKey,
    to: bytes,
    fresh: bytes,
) -> bytes:
    key = X25519PrivateKey.from_private_bytes(fresh)
    ephemeral = key.public_key().public_bytes_raw()
    head = _encoder.encode(header)
    secret = _box_key(label, head, own=key, other=to, ephemeral=ephemeral, receiver=to)
    box = AESGCM(secret).encrypt(_ZERO_NONCE, message, head)
    signature = canonical.sign(signer, label, hash_of(label, head, ephemeral, box))
    return _encoder.encode(
        _Envelope(header=head, ephemeral=ephemeral, box=box, signature=bytes.fromhex(signature))
    )


def _open(
    label: str, kind: type[_H], envelope: bytes, *, signer: str, key: X25519PrivateKey
) -> tuple[_H, bytes]:
    if len(envelope) > LARGEST_ENVELOPE:
        raise ProtocolError(f"An envelope of {len(envelope)} bytes is larger than any that exists.")
    try:
        found = msgspec.msgpack.decode(envelope, type=_Envelope)
        header = msgspec.msgpack.decode(found.header, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError("These bytes are not an envelope.") from error
    if _encoder.encode(found) != envelope or _encoder.encode(header) != found.header:
        raise ProtocolError("This envelope is not in its canonical encoding.")
    signed = hash_of(label, found.header, found.ephemeral, found.box)
    canonical.verify(signer, label, signed, found.signature.hex())
    own = key.public_key().public_bytes_raw()
    secret = _box_key(
        label,
        found.header,
        own=key,
        other=found.ephemeral,
        ephemeral=found.ephemeral,
        receiver=own,
    )
    try:
        return header, AESGCM(secret).decrypt(_ZERO_NONCE, found.box, found.header)
    except InvalidTag as error:
        raise ProtocolError("This envelope was sealed to another key.") from error


def _box_key(
    label: str,
    head: bytes,
    *,
    own: X25519PrivateKey,
    other: bytes,
    ephemeral: bytes,
    receiver: bytes,
) -> bytes:
    """Returns the key of one box (RFC 7748, RFC 5869); agreeing on zero is refused."""
    try:
        agreed = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise ProtocolError("This is not a usable X25519 key.") from error
    salt = hash_of(label, ephemeral, receiver)
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt, framed(label, head)).derive(agreed)


_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")
