"""One byte string for one value, domain-separated digests, and Ed25519 signatures over them.

Everything that is hashed or signed in fedscore goes through here, so that two sides that hold
equal values hold equal bytes, and no byte string means two things.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NewType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from federation.errors import ConfigurationError, ProtocolError

Json = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None

Digest = NewType("Digest", str)
"""SHA-256 as 64 lower-case hexadecimal digits."""


def canonical_json(value: Json) -> bytes:
    """Returns the one UTF-8 encoding of a JSON value: sorted keys, no spaces, shortest floats.

    Args:
        value: mappings with string keys, sequences, strings, integers, finite floats, booleans.

    Raises:
        ConfigurationError: the value holds NaN, an infinity, text that is not Unicode, a key that
            is not text, or a type that JSON does not have.
    """
    try:
        _require_text_keys(value)
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
        ).encode()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"This value has no canonical form: {error}.") from error


def _require_text_keys(value: object) -> None:
    """Refuses mappings with other keys than text, which JSON would turn into text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if type(key) is not str:
                raise TypeError("a key is not text")
            _require_text_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _require_text_keys(inner)


def digest(label: str, *parts: bytes) -> Digest:
    """Returns SHA-256 over a domain label and length-prefixed parts.

    Args:
        label: what is hashed and the version of its layout, for example "fedscore/plan/1".
        parts: byte strings; each is preceded by its length as 8 little-endian bytes.
    """
    return Digest(hash_of(label, *parts).hex())


def hash_of(label: str, *parts: bytes) -> bytes:
    """Returns the same as `digest`, as 32 bytes."""
    found = hashlib.sha256()
    for part in (label.encode(), *parts):  # as `framed`, but a large part is not copied
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def framed(label: str, *parts: bytes) -> bytes:
    """Returns a label and parts, each preceded by its length as 8 little-endian bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in (label.encode(), *parts))


def sign(key: Ed25519PrivateKey, label: str, body: bytes) -> str:
    """Returns the Ed25519 signature (RFC 8032) of a labelled body as 128 hexadecimal digits."""
    return key.sign(framed(label, body)).hex()


def verify(public_key: str, label: str, body: bytes, signature: str) -> None:
    """Returns only if `signature` is `public_key`'s over this label and body.

    Args:
        public_key: 64 hexadecimal digits, the raw Ed25519 key.
        label: the domain label that was signed.
        body: the signed bytes.
        signature: 128 hexadecimal digits.

    Raises:
        ProtocolError: key or signature are malformed, or the signature is not valid.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), framed(label, body))
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError(
            f"The signature under {label} is not valid for the key {public_key[:16]}...: "
            "the content was changed after signing, or another key signed it."
        ) from error


def public_key_of(key: Ed25519PrivateKey) -> str:
    """Returns the raw public key as 64 hexadecimal digits."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
