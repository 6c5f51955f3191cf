"""fedscore against what a user would pick instead, on split seed 0.

Settings may be chosen on this split. How they fare on others, which nobody has looked at before,
`confirmation` says.
"""

import sys
from collections.abc import Iterable

import msgspec

from experiments.datasets import GMSC, TAIWAN, Dataset, is_here, locate, sha256_of
from experiments.division import (
    EPSILONS,
    KNOWN,
    NOISE_SEEDS,
    ROUNDS,
    Divided,
    Score,
    divided,
    ours,
)
from experiments.experiment import Setting
from experiments.quality import peers
from experiments.trial import (
    made_from,
    train_alone,
)
from federation.errors import ConfigurationError


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


def run_comparison(setting: Setting) -> Comparison:
    """Compares on split seed 0. A data set that is not here keeps its last figures, and says so."""
    sets = []
    here, epsilons, rounds, seeds = KNOWN, EPSILONS, ROUNDS, NOISE_SEEDS
    if setting.quick:
        here, epsilons, rounds, seeds = (TAIWAN,), (1.0,), 1, 2
    here = tuple(dataset for dataset in here if is_here(dataset))
    setting.expect(len(here) * (2 * len(epsilons) * seeds + 1))
    for dataset in here:
        with divided(dataset, 0) as data:
            found = measured(setting, data, epsilons, rounds, seeds)
            sets.append(Compared(ours=found, peers=peers_without_privacy(setting, data)))
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


def measured(
    setting: Setting, data: Divided, epsilons: tuple[float, ...], rounds: int, seeds: int
) -> Set:
    """Returns fedscore and DP-EBM on one split, with noise seeds from 0 on."""
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
                fedscore=ours(setting, data, data.terms(epsilon, rounds), range(seeds)),
                dp_ebm=_curated(setting, data, epsilon, range(seeds)),
            )
            for epsilon in epsilons
        ),
    )


def _curated(setting: Setting, data: Divided, epsilon: float, seeds: Iterable[int]) -> Score:
    found = []
    for seed in seeds:

        def compute(seed: int = seed) -> float:
            return peers.curated(
                data.schema, data.train, data.test, epsilon=epsilon, noise_seed=seed
            )

        made = of_peer("DP-EBM", data) | {"epsilon": epsilon, "seed": seed}
        found.append(setting.step(made, float, compute))
    return Score(auc=tuple(found))


def peers_without_privacy(setting: Setting, data: Divided) -> Peers:
    """Returns the test AUC of what is trained on a split without privacy."""

    def compute() -> Peers:
        models = peers.pooled(data.schema, data.train, data.test)
        return Peers(
            logistic=models.logistic,
            xgboost=models.xgboost,
            card=data.people.auc(train_alone(data.schema, data.everyone)),
            alone=tuple(
                data.people.auc(train_alone(data.schema, table))
                for table in list(data.federation.tables.values())[: 2 if setting.quick else None]
            ),
        )

    made = of_peer("pooled", data) | made_from(data.federation, data.terms(1.0, 1), 0)
    return setting.step(made | {"what": "peers"}, Peers, compute)


def of_peer(name: str, data: Divided) -> dict[str, object]:
    """Returns what the result of a peer depends on, for the cache."""
    return {
        "peer": name,
        "versions": peers.VERSIONS,
        "data": data.digest,
        "schema": data.schema.digest,
    }
