import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.quality.correction import correction
from experiments.trial import people_of, train_alone
from federation.model.exact_auc import auc_of
from federation.model.scorecard import AdditiveCard
from tests.federations import small_schema, small_table


def test_a_card_that_already_says_it_all_is_hardly_corrected(tmp_path):
    table = small_table(tmp_path / "own.parquet", 4_000, seed=1)
    schema = small_schema()
    national = train_alone(schema, table)
    own = correction(schema, national, people_of(schema, table))
    largest = max(abs(weight) for of in national.weights for weight in of)
    assert max(abs(weight) for of in own.weights for weight in of) < largest / 3


def test_a_card_of_people_who_behave_the_other_way_round_is_put_right(tmp_path):
    schema = small_schema()
    own = small_table(tmp_path / "own.parquet", 4_000, seed=1)
    turned = pq.read_table(small_table(tmp_path / "turned.parquet", 4_000, seed=2))
    late = pa.array(5 - turned.column("late").to_numpy())
    place = turned.column_names.index("late")
    pq.write_table(turned.set_column(place, "late", late), tmp_path / "turned.parquet")
    national = train_alone(schema, tmp_path / "turned.parquet")
    people = people_of(schema, own)
    both = national.scores(people.codes) + correction(schema, national, people).scores(people.codes)
    assert auc_of(both, people.bad).value > people.auc(national) + 0.1
    assert abs(auc_of(both, people.bad).value - people.auc(train_alone(schema, own))) < 0.03


def test_what_is_not_held_is_not_corrected(tmp_path):
    schema = small_schema()
    table = small_table(tmp_path / "own.parquet", 1_000, seed=1)
    national = train_alone(schema, table)
    own = correction(schema, national, people_of(schema, table, ("late",)))
    place = [grid.name for grid in schema.grids].index("late")
    assert isinstance(own, AdditiveCard)
    assert np.abs(own.weights[place]).max() == 0
