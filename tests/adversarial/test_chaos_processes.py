"""Some runs of real processes under chaos: part of `python -m tests.chaos --processes 25`."""

import pytest

pytest.importorskip("flwr")

from tests.chaos.processes import FAULTS, run


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["daemon killed", "coordinator killed"])
def test_real_processes_that_are_killed_keep_every_promise(kind: str) -> None:
    outcome, faults, ended = run(list(FAULTS).index(kind))
    assert kind in faults
    assert not outcome.violations, outcome.events
    assert ended == "release", outcome.events
