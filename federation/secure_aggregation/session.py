"""A session: one fresh key for each institution, and from these one secret for each pair.

    Announcing -> Session -> Session at a later round -> ...

The secret of a pair is ratcheted once a round; nothing leads from a later one back to an earlier.
Python cannot promise that memory is erased: what is dropped here is merely no longer reachable.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from federation import canonical
from federation.canonical import Digest, framed, hash_of
from federation.errors import ProtocolError
from federation.secure_aggregation.roster import Roster

ID_BYTES: Final = 32
ANNOUNCEMENT_LABEL: Final = "fedscore/session-key/2"
_SEED_BYTES: Final = 32
_KEY_BYTES: Final = 32
_CURVE: Final = 2**255 - 19
_LOW_ORDER: Final = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    _CURVE - 1,
)
"""The u-coordinates of order 1, 2, 4 and 8: with them every key agrees on zero (RFC 7748, 6.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a session is for; both sides hold the same or get masks that do not cancel.

    Attributes:
        session: 32 bytes, never used before.
        plan: digest of the plan, which covers n, t, c and m.
        roster: the pinned one.
        threshold: t of the plan.
        quorum: m of the plan.
    """

    session: bytes
    plan: Digest
    roster: Roster
    threshold: int
    quorum: int

    def __post_init__(self) -> None:
        if len(self.session) != ID_BYTES:
            raise ProtocolError("The identifier of a session has 32 bytes.")


class Announcement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An institution's fresh key of one session, signed by its identity key.

    Attributes:
        institution: its id.
        key: X25519 public key, 32 bytes.
        signature: Ed25519, 64 bytes.
    """

    institution: str
    key: bytes
    signature: bytes


def announcement_body(terms: Terms, institution: str, key: bytes) -> bytes:
    """Returns what an announcement signs."""
    return framed(
        "announcement",
        terms.session,
        institution.encode(),
        key,
        bytes.fromhex(terms.roster.digest),
        bytes.fromhex(terms.plan),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcing:
    """An institution that has announced its key and waits for those of the others.

    Attributes:
        terms: of the session.
        announcement: its own.
        secret: of the announced key.
    """

    terms: Terms
    announcement: Announcement
    secret: X25519PrivateKey = field(repr=False)


def announce(
    terms: Terms, institution: str, *, identity: Ed25519PrivateKey, session_key: bytes
) -> Announcing:
    """Returns the first state of a session.

    Args:
        terms: of the session.
        institution: our id.
        identity: our identity key.
        session_key: 32 fresh secret bytes.
    """
    secret = X25519PrivateKey.from_private_bytes(session_key)
    key = secret.public_key().public_bytes_raw()
    signature = canonical.sign(
        identity, ANNOUNCEMENT_LABEL, announcement_body(terms, institution, key)
    )
    own = Announcement(institution=institution, key=key, signature=bytes.fromhex(signature))
    return Announcing(terms=terms, announcement=own, secret=secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The members of a session, as everybody knows them.

    Attributes:
        terms: of the session.
        members: ids in order; a member's place in it stands for the member from here on.
        identities: their Ed25519 public keys.
        digest: over terms and all announcements: the salt of all that is derived.
    """

    terms: Terms
    members: tuple[str, ...]
    identities: tuple[str, ...]
    digest: bytes

    @classmethod
    def of(cls, terms: Terms, announcements: Sequence[Announcement]) -> "Group":
        """Returns the group of these announcements, each one checked.

        Raises:
            ProtocolError: not in order, somebody twice or not in the roster, a key twice or
                malformed or of low order, a signature that is not its owner's, or fewer members
                than the quorum.
        """
        members = [one.institution for one in announcements]
        if members != sorted(set(members)) or len(members) < terms.quorum:
            raise ProtocolError(
                f"Expected the announcements of at least {terms.quorum} institutions in order, "
                "each once."
            )
        if len({one.key for one in announcements}) != len(announcements):
            raise ProtocolError("Two institutions announced the same key: masks would cancel.")
        identities = []
        for one in announcements:
            if not _is_usable(one.key):
                raise ProtocolError(f"{one.institution} announced no usable key.")
            identity = terms.roster.key_of(one.institution)
            if identity is None:
                raise ProtocolError(f"{one.institution} is not in our roster.")
            canonical.verify(
                identity,
                ANNOUNCEMENT_LABEL,
                announcement_body(terms, one.institution, one.key),
                one.signature.hex(),
            )
            identities.append(identity)
        parts = [part for one in announcements for part in (one.institution.encode(), one.key)]
        digest = hash_of(
            "fedscore/session/2",
            terms.session,
            bytes.fromhex(terms.plan),
            bytes.fromhex(terms.roster.digest),
            *parts,
        )
        return cls(terms=terms, members=tuple(members), identities=tuple(identities), digest=digest)

    def require_signed(self, place: int, label: str, body: bytes, signature: bytes) -> None:
        """Returns only if a member has signed this.

        Raises:
            ProtocolError: it has not, or there is no such place.
        """
        if not 0 <= place < len(self.members):
            raise ProtocolError(f"There is no member {place} in this session.")
        canonical.verify(self.identities[place], label, body, signature.hex())

    def signed_by(
        self, places: Sequence[int], signatures: Sequence[bytes], label: str, body: bytes
    ) -> int:
        """Returns how many different members signed this.

        Raises:
            ProtocolError: a signature is not valid, or the members are not named in order.
        """
        if list(places) != sorted(set(places)) or len(places) != len(signatures):
            raise ProtocolError("Expected members in order, each once, with one signature each.")
        for place, signature in zip(places, signatures, strict=True):
            self.require_signed(place, label, body, signature)
        return len(places)


def _is_usable(key: bytes) -> bool:
    """Returns whether bytes are an X25519 key in its one form, and not one of low order."""
    u = int.from_bytes(key, "little")
    return len(key) == _KEY_BYTES and u < _CURVE and u not in _LOW_ORDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An institution within a session, at one round.

    Attributes:
        group: everybody.
        place: our own.
        round: the protocol round that `chains` are for.
        chains: 32 secret bytes for each other member, empty at our own place.
    """

    group: Group
    place: int
    round: int
    chains: tuple[bytes, ...] = field(repr=False)

    def mask_seed(self, peer: int, context: bytes) -> bytes:
        """Returns the seed of the mask that we share with a peer in one attempt, 32 bytes."""
        low, high = sorted((self.place, peer))
        return self._derived(peer, b"mask", low, high, context)

    def key_to(self, peer: int, context: bytes) -> bytes:
        """Returns the key under which we seal one message to a peer in one attempt, 32 bytes."""
        return self._derived(peer, b"seal", self.place, peer, context)

    def key_from(self, peer: int, context: bytes) -> bytes:
        """Returns the key under which a peer seals its one message to us, 32 bytes."""
        return self._derived(peer, b"seal", peer, self.place, context)

    def _derived(self, peer: int, use: bytes, first: int, second: int, context: bytes) -> bytes:
        info = framed("fedscore/pair/2", use, place_bytes(first), place_bytes(second), context)
        return HKDFExpand(hashes.SHA256(), _SEED_BYTES, info).derive(self.chains[peer])


def join(state: Announcing, announcements: Sequence[Announcement]) -> Session:
    """Returns the session at round 0.

    Args:
        state: after our announcement.
        announcements: everybody's, ours among them, in order of their ids.

    Raises:
        ProtocolError: as `Group.of`; ours is missing or changed.
    """
    group = Group.of(state.terms, announcements)
    if state.announcement not in announcements:
        raise ProtocolError("Our own announcement is not among those of the session.")
    place = announcements.index(state.announcement)
    chains = []
    for peer, one in enumerate(announcements):
        if peer == place:
            chains.append(b"")
            continue
        agreed = state.secret.exchange(X25519PublicKey.from_public_bytes(one.key))
        low, high = sorted((place, peer))
        info = framed("fedscore/chain/2", place_bytes(low), place_bytes(high))
        chains.append(HKDF(hashes.SHA256(), _SEED_BYTES, group.digest, info).derive(agreed))
    return Session(group=group, place=place, round=0, chains=tuple(chains))


def at_round(session: Session, round_: int) -> Session:
    """Returns the session ratcheted forward to a round.

    Raises:
        ProtocolError: the round is past.
    """
    if round_ < session.round:
        raise ProtocolError(f"Round {round_} is past: its secrets are gone.")
    chains = session.chains
    for _ in range(round_ - session.round):
        chains = tuple(
            hmac.digest(chain, b"fedscore/ratchet/2", hashlib.sha256) if chain else b""
            for chain in chains
        )
    return replace(session, round=round_, chains=chains)


def place_bytes(place: int) -> bytes:
    """Returns a member's place as it is hashed: 4 little-endian bytes."""
    return place.to_bytes(4, "little")
