"""What a configuration says of an institution's table: source, columns, who is left out, space."""

import dataclasses
import datetime as dt
import json
import shutil
import tomllib
from collections import namedtuple
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import tomli_w

from clients.configuration import load_configuration, load_daemon_configuration
from clients.disk_space import snapshot_bytes, space_rule
from clients.premises import premises_of
from clients.reading import Reading
from clients.withdrawals import Withdrawals
from federation.errors import ConfigurationError
from federation.population import key_hashes
from federation.privacy.units import Population
from tests.federations import _SMALL, federation, small_schema, small_table
from tests.integration.test_command import run
from tests.integration.test_institution_command import init
from tests.postgresql import running

NAME = "bank-00"
CONFIG = f"{NAME}/institution.toml"
TODAY = dt.date(2024, 6, 30)
RECENT = TODAY - dt.timedelta(days=100)


def clock() -> int:
    return int(dt.datetime(2024, 6, 30, 12, tzinfo=dt.UTC).timestamp())


@pytest.fixture
def fedscore(monkeypatch, capsys):
    return lambda *arguments: run(monkeypatch, capsys, *map(str, arguments))


@pytest.fixture
def bank(tmp_path, monkeypatch, fedscore):
    """An institution beside its table, in the current directory."""
    monkeypatch.chdir(tmp_path)
    small_table(tmp_path / "table.parquet", 300, 0)
    assert init(fedscore, NAME)[0] == 0
    Path(NAME, "schema.toml").write_text(_SMALL.format(rows="one"))
    return tmp_path


def configure(text: str = "", **changes: str) -> None:
    """Puts sections at the end of the configuration, and other values to some of its keys."""
    path = Path(CONFIG)
    lines = path.read_text().splitlines()
    for key, value in changes.items():
        (place,) = [
            n for n, line in enumerate(lines) if line.startswith((f"{key} =", f"# {key} ="))
        ]
        lines[place] = f"{key} = {json.dumps(value)}"
    path.write_text("\n".join([*lines, text]) + "\n")


def people(directory: str = "taken") -> int:
    """Returns how many people a snapshot has now."""
    configuration = load_daemon_configuration(Path(CONFIG))
    taken = Reading(
        configuration=configuration,
        schema=small_schema(),
        split=configuration.split,
        clock=clock,
        withdrawals=Withdrawals(premises_of(configuration).withdrawals),
    )(Path(directory).resolve())
    return sum(taken.people(one) for one in Population)


def test_what_init_writes_reads_the_table_as_it_is(bank):
    found = load_daemon_configuration(Path(CONFIG))
    assert found.source == bank / "table.parquet"
    assert (found.columns, found.consent, found.retention) == ({}, None, None)
    assert people() == 300


def test_every_commented_setting_of_the_template_is_one(bank):
    path = Path(CONFIG)
    text = path.read_text()
    for line in ("[columns]", 'income = "inc', "[consent]", "column = ", "given = ", "refused = ",
                 "[retention]", "days = ", "snapshots = ", "postgresql_connection = "):  # fmt: skip
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line)
    path.write_text(text)
    found = load_daemon_configuration(path)
    assert found.columns == {"income": "inc_gross_m"}
    assert (found.consent.column, found.consent.given) == ("may_train", ("yes",))
    assert (found.retention.column, found.retention.days) == ("updated_on", 730)
    assert found.snapshots == "/fast/disk"
    assert found.source.connection_file == bank / NAME / "postgresql.conninfo"


def test_columns_consent_and_retention_are_read_as_configured(bank):
    table = pa.parquet.read_table("table.parquet").rename_columns({"income": "inc"})
    agreed = pa.array(["yes" if row % 2 else "no" for row in range(300)])
    seen = pa.array([RECENT if row % 3 else dt.date(2020, 1, 1) for row in range(300)])
    table = table.append_column("agreed", agreed).append_column("seen", seen)
    pa.parquet.write_table(table, "table.parquet")
    configure(
        '[columns]\nincome = "inc"\n'
        '[consent]\ncolumn = "agreed"\ngiven = ["yes"]\nrefused = ["no"]\n'
        '[retention]\ncolumn = "seen"\ndays = 365\n'
    )
    assert people() == 100


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[consent]\ncolumn = "a"\nrefused = ["no"]', "refused lists texts"),
        ('[consent]\ngiven = ["yes"]', "missing required field `column`"),
        ('[retention]\ncolumn = "a"\ndays = -1', "expected days=-1 of at least 0"),
        ('[retention]\ncolumn = "a"\ndays = "1"', "Expected `int`"),
        ('[consent]\ncolumn = "a"\nother = 1', "unknown field `other`"),
        ("[columns]\nincome = 1", "Expected `str`"),
    ],
)
def test_a_section_that_does_not_fit_is_named(bank, text, told):
    configure(text)
    with pytest.raises(ConfigurationError, match=told):
        load_daemon_configuration(Path(CONFIG))


def test_a_mapping_of_a_column_that_is_not_read_is_refused(bank):
    configure('[columns]\nnonsense = "inc"')
    with pytest.raises(ConfigurationError, match="columns that are not read"):
        people()
    assert not Path("taken").exists()


def test_configurations_of_simulations_know_the_same_sections(bank, tmp_path):
    policy = tomllib.loads(Path(CONFIG).read_text())["policy"]
    content = {"id": "a", "title": "A", "most_people": 10, "table": "t.csv", "policy": policy}
    path = tmp_path / "a.toml"
    path.write_text(tomli_w.dumps(content))
    assert load_configuration(path).source == tmp_path / "t.csv"
    path.write_text(tomli_w.dumps(content | {"columns": {"a": "b"}, "consent": {"column": "c"}}))
    assert load_configuration(path).consent.column == "c"


def test_people_withdraw_by_a_file_of_keys_and_never_come_back(bank, fedscore):
    Path("keys.txt").write_text("3\r\n4\n\n4\n250\n")
    code, out, _ = fedscore("institution", "withdraw", CONFIG, "--key-file", "keys.txt")
    assert (code, out.split(".")[0]) == (0, "3 keys, 3 of them new")
    assert people() == 297
    Path("keys.txt").write_text("250\n251")
    _, out, _ = fedscore("institution", "withdraw", CONFIG, "--key-file", "keys.txt")
    assert out.startswith("2 keys, 1 of them new.")
    assert people("again") == 296


def test_nothing_that_was_withdrawn_stands_readable_in_the_state(bank, fedscore):
    key = "Erika Mustermann 1964"
    Path("keys.txt").write_text(key)
    fedscore("institution", "withdraw", CONFIG, "--key-file", "keys.txt")
    split = load_daemon_configuration(Path(CONFIG)).split
    public = key_hashes(split, [key]).tobytes()
    for path in Path(NAME, "state").rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes()
            assert public not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda: Path("keys.txt").unlink(), "Cannot read keys.txt"),
        (lambda: Path("keys.txt").write_text("\n\n"), "names nobody"),
        (lambda: Path("keys.txt").write_bytes(b"secret\xff"), "not a text file in UTF-8"),
        (lambda: Path(NAME, "state", "withdrawn").unlink(), "Restore it"),
        (
            lambda: Path(NAME, "schema.toml").write_text(
                _SMALL.format(rows="one").replace('"person"', '"row"')
            ),
            'person_key = "row"',
        ),
    ],
)
def test_a_withdrawal_that_cannot_be_kept_is_refused(bank, fedscore, spoil, told):
    Path("keys.txt").write_text("secret\n")
    before = Path(NAME, "state", "withdrawn").read_bytes()
    spoil()
    code, out, err = fedscore("institution", "withdraw", CONFIG, "--key-file", "keys.txt")
    assert code == 78
    assert told in err
    assert "secret" not in out + err
    assert "Traceback" not in err
    path = Path(NAME, "state", "withdrawn")
    assert not path.exists() or path.read_bytes() == before


def rule():
    configuration = load_daemon_configuration(Path(CONFIG))
    return space_rule(configuration, premises_of(configuration), small_schema())


def test_a_disk_without_room_for_the_snapshot_fails_a_rule(bank, monkeypatch):
    assert rule().holds
    usage = namedtuple("usage", "total used free")
    for missing, holds in ((0, True), (1, False)):
        free = snapshot_bytes(small_schema(), 300) - missing
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(0, 0, free))
        assert rule().holds is holds
    assert "needs up to 0.0 MB for about 300 rows" in rule().text
    assert rule().code == "unavailable"


def test_a_snapshot_never_takes_more_than_was_asked_for(bank):
    people()
    size = sum(path.stat().st_size for path in Path("taken").iterdir())
    header = Path("taken", "snapshot.json").stat().st_size
    assert size - header <= snapshot_bytes(small_schema(), 300)


def test_the_snapshot_that_is_there_counts_as_free(bank, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 0))
    assert not rule().holds
    Path(NAME, "state", "snapshots", "snapshot").mkdir()
    content = bytes(snapshot_bytes(small_schema(), 300))
    Path(NAME, "state", "snapshots", "snapshot", "trained.blocks").write_bytes(content)
    assert rule().holds


def test_a_table_that_cannot_be_read_fails_the_rule_and_says_why(bank):
    Path("table.parquet").unlink()
    assert not rule().holds
    assert "cannot be told: There is no table" in rule().text


def test_the_rows_of_csv_are_estimated_closely(bank):
    table = pa.parquet.read_table("table.parquet")
    pa.csv.write_csv(pa.concat_tables([table] * 200), "table.csv")
    configure(table=str(bank / "table.csv"))
    rows = int(rule().text.split("about ")[1].split()[0].replace(",", ""))
    assert abs(rows - 60_000) < 600


def test_snapshots_lie_where_the_operator_says_and_nobody_else_may_look(bank):
    configure(snapshots=str(bank / "fast"))
    with pytest.raises(ConfigurationError, match="mkdir -m 700"):
        rule()
    Path("fast").mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        rule()
    Path("fast").chmod(0o700)
    assert f"free in {bank / 'fast'}" in rule().text


@pytest.mark.slow
def test_an_institution_reads_postgresql_as_its_configuration_says(bank, fedscore):
    configure(table="public.people", postgresql_connection="postgresql.conninfo")
    with running() as server:
        file = Path(NAME, "postgresql.conninfo")
        file.write_text(server.connection_string())
        file.chmod(0o600)
        assert "has no table public.people" in rule().text
        server.load("people", pa.parquet.read_table("table.parquet"))
        assert "about 300 rows" in rule().text
        server.execute("ANALYZE people")
        assert "about 300 rows" in rule().text
        assert people() == 300
    assert "Cannot connect to PostgreSQL" in rule().text
    assert not rule().holds


@pytest.mark.slow
def test_a_training_from_postgresql_releases_the_same_bytes_as_one_from_parquet(tmp_path):
    built = federation(tmp_path, rows_each=2)
    built.run(out="files")
    with running() as server:
        file = tmp_path / "postgresql.conninfo"
        file.touch(mode=0o600)
        file.write_text(server.connection_string())
        for member in built.members:
            server.load(member.id, pa.parquet.read_table(member.table))
        members = tuple(
            msgspec.structs.replace(member, table=member.id, postgresql_connection=str(file))
            for member in built.members
        )
        dataclasses.replace(built, members=members).run(out="databases")
    first, second = (tmp_path / out / "release.json" for out in ("files", "databases"))
    assert first.read_bytes() == second.read_bytes()
