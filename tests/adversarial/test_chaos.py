"""Trainings in which everything fails that can: a part of what `python -m tests.chaos` runs.

A test that fails names its seed; `python -m tests.chaos --seed N` runs it again with its trace.
"""

import pytest

from tests.chaos.faults import Kind
from tests.chaos.mutants import MUTANTS
from tests.chaos.schedule import SHAPES, points, run

KINDS = len(Kind)
"""A block has as many seeds as there are kinds of faults: each kind strikes in each block."""
BLOCKS = 2
PARTS = 4  # of a block: one test each, of a few seconds
SEEDS_TO_FIND = 40


@pytest.mark.slow
@pytest.mark.parametrize("part", range(BLOCKS * PARTS))
def test_whatever_fails_no_promise_is_broken(part: int) -> None:
    block, first = divmod(part, PARTS)
    for seed in range(KINDS * block + first, KINDS * (block + 1), PARTS):
        outcome = run(seed)
        assert not outcome.violations, f"python -m tests.chaos --seed {seed}: {outcome.violations}"


@pytest.mark.soak
@pytest.mark.parametrize("name", MUTANTS)
def test_the_observer_finds_each_mutant_within_a_stated_number_of_seeds(name: str) -> None:
    mutant = MUTANTS[name]
    for shape in range(SHAPES):
        points(shape)  # of the product as it is: schedules are drawn from them
    for seed in range(SEEDS_TO_FIND):
        with mutant.made():
            if run(seed, mutant.shown_by).violations:
                return
    pytest.fail(f"the product {name}, and {SEEDS_TO_FIND} schedules did not show it")


def test_a_seed_gives_the_same_schedule_again() -> None:
    first, again = run(5), run(5)
    assert first.trace == again.trace
    assert first.trace != run(6).trace
