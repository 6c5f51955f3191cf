"""One public data set, split and dealt to ten institutions: what most experiments run on.

Stratified 75/25 split; the trained people are dealt by a hash of their number; quorum 10, one
colluder, two spare attempts, bins included in the budget, delta 1e-6, 20 rounds.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats
from sklearn.model_selection import train_test_split

from experiments.cache import SCHEMAS, digest_of_files
from experiments.datasets import GMSC, SBA, TAIWAN, Dataset, locate
from experiments.experiment import Setting
from experiments.loans import features_of
from experiments.trial import (
    Federation,
    People,
    Terms,
    deal,
    made_from,
    owners_by_hash,
    people_of,
    train,
)
from federation.schema import ROW_AS_KEY, Schema, load_schema
from fedscore.planning import BINS_SHARE

EPSILONS: Final[tuple[float, ...]] = (0.1, 0.5, 1.0, 4.0)
ROUNDS: Final = 20
NOISE_SEEDS: Final = 5
KNOWN: Final[tuple[Dataset, ...]] = (TAIWAN, GMSC)
TEST_SHARE: Final = 0.25
INSTITUTIONS: Final = tuple(f"bank-{number}" for number in range(10))


def reach(values: Sequence[float]) -> float:
    """Returns half of the 95 % interval of a mean (Student); infinite for a single value."""
    count = len(values)
    if count < 2:
        return float("inf")
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(stats.t.ppf(0.975, count - 1)) * error


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Test AUC of each noise seed."""

    auc: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over noise seeds."""
        return float(np.mean(self.auc))

    @property
    def reach(self) -> float:
        """Half of the 95 % interval of the mean over noise seeds (Student)."""
        return reach(self.auc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """One split of one data set, on disk."""

    dataset: Dataset
    schema: Schema
    split: int
    train: pa.Table
    test: pa.Table
    everyone: Path
    federation: Federation
    people: People
    digest: str

    def terms(self, epsilon: float, rounds: int, bins_share: float = BINS_SHARE) -> Terms:
        """Returns the plan's terms: N is the public size of the data set's training part."""
        return Terms(
            epsilon=epsilon,
            rounds=rounds,
            people=self.train.num_rows,
            most_per_institution=self.train.num_rows // 5,
            bins_share=bins_share,
        )


def schema_of(dataset: Dataset) -> Schema:
    """Returns the schema that experiments use for a data set."""
    name = {"taiwan": "taiwan_all"}.get(dataset.name, dataset.name)
    return load_schema((SCHEMAS / f"{name}.toml").read_text())


def _rows_of(dataset: Dataset) -> pa.Table:
    """Returns all rows; of the SBA's loans those at their natural rate of bad ones."""
    rows = pq.read_table(locate(dataset))
    if dataset is not SBA:
        return rows
    return features_of(rows.filter(rows.column("natural_rate_subset")))


@contextmanager
def divided(
    dataset: Dataset, split: int, institutions: tuple[str, ...] = INSTITUTIONS
) -> Iterator[Divided]:
    """Yields a data set, split and dealt; its files are gone afterwards."""
    schema = schema_of(dataset)
    rows = _rows_of(dataset)
    outcome = rows.column(dataset.outcome).to_numpy()
    chosen, others = train_test_split(
        np.arange(len(outcome)), test_size=TEST_SHARE, stratify=outcome, random_state=split
    )
    train_rows, test_rows = rows.take(pa.array(chosen)), rows.take(pa.array(others))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        everyone, test = directory / "everyone.parquet", directory / "test.parquet"
        pq.write_table(train_rows, everyone)
        pq.write_table(test_rows, test)
        if schema.person_key == ROW_AS_KEY:
            keys = np.arange(train_rows.num_rows)
        else:
            keys = train_rows.column(schema.person_key).to_numpy()
        deal(train_rows, owners_by_hash(keys, len(institutions)), institutions, directory)
        yield Divided(
            dataset=dataset,
            schema=schema,
            split=split,
            train=train_rows,
            test=test_rows,
            everyone=everyone,
            federation=Federation(
                schema=schema,
                tables={name: directory / f"{name}.parquet" for name in institutions},
            ),
            people=people_of(schema, test),
            digest=digest_of_files((everyone, test)),
        )


def ours(setting: Setting, data: Divided, terms: Terms, seeds: Iterable[int]) -> Score:
    """Returns the test AUC of fedscore with each noise seed."""
    return Score(auc=tuple(_once(setting, data, terms, seed) for seed in seeds))


def _once(setting: Setting, data: Divided, terms: Terms, seed: int) -> float:
    def compute() -> float:
        return data.people.auc(train(data.federation, terms, seed))

    made = made_from(data.federation, terms, seed) | {"test": data.digest}
    return setting.step(made, float, compute)
