import numpy as np
import pyarrow as pa
import pytest

from experiments.quality import peers
from federation.schema import load_schema

SCHEMA = """
format = 1
name = "Peers"
person_key = "row"
rows_per_person = "one"
[outcome]
column = "bad"
window = "a year"
[[feature]]
name = "income"
role = "scored"
kind = "number"
unit = "EUR"
reason = "Income"
lower = 0
upper = 10000
spacing = "log"
log_unit = 100
outside = "clamp"
missing = true
[[feature]]
name = "late"
role = "scored"
kind = "count"
unit = "payments"
reason = "Late payments"
lower = 0
upper = 4
outside = "clamp"
special = [{ code = 98, label = "unknown" }]
[[feature]]
name = "home"
role = "scored"
kind = "category"
reason = "Housing"
categories = ["rent", "own"]
"""


@pytest.fixture
def schema():
    return load_schema(SCHEMA)


def people(count=4):
    columns = {
        "bad": [0, 1, 0, 1],
        "income": [None, 50_000.0, 0.0, 900.0],
        "late": [98, 7, 0, 2],
        "home": ["rent", "own", "own", "rent"],
    }
    return pa.table({name: values * (count // 4) for name, values in columns.items()})


def test_the_curator_gets_public_bounds_and_a_place_for_what_is_missing(schema):
    low, high = peers._bounds(schema.features[0])
    assert high == pytest.approx(np.log1p(100))
    assert low == pytest.approx(-high / 32)
    seen = peers._transformed(schema, people())
    assert seen[:, 0].astype(float) == pytest.approx([low, high, 0, np.log1p(9)])


def test_the_curator_gets_codes_and_categories_by_name(schema):
    seen = peers._transformed(schema, people())
    assert list(seen[:, 1]) == ["98", "4", "0", "2"]
    assert list(seen[:, 2]) == ["0", "1", "1", "0"]


def test_trees_get_raw_values(schema):
    raw = peers._raw(schema, people())
    assert raw[1].tolist() == [50_000.0, 7.0, 1.0]
    assert np.isnan(raw[0, 0])


def test_logistic_regression_gets_a_column_for_each_code_and_gap(schema):
    designed = peers._designed(schema, people())
    assert designed.shape == (4, 6)  # income, missing; late, code 98; rent, own
    assert designed[:, 2].tolist() == [2.0, 4.0, 0.0, 2.0]
    assert np.isfinite(designed).all()


@pytest.mark.slow
def test_every_peer_learns_what_is_plain(schema):
    table = people(2_000)
    found = peers.pooled(schema, table, table)
    assert min(found.logistic, found.xgboost) > 0.95
    curated = peers.curated(schema, table, table, epsilon=4.0, noise_seed=0)
    assert curated > 0.9
    assert curated == peers.curated(schema, table, table, epsilon=4.0, noise_seed=0)
