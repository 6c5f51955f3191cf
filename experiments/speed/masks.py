"""What masks cost: beside Flower's SecAgg+, beside CKKS, beside what this machine allows.

All times are CPU time of one process. What is compared is measured in turns, so that a machine that
slows down slows all of it.
"""

from collections.abc import Callable
from statistics import median
from typing import Final

import msgspec
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from experiments.experiment import Setting
from experiments.speed import mask_peers
from experiments.speed.mask_demo import Demo, watched_demo
from experiments.speed.mask_peers import Ckks, FlowerOpening, FlowerUpload, Milliseconds
from experiments.speed.mask_rounds import (
    Joint,
    Party,
    Round,
    begun,
    context_for,
    run_round,
    vector_of,
)
from federation.secure_aggregation.session import at_round
from federation.secure_aggregation.upload import draw_masks, share
from federation.secure_aggregation.words import WORD_BITS, Words, masked, to_words

_CHUNKS: Final = (2**16, 2**17, 2**18)
_SIZES: Final[tuple[int, ...]] = (100_000, 1_000_000)
_GROUPS: Final[tuple[int, ...]] = (10, 30, 100)
_ROUND_GROUPS: Final[tuple[int, ...]] = (30, 100, 400)
_FEW: Final = 200
"""Numbers in the sum of a small scorecard's round."""

_IN_A_ROW: Final = 3
"""Of our uploads for each one of Flower's, which takes far longer."""
_CKKS_TURNS: Final = 3


class Ours(msgspec.Struct, frozen=True, kw_only=True):
    """CPU milliseconds of one of our uploads.

    Attributes:
        draw: the pairs' chains ratcheted, seeds drawn.
        mask: masks added to the vector.
        share: shares made and sealed, everything hashed and signed.
        limit: AES-256-CTR and an addition over as many bytes as all masks have, nothing else.
        nbytes: of the vector, shares and digests.
    """

    draw: float
    mask: float
    share: float
    limit: float
    nbytes: int

    @property
    def total(self) -> float:
        """Milliseconds of all of it."""
        return self.draw + self.mask + self.share


class OfWord(msgspec.Struct, frozen=True, kw_only=True):
    """Our uploads with one size of words.

    Attributes:
        bits: of a word.
        turns: some uploads each, the same number in all.
    """

    bits: int
    turns: tuple[tuple[Ours, ...], ...]

    def of_turns(self, figure: Callable[[Ours], float]) -> list[float]:
        """Returns a figure of each turn, the median of its uploads."""
        return [median(map(figure, turn)) for turn in self.turns]

    @property
    def totals(self) -> list[float]:
        """Milliseconds of an upload in each turn."""
        return self.of_turns(lambda one: one.total)

    @property
    def nbytes(self) -> int:
        """Of an upload: the same in all."""
        return self.turns[0][0].nbytes


class Uploading(msgspec.Struct, frozen=True, kw_only=True):
    """One institution's upload.

    Attributes:
        parameters: numbers in the sum.
        institutions: n.
        threshold: t.
        ours: for each word.
        flower: one of each turn; empty if it is not installed.
    """

    parameters: int
    institutions: int
    threshold: int
    ours: tuple[OfWord, ...]
    flower: tuple[FlowerUpload, ...]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What a session costs, once: not part of a round.

    Attributes:
        institutions: n.
        institution: each.
        coordinator: all of it.
    """

    institutions: int
    institution: Party
    coordinator: Party


class MaskCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What `run masks` found.

    Attributes:
        peers: versions of those that are installed.
        missing: those that are not.
        uploads: by parameters and institutions.
        openings: ours, with a whole round each.
        flower_openings: Flower's, empty if it is not installed.
        ckks: some of each size; empty if TenSEAL is not installed.
        sessions: by institutions.
        rounds: of a small scorecard.
        demo: the demo's trainings.
    """

    peers: dict[str, str]
    missing: tuple[str, ...]
    uploads: tuple[Uploading, ...]
    openings: tuple[Round, ...]
    flower_openings: tuple[FlowerOpening, ...]
    ckks: tuple[Ckks, ...]
    sessions: tuple[Session, ...]
    rounds: tuple[Round, ...]
    demo: Demo


def run_masks(setting: Setting) -> MaskCosts:
    """Measures uploads, openings, whole rounds, and the demo."""
    sizes, groups, round_groups, repeats = _SIZES, _GROUPS, _ROUND_GROUPS, 5
    if setting.quick:
        sizes, groups, round_groups, repeats = (1_000, 5_000), (4, 6), (4, 6), 1
    setting.expect(len(groups) + 2 * len(sizes) + 2 + len(round_groups) + 1)
    uploads, openings, sessions, rounds = [], [], [], []
    for institutions in groups:
        joint = begun(institutions)
        uploads += [_uploading(joint, size, repeats) for size in sizes]
        setting.advance()
    for size in sizes:
        for bits in WORD_BITS:
            openings += _rounds(joint, size, bits)
            setting.advance()
    flower_openings = _flower_openings(joint, sizes)
    setting.advance()
    found_ckks = _ckks(sizes) if mask_peers.TENSEAL else ()
    setting.advance()
    for institutions in round_groups:
        joint = begun(institutions)
        sessions.append(
            Session(
                institutions=institutions,
                institution=joint.institution,
                coordinator=joint.coordinating,
            )
        )
        rounds += _rounds(joint, _FEW, WORD_BITS[-1])
        setting.advance()
    demo = watched_demo(quick=setting.quick)
    setting.advance()
    peers = {"flwr": mask_peers.FLOWER, "tenseal": mask_peers.TENSEAL}
    return MaskCosts(
        peers={name: version for name, version in peers.items() if version},
        missing=tuple(name for name, version in peers.items() if not version),
        uploads=tuple(uploads),
        openings=tuple(openings),
        flower_openings=flower_openings,
        ckks=found_ckks,
        sessions=tuple(sessions),
        rounds=tuple(rounds),
        demo=demo,
    )


# 1. One upload: ours, the limit and Flower's in turns.


def _uploading(joint: Joint, parameters: int, repeats: int) -> Uploading:
    institutions = len(joint.sessions)
    threshold = joint.sessions[0].group.terms.threshold
    ours: dict[int, list[tuple[Ours, ...]]] = {bits: [] for bits in WORD_BITS}
    flower: list[FlowerUpload] = []
    client = mask_peers.FlowerClient(institutions, threshold) if mask_peers.FLOWER else None
    vector = vector_of(institutions // 2, parameters)
    quantized = vector.astype(np.int32)
    for _ in range(repeats):
        for bits, found in ours.items():
            found.append(tuple(_upload(joint, vector, bits) for _ in range(_IN_A_ROW)))
        if client is not None:
            flower.append(client.upload(quantized))
    return Uploading(
        parameters=parameters,
        institutions=institutions,
        threshold=threshold,
        ours=tuple(OfWord(bits=bits, turns=tuple(turns)) for bits, turns in ours.items()),
        flower=tuple(flower),
    )


def _upload(joint: Joint, vector: NDArray[np.int64], bits: int) -> Ours:
    place = len(joint.sessions) // 2
    session = joint.sessions[place]
    context = context_for(session, parameters=len(vector), bits=bits)
    own_mask, share_key = joint.entropy(), joint.entropy()
    clock = Milliseconds()
    masking = draw_masks(at_round(session, 1), context=context, bits=bits, own_mask=own_mask)
    draw = clock.lap()
    words = masked(vector, masking.masks)
    mask = clock.lap()
    _, upload = share(
        masking,
        words,
        share_key=share_key,
        noise=bytes(32),
        ledger_sequence=1,
        ledger_head="0" * 64,
        identity=joint.identities[place],
    )
    return Ours(
        draw=draw,
        mask=mask,
        share=clock.lap(),
        limit=_limit(len(joint.sessions), to_words(vector, bits)),
        nbytes=sum(map(len, (upload.words, upload.shares, upload.seeds, *upload.sealed))),
    )


def _limit(masks: int, words: Words) -> float:
    """Returns milliseconds of keystream and addition alone, at the chunk that is the fastest."""
    stream = Cipher(algorithms.AES256(bytes(32)), modes.CTR(bytes(16))).encryptor()
    found = []
    for chunk in _CHUNKS:
        zeros, buffer = memoryview(bytes(chunk)), bytearray(chunk)
        each = chunk // words.itemsize
        clock = Milliseconds()
        for start in range(0, len(words), each):
            part = words[start : start + each]
            mask = np.frombuffer(buffer, dtype=words.dtype, count=len(part))
            of_part = zeros[: part.nbytes]
            for _ in range(masks):
                stream.update_into(of_part, buffer)
                np.add(part, mask, out=part)
        found.append(clock.lap())
    return min(found)


# 2. One total, and whole rounds.


def _rounds(joint: Joint, parameters: int, bits: int) -> list[Round]:
    return [
        run_round(joint, parameters=parameters, bits=bits, dropped=dropped, attempt=dropped)
        for dropped in (0, 1)
    ]


def _flower_openings(joint: Joint, sizes: tuple[int, ...]) -> tuple[FlowerOpening, ...]:
    threshold = joint.sessions[0].group.terms.threshold
    return tuple(
        mask_peers.flower_opening(size, len(joint.sessions), threshold, dropped)
        for size in sizes
        for dropped in (0, 1)
        if mask_peers.FLOWER
    )


def _ckks(sizes: tuple[int, ...]) -> tuple[Ckks, ...]:
    return tuple(mask_peers.ckks(size) for _ in range(_CKKS_TURNS) for size in sizes)
