"""What a coordinator takes from its earlier trainings: the latest header of each institution."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from experiments.entropy import SeededEntropy
from federation.errors import ConfigurationError
from fedscore.simulation import TRANSCRIPT_FILE
from fedscore.trainings import Trainings
from server.rounds import MaskedSums
from server.running import Running
from server.training import run_training
from tests.federations import (
    _SMALL,
    KEY,
    NOW,
    federation,
    ignore,
    in_process,
    names,
    roster_of,
    signed_plan,
)

ALL = names(4)
SCHEMA = _SMALL.format(rows="one")


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """Three trainings: the last institution took part in the first only."""
    directory = tmp_path_factory.mktemp("earlier")
    (directory / "trainings").mkdir()
    found = Trainings(directory / "trainings")
    fed = federation(directory, rounds=1)
    roster = roster_of(fed.plan)
    with fed.seats(roster=roster) as seats:
        for number, invited in enumerate((ALL, ALL[:3], ALL[:3])):
            plan = signed_plan(fed.schema, name=f"plan-{number}", invited=invited, rounds=1)
            training = found.new(plan, SCHEMA, roster)
            with training.transcript() as transcript:
                sums = MaskedSums(
                    Running(
                        plan=plan,
                        schema=fed.schema,
                        roster=roster,
                        transport=in_process(seats),
                        key=KEY,
                        entropy=SeededEntropy(f"coordinator {number}"),
                        transcript=transcript,
                        seen=found.seen_before(training, invited),
                        keep_release=training.keep_release,
                        watch=ignore,
                    )
                )
                run_training(
                    plan=plan,
                    schema=fed.schema,
                    sums=sums,
                    key=KEY,
                    now=datetime.fromtimestamp(NOW, UTC),
                    watch=ignore,
                )
            for seat in seats.values():
                seat.institution.rest()
    return found


def sequences(trainings: Trainings, number: int, who: tuple[str, ...]) -> dict[str, int]:
    """Returns the ledger sequence of what was seen before a training, by institution."""
    training = trainings.all()[number - 1]
    seen = trainings.seen_before(training, who)
    return {name: one.header.ledger_sequence for name, one in seen.items()}


@pytest.mark.slow
def test_each_institution_is_held_against_the_latest_header_it_has_signed(
    trainings: Trainings,
) -> None:
    assert sequences(trainings, 1, ALL) == {}
    second, third = sequences(trainings, 2, ALL), sequences(trainings, 3, ALL)
    assert set(second) == set(third) == set(ALL)
    assert all(third[name] > second[name] for name in ALL[:3])
    assert third[ALL[3]] == second[ALL[3]], "in the first training only"
    past = trainings.all()[1].past().seen
    assert third[ALL[0]] == past[ALL[0]].header.ledger_sequence


@pytest.mark.slow
def test_no_more_transcripts_are_read_than_it_takes_to_meet_everybody(
    trainings: Trainings,
) -> None:
    first: Path = trainings.all()[0].directory / TRANSCRIPT_FILE
    content = first.read_bytes()
    first.write_bytes(b"what nobody can read\n")
    try:
        assert set(sequences(trainings, 3, ALL[:3])) == set(ALL[:3])
        with pytest.raises(ConfigurationError, match="is damaged"):
            sequences(trainings, 3, ALL)
    finally:
        first.write_bytes(content)
