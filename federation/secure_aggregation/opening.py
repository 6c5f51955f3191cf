"""The coordinator's side of one attempt: check uploads, relay them, open one total.

    Collecting -> relayed(...) -> opened(...)

It holds masked sums and learns the sum over the survivors. Who sent what does not fit is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from federation.errors import ProtocolError
from federation.secure_aggregation import merkle, shamir
from federation.secure_aggregation.session import Group
from federation.secure_aggregation.survivors import (
    SET_LABEL,
    PeerFault,
    Relayed,
    Revealed,
    Survivors,
    headers_digest,
    set_body,
)
from federation.secure_aggregation.upload import (
    HEADER_LABEL,
    SEAL_BYTES,
    Upload,
    coin_of,
    commitment_to,
    leaves_of,
    masked_digest,
    seed_digest,
    share_digest,
)
from federation.secure_aggregation.words import apply_masks, from_words, word_type

_HASH = merkle.HASH_BYTES
_SEED = 32


def require_fits(group: Group, context: bytes, place: int, upload: Upload, nbytes: int) -> None:
    """Returns only if an upload is one that a total can be built on.

    Args:
        group: of the session.
        context: the attempt's.
        place: whose upload it should be.
        upload: as it came.
        nbytes: of the masked sum.

    Raises:
        PeerFault: it is for another attempt, its parts do not belong together, or its header is
            not signed by its owner.
    """
    members = len(group.members)
    header = upload.header
    peer = group.members[place]
    if upload.context != context or header.institution != peer or len(upload.words) != nbytes:
        raise PeerFault(peer, "the upload is not for this attempt.")
    if (
        len(upload.shares) != _HASH * members
        or len(upload.seeds) != _HASH * members
        or [len(sealed) for sealed in upload.sealed]
        != [0 if holder == place else shamir.SHARE_BYTES + SEAL_BYTES for holder in range(members)]
        or any(len(one) != _HASH for one in (header.own_mask, header.noise))
        or len(header.ledger_head) != 2 * _HASH
        or masked_digest(upload.words) != header.masked
        or merkle.root(_leaves(upload)) != header.leaves
    ):
        raise PeerFault(peer, "the parts of the upload are not what its header says.")
    try:
        group.require_signed(place, HEADER_LABEL, header.body(context), header.signature)
    except ProtocolError as error:
        raise PeerFault(peer, str(error)) from error


def _leaves(upload: Upload) -> list[bytes]:
    return leaves_of(_parts(upload.shares), _parts(upload.seeds))


def _part(joined: bytes, place: int) -> bytes:
    return joined[_HASH * place : _HASH * (place + 1)]


def _parts(joined: bytes, size: int = _HASH) -> list[bytes]:
    return [joined[start : start + size] for start in range(0, len(joined), size)]


@dataclass(frozen=True)
class Collected:
    """The uploads of one attempt, each one checked.

    Attributes:
        group: of the session.
        context: the attempt's.
        bits: of a word.
        uploads: by place, in order.
    """

    group: Group
    context: bytes
    bits: int
    uploads: Mapping[int, Upload]

    @cached_property
    def survivors(self) -> tuple[int, ...]:
        """Places in order."""
        return tuple(sorted(self.uploads))

    @cached_property
    def body(self) -> bytes:
        """What every survivor signs."""
        headers = [self.uploads[place].header for place in self.survivors]
        return set_body(self.context, self.survivors, headers_digest(headers, self.context))

    @cached_property
    def _trees(self) -> dict[int, tuple[tuple[bytes, ...], ...]]:
        return {place: merkle.levels(_leaves(self.uploads[place])) for place in self.survivors}

    def disagreements(self) -> tuple[tuple[int, int], ...]:
        """Returns the pairs of survivors whose seeds differ: one of each pair is at fault."""
        said = {place: _parts(self.uploads[place].seeds) for place in self.survivors}
        return tuple(
            (low, high)
            for low in self.survivors
            for high in self.survivors
            if low < high and said[low][high] != said[high][low]
        )

    def relayed_to(self, place: int) -> Survivors:
        """Returns what one survivor is told about the uploads."""
        return Survivors(
            context=self.context,
            survivors=self.survivors,
            relayed=tuple(
                Relayed(
                    header=self.uploads[owner].header,
                    sealed=self.uploads[owner].sealed[place],
                    path=merkle.path(self._trees[owner], place),
                )
                for owner in self.survivors
            ),
        )

    def require_signed_set(self, place: int, signature: bytes) -> None:
        """Returns only if a survivor signed this set.

        Raises:
            PeerFault: it did not.
        """
        try:
            self.group.require_signed(place, SET_LABEL, self.body, signature)
        except ProtocolError as error:
            raise PeerFault(self.group.members[place], str(error)) from error

    def require_reveals(self, place: int, revealed: Revealed) -> None:
        """Returns only if what a survivor released is what its uploads and the others' say.

        Raises:
            PeerFault: it is not.
        """
        peer = self.group.members[place]
        dropped = self._dropped
        shares = _parts(revealed.shares, shamir.SHARE_BYTES)
        seeds = _parts(revealed.seeds, _SEED)
        if (
            revealed.context != self.context
            or len(revealed.shares) != shamir.SHARE_BYTES * len(self.survivors)
            or len(revealed.seeds) != _SEED * len(dropped)
        ):
            raise PeerFault(peer, "it released other parts than this set needs.")
        self.require_signed_set(place, revealed.signature)
        for owner, one in zip(self.survivors, shares, strict=True):
            said = _part(self.uploads[owner].shares, place)
            if share_digest(self.context, owner, place, one) != said:
                raise PeerFault(peer, "a share is not the one that it was given and accepted.")
        for other, seed in zip(dropped, seeds, strict=True):
            if seed_digest(seed) != _part(self.uploads[place].seeds, other):
                raise PeerFault(peer, "a seed is not the one that its own header says.")

    @cached_property
    def _dropped(self) -> tuple[int, ...]:
        members = range(len(self.group.members))
        return tuple(place for place in members if place not in self.uploads)

    def opened(self, revealed: Mapping[int, Revealed]) -> "Opened":
        """Returns the total over the survivors.

        Args:
            revealed: by place, each one checked by `require_reveals`: at least t of them, and
                of every survivor if anybody dropped out.

        Raises:
            ProtocolError: they are too few.
            PeerFault: shares are of no own mask, or not of the one that its owner's header says.
        """
        if self._dropped and set(revealed) != set(self.survivors):
            raise ProtocolError("All survivors must release their seeds with those who dropped.")
        holders = sorted(revealed)[: self.group.terms.threshold]
        if len(holders) < self.group.terms.threshold:
            raise ProtocolError("Too few survivors released their shares.")
        basis = shamir.Basis.of(holders)
        shares = [_parts(revealed[place].shares, shamir.SHARE_BYTES) for place in holders]
        own_masks = [
            self._own_mask(owner, basis, of_owner)
            for owner, of_owner in zip(self.survivors, zip(*shares, strict=True), strict=True)
        ]
        words = [
            np.frombuffer(one.words, dtype=word_type(self.bits)) for one in self.uploads.values()
        ]
        total = words[0].copy()
        for one in words[1:]:
            total += one
        added, subtracted = self._left_over(revealed)
        apply_masks(total, added=subtracted, subtracted=(*own_masks, *added))
        return Opened(
            total=from_words(total), coins=tuple(coin_of(own_mask) for own_mask in own_masks)
        )

    def _own_mask(self, owner: int, basis: shamir.Basis, shares: Sequence[bytes]) -> bytes:
        peer = self.group.members[owner]
        try:
            own_mask = basis.secret(shares)
        except ProtocolError as error:
            raise PeerFault(peer, str(error)) from error
        if commitment_to(coin_of(own_mask)) != self.uploads[owner].header.own_mask:
            raise PeerFault(peer, "its shares are not of its own mask.")
        return own_mask

    def _left_over(self, revealed: Mapping[int, Revealed]) -> tuple[list[bytes], list[bytes]]:
        """Returns the pair masks that survivors added, and subtracted, for those who dropped."""
        added: list[bytes] = []
        subtracted: list[bytes] = []
        if self._dropped:
            for place, one in revealed.items():
                for other, seed in zip(self._dropped, _parts(one.seeds, _SEED), strict=True):
                    (added if other > place else subtracted).append(seed)
        return added, subtracted


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """One total.

    Attributes:
        total: int64[length], the sum over the survivors of what each had noised.
        coins: what each survivor adds to the audit coin, in order.
    """

    total: NDArray[np.int64]
    coins: tuple[bytes, ...]
