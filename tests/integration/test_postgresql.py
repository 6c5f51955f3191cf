"""A table of PostgreSQL gives the snapshot that a file with the same rows gives, or nothing."""

import datetime as dt
import traceback
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from clients.left_out import Consent, LeftOut, Retention
from clients.snapshot import Snapshot, take_snapshot
from clients.sources import PostgresqlTable, opened
from federation.errors import ConfigurationError, DataError, FedscoreError
from federation.population import Split
from federation.privacy.units import Population
from federation.schema import Schema
from tests.federations import SALT, small_schema, small_table
from tests.postgresql import PASSWORD, Server, running

SPLIT = Split(salt=SALT, held_out_fraction=0.25)
MARK = 8_675_309  # a value that no message may hold


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


def connection_file(directory: Path, content: str, mode: int = 0o600) -> Path:
    path = directory / "postgresql.conninfo"
    path.write_text(content + "\n")
    path.chmod(mode)
    return path


@pytest.fixture
def source(server: Server, tmp_path: Path):
    file = connection_file(tmp_path, server.connection_string())
    return lambda table: PostgresqlTable(connection_file=file, table=table)


def take(table, directory: Path, schema: Schema | None = None, **options) -> Snapshot:
    return take_snapshot(
        schema or small_schema(),
        table,
        not_held=frozenset(),
        split=SPLIT,
        directory=directory,
        **options,
    )


def refusal(table, directory: Path, kind: type[FedscoreError], **options) -> str:
    before = sorted(directory.iterdir())
    with pytest.raises(kind) as caught:
        take(table, directory / "snapshot", **options)
    said = "".join(traceback.format_exception(caught.value))
    assert str(MARK) not in said
    assert PASSWORD not in said
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    assert sorted(directory.iterdir()) == before
    return str(caught.value)


def ordered_by_key(path: Path) -> pa.Table:
    return pa.parquet.read_table(path).sort_by("person")


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "each"), [("one", 1), ("many", 7)])
def test_parquet_csv_and_postgresql_give_the_same_snapshot(
    server: Server, source, tmp_path: Path, rows: str, each: int
) -> None:
    people = 70_000 // each
    table = ordered_by_key(small_table(tmp_path / "t.parquet", people, 5, rows_each=each))
    pa.csv.write_csv(table, tmp_path / "t.csv")
    order = np.random.default_rng(1).permutation(table.num_rows)
    server.load(f"same_{rows}", table.take(order) if each == 1 else table)

    schema = small_schema(rows=rows)
    places = (tmp_path / "t.parquet", tmp_path / "t.csv", source(f"same_{rows}"))
    taken = [take(one, tmp_path / f"s{place}", schema) for place, one in enumerate(places)]

    assert taken[0].people(Population.TRAINED) > 0.7 * people
    assert len({one.digest for one in taken}) == 1
    taken[2].verify()


def test_every_type_of_postgresql_is_read_as_what_it_is(server: Server, source) -> None:
    server.execute("CREATE TYPE home AS ENUM ('own', 'rent')")
    server.execute("CREATE DOMAIN amount AS numeric(12, 3)")
    server.execute("""
        CREATE TABLE types AS SELECT * FROM (VALUES
            (1::int2, 2::int4, -3::int8, 0.5::float4, 1e300::float8, 12345.678::amount, true,
             'rent'::home, 'Zürich'::text, 'x'::char(3), DATE '2024-02-29',
             TIMESTAMP '1969-12-31 23:59:59.5', TIMESTAMPTZ '2024-03-01 00:30+01',
             '5b3c0a1e-0000-4000-8000-000000000001'::uuid),
            (null, null, null, 'NaN', '-Infinity', 'NaN', null, null, '', null, 'infinity',
             '-infinity', 'infinity', null)
        ) AS t (a, b, c, d, e, f, g, h, i, j, k, l, m, n)""")
    with opened(source("types"), order_by="a") as table:
        (batch,) = table.batches(list(table.names))
        assert [table.type_of(name) for name in table.names] == [*batch.schema.types]
        assert table.rows() == 2

    first, second = batch.slice(0, 1).to_pylist()[0], batch.slice(1, 1)
    assert first | {"k": None, "l": None, "m": None} == {
        "a": 1, "b": 2, "c": -3, "d": 0.5, "e": 1e300, "f": 12345.678, "g": True, "h": "rent",
        "i": "Zürich", "j": "x", "k": None, "l": None, "m": None,
        "n": "5b3c0a1e-0000-4000-8000-000000000001",
    }  # fmt: skip
    assert first["k"] == dt.date(2024, 2, 29)
    assert first["l"] == dt.datetime(1969, 12, 31, 23, 59, 59, 500_000)
    assert first["m"] == dt.datetime(2024, 2, 29, 23, 30)
    assert [name for name in batch.schema.names if second[name].null_count] == [*"abcghjn"]
    assert np.isnan(second["d"][0].as_py())
    assert np.isnan(second["f"][0].as_py())
    assert second["e"][0].as_py() == -np.inf
    assert second["i"][0].as_py() == ""
    assert second["k"].cast(pa.int32())[0].as_py() == 2**31 - 1
    assert second["l"].cast(pa.int64())[0].as_py() == -(2**63)
    assert second["m"].cast(pa.int64())[0].as_py() == 2**63 - 1


def test_rows_come_in_the_order_of_the_key_byte_by_byte(server: Server, source) -> None:
    server.execute("CREATE TABLE keys AS SELECT unnest(ARRAY['b', 'a', 'B', 'ä', 'A b']) AS key")
    with opened(source("keys"), order_by="key") as table:
        (batch,) = table.batches(["key"])
    assert batch["key"].to_pylist() == ["A b", "B", "a", "b", "ä"]


def test_all_reads_are_of_one_moment(server: Server, source) -> None:
    server.execute("CREATE TABLE moment AS SELECT 1 AS key")
    with opened(source("moment"), order_by="key") as table:
        server.execute("INSERT INTO moment VALUES (2)")
        assert [len(batch) for batch in table.batches(["key"])] == [1]
        server.execute("INSERT INTO moment VALUES (3)")
        assert [len(batch) for batch in table.batches(["key"])] == [1]


def test_the_connection_can_only_read(server: Server, source) -> None:
    server.execute("CREATE TABLE counter (n int)")
    server.execute("""CREATE FUNCTION writes() RETURNS int LANGUAGE sql
        AS 'INSERT INTO counter VALUES (1) RETURNING n'""")
    server.execute("CREATE VIEW sly AS SELECT writes() AS key")
    with (
        opened(source("sly"), order_by="key") as table,
        pytest.raises(ConfigurationError, match="reading it writes something"),
    ):
        list(table.batches(["key"]))


def test_names_are_quoted_and_never_run(server: Server, source) -> None:
    server.execute('CREATE TABLE "odd ""; DROP TABLE victim; --" AS SELECT 1 AS "k"" % {}"')
    server.execute("CREATE TABLE victim AS SELECT 1 AS k")
    with opened(source('odd "; DROP TABLE victim; --'), order_by='k" % {}') as table:
        assert [batch.to_pylist() for batch in table.batches(['k" % {}'])] == [[{'k" % {}': 1}]]
    with opened(source("public.victim"), order_by="k") as table:
        assert table.names == ("k",)


def hostile(server: Server, name: str, **changes: str) -> None:
    """Makes a table of 100 good people whose columns are other expressions."""
    columns = {
        "person": "i::int8",
        "bad": "(i % 2)::int4",
        "income": "50::float8",
        "late": "1::int4",
        "home": "'rent'::text",
        "city": "'north'::text",
    } | changes
    listed = ", ".join(f'{value} AS "{column}"' for column, value in columns.items())
    server.execute(
        f"CREATE VIEW {name} AS SELECT {listed} FROM generate_series(1, 100) AS i"  # noqa: S608  ours
    )


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("nan", {"income": "'NaN'::float8"}, "income: "),
        ("infinite", {"income": "'Infinity'::float8"}, "income: "),
        ("huge", {"income": "1e30::float8"}, "income: "),
        ("outside", {"late": f"{MARK}"}, "late: "),
        ("no_key", {"person": "nullif(i, 7)::int8"}, "person: the person key must not be null"),
        ("no_outcome", {"bad": "nullif(i % 2, 1)"}, "bad: the outcome must not be null"),
        ("twice", {"person": "(i / 2)::int8"}, "person: a person has a second row"),
        ("text_for_number", {"income": f"'{MARK}'::text"}, "expected numbers, the column holds"),
        ("number_for_text", {"home": f"{MARK}"}, "home: expected text, the column holds int32"),
        ("no_numbers", {"income": f"('{MARK}' || 'x')::float8"}, "SQLSTATE 22P02"),
        ("beyond_double", {"income": f"('{MARK}e400')::numeric"}, "SQLSTATE 22003: a number is"),
        ("divided", {"income": "1 / (i - 50)"}, "SQLSTATE 22012"),
    ],
)
def test_a_hostile_value_is_refused_and_never_quoted(
    server: Server, source, tmp_path: Path, *, name: str, changes, expected: str
) -> None:
    hostile(server, name, **changes)
    assert expected in refusal(source(name), tmp_path, DataError)


def test_columns_that_are_missing_are_all_named(server: Server, source, tmp_path: Path) -> None:
    server.execute(f"CREATE TABLE bare AS SELECT {MARK} AS person, 0 AS bad")
    said = refusal(source("bare"), tmp_path, DataError)
    assert said.count("the table has no such column") == 4


def test_people_whose_rows_are_many_come_together_without_being_sorted(
    server: Server, source, tmp_path: Path
) -> None:
    hostile(server, "scattered", person="(i % 30)::int8", bad="(i % 30 % 2)::int4")
    taken = take(source("scattered"), tmp_path / "snapshot", small_schema(rows="many"))
    assert sum(taken.people(one) for one in Population) == 30
    assert sum(taken.rows(one) for one in Population) == 100


def test_a_table_that_is_not_there_is_refused(source, tmp_path: Path) -> None:
    said = refusal(source("nowhere.to_be_seen"), tmp_path, ConfigurationError)
    assert "no table nowhere.to_be_seen that this role may see" in said


def test_an_empty_table_is_refused(server: Server, source, tmp_path: Path) -> None:
    hostile(server, "everybody")
    server.execute("CREATE TABLE empty AS SELECT * FROM everybody LIMIT 0")
    assert "table: the table has no rows" in refusal(source("empty"), tmp_path, DataError)


def test_a_role_without_a_grant_is_refused(server: Server, tmp_path: Path) -> None:
    hostile(server, "locked")
    file = connection_file(tmp_path, server.connection_string("reader", PASSWORD))
    table = PostgresqlTable(connection_file=file, table="locked")
    said = refusal(table, tmp_path, ConfigurationError)
    assert "SQLSTATE 42501: the role may not read it: GRANT SELECT" in said
    server.execute("GRANT SELECT (person, bad, income, late, home, city) ON locked TO reader")
    assert take(table, tmp_path / "snapshot").rows(Population.TRAINED) > 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"password={PASSWORD} nonsense", "holds no connection string of libpq"),
        ("host=/nowhere dbname=postgres", "Cannot connect to PostgreSQL"),
        ("host={place} dbname=absent user=postgres", 'database "absent" does not exist'),
        (f"host={{place}} dbname=postgres user=reader password='{PASSWORD}!'", "authentication"),
        ("host={place} dbname=postgres user=reader", "no password supplied"),
    ],
)
def test_a_connection_that_is_refused_says_why_and_not_the_password(
    server: Server, tmp_path: Path, content: str, expected: str
) -> None:
    file = connection_file(tmp_path, content.format(place=server.directory))
    table = PostgresqlTable(connection_file=file, table="any")
    assert expected in refusal(table, tmp_path, ConfigurationError)


def test_a_connection_file_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    file = connection_file(tmp_path, f"password='{PASSWORD}'", mode=0o640)
    table = PostgresqlTable(connection_file=file, table="any")
    assert f"run `chmod 600 {file}`" in refusal(table, tmp_path, ConfigurationError)
    file.unlink()
    assert "No such file" in refusal(table, tmp_path, ConfigurationError)


def test_a_server_that_goes_in_the_middle_leaves_nothing(
    server: Server, source, tmp_path: Path
) -> None:
    server.execute("""CREATE FUNCTION ends_us(i int) RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN
        IF i = 90000 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
        RETURN 50; END $$""")
    server.execute("""CREATE VIEW going AS SELECT i::int8 AS person, i % 2 AS bad,
        ends_us(i) AS income, 1 AS late, 'rent'::text AS home, 'north'::text AS city
        FROM generate_series(1, 100000) AS i""")
    said = refusal(source("going"), tmp_path, ConfigurationError)
    assert "did not hand over the table going (SQLSTATE 57P01: the server is shutting down" in said
    assert psycopg.connect(server.connection_string()).close() is None


def test_a_disk_that_fills_in_the_middle_of_a_copy_leaves_nothing(
    server: Server, source, tmp_path: Path, monkeypatch
) -> None:
    server.execute("""CREATE VIEW large AS SELECT i::int8 AS person, i % 2 AS bad, 50 AS income,
        1 AS late, 'rent'::text AS home, 'north'::text AS city
        FROM generate_series(1, 200000) AS i""")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clients.blocks.BlockWriter._write", full)
    said = refusal(source("large"), tmp_path, ConfigurationError)
    assert "No space left on device" in said


def test_a_read_that_is_given_up_ends_quietly(server: Server, source) -> None:
    server.execute("CREATE TABLE given_up AS SELECT generate_series(1, 300000) AS key")
    with opened(source("given_up"), order_by="key") as table:
        batches = table.batches(["key"])
        next(batches)
    batches.close()


def test_consent_and_age_are_read_from_postgresql(server: Server, source, tmp_path: Path) -> None:
    hostile(
        server, "rules",
        agreed="CASE i % 4 WHEN 0 THEN null WHEN 1 THEN false ELSE true END",
        seen="DATE '2024-01-31' - i",
    )  # fmt: skip
    left_out = LeftOut(
        consent=Consent(column="agreed"),
        retention=Retention(column="seen", days=50),
        withdrawn=None,
        today=(dt.date(2024, 1, 31) - dt.date(1970, 1, 1)).days,
    )
    taken = take(source("rules"), tmp_path / "snapshot", left_out=left_out)
    expected = [i for i in range(1, 101) if i % 4 in (2, 3) and i <= 50]
    assert sum(taken.people(one) for one in Population) == len(expected)


def test_columns_may_have_other_names_in_the_database(
    server: Server, source, tmp_path: Path
) -> None:
    hostile(server, "named")
    server.execute(
        'CREATE VIEW renamed AS SELECT person AS "Kunde Nr.", bad, income AS inc, late, home, city '
        "FROM named"
    )
    mapping = {"person": "Kunde Nr.", "income": "inc"}
    first = take(source("named"), tmp_path / "first")
    second = take(source("renamed"), tmp_path / "second", mapping=mapping)
    assert first.digest == second.digest
