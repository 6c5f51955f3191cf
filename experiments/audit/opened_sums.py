"""Sums of three institutions on the real way: the door, its noise, masks, shares, the opening.

Nothing is left out but messages, ledgers and disk. Whoever tests the noise knows the people, so
that an opened sum less the exact one is the noise alone. The exact one is added up here by itself,
not by the door.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from experiments.entropy import SeededEntropy
from experiments.speed.mask_rounds import Joint, begun
from federation import door
from federation.canonical import Digest
from federation.door import Brought, Contribution, Layer, Products, one_column_each
from federation.privacy.entropy import Entropy
from federation.query import UNITS_PER_CLIP, UNITS_PER_ONE, BoundedSum, Question
from federation.secure_aggregation.opening import Collected
from federation.secure_aggregation.survivors import checked, reveal, sign_set
from federation.secure_aggregation.upload import context_of, draw_masks, share
from federation.secure_aggregation.words import apply_masks, from_words

INSTITUTIONS: Final = 3
CELLS: Final = 1024
"""Numbers in each sum."""

_SIDE: Final = 32  # a gradient's signals and inputs
_PEOPLE: Final = 20
_BITS: Final = 64
_LEDGER: Final = (1, Digest("cd" * 32))

Whole = NDArray[np.int64]

QUERIES: Final = {
    Question.BINS: BoundedSum(
        question=Question.BINS, columns=(CELLS // 2, CELLS // 2), share_variance=10**11
    ),
    Question.STEP: BoundedSum(
        question=Question.STEP, columns=(CELLS - 1, 1), share_variance=10**10
    ),
    Question.GRADIENT: BoundedSum(
        question=Question.GRADIENT, columns=(CELLS,), share_variance=10**16
    ),
}
"""Shares of noise of a few people, as plans have them: 5, 1.5 and 6 times what one may bring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Who answers one question at one institution.

    Attributes:
        brought: what goes to the door.
        exact: int64[CELLS], the sum that is promised, by plain arithmetic.
    """

    brought: Brought
    exact: Whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question, answered and opened.

    Attributes:
        exact: int64[CELLS], the sum over everybody as it is promised.
        opened: int64[CELLS], the total less `exact`: noise, if all is well.
        noise: int64[institutions, CELLS], each answer with its masks taken off again, less its
            exact sum.
    """

    exact: Whole
    opened: Whole
    noise: Whole


@lru_cache(maxsize=32)
def people_for(question: Question, place: int, seed: int, *, hostile: bool) -> People:
    """Returns people of an institution, drawn afresh for each seed.

    Args:
        question: that they answer.
        place: of the institution.
        seed: of the run; the same people are there with and without somebody hostile.
        hostile: whether somebody is among them whose number, in cells and with a sign at random, is
            too large by a factor of 2 to 10^6, or whose gradient, in a direction at random, is too
            long by 2 to 1,000; factors are uniform in their logarithm.
    """
    generator = np.random.default_rng([place, seed])
    if question is Question.GRADIENT:
        return _gradients(generator, hostile=hostile)
    columns = QUERIES[question].columns
    values = np.full(_PEOPLE, UNITS_PER_ONE, dtype=np.int64)
    if question is Question.STEP:
        values = generator.integers(-UNITS_PER_ONE, UNITS_PER_ONE, _PEOPLE, endpoint=True)
    cells = [generator.integers(0, size, _PEOPLE).astype(np.uint32) for size in columns]
    exact = np.zeros(CELLS, dtype=np.int64)
    starts = (0, columns[0])
    for start, of in zip(starts, cells, strict=True):
        np.add.at(exact, start + of, values)
    if hostile:
        sign = 1 if generator.random() < 0.5 else -1
        values = np.append(values, sign * int(_factor(generator, 10**6) * UNITS_PER_ONE))
        theirs = [np.uint32(generator.integers(size)) for size in columns]
        cells = [np.append(of, cell) for of, cell in zip(cells, theirs, strict=True)]
        for start, cell in zip(starts, theirs, strict=True):
            exact[start + cell] += sign * UNITS_PER_ONE
    brought = Contribution(values=values, cells=one_column_each(cells), person_starts=None)
    return People(brought=brought, exact=exact)


def _gradients(generator: np.random.Generator, *, hostile: bool) -> People:
    most = int((UNITS_PER_CLIP / _SIDE) ** 0.5)
    signals, inputs = generator.integers(-most, most, (2, _PEOPLE, _SIDE), endpoint=True)
    exact = np.einsum("pi,pj->ij", signals, inputs).ravel()  # all of them short enough
    if hostile:
        both = generator.standard_normal((2, 1, _SIDE))
        length = (_factor(generator, 1000) * UNITS_PER_CLIP) ** 0.5
        theirs = np.rint(both * (length / np.linalg.norm(both, axis=2, keepdims=True)))
        signals, inputs = np.vstack([signals, theirs[0]]), np.vstack([inputs, theirs[1]])
    layer = Layer(signals=signals.astype(np.float64), inputs=inputs.astype(np.float64))
    return People(brought=Products(layers=(layer,), rows_of_person=None), exact=exact)


def _factor(generator: np.random.Generator, most: float) -> float:
    return float(np.exp(generator.uniform(np.log(2.0), np.log(most))))


@lru_cache(maxsize=1)
def _session() -> Joint:
    return begun(INSTITUTIONS)


def answered(
    question: Question, seed: int, *, round_: int = 0, hostile: bool = False, entropy: Entropy
) -> Answered:
    """Returns what became of one question to all institutions.

    Args:
        question: that is asked.
        seed: of people and masks.
        round_: of the question.
        hostile: whether the first institution has somebody hostile.
        entropy: 32 bytes a call, from which institutions draw their noise, one after the other.
    """
    joint, query = _session(), QUERIES[question]
    secrets = SeededEntropy(f"masks {question} {round_} {seed}")
    group = joint.sessions[0].group
    context = context_of(
        group=group.digest,
        round_=0,
        attempt=0,
        plan=bytes.fromhex(group.terms.plan),
        model=secrets(),
        query=secrets(),
        bits=_BITS,
        length=CELLS,
    )
    uploads, sharings, exact, noise = {}, {}, [], []
    for place, session in enumerate(joint.sessions):
        people = people_for(question, place, seed, hostile=hostile and place == 0)
        masking = draw_masks(session, context=context, bits=_BITS, own_mask=secrets())
        noise_key = entropy()
        words = door.answer(query, [people.brought], noise_key=noise_key, masks=masking.masks).words
        sharings[place], uploads[place] = share(
            masking,
            words,
            share_key=secrets(),
            noise=noise_key,
            ledger_sequence=_LEDGER[0],
            ledger_head=_LEDGER[1],
            identity=joint.identities[place],
        )
        bare = words.copy()
        apply_masks(bare, added=masking.masks.subtracted, subtracted=masking.masks.added)
        exact.append(people.exact)
        noise.append(from_words(bare) - people.exact)
    collected = Collected(group, context, _BITS, uploads)
    revealed = {}
    for place, sharing in sharings.items():
        seen = checked(sharing, collected.relayed_to(place))
        revealed[place] = reveal(seen, sign_set(seen, joint.identities[place]))
        collected.require_reveals(place, revealed[place])
    everybody = np.sum(exact, axis=0)
    total = collected.opened(revealed).total
    return Answered(exact=everybody, opened=total - everybody, noise=np.array(noise))
