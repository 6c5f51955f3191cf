"""The institution's say about who survived, and what it releases: at most once an attempt.

Sharing -> Checked -> a signature, and once enough signed the same set, Revealed
Sharing -> Checked -> Revealed                             if nobody dropped out
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.canonical import framed, hash_of
from federation.errors import ProtocolError
from federation.message import Message
from federation.secure_aggregation import merkle, shamir
from federation.secure_aggregation.session import Group, place_bytes
from federation.secure_aggregation.upload import (
    HEADER_LABEL,
    Header,
    Sharing,
    leaf,
    seed_digest,
    share_digest,
    unsealed,
)

SET_LABEL: Final = "fedscore/survivors/2"
ABORT_LABEL: Final = "fedscore/abort/2"


class PeerFault(ProtocolError):  # noqa: N818  who, not what, is the point
    """What a named peer sent does not belong together.

    Attributes:
        peer: its id.
    """

    def __init__(self, peer: str, what: str) -> None:
        super().__init__(f"{peer}: {what}")
        self.peer = peer


class Relayed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One survivor's upload as far as it concerns the institution that this is sent to.

    Attributes:
        header: signed by the survivor.
        sealed: the share for the receiver; empty in its own.
        path: of the receiver's leaf in the survivor's tree.
    """

    header: Header
    sealed: bytes
    path: bytes


class Survivors(Message, frozen=True, kw_only=True):
    """Coordinator: these uploaded.

    Attributes:
        context: the attempt's.
        survivors: places in order.
        relayed: for each survivor.
    """

    context: bytes
    survivors: tuple[int, ...]
    relayed: tuple[Relayed, ...]


class SetSigned(Message, frozen=True, kw_only=True):
    """Institution: this is the one set that I sign for this attempt.

    Attributes:
        context: the attempt's.
        signature: see `set_body`.
    """

    context: bytes
    signature: bytes


class Reveal(Message, frozen=True, kw_only=True):
    """Coordinator: enough members signed the set; release what opens its total.

    Attributes:
        context: the attempt's.
        signers: places in order.
        signatures: one for each.
    """

    context: bytes
    signers: tuple[int, ...]
    signatures: tuple[bytes, ...]


class Revealed(Message, frozen=True, kw_only=True):
    """Institution: shares of survivors' own masks, and my seeds with those who dropped out.

    Attributes:
        context: the attempt's.
        signature: of the set.
        shares: one for each survivor, joined.
        seeds: one for each member that dropped out, joined.
    """

    context: bytes
    signature: bytes
    shares: bytes
    seeds: bytes


def headers_digest(headers: Sequence[Header], context: bytes) -> bytes:
    """Returns what a signed set says of the headers of its survivors."""
    parts = [part for one in headers for part in (one.body(context), one.signature)]
    return hash_of("fedscore/headers/2", *parts)


def set_body(context: bytes, survivors: Sequence[int], headers: bytes) -> bytes:
    """Returns what the signature of a set covers."""
    return framed("set", context, *(place_bytes(place) for place in survivors), headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Survivors' uploads as far as they concern us, each one checked.

    Attributes:
        sharing: our attempt.
        survivors: places in order.
        body: what is signed of the set.
        shares: of survivors' own masks, one for each, checked against their headers.
        headers: of the survivors.
    """

    sharing: Sharing
    survivors: tuple[int, ...]
    body: bytes
    shares: tuple[bytes, ...] = field(repr=False)
    headers: tuple[Header, ...]


def checked(state: Sharing, message: Survivors) -> Checked:
    """Returns the survivors' uploads if they are what we could build a total on.

    Args:
        state: after our upload.
        message: from the coordinator, for the same context; the set itself is for
            `attempt.on_survivors` to judge.

    Raises:
        ProtocolError: it does not have one upload for each survivor.
        PeerFault: a header, share, seed or path is not what its owner must have sent.
    """
    masking = state.masking
    session, context = masking.session, masking.context
    if len(message.relayed) != len(message.survivors):
        raise ProtocolError("Expected one header for each survivor.")
    shares = [
        state.own_share
        if place == session.place and relayed.header == state.header
        else _checked_share(state, place, relayed)
        for place, relayed in zip(message.survivors, message.relayed, strict=True)
    ]
    headers = tuple(relayed.header for relayed in message.relayed)
    return Checked(
        sharing=state,
        survivors=message.survivors,
        body=set_body(context, message.survivors, headers_digest(headers, context)),
        shares=tuple(shares),
        headers=headers,
    )


def _checked_share(state: Sharing, place: int, relayed: Relayed) -> bytes:
    masking = state.masking
    session, context = masking.session, masking.context
    group, header = session.group, relayed.header
    peer = group.members[place]
    if place == session.place or header.institution != peer:
        raise PeerFault(peer, "this header is not the one that was uploaded.")
    try:
        group.require_signed(place, HEADER_LABEL, header.body(context), header.signature)
        share = unsealed(session, place, context, relayed.sealed)
        shamir.element(share)
    except InvalidTag as error:
        raise PeerFault(peer, "the sealed share is not for us.") from error
    except ProtocolError as error:
        raise PeerFault(peer, str(error)) from error
    found = leaf(
        share_digest(context, place, session.place, share), seed_digest(masking.seeds[place])
    )
    if (
        len(relayed.path) != merkle.path_bytes(len(group.members))
        or merkle.root_of_path(found, session.place, relayed.path) != header.leaves
    ):
        raise PeerFault(peer, "the share, or the pair's seed, is not what its header says.")
    return share


def sign_set(found: Checked, identity: Ed25519PrivateKey) -> bytes:
    """Returns our signature on the set of survivors, 64 bytes. Once an attempt."""
    return bytes.fromhex(canonical.sign(identity, SET_LABEL, found.body))


def valid_signers(group: Group, body: bytes, message: Reveal) -> int:
    """Returns how many different members signed the set.

    Raises:
        ProtocolError: a signature is not valid, or the signers are not named in order.
    """
    signers = list(message.signers)
    if signers != sorted(set(signers)) or len(signers) != len(message.signatures):
        raise ProtocolError("Expected signers in order, each once, with one signature each.")
    for place, signature in zip(message.signers, message.signatures, strict=True):
        group.require_signed(place, SET_LABEL, body, signature)
    return len(signers)


def reveal(found: Checked, signature: bytes) -> Revealed:
    """Returns what opens the total over the set. Only for a standing of `attempt.Released`."""
    masking = found.sharing.masking
    return Revealed(
        context=masking.context,
        signature=signature,
        shares=b"".join(found.shares),
        seeds=b"".join(
            seed for place, seed in enumerate(masking.seeds) if place not in found.survivors
        ),
    )


def abort_body(context: bytes) -> bytes:
    """Returns what an abort vote signs: I have released nothing for this context and never will."""
    return framed("abort", context)
