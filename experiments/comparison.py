"""fedscore against what a user would pick instead: two public data sets, ten institutions.

Stratified 75/25 split; the trained people are dealt to ten institutions by a hash of their number;
quorum 10, one colluder, two spare attempts, bins included in the budget, delta 1e-6, 20 rounds.
`comparison` looks at split seed 0, on which settings may be chosen. `confirmation` looks at split
seeds 1 to 4, once, with settings that were frozen in a commit before.
"""

import math
import subprocess
import sys
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

from experiments import peers
from experiments.cache import ROOT, digest_of_files
from experiments.datasets import GMSC, TAIWAN, Dataset, is_here, locate, sha256_of
from experiments.experiment import Setting
from experiments.trial import (
    Federation,
    People,
    Terms,
    deal,
    made_from,
    owners_by_hash,
    people_of,
    train,
    train_alone,
)
from federation.errors import ConfigurationError
from federation.schema import Schema, load_schema

EPSILONS: Final[tuple[float, ...]] = (0.1, 0.5, 1.0, 4.0)
ROUNDS: Final = 20
NOISE_SEEDS: Final = 5
SPLITS: Final[tuple[int, ...]] = (1, 2, 3, 4)
KNOWN: Final[tuple[Dataset, ...]] = (TAIWAN, GMSC)
INSTITUTIONS: Final = tuple(f"bank-{number}" for number in range(10))

SCHEMAS: Final = Path(__file__).parent / "schemas"


def reach(values: Sequence[float]) -> float:
    """Returns half of the 95 % interval of a mean (Student); infinite for a single value."""
    count = len(values)
    if count < 2:
        return float("inf")
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return float(stats.t.ppf(0.975, count - 1)) * error


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Test AUC of each noise seed, and the median seconds of one training."""

    auc: tuple[float, ...]
    seconds: float

    @property
    def mean(self) -> float:
        """Mean over noise seeds."""
        return float(np.mean(self.auc))

    @property
    def reach(self) -> float:
        """Half of the 95 % interval of the mean over noise seeds (Student)."""
        return reach(self.auc)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One epsilon: ours among ten institutions, and DP-EBM with all records in one place."""

    epsilon: float
    fedscore: Score
    dp_ebm: Score


class Set(msgspec.Struct, frozen=True, kw_only=True):
    """One data set and one split.

    Attributes:
        dataset: name.
        data: sha256 of the file.
        schema: digest.
        split: seed of the 75/25 split.
        rounds: of training.
        trained: people at the ten institutions.
        tested: other people.
        rows: one for each epsilon.
    """

    dataset: str
    data: str
    schema: str
    split: int
    rounds: int
    trained: int
    tested: int
    rows: tuple[Row, ...]


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """Without privacy, test AUC.

    Attributes:
        logistic: logistic regression, pooled raw data.
        xgboost: likewise.
        card: our scorecard, pooled, no noise.
        alone: our scorecard of each institution alone.
    """

    logistic: float
    xgboost: float
    card: float
    alone: tuple[float, ...]


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One data set with all its peers."""

    ours: Set
    peers: Peers


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What `run comparison` found."""

    versions: dict[str, str]
    sets: tuple[Compared, ...]

    def of(self, dataset: Dataset) -> Compared:
        """Returns a data set's part.

        Raises:
            ConfigurationError: it was not run.
        """
        for one in self.sets:
            if one.ours.dataset == dataset.name:
                return one
        raise ConfigurationError(f"There is no result for {dataset.name}.")


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """What `run confirmation` found.

    Attributes:
        commit: in which the settings were frozen before these splits were ever looked at.
        versions: of the peers.
        sets: for each data set, split seeds 1 to 4.
    """

    commit: str
    versions: dict[str, str]
    sets: tuple[Set, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """fedscore less DP-EBM at one epsilon, paired by split.

    Attributes:
        dataset: name.
        epsilon: of both.
        splits: of each split, the difference of the means over noise seeds.
        fedscore: mean over splits and seeds.
        dp_ebm: likewise.
    """

    dataset: str
    epsilon: float
    splits: tuple[float, ...]
    fedscore: float
    dp_ebm: float

    @property
    def mean(self) -> float:
        """Mean over splits."""
        return float(np.mean(self.splits))

    @property
    def reach(self) -> float:
        """Half of the 95 % interval over splits (Student); it holds both splits and noise."""
        return reach(self.splits)


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

    def terms(self, epsilon: float, rounds: int) -> Terms:
        """Returns the plan's terms: N is the public size of the data set's training part."""
        return Terms(
            epsilon=epsilon,
            rounds=rounds,
            people=self.train.num_rows,
            most_per_institution=self.train.num_rows // 5,
        )


def schema_of(dataset: Dataset) -> Schema:
    """Returns the schema that experiments use for a data set."""
    name = {"taiwan": "taiwan_all"}.get(dataset.name, dataset.name)
    return load_schema((SCHEMAS / f"{name}.toml").read_text())


@contextmanager
def divided(dataset: Dataset, split: int) -> Iterator[Divided]:
    """Yields a data set, split and dealt; its files are gone afterwards."""
    schema = schema_of(dataset)
    rows = pq.read_table(locate(dataset))
    outcome = rows.column(dataset.outcome).to_numpy()
    chosen, others = train_test_split(
        np.arange(len(outcome)), test_size=0.25, stratify=outcome, random_state=split
    )
    train_rows, test_rows = rows.take(pa.array(chosen)), rows.take(pa.array(others))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        everyone, test = directory / "everyone.parquet", directory / "test.parquet"
        pq.write_table(train_rows, everyone)
        pq.write_table(test_rows, test)
        keys = train_rows.column(schema.person_key).to_numpy()
        deal(train_rows, owners_by_hash(keys, len(INSTITUTIONS)), INSTITUTIONS, directory)
        yield Divided(
            dataset=dataset,
            schema=schema,
            split=split,
            train=train_rows,
            test=test_rows,
            everyone=everyone,
            federation=Federation(
                schema=schema,
                tables={name: directory / f"{name}.parquet" for name in INSTITUTIONS},
            ),
            people=people_of(schema, test),
            digest=digest_of_files((everyone, test)),
        )


def ours(
    setting: Setting, data: Divided, epsilon: float, rounds: int, seeds: Iterable[int]
) -> Score:
    """Returns the test AUC of fedscore with each noise seed."""
    terms = data.terms(epsilon, rounds)
    found = [_once(setting, data, terms, seed) for seed in seeds]
    return _score(found)


def _once(setting: Setting, data: Divided, terms: Terms, seed: int) -> tuple[float, float]:
    def compute() -> tuple[float, float]:
        trained = train(data.federation, terms, seed)
        return data.people.auc(trained.card), trained.seconds

    made = made_from(data.federation, terms, seed) | {"test": data.digest}
    return setting.step(made, tuple[float, float], compute)


def _curated(setting: Setting, data: Divided, epsilon: float, seeds: Iterable[int]) -> Score:
    found = []
    for seed in seeds:

        def compute(seed: int = seed) -> peers.Curated:
            return peers.curated(
                data.schema, data.train, data.test, epsilon=epsilon, noise_seed=seed
            )

        made = _of_peer("DP-EBM", data) | {"epsilon": epsilon, "noise": seed}
        one = setting.step(made, peers.Curated, compute)
        found.append((one.auc, one.seconds))
    return _score(found)


def _peers(setting: Setting, data: Divided) -> Peers:
    def compute() -> Peers:
        models = peers.pooled(data.schema, data.train, data.test)
        return Peers(
            logistic=models.logistic,
            xgboost=models.xgboost,
            card=data.people.auc(train_alone(data.schema, data.everyone)),
            alone=tuple(
                data.people.auc(train_alone(data.schema, table))
                for table in data.federation.tables.values()
            ),
        )

    made = _of_peer("pooled", data) | made_from(data.federation, data.terms(1.0, 1), 0)
    return setting.step(made | {"what": "peers"}, Peers, compute)


def _of_peer(name: str, data: Divided) -> dict[str, object]:
    return {
        "peer": name,
        "code": sha256_of(Path(peers.__file__)),
        "versions": peers.VERSIONS,
        "data": data.digest,
        "schema": data.schema.digest,
    }


def _score(found: list[tuple[float, float]]) -> Score:
    return Score(
        auc=tuple(auc for auc, _ in found), seconds=float(np.median([time for _, time in found]))
    )


def _set(
    setting: Setting, data: Divided, epsilons: tuple[float, ...], rounds: int, seeds: int
) -> Set:
    return Set(
        dataset=data.dataset.name,
        data=sha256_of(locate(data.dataset)),
        schema=data.schema.digest,
        split=data.split,
        rounds=rounds,
        trained=data.train.num_rows,
        tested=data.test.num_rows,
        rows=tuple(
            Row(
                epsilon=epsilon,
                fedscore=ours(setting, data, epsilon, rounds, range(seeds)),
                dp_ebm=_curated(setting, data, epsilon, range(seeds)),
            )
            for epsilon in epsilons
        ),
    )


def run_comparison(setting: Setting) -> Comparison:
    """Compares on split seed 0. A data set that is not here keeps its last figures, and says so."""
    sets = []
    here, epsilons, rounds, seeds = KNOWN, EPSILONS, ROUNDS, NOISE_SEEDS
    if setting.quick:
        here, epsilons, rounds, seeds = (TAIWAN,), (1.0,), 4, 2
    here = tuple(dataset for dataset in here if is_here(dataset))
    setting.expect(len(here) * (2 * len(epsilons) * seeds + 1))
    for dataset in here:
        with divided(dataset, 0) as data:
            found = _set(setting, data, epsilons, rounds, seeds)
            sets.append(Compared(ours=found, peers=_peers(setting, data)))
    if GMSC not in here and not setting.quick:
        sets += _kept(setting, GMSC)
    return Comparison(versions=peers.VERSIONS, sets=tuple(sets))


def _kept(setting: Setting, dataset: Dataset) -> list[Compared]:
    try:
        locate(dataset)
    except ConfigurationError as error:
        sys.stderr.write(f"{dataset.title} was not run; its last figures are kept. {error}\n")
    last = setting.last(Comparison)
    return [one for one in last.sets if one.ours.dataset == dataset.name] if last else []


def run_confirmation(setting: Setting) -> Confirmation:
    """Looks at split seeds 1 to 4 with what is committed.

    Raises:
        ConfigurationError: something that decides the figures is not committed.
    """
    epsilons, rounds, seeds, splits = EPSILONS, ROUNDS, NOISE_SEEDS, SPLITS
    known, commit = KNOWN, "a small version freezes nothing"
    if setting.quick:
        # Other splits: a small version never looks at those that are kept for the confirmation.
        epsilons, rounds, seeds, splits, known = (1.0,), 4, 2, (101, 102), (TAIWAN,)
    else:
        commit = frozen_commit()
    setting.expect(len(known) * len(splits) * 2 * len(epsilons) * seeds)
    sets = []
    for dataset in known:
        for split in splits:
            with divided(dataset, split) as data:
                sets.append(_set(setting, data, epsilons, rounds, seeds))
    return Confirmation(commit=commit, versions=peers.VERSIONS, sets=tuple(sets))


def frozen_commit() -> str:
    """Returns the commit that holds everything that decides a figure.

    Raises:
        ConfigurationError: a file of the product or of the experiments differs from it.
    """
    parts = (
        "federation",
        "clients",
        "server",
        "fedscore",
        "experiments/*.py",
        "experiments/schemas",
    )
    changed = _git("status", "--porcelain", "--", *parts)
    if changed:
        raise ConfigurationError(
            f"Commit first: a confirmation runs on frozen settings. Changed:\n{changed}"
        )
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigurationError("A confirmation runs in a git checkout, to name its commit.")
    return done.stdout.strip()


def differences(found: Confirmation) -> tuple[Difference, ...]:
    """Returns the paired differences, by data set and epsilon."""
    names = dict.fromkeys(one.dataset for one in found.sets)
    answer = []
    for name in names:
        sets = [one for one in found.sets if one.dataset == name]
        for place, row in enumerate(sets[0].rows):
            rows = [one.rows[place] for one in sets]
            answer.append(
                Difference(
                    dataset=name,
                    epsilon=row.epsilon,
                    splits=tuple(one.fedscore.mean - one.dp_ebm.mean for one in rows),
                    fedscore=float(np.mean([one.fedscore.mean for one in rows])),
                    dp_ebm=float(np.mean([one.dp_ebm.mean for one in rows])),
                )
            )
    return tuple(answer)
