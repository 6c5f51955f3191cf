"""Does a small bank gain? SBA loans by their real banks.

The part of the data at the natural rate of bad loans; the eight largest banks by name, all others
as ten institutions by a hash of the bank's name: 18 institutions, all of which must answer, one
colluder, delta 1e-6. 75/25 splits, seeded and stratified by institution. Three cards are held
against each other on each bank's own test loans, all three of the same making:

* alone: from the bank's own training loans, no noise;
* federated: from the training loans of all 18, with noise, the whole product;
* pooled: from the training loans of all 18 in one place, no noise.

What is reported of a single bank is known in a simulation only: no federation would see it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import stats
from sklearn.model_selection import train_test_split

from experiments.datasets import SBA, locate, sha256_of
from experiments.division import SCHEMAS
from experiments.experiment import Setting
from experiments.loans import IDS, NAMED, features_of, institutions_of, synthetic_loans
from experiments.trial import (
    Federation,
    People,
    Terms,
    Trained,
    deal,
    made_from,
    people_of,
    train,
    train_alone,
)
from federation.model.exact_auc import auc_difference, auc_of
from federation.model.scorecard import AdditiveCard
from federation.schema import Schema, load_schema

EPSILONS: Final = (1.0, 4.0)
SPLITS: Final = 20
ROUNDS: Final = 20
NOISE_SEEDS_BY_TIME: Final = 5
LAST_YEAR_OF_TRAINING: Final = 2005
TEST_SHARE: Final = 0.25


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One bank at one epsilon, on one split or by time. Simulation only.

    Attributes:
        alone: AUC on the bank's test loans.
        federated: likewise.
        pooled: likewise.
    """

    alone: float
    federated: float
    pooled: float


class Bank(msgspec.Struct, frozen=True, kw_only=True):
    """One institution. Simulation only.

    Attributes:
        id: bank-0 to bank-7 are the largest; others-0 to others-9 the rest.
        title: for people.
        loans: training and test.
        bad_rate: among them.
        cells: for each epsilon, one for each split.
    """

    id: str
    title: str
    loans: int
    bad_rate: float
    cells: tuple[tuple[Cell, ...], ...]

    @property
    def named(self) -> bool:
        """Whether it is one real bank."""
        return self.id.startswith("bank-")


class Later(msgspec.Struct, frozen=True, kw_only=True):
    """One bank, trained on loans approved up to 2005, tested on later ones. Simulation only.

    Attributes:
        id: as in `Bank`.
        title: for people.
        trained: loans up to 2005.
        tested: later loans.
        bad_before: bad rate of the first.
        bad_after: of the second.
        cells: one for each epsilon; federated is the mean over noise seeds.
        gains: federated - alone with its 95 % interval (DeLong), for each epsilon: the means over
            noise seeds of value, low and high.
    """

    id: str
    title: str
    trained: int
    tested: int
    bad_before: float
    bad_after: float
    cells: tuple[Cell, ...]
    gains: tuple[tuple[float, float, float], ...]


class Banks(msgspec.Struct, frozen=True, kw_only=True):
    """What `run banks` found. Simulation only.

    Attributes:
        data: sha256 of the file; "synthetic" in a small version.
        schema: digest.
        rounds: of training.
        epsilons: of each trained loan.
        test_share: of the loans at each split.
        banks: the eight by size, then the others.
        later: the same by time.
        seconds: of one training, median.
    """

    data: str
    schema: str
    rounds: int
    epsilons: tuple[float, ...]
    test_share: float
    banks: tuple[Bank, ...]
    later: tuple[Later, ...]
    seconds: float


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """A paired difference over splits with its 95 % interval.

    The interval is Nadeau and Bengio's (2003, Machine Learning 52): test sets and training sets of
    repeated splits overlap, so the variance of the mean is (1 / splits + test / train) times that
    of one split, not 1 / splits times.
    """

    mean: float
    low: float
    high: float

    @staticmethod
    def of(differences: Sequence[float], test_share: float) -> "Gain":
        """Returns the mean and interval of differences, one for each split."""
        values = np.array(differences)
        count = len(values)
        if count < 2:
            return Gain(mean=float(values.mean()), low=float("-inf"), high=float("inf"))
        spread = 1 / count + test_share / (1 - test_share)
        error = float(np.sqrt(spread * values.var(ddof=1)))
        reach = float(stats.t.ppf(0.975, count - 1)) * error
        mean = float(values.mean())
        return Gain(mean=mean, low=mean - reach, high=mean + reach)


def gain_of(found: Banks, bank: Bank, epsilon: int, over: str = "alone") -> Gain:
    """Returns how much the federated card is better on a bank's test loans.

    Args:
        found: the result.
        bank: of it.
        epsilon: position in `found.epsilons`.
        over: "alone" or "pooled".
    """
    cells = bank.cells[epsilon]
    return Gain.of([cell.federated - getattr(cell, over) for cell in cells], found.test_share)


def gain_of_mean(found: Banks, of: Sequence[Bank], epsilon: int, over: str = "alone") -> Gain:
    """Returns the mean gain of several institutions, at least one."""
    gains = [[cell.federated - getattr(cell, over) for cell in one.cells[epsilon]] for one in of]
    return Gain.of(np.mean(np.array(gains), axis=0).tolist(), found.test_share)


def gain_of_smallest(found: Banks, epsilon: int, count: int = 5) -> Gain:
    """Returns the mean gain of the smallest of the named banks."""
    named = sorted((bank for bank in found.banks if bank.named), key=lambda bank: bank.loans)
    return gain_of_mean(found, named[:count], epsilon)


def run_banks(setting: Setting) -> Banks:
    """Trains on every split, and once by time."""
    schema = load_schema((SCHEMAS / "sba.toml").read_text())
    splits, rounds, seeds = SPLITS, ROUNDS, NOISE_SEEDS_BY_TIME
    if setting.quick:
        rows, data, splits, rounds, seeds = synthetic_loans(6_000), "synthetic", 2, 4, 1
    else:
        path = locate(SBA)
        rows, data = pq.read_table(path), sha256_of(path)
        if "natural_rate_subset" in rows.column_names:
            rows = rows.filter(rows.column("natural_rate_subset"))
    rows = features_of(rows)
    owners, names = institutions_of(rows.column("Bank"))
    setting.expect(splits * (1 + len(EPSILONS)) + 1 + seeds * len(EPSILONS))
    trial = _Trial(setting, schema, rows, owners, rounds)
    found = [trial.split(number) for number in range(splits)]
    later = trial.later(names, seeds)
    bad = rows.column("bad").to_numpy()
    return Banks(
        data=data,
        schema=schema.digest,
        rounds=rounds,
        epsilons=EPSILONS,
        test_share=TEST_SHARE,
        banks=tuple(
            Bank(
                id=IDS[number],
                title=_title(number, names),
                loans=int((owners == number).sum()),
                bad_rate=float(bad[owners == number].mean()),
                cells=tuple(
                    tuple(of_split[epsilon][number] for of_split in found)
                    for epsilon in range(len(EPSILONS))
                ),
            )
            for number in range(len(IDS))
        ),
        later=later,
        seconds=float(np.median(trial.seconds)),
    )


def _title(number: int, names: tuple[str, ...]) -> str:
    return names[number].title() if number < len(names) else f"Other banks {number - NAMED + 1}"


class _Trial:
    """One table of loans with its institutions."""

    def __init__(
        self,
        setting: Setting,
        schema: Schema,
        rows: pa.Table,
        owners: NDArray[np.int64],
        rounds: int,
    ) -> None:
        self._setting = setting
        self._schema = schema
        self._rows = rows
        self._owners = owners
        self._rounds = rounds
        self.seconds: list[float] = []

    def split(self, number: int) -> list[list[Cell]]:
        """Returns the cells of one split: for each epsilon, for each institution."""
        trained, tested = train_test_split(
            np.arange(len(self._owners)),
            test_size=TEST_SHARE,
            stratify=self._owners,
            random_state=number,
        )
        with tempfile.TemporaryDirectory() as scratch:
            cards = _Cards(self, Path(scratch), np.sort(trained), np.sort(tested))
            home = cards.at_home()
            noisy = [cards.federated(epsilon, number) for epsilon in EPSILONS]
            return [[cards.cell(bank, home, card) for bank in range(len(IDS))] for card in noisy]

    def later(self, names: tuple[str, ...], seeds: int) -> tuple[Later, ...]:
        """Returns the comparison by time.

        Institutions without good and bad later loans are left out.
        """
        years = self._rows.column("ApprovalFY").to_numpy(zero_copy_only=False)
        trained = np.flatnonzero(years <= LAST_YEAR_OF_TRAINING)
        tested = np.flatnonzero(years > LAST_YEAR_OF_TRAINING)
        bad = self._rows.column("bad").to_numpy()
        found = []
        with tempfile.TemporaryDirectory() as scratch:
            cards = _Cards(self, Path(scratch), trained, tested)
            home = cards.at_home()
            noisy = [
                [cards.federated(epsilon, seed) for seed in range(seeds)] for epsilon in EPSILONS
            ]
            for bank in range(len(IDS)):
                own = self._owners == bank
                before, after = bad[trained][own[trained]], bad[tested][own[tested]]
                if not 0 < after.sum() < len(after):
                    continue
                cells, gains = [], []
                for of_epsilon in noisy:
                    each = [cards.cell(bank, home, card) for card in of_epsilon]
                    cells.append(
                        Cell(
                            alone=each[0].alone,
                            federated=float(np.mean([cell.federated for cell in each])),
                            pooled=each[0].pooled,
                        )
                    )
                    over = [cards.gain(bank, home, card) for card in of_epsilon]
                    value, low, high = np.mean(np.array(over), axis=0).tolist()
                    gains.append((value, low, high))
                found.append(
                    Later(
                        id=IDS[bank],
                        title=_title(bank, names),
                        trained=len(before),
                        tested=len(after),
                        bad_before=float(before.mean()),
                        bad_after=float(after.mean()),
                        cells=tuple(cells),
                        gains=tuple(gains),
                    )
                )
        return tuple(found)


class _AtHome(msgspec.Struct, frozen=True, kw_only=True):
    """Cards without noise: each institution's own, and the pooled one."""

    alone: tuple[AdditiveCard, ...]
    pooled: AdditiveCard


class _Cards:
    """The cards of one division of the loans, and the test loans they are measured on."""

    def __init__(
        self,
        trial: _Trial,
        directory: Path,
        trained: NDArray[np.int64],
        tested: NDArray[np.int64],
    ) -> None:
        self._trial = trial
        rows, owners = trial._rows, trial._owners
        self._directory = directory
        chosen = rows.take(pa.array(trained))
        deal(chosen, owners[trained], IDS, directory)
        pq.write_table(chosen, directory / "pooled.parquet")
        pq.write_table(rows.take(pa.array(tested)), directory / "test.parquet")
        self._test: People = people_of(trial._schema, directory / "test.parquet")
        self._of_test = owners[tested]
        self._federation = Federation(
            schema=trial._schema, tables={name: directory / f"{name}.parquet" for name in IDS}
        )
        self._terms = [
            Terms(
                epsilon=epsilon,
                rounds=trial._rounds,
                people=len(trained),
                most_per_institution=len(trained) // 2,
            )
            for epsilon in EPSILONS
        ]

    def at_home(self) -> _AtHome:
        """Returns the cards without noise."""

        def compute() -> _AtHome:
            schema = self._trial._schema
            return _AtHome(
                alone=tuple(
                    train_alone(schema, table) for table in self._federation.tables.values()
                ),
                pooled=train_alone(schema, self._directory / "pooled.parquet"),
            )

        made = made_from(self._federation, self._terms[0], 0) | {"what": "banks at home"}
        return self._trial._setting.step(made, _AtHome, compute)

    def federated(self, epsilon: float, noise_seed: int) -> AdditiveCard:
        """Returns the released card."""
        terms = self._terms[EPSILONS.index(epsilon)]
        made = made_from(self._federation, terms, noise_seed)
        trained = self._trial._setting.step(
            made, Trained, lambda: train(self._federation, terms, noise_seed)
        )
        self._trial.seconds.append(trained.seconds)
        return trained.card

    def cell(self, bank: int, home: _AtHome, card: AdditiveCard) -> Cell:
        """Returns the AUCs on a bank's test loans."""
        return Cell(
            alone=self._auc(bank, home.alone[bank]),
            federated=self._auc(bank, card),
            pooled=self._auc(bank, home.pooled),
        )

    def gain(self, bank: int, home: _AtHome, card: AdditiveCard) -> tuple[float, float, float]:
        """Returns federated - alone on a bank's test loans with its interval."""
        own = self._of_test == bank
        codes, bad = self._test.codes[:, own], self._test.bad[own]
        gain = auc_difference(card.scores(codes), home.alone[bank].scores(codes), bad)
        return gain.value, gain.low, gain.high

    def _auc(self, bank: int, card: AdditiveCard) -> float:
        own = self._of_test == bank
        return auc_of(card.scores(self._test.codes[:, own]), self._test.bad[own]).value
