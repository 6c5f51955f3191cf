"""Rounds whose exact sum is zero, and the noise that a door gives: material for the detections."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from experiments.entropy import SeededEntropy
from federation import door
from federation.door import Contribution, one_column_each
from federation.privacy.entropy import Entropy
from federation.query import UNITS_PER_ONE, BoundedSum, Question
from tests.federations import Federation, Seat, federation, flat_card, wide_schema
from tests.unmasking import MASKS, unmasked

CELLS: Final = 250
FEATURES: Final = 8
LENGTH: Final = FEATURES * CELLS + 1
ROUNDS: Final = 20
INSTITUTIONS: Final = 5


def balanced_table(path: Path, _number: int) -> Path:
    """Writes 2 x CELLS people, a good and a bad one for every combination that occurs."""
    people = np.arange(2 * CELLS)
    codes = {f"f{number}": pa.array(people // 2) for number in range(FEATURES)}
    pq.write_table(
        pa.table({"person": pa.array(people), "bad": pa.array(people % 2), **codes}), path
    )
    return path


def zero_gradient_federation(directory: Path, **plan: object) -> Federation:
    """Returns a federation in which every residual has its opposite at `flat_card`."""
    return federation(
        directory,
        institutions=INSTITUTIONS,
        schema=wide_schema(features=FEATURES, cells=CELLS),
        table=balanced_table,
        **{"rounds": ROUNDS, "held_out_fraction": 0.0, "spare_attempts": 0, **plan},
    )


@contextmanager
def zero_gradient_rounds(
    fed: Federation, entropy: Callable[[str], Entropy] = SeededEntropy, *, rounds: int = ROUNDS
) -> Iterator[NDArray[np.int64]]:
    """Yields int64[rounds, institutions, LENGTH]: answers to rounds whose exact sum is zero."""
    card = flat_card(fed.schema)
    with fed.seats(entropy=entropy) as seats:
        for seat in seats.values():
            seat.accept(fed.plan)

        def answer(seat: Seat, number: int) -> NDArray[np.int64]:
            return seat.answer(fed.plan, Question.STEP, card, round_=number)

        yield np.array(
            [[answer(seat, number) for seat in seats.values()] for number in range(rounds)]
        )


def door_noise(
    seed: int,
    *,
    institutions: int = 5,
    rounds: int = 4,
    length: int = 2000,
    share_variance: int = 10**9,
    entropy: Callable[[int], Entropy] | None = None,
) -> NDArray[np.int64]:
    """Returns int64[rounds, institutions, length]: what `door.answer` adds to exact sums.

    Args:
        seed: of everything.
        institutions: each with its own entropy.
        rounds: answers of each.
        length: cells of the question.
        share_variance: of the question.
        entropy: makes the entropy of institution number i; seeded by `seed` and i if not said.
    """
    query = BoundedSum(
        question=Question.STEP, columns=(length - 1, 1), share_variance=share_variance
    )
    keys = [
        entropy(number) if entropy else SeededEntropy(f"{seed}/{number}")
        for number in range(institutions)
    ]
    people = 40
    block = Contribution(
        values=np.full(people, UNITS_PER_ONE, dtype=np.int64),
        cells=one_column_each(
            (np.arange(people, dtype=np.uint32), np.zeros(people, dtype=np.uint32))
        ),
        person_starts=None,
    )
    exact = np.zeros(length, dtype=np.int64)
    exact[:people] = UNITS_PER_ONE
    exact[-1] = people * UNITS_PER_ONE
    return np.array(
        [
            [
                unmasked(door.answer(query, [block], noise_key=key(), masks=MASKS)) - exact
                for key in keys
            ]
            for _ in range(rounds)
        ]
    )
