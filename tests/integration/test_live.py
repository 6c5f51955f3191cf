"""`make live`, with fewer institutions and rounds: separate processes train one card.

The daemons draw noise that the test knows, so that the card must be the simulation's, byte for
byte: whatever lies between (envelopes, Flower, the front, PostgreSQL) changes nothing.
"""

from pathlib import Path

import pytest

from clients.configuration import Configuration, load_daemon_configuration
from clients.sources import PostgresqlTable
from federation.model.release import load_release
from fedscore import files
from fedscore.demo.nation import HOLDERS, Columns, deal_tables
from fedscore.live import Live, run_live
from fedscore.simulation import RELEASE_FILE, simulate
from tests import outside, seeded_daemon
from tests.federations import ignore

INSTITUTIONS = 3
SEEDED = ("-m", "tests.seeded_daemon")


def simulated(directory: Path, out: Path) -> bytes:
    """Returns the release of a simulation with the same plan, tables, keys, date and noise."""
    plan = files.read_plan(directory / "plan.toml")
    made = load_release((directory / "coordinator/trainings/0001/release.json").read_bytes())
    tables = deal_tables(out, Columns.AS_STAGED)
    members = []
    for holder in HOLDERS[:INSTITUTIONS]:
        daemon = load_daemon_configuration(directory / holder.id / "institution.toml", {})
        members.append(
            Configuration(
                id=daemon.id,
                title=daemon.title,
                most_people=daemon.most_people,
                table=str(tables[holder.id]),
                policy=daemon.policy,
                not_held=daemon.not_held,
            )
        )
    simulate(
        plan=plan,
        schema=files.read_schema(directory / "schema.toml"),
        members=tuple(members),
        key=files.read_key(directory / "coordinator" / "coordinator.key"),
        out=out / "simulated",
        watch=ignore,
        inspect=False,
        clock=lambda: int(made.issued_at.timestamp()),
        noise_entropy=seeded_daemon.noise_entropy,
    )
    return (out / "simulated" / RELEASE_FILE).read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("live")
    directory.chmod(0o700)
    return directory


@pytest.fixture(scope="module")
def seen(place: Path) -> Live:
    """What happened when separate processes trained one card in two rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        return run_live(place, institutions=INSTITUTIONS, rounds=2, daemon=SEEDED)


@pytest.mark.slow
def test_separate_processes_train_verify_and_end(place: Path, seen: Live) -> None:
    assert len(seen.rounds) == 2
    assert set(seen.exit_codes.values()) == {0}
    assert seen.checked[:2] == ("release", "transcript")
    assert len(seen.checked) == 2 + INSTITUTIONS
    for log in place.glob("*/daemon.log"):
        assert "signature valid" in log.read_text()
        assert "error" not in log.read_text()
    assert not list(place.glob("*/state/snapshots/*"))
    assert (place / "coordinator" / "superlink" / "front.log").is_file()


@pytest.mark.slow
def test_they_release_the_very_card_of_the_simulation(
    place: Path, seen: Live, tmp_path: Path
) -> None:
    released = (place / "coordinator" / "trainings" / "0001" / "release.json").read_bytes()
    assert simulated(place, tmp_path) == released
    for holder in HOLDERS[:INSTITUTIONS]:
        kept = place / holder.id / "state" / "releases" / "0001.json"
        assert kept.read_bytes() == released


@pytest.mark.slow
def test_one_of_them_has_its_table_in_postgresql(place: Path, seen: Live) -> None:
    outside.require("postgresql")
    last = HOLDERS[INSTITUTIONS - 1].id
    assert seen.postgresql == last
    configuration = load_daemon_configuration(place / last / "institution.toml", {})
    assert isinstance(configuration.source, PostgresqlTable)
    assert not (place / f"{last}.parquet").exists()
