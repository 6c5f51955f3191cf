"""What an institution uploads in one attempt: a masked sum, sealed shares, a signed header."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from federation import canonical
from federation.canonical import framed, hash_of
from federation.errors import ProtocolError
from federation.message import Message
from federation.secure_aggregation import merkle, shamir
from federation.secure_aggregation.session import Session, place_bytes
from federation.secure_aggregation.words import Masks, Words

HEADER_LABEL: Final = "fedscore/header/2"
_NONCE: Final = bytes(12)
"""Each key seals one message."""


def context_of(
    *,
    group: bytes,
    round_: int,
    attempt: int,
    plan: bytes,
    model: bytes,
    query: bytes,
    bits: int,
    length: int,
) -> bytes:
    """Returns the 32 bytes that everything in one attempt is bound to.

    Who was shown another model, question or session than the others has another context: no header
    of his is accepted by the others, and none of theirs by him.

    Args:
        group: digest of the session's members and keys.
        round_: of the protocol, from 0.
        attempt: from 0.
        plan: digest.
        model: digest of the model that is asked about.
        query: digest of the question.
        bits: of a word.
        length: words in the sum.

    Raises:
        ProtocolError: a number is negative, or beyond those of a machine.
    """
    numbers = (round_, attempt, bits, length)
    if not all(0 <= number < 2**63 for number in numbers):
        raise ProtocolError("There is no attempt of this number.")
    eight = [number.to_bytes(8, "little") for number in numbers]
    return hash_of("fedscore/context/2", group, plan, model, query, *eight)


def coin_of(own_mask: bytes) -> bytes:
    """Returns what an institution adds to the audit coin: known once its own mask is opened."""
    return hash_of("fedscore/coin/2", own_mask)


def commitment_to(coin: bytes) -> bytes:
    """Returns what a header says of an own mask: neither it nor its coin can be changed later."""
    return hash_of("fedscore/own-mask/2", coin)


def share_digest(context: bytes, owner: int, holder: int, share: bytes) -> bytes:
    """Returns what an upload says of a share."""
    return hash_of("fedscore/share/2", context, place_bytes(owner), place_bytes(holder), share)


def seed_digest(seed: bytes) -> bytes:
    """Returns what an upload says of a pair's seed; both of the pair must say the same."""
    return hash_of("fedscore/seed/2", seed)


def leaf(share: bytes, seed: bytes) -> bytes:
    """Returns the leaf of the digests of one holder's share and one pair's seed."""
    return share + seed


def masked_digest(words: bytes) -> bytes:
    """Returns what a header says of the masked sum."""
    return hash_of("fedscore/masked/2", words)


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What everybody sees of an upload; its size does not depend on anything but the id.

    Attributes:
        institution: whose.
        masked: digest of the masked sum.
        own_mask: commitment to the own mask.
        leaves: Merkle root over the digests of shares and seeds, one leaf for each member.
        noise: commitment to the noise key.
        ledger_sequence: entries in the institution's ledger once it had paid.
        ledger_head: digest of the last of them.
        signature: over all of it and the context, by the identity key.
    """

    institution: str
    masked: bytes
    own_mask: bytes
    leaves: bytes
    noise: bytes
    ledger_sequence: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    ledger_head: str
    signature: bytes

    def body(self, context: bytes) -> bytes:
        """Returns what the signature covers."""
        return framed(
            "header",
            context,
            self.institution.encode(),
            self.masked,
            self.own_mask,
            self.leaves,
            self.noise,
            self.ledger_sequence.to_bytes(8, "little"),
            self.ledger_head.encode(),
        )


class Upload(Message, frozen=True, kw_only=True):
    """Institution: my masked sum.

    Attributes:
        context: the attempt's.
        header: signed.
        words: the masked sum, little-endian.
        shares: digests of the shares of the own mask, one for each member, joined.
        seeds: digests of the pairs' seeds, one for each member, zeros at the own place, joined.
        sealed: for each member its share, sealed; empty at the own place.
    """

    context: bytes
    header: Header
    words: bytes
    shares: bytes
    seeds: bytes
    sealed: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """An attempt whose masks are drawn and whose sum is not masked yet.

    Attributes:
        session: ratcheted to the round.
        context: of the attempt.
        bits: of a word.
        own_mask: 32 fresh bytes.
        seeds: for each member the pair's seed, empty at our own place.
    """

    session: Session
    context: bytes
    bits: int
    own_mask: bytes = field(repr=False)
    seeds: tuple[bytes, ...] = field(repr=False)

    @property
    def masks(self) -> Masks:
        """Those that go on the sum: the own one, and each pair's with opposite signs."""
        place = self.session.place
        return Masks(
            bits=self.bits,
            added=(self.own_mask, *self.seeds[place + 1 :]),
            subtracted=self.seeds[:place],
        )


def draw_masks(session: Session, *, context: bytes, bits: int, own_mask: bytes) -> Masking:
    """Returns the masks of one attempt.

    Args:
        session: ratcheted to the round.
        context: of the attempt.
        bits: of a word.
        own_mask: 32 fresh secret bytes, used for this attempt only.
    """
    seeds = tuple(
        b"" if peer == session.place else session.mask_seed(peer, context)
        for peer in range(len(session.group.members))
    )
    return Masking(session=session, context=context, bits=bits, own_mask=own_mask, seeds=seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """An attempt that we uploaded for, and have released nothing of.

    Attributes:
        masking: what went on the sum.
        header: as uploaded.
        own_share: our share of our own mask.
    """

    masking: Masking
    header: Header
    own_share: bytes = field(repr=False)


def share(
    masking: Masking,
    words: Words,
    *,
    share_key: bytes,
    noise: bytes,
    ledger_sequence: int,
    ledger_head: str,
    identity: Ed25519PrivateKey,
) -> tuple[Sharing, Upload]:
    """Returns the next state and the upload.

    Args:
        masking: whose masks are on the words.
        words: the masked sum.
        share_key: 32 fresh secret bytes, used for these shares only.
        noise: commitment to the noise key.
        ledger_sequence: of our ledger, this attempt paid.
        ledger_head: likewise.
        identity: our identity key.
    """
    session, context = masking.session, masking.context
    group, place = session.group, session.place
    shares = shamir.split(
        masking.own_mask,
        threshold=group.terms.threshold,
        holders=len(group.members),
        key=share_key,
    )
    said_of_shares = [
        share_digest(context, place, holder, one) for holder, one in enumerate(shares)
    ]
    said_of_seeds = [
        seed_digest(seed) if seed else bytes(merkle.HASH_BYTES) for seed in masking.seeds
    ]
    data = words.tobytes()
    unsigned = Header(
        institution=group.members[place],
        masked=masked_digest(data),
        own_mask=commitment_to(coin_of(masking.own_mask)),
        leaves=merkle.root(leaves_of(said_of_shares, said_of_seeds)),
        noise=noise,
        ledger_sequence=ledger_sequence,
        ledger_head=ledger_head,
        signature=b"",
    )
    signature = canonical.sign(identity, HEADER_LABEL, unsigned.body(context))
    header = msgspec.structs.replace(unsigned, signature=bytes.fromhex(signature))
    upload = Upload(
        context=context,
        header=header,
        words=data,
        shares=b"".join(said_of_shares),
        seeds=b"".join(said_of_seeds),
        sealed=tuple(
            b"" if peer == place else _sealed(session, peer, context, one)
            for peer, one in enumerate(shares)
        ),
    )
    return Sharing(masking=masking, header=header, own_share=shares[place]), upload


def leaves_of(shares: Sequence[bytes], seeds: Sequence[bytes]) -> list[bytes]:
    """Returns the leaves of an upload's tree from its digests."""
    return [leaf(one, other) for one, other in zip(shares, seeds, strict=True)]


def _sealed(session: Session, peer: int, context: bytes, one: bytes) -> bytes:
    data = framed("share", context, place_bytes(session.place), place_bytes(peer))
    return AESGCM(session.key_to(peer, context)).encrypt(_NONCE, one, data)


def unsealed(session: Session, peer: int, context: bytes, sealed: bytes) -> bytes:
    """Returns the share that a peer sealed for us.

    Raises:
        InvalidTag: it was not sealed by that peer for us in this attempt.
    """
    data = framed("share", context, place_bytes(peer), place_bytes(session.place))
    return AESGCM(session.key_from(peer, context)).decrypt(_NONCE, sealed, data)
