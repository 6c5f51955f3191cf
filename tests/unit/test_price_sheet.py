"""The chances that `plan price` shows, counted once more outcome by outcome."""

import math
from itertools import pairwise, product

import pytest

from fedscore.price_sheet import SILENT, Chance, _chance, price_sheet
from tests.federations import names, signed_plan, small_schema

SCHEMA = small_schema()


def chances(**plan: object) -> dict[float, Chance]:
    signed = signed_plan(SCHEMA, **plan)
    return {silent: _chance(signed, silent) for silent in SILENT}


def counted(institutions: int, quorum: int, threshold: int, silent: float) -> float:
    """Adds up every way in which uploads, second and third messages are answered or not.

    If somebody dropped out, the second and third are each sent twice to whoever is silent.
    """
    found = 0.0
    missed = silent**2
    for uploads in product((True, False), repeat=institutions):
        left = sum(uploads)
        if left < quorum:
            continue
        way = (1 - silent) ** left * silent ** (institutions - left)
        for second in product((True, False), repeat=left):
            yes = sum(second)
            if left == institutions:
                opens = yes >= threshold
                found += way * opens * (1 - silent) ** yes * silent ** (left - yes)
                continue
            for third in product((True, False), repeat=left):
                answered = yes + sum(third)
                opens = answered == 2 * left
                found += way * opens * (1 - missed) ** answered * missed ** (2 * left - answered)
    return found


@pytest.mark.parametrize(
    ("institutions", "quorum", "colluders"), [(3, 3, 1), (4, 4, 1), (4, 3, 1), (5, 4, 1), (5, 4, 2)]
)
def test_the_chance_of_an_attempt_is_that_of_all_its_outcomes(
    institutions: int, quorum: int, colluders: int
) -> None:
    found = chances(invited=names(institutions), quorum=quorum, colluders=colluders)
    threshold = (institutions + colluders) // 2 + 1
    for silent, chance in found.items():
        assert chance.attempt == pytest.approx(counted(institutions, quorum, threshold, silent))


@pytest.mark.parametrize(
    ("spare", "held_out", "questions"), [(0, 0.25, 2), (2, 0.25, 2), (3, 0, 1)]
)
def test_the_chance_of_a_training_allows_as_many_failed_rounds_as_spare_attempts(
    spare: int, held_out: float, questions: int
) -> None:
    found = chances(spare_attempts=spare, rounds=5, held_out_fraction=held_out)
    for chance in found.values():
        once, fails = chance.attempt, 1 - chance.attempt
        rounds = sum(
            math.comb(5 + spare, failed) * fails**failed * once ** (5 + spare - failed)
            for failed in range(spare + 1)
        )
        assert chance.training == pytest.approx(once**questions * rounds)


def test_more_silence_is_never_better_and_a_lower_quorum_never_worse() -> None:
    all_needed = chances(invited=names(8))
    for earlier, later in pairwise(all_needed.values()):
        assert earlier.attempt > later.attempt
        assert earlier.training > later.training
    some_needed = chances(invited=names(8), quorum=6)
    for silent, chance in some_needed.items():
        assert chance.attempt > all_needed[silent].attempt


def test_a_price_sheet_has_the_chances_at_every_rate() -> None:
    plan = signed_plan(SCHEMA, rounds=1)
    assert price_sheet(plan, SCHEMA).chances == tuple(_chance(plan, silent) for silent in SILENT)
