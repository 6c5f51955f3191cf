"""The card: what an institution hands to the coordinator that admits it, signed by itself."""

from typing import Final, Self

import msgspec
import tomli_w
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation import canonical
from federation.canonical import public_key_of
from federation.errors import ConfigurationError

CARD_LABEL: Final = "fedscore/card/1"
_KEY_BYTES: Final = 32


def sealing_key_of(identity: Ed25519PrivateKey) -> X25519PrivateKey:
    """Returns the key that opens requests: derived, so that one secret is kept and backed up."""
    derived = HKDF(hashes.SHA256(), _KEY_BYTES, None, b"fedscore/sealing/1")
    return X25519PrivateKey.from_private_bytes(derived.derive(identity.private_bytes_raw()))


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an institution hands to the coordinator that admits it.

    Attributes:
        federation: that it wants to take part in.
        institution: its id.
        key: Ed25519 identity key, 64 hexadecimal digits, compared out of band.
        sealing: X25519 key that requests are sealed to, 64 hexadecimal digits.
        node: public key of its connection to the carrier, as OpenSSH text; it vouches for nothing.
        signature: Ed25519 under `key`, 128 hexadecimal digits.
    """

    federation: str
    institution: str
    key: str
    sealing: str
    node: str
    signature: str

    @classmethod
    def of(
        cls, *, federation: str, institution: str, identity: Ed25519PrivateKey, node: str
    ) -> Self:
        """Returns the signed card of the institution that has this identity key."""
        unsigned = cls(
            federation=federation,
            institution=institution,
            key=public_key_of(identity),
            sealing=sealing_key_of(identity).public_key().public_bytes_raw().hex(),
            node=node,
            signature="",
        )
        signature = canonical.sign(identity, CARD_LABEL, unsigned._body())
        return msgspec.structs.replace(unsigned, signature=signature)

    def require_signed(self) -> None:
        """Returns only if the holder of `key` has signed exactly this card.

        Raises:
            ProtocolError: it has not.
        """
        canonical.verify(self.key, CARD_LABEL, self._body(), self.signature)

    def _body(self) -> bytes:
        fields = msgspec.to_builtins(self)
        del fields["signature"]
        return canonical.canonical_json(fields)


def fingerprint_of(key: str) -> str:
    """Returns a public key as people read it to each other: all of it, in groups of eight.

    Args:
        key: 64 hexadecimal digits.
    """
    return " ".join(key[at : at + 8] for at in range(0, len(key), 8))


def is_fingerprint_of(key: str, fingerprint: str) -> bool:
    """Returns whether somebody has read this key to us; spaces, hyphens and case do not count."""
    return key_read_out(fingerprint) == key


def key_read_out(fingerprint: str) -> str:
    """Returns a public key that was read to us as keys are written, 64 digits if it is one."""
    return "".join(fingerprint.split()).replace("-", "").replace(":", "").lower()


def load_card(text: str) -> Card:
    """Returns the card in a TOML text, its signature checked.

    Raises:
        ConfigurationError: it is none.
        ProtocolError: it was changed after it was signed.
    """
    try:
        card = msgspec.toml.decode(text, type=Card)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"This is not an institution's card: {error}.") from error
    card.require_signed()
    return card


def card_toml(card: Card) -> str:
    """Returns the card as TOML that `load_card` reads back."""
    return tomli_w.dumps(msgspec.to_builtins(card))
