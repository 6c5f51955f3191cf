"""Attempts at a masked sum from the pure parts alone: fixed keys, no files, no coordinator.

played = Played.of(sessions(5, threshold=4, quorum=4), vectors, bits=64, dropped={2})
played.opened().total
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from federation.canonical import Digest, public_key_of
from federation.secure_aggregation.opening import Collected, Opened
from federation.secure_aggregation.roster import Member, Roster
from federation.secure_aggregation.session import (
    Announcement,
    Announcing,
    Group,
    Session,
    Terms,
    announce,
    at_round,
    join,
)
from federation.secure_aggregation.survivors import (
    Checked,
    Revealed,
    Survivors,
    checked,
    reveal,
    sign_set,
)
from federation.secure_aggregation.upload import Sharing, Upload, context_of, draw_masks, share
from federation.secure_aggregation.words import masked

PLAN: Final = Digest("ab" * 32)


def secret(*what: object) -> bytes:
    """Returns 32 bytes that depend on what they are for."""
    return hashlib.sha256("/".join(map(str, ("fedscore test secret", *what))).encode()).digest()


@lru_cache
def identity(place: int) -> Ed25519PrivateKey:
    """Returns a member's identity key."""
    return Ed25519PrivateKey.from_private_bytes(secret("identity", place))


def ids(members: int) -> tuple[str, ...]:
    """Returns names in order."""
    return tuple(f"bank-{place:03}" for place in range(members))


@lru_cache
def roster(members: int) -> Roster:
    """Returns a roster of `ids`; nobody has signed it."""
    return Roster(
        federation="test-federation",
        members=tuple(
            Member(id=name, key=public_key_of(identity(place)))
            for place, name in enumerate(ids(members))
        ),
        signature="",
    )


def terms(members: int, *, threshold: int, quorum: int, name: object = 0) -> Terms:
    """Returns what a session is for; `name` tells it from others."""
    return Terms(
        session=secret("session", name),
        plan=PLAN,
        roster=roster(members),
        threshold=threshold,
        quorum=quorum,
    )


def announcing(of: Terms, place: int, *, key: bytes | None = None) -> Announcing:
    """Returns a member that has announced its key."""
    return announce(
        of,
        ids(len(of.roster.members))[place],
        identity=identity(place),
        session_key=secret("session key", of.session.hex(), place) if key is None else key,
    )


@lru_cache
def sessions(members: int, *, threshold: int, quorum: int, name: object = 0) -> tuple[Session, ...]:
    """Returns the session as each member sees it, at round 0."""
    of = terms(members, threshold=threshold, quorum=quorum, name=name)
    states = [announcing(of, place) for place in range(members)]
    announced = [state.announcement for state in states]
    return tuple(join(state, announced) for state in states)


@lru_cache
def wide_sessions(members: int, *, threshold: int, quorum: int) -> tuple[Session, ...]:
    """Returns the same for many members without key agreement: the pairs' secrets are given."""
    of = terms(members, threshold=threshold, quorum=quorum)
    keys = tuple(public_key_of(identity(place)) for place in range(members))
    group = Group(terms=of, members=ids(members), identities=keys, digest=secret("group", members))
    return tuple(
        Session(
            group=group,
            place=place,
            round=0,
            chains=tuple(
                b"" if peer == place else secret("chain", *sorted((place, peer)))
                for peer in range(members)
            ),
        )
        for place in range(members)
    )


def context(group: Group, *, bits: int, length: int, round_: int = 0, attempt: int = 0) -> bytes:
    """Returns the context of an attempt."""
    return context_of(
        group=group.digest,
        round_=round_,
        attempt=attempt,
        plan=bytes.fromhex(group.terms.plan),
        model=secret("model"),
        query=secret("query"),
        bits=bits,
        length=length,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """An attempt after the uploads of those who did not drop out.

    Attributes:
        sessions: of everybody, ratcheted.
        collected: what the coordinator holds.
        sharings: the state of each survivor.
    """

    sessions: tuple[Session, ...]
    collected: Collected
    sharings: Mapping[int, Sharing]

    @classmethod
    def of(
        cls,
        sessions: Sequence[Session],
        vectors: Sequence[NDArray[np.int64]],
        *,
        bits: int,
        dropped: Collection[int] = (),
        round_: int = 0,
        attempt: int = 0,
        own_masks: Sequence[bytes] | None = None,
        share_keys: Sequence[bytes] | None = None,
        noise: Sequence[bytes] | None = None,
        ledgers: Sequence[tuple[int, str]] | None = None,
        at: bytes | None = None,
    ) -> "Played":
        """Returns an attempt whose secrets are fixed unless they are given."""
        at_it = tuple(at_round(session, round_) for session in sessions)
        length = len(vectors[0])
        if at is None:
            at = context(at_it[0].group, bits=bits, length=length, round_=round_, attempt=attempt)
        sharings: dict[int, Sharing] = {}
        uploads: dict[int, Upload] = {}
        for place, session in enumerate(at_it):
            if place in dropped:
                continue
            masking = draw_masks(
                session,
                context=at,
                bits=bits,
                own_mask=own_masks[place] if own_masks else secret("own", place, round_, attempt),
            )
            sequence, head = ledgers[place] if ledgers else (7, "cd" * 32)
            sharings[place], uploads[place] = share(
                masking,
                masked(vectors[place], masking.masks),
                share_key=share_keys[place] if share_keys else secret("share", place, attempt),
                noise=noise[place] if noise else secret("noise", place),
                ledger_sequence=sequence,
                ledger_head=head,
                identity=identity(place),
            )
        return cls(
            sessions=at_it,
            collected=Collected(at_it[0].group, at, bits, uploads),
            sharings=sharings,
        )

    @property
    def context(self) -> bytes:
        return self.collected.context

    @property
    def survivors(self) -> tuple[int, ...]:
        return self.collected.survivors

    def told(self, place: int) -> Survivors:
        return self.collected.relayed_to(place)

    def checked(self, place: int) -> Checked:
        return checked(self.sharings[place], self.told(place))

    def revealed(self, places: Collection[int] | None = None) -> dict[int, Revealed]:
        found = {}
        for place in self.survivors if places is None else sorted(places):
            one = self.checked(place)
            found[place] = reveal(one, sign_set(one, identity(place)))
        return found

    def opened(self, places: Collection[int] | None = None) -> Opened:
        revealed = self.revealed(places)
        for place, one in revealed.items():
            self.collected.require_reveals(place, one)
        return self.collected.opened(revealed)


def announced(of: Terms, places: Collection[int]) -> list[Announcement]:
    """Returns the announcements of some members."""
    return [announcing(of, place).announcement for place in sorted(places)]
