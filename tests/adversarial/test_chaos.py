"""Trainings in which everything fails that can: a part of what `python -m tests.chaos` runs.

A test that fails names its seed; `python -m tests.chaos --seed N` runs it again with its trace.
"""

import pytest

from tests.chaos.faults import Kind
from tests.chaos.mutants import MUTANTS
from tests.chaos.schedule import run

BLOCKS = 36
KINDS = len(Kind)
"""A block has as many seeds as there are kinds of faults: each kind strikes in each block."""


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS // 4))
def test_whatever_fails_no_promise_is_broken(block: int) -> None:
    for seed in range(KINDS * block, KINDS * (block + 1)):
        outcome = run(seed)
        assert not outcome.violations, f"python -m tests.chaos --seed {seed}: {outcome.violations}"


SEEDS_TO_FIND = 80


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_observer_finds_each_mutant_within_a_stated_number_of_seeds(mutant: str) -> None:
    for seed in range(SEEDS_TO_FIND):
        with MUTANTS[mutant]():
            if run(seed).violations:
                return
    pytest.fail(f"the product {mutant}, and {SEEDS_TO_FIND} schedules did not show it")


def test_a_seed_gives_the_same_schedule_again() -> None:
    first, again = run(5), run(5)
    assert first.trace == again.trace
    assert first.trace != run(6).trace
