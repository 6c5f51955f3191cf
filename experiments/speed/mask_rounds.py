"""Whole masked rounds in one process, metered: who computes how long, and how much crosses.

Messages are the real ones, encoded and decoded on each side. What an institution does besides is
left out: looking at people, noise, its ledger and its notes on disk.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from experiments.entropy import SeededEntropy
from federation import canonical
from federation.asking import OPEN_LABEL
from federation.canonical import Digest, public_key_of
from federation.errors import ProtocolError
from federation.messages import (
    Begin,
    Begun,
    Join,
    Joined,
    Open,
    decode_reply,
    decode_request,
    encode,
    model_digest,
)
from federation.model.scorecard import AdditiveCard
from federation.query import Question
from federation.secure_aggregation.opening import Collected, require_fits
from federation.secure_aggregation.roster import Member, Roster
from federation.secure_aggregation.session import Group, Session, Terms, announce, at_round, join
from federation.secure_aggregation.survivors import (
    Checked,
    Reveal,
    Revealed,
    SetSigned,
    Survivors,
    checked,
    reveal,
    sign_set,
    valid_signers,
)
from federation.secure_aggregation.upload import Sharing, Upload, context_of, draw_masks, share
from federation.secure_aggregation.words import masked
from fedscore.planning import smallest_threshold

PLAN: Final = Digest("ab" * 32)
_CARD: Final = AdditiveCard(
    base=0, bin_of_cell=(tuple(range(10)),) * 20, weights=(tuple(range(1000, 1010)),) * 20
)
"""About as large as the card of a question of 200 numbers."""
_OTHER: Final = bytes(32)
"""Stands for digests that cost nothing here."""

M = TypeVar("M")


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """What a round costs one institution, or the coordinator.

    Attributes:
        seconds: of CPU time, by stage.
        sent: bytes, by stage.
        received: bytes, by stage.
    """

    seconds: dict[str, float]
    sent: dict[str, int]
    received: dict[str, int]


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What one masked round costs.

    Attributes:
        institutions: n.
        threshold: t.
        dropped: institutions that never uploaded.
        parameters: numbers in the sum.
        bits: of a word.
        institution: one of those that uploaded, the mean.
        coordinator: all of it.
    """

    institutions: int
    threshold: int
    dropped: int
    parameters: int
    bits: int
    institution: Party
    coordinator: Party


class _Meter:
    """CPU time by who and stage, and the bytes of each stage; the mean over whoever took part."""

    def __init__(self, institutions: int) -> None:
        self._institutions = institutions
        self._seconds: dict[str, defaultdict[str, float]] = {
            who: defaultdict(float) for who in ("institution", "coordinator")
        }
        self._down: defaultdict[str, int] = defaultdict(int)
        self._up: defaultdict[str, int] = defaultdict(int)

    @contextmanager
    def __call__(self, who: str, stage: str) -> Iterator[None]:
        before = time.process_time()
        yield
        self._seconds[who][stage] += time.process_time() - before

    def crossed(self, stage: str, *, down: bytes, up: bytes) -> None:
        self._down[stage] += len(down)
        self._up[stage] += len(up)

    def institution(self) -> Party:
        seconds = self._seconds["institution"]
        return Party(
            seconds={stage: one / self._institutions for stage, one in seconds.items()},
            sent={stage: one // self._institutions for stage, one in self._up.items()},
            received={stage: one // self._institutions for stage, one in self._down.items()},
        )

    def coordinator(self) -> Party:
        return Party(
            seconds=dict(self._seconds["coordinator"]),
            sent=dict(self._down),
            received=dict(self._up),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """A session that everybody has joined.

    Attributes:
        identities: by place.
        sessions: by place, at round 0.
        coordinator: its key.
        institution: what the session cost each, once.
        coordinating: what it cost the coordinator.
        entropy: for masks and shares.
    """

    identities: tuple[Ed25519PrivateKey, ...]
    sessions: tuple[Session, ...]
    coordinator: Ed25519PrivateKey
    institution: Party
    coordinating: Party
    entropy: SeededEntropy


def most_colluders(institutions: int) -> int:
    """Returns the colluders that are assumed here: just under a third, at least 1."""
    return max(1, (institutions - 1) // 3)


def begun(institutions: int) -> Joint:
    """Returns a session of so many institutions, with the smallest threshold."""
    entropy = SeededEntropy(f"masks {institutions}")
    keys = tuple(Ed25519PrivateKey.from_private_bytes(entropy()) for _ in range(institutions))
    threshold = smallest_threshold(institutions, most_colluders(institutions))
    terms = Terms(
        session=entropy(),
        plan=PLAN,
        roster=Roster(
            federation="masks",
            members=tuple(
                Member(id=f"institution-{place:03}", key=public_key_of(key))
                for place, key in enumerate(keys)
            ),
            signature="",
        ),
        threshold=threshold,
        quorum=threshold,
    )
    meter = _Meter(institutions)
    request = encode(Begin(plan=PLAN, session=terms.session))
    states, announcements = [], []
    for member, key in zip(terms.roster.members, keys, strict=True):
        with meter("institution", "session"):
            _request(Begin, request)
            state = announce(terms, member.id, identity=key, session_key=entropy())
            reply = encode(Begun(session=terms.session, announcement=state.announcement))
        states.append(state)
        meter.crossed("session", down=request, up=reply)
        with meter("coordinator", "session"):
            announcements.append(_reply(Begun, reply).announcement)
    with meter("coordinator", "session"):
        Group.of(terms, announcements)
        request = encode(Join(session=terms.session, announcements=tuple(announcements)))
    sessions = []
    for state in states:
        with meter("institution", "session"):
            sessions.append(join(state, _request(Join, request).announcements))
            reply = encode(Joined(session=terms.session))
        meter.crossed("session", down=request, up=reply)
        with meter("coordinator", "session"):
            _reply(Joined, reply)
    return Joint(
        identities=keys,
        sessions=tuple(sessions),
        coordinator=Ed25519PrivateKey.from_private_bytes(entropy()),
        institution=meter.institution(),
        coordinating=meter.coordinator(),
        entropy=entropy,
    )


def context_for(session: Session, *, parameters: int, bits: int, attempt: int = 0) -> bytes:
    """Returns the context of an attempt at round 1, whose model is that of `run_round`."""
    return context_of(
        group=session.group.digest,
        round_=1,
        attempt=attempt,
        plan=bytes.fromhex(PLAN),
        model=model_digest(_CARD),
        query=_OTHER,
        bits=bits,
        length=parameters,
    )


def vector_of(place: int, parameters: int) -> NDArray[np.int64]:
    """Returns an institution's numbers, int64[parameters], the same on every call."""
    return np.random.default_rng(place).integers(-(2**20), 2**20, parameters)


def run_round(joint: Joint, *, parameters: int, bits: int, dropped: int, attempt: int) -> Round:
    """Returns what a round cost, after its total turned out to be the sum.

    Args:
        joint: the session.
        parameters: numbers in the sum.
        bits: of a word.
        dropped: how many institutions never upload; 0 or 1.
        attempt: another one for each round of a session.

    Raises:
        ProtocolError: the total is not the sum.
    """
    members = len(joint.sessions)
    uploading = tuple(place for place in range(members) if not (dropped and place == members // 2))
    meter = _Meter(len(uploading))
    collected, sharings = _uploads(
        joint, meter, uploading, parameters=parameters, bits=bits, attempt=attempt
    )
    revealed = _revealed(joint, meter, collected, sharings)
    for place, one in revealed.items():
        with meter("coordinator", "checking shares"):
            collected.require_reveals(place, one)
    with meter("coordinator", "opening"):
        opened = collected.opened(revealed)
    expected = sum(vector_of(place, parameters) for place in uploading)
    if not np.array_equal(opened.total, expected):
        raise ProtocolError("The masks did not cancel.")
    return Round(
        institutions=members,
        threshold=collected.group.terms.threshold,
        dropped=dropped,
        parameters=parameters,
        bits=bits,
        institution=meter.institution(),
        coordinator=meter.coordinator(),
    )


def _uploads(
    joint: Joint,
    meter: _Meter,
    uploading: tuple[int, ...],
    *,
    parameters: int,
    bits: int,
    attempt: int,
) -> tuple[Collected, dict[int, Sharing]]:
    group = joint.sessions[0].group
    context = context_for(joint.sessions[0], parameters=parameters, bits=bits, attempt=attempt)
    with meter("coordinator", "upload"):
        request = encode(
            Open(
                session=group.terms.session,
                question=Question.STEP,
                round=0,
                attempt=attempt,
                model=_CARD,
                coins=None,
                signature=canonical.sign(joint.coordinator, OPEN_LABEL, context),
            )
        )
    coordinator = public_key_of(joint.coordinator)
    sharings, uploads = {}, {}
    for place in uploading:
        vector = vector_of(place, parameters)
        with meter("institution", "upload"):
            asked = _request(Open, request)
            canonical.verify(coordinator, OPEN_LABEL, context, asked.signature)
            sharing, upload = upload_of(
                joint, place, vector, context=context, bits=bits, entropy=joint.entropy
            )
            reply = encode(upload)
        sharings[place] = sharing
        meter.crossed("upload", down=request, up=reply)
        with meter("coordinator", "upload"):
            uploads[place] = _reply(Upload, reply)
            require_fits(group, context, place, uploads[place], parameters * bits // 8)
    collected = Collected(group, context, bits, uploads)
    with meter("coordinator", "upload"):
        if collected.disagreements():
            raise ProtocolError("Two institutions do not share a seed.")
    return collected, sharings


def upload_of(
    joint: Joint,
    place: int,
    vector: NDArray[np.int64],
    *,
    context: bytes,
    bits: int,
    entropy: SeededEntropy,
) -> tuple[Sharing, Upload]:
    """Returns an institution's next state and its upload."""
    session = at_round(joint.sessions[place], 1)
    masking = draw_masks(session, context=context, bits=bits, own_mask=entropy())
    return share(
        masking,
        masked(vector, masking.masks),
        share_key=entropy(),
        noise=_OTHER,
        ledger_sequence=1,
        ledger_head="0" * 64,
        identity=joint.identities[place],
    )


def _revealed(
    joint: Joint, meter: _Meter, collected: Collected, sharings: dict[int, Sharing]
) -> dict[int, Revealed]:
    """Returns what everybody released, after a round of signatures if somebody dropped out."""
    everybody = len(collected.survivors) == len(joint.sessions)
    found: dict[int, Checked] = {}
    signatures: dict[int, bytes] = {}
    revealed: dict[int, Revealed] = {}
    for place in collected.survivors:
        with meter("coordinator", "survivors"):
            request = encode(collected.relayed_to(place))
        with meter("institution", "survivors"):
            found[place] = checked(sharings[place], _request(Survivors, request))
            signatures[place] = sign_set(found[place], joint.identities[place])
            reply = encode(
                reveal(found[place], signatures[place])
                if everybody
                else SetSigned(context=collected.context, signature=signatures[place])
            )
        meter.crossed("survivors", down=request, up=reply)
        with meter("coordinator", "survivors"):
            if everybody:
                revealed[place] = _reply(Revealed, reply)
            else:
                collected.require_signed_set(place, _reply(SetSigned, reply).signature)
    if everybody:
        return revealed
    with meter("coordinator", "release"):
        request = encode(
            Reveal(
                context=collected.context,
                signers=collected.survivors,
                signatures=tuple(signatures[place] for place in collected.survivors),
            )
        )
    for place in collected.survivors:
        with meter("institution", "release"):
            valid_signers(collected.group, found[place].body, _request(Reveal, request))
            reply = encode(reveal(found[place], signatures[place]))
        meter.crossed("release", down=request, up=reply)
        with meter("coordinator", "release"):
            revealed[place] = _reply(Revealed, reply)
    return revealed


def _request(kind: type[M], data: bytes) -> M:
    return _of_kind(kind, decode_request(data))


def _reply(kind: type[M], data: bytes) -> M:
    return _of_kind(kind, decode_reply(data))


def _of_kind(kind: type[M], message: object) -> M:
    if not isinstance(message, kind):
        raise ProtocolError("This is another message.")
    return message
