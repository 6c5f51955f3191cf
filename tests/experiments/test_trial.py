import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.trial import (
    Federation,
    Terms,
    deal,
    made_from,
    owners_by_hash,
    people_of,
    train,
    train_alone,
)
from tests.federations import small_schema, small_table

NAMES = ("bank-0", "bank-1", "bank-2", "bank-3")
TERMS = Terms(epsilon=4.0, rounds=2, people=800, most_per_institution=800)


@pytest.fixture
def federation(tmp_path):
    people = pq.read_table(small_table(tmp_path / "all.parquet", 800, seed=1))
    owners = owners_by_hash(people.column("person").to_numpy(), len(NAMES))
    deal(people, owners, NAMES, tmp_path)
    tables = {name: tmp_path / f"{name}.parquet" for name in NAMES}
    return Federation(schema=small_schema(), tables=tables)


def test_everybody_is_dealt_to_one_institution(federation):
    rows = [pq.read_table(table).num_rows for table in federation.tables.values()]
    assert sum(rows) == 800
    assert min(rows) > 100


@pytest.mark.slow
def test_equal_seeds_give_equal_cards_and_other_seeds_others(federation):
    first, again = (train(federation, TERMS, 1) for _ in range(2))
    assert first == again
    assert train(federation, TERMS, 2) != first


def test_a_card_beats_chance_on_the_people_it_was_trained_on(federation, tmp_path):
    people = people_of(federation.schema, tmp_path / "all.parquet")
    assert people.codes.shape == (3, 800)  # the protected feature is not scored
    assert people.auc(train_alone(federation.schema, tmp_path / "all.parquet")) > 0.6


def test_a_result_is_known_by_tables_terms_and_seed_but_not_by_the_day(federation, monkeypatch):
    made = made_from(federation, TERMS, 1)
    monkeypatch.setattr("experiments.trial.system_clock", lambda: 2_000_000_000)
    assert made_from(federation, TERMS, 1) == made
    assert made_from(federation, TERMS, 2) != made
    assert made_from(federation, msgspec.structs.replace(TERMS, rounds=3), 1) != made
    table = federation.tables["bank-0"]
    pq.write_table(pq.read_table(table).slice(1), table)
    assert made_from(federation, TERMS, 1) != made


def test_what_an_institution_does_not_hold_is_part_of_the_key(federation):
    other = Federation(
        schema=federation.schema, tables=federation.tables, not_held={"bank-0": ("late",)}
    )
    assert other.digest != federation.digest


def test_rows_are_scored_in_the_order_of_the_table(tmp_path):
    table = pq.read_table(small_table(tmp_path / "all.parquet", 300, seed=2))
    turned = table.take(pa.array(np.arange(300)[::-1]))
    pq.write_table(turned, tmp_path / "turned.parquet")
    first, second = (
        people_of(small_schema(), tmp_path / f"{name}.parquet") for name in ("all", "turned")
    )
    assert np.array_equal(first.codes, second.codes[:, ::-1])
