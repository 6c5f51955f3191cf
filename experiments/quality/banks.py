"""Does a small bank gain? SBA loans by their real banks.

The part of the data at the natural rate of bad loans; the eight largest banks by name, all others
as ten institutions by a hash of the bank's name: 18 institutions, all of which must answer, one
colluder, delta 1e-6. 75/25 splits, seeded and stratified by institution. Four cards are held
against each other on each bank's own test loans:

* alone: from the bank's own training loans, no noise;
* federated: from the training loans of all 18, with noise, the whole product;
* pooled: from the training loans of all 18 in one place, no noise;
* corrected: the federated card with the bank's own correction on top, made at home.

Once with the year of approval as a feature and once without: splits that mix the years let the year
tell how a vintage fared, which nobody knows when lending. A split by time, without the year, shows
what is left of it all when the world changes.

What is reported of a single bank is known in a simulation only: no federation would see it.
"""

import tempfile
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from experiments.cache import SCHEMAS
from experiments.datasets import SBA, locate, sha256_of
from experiments.experiment import Setting
from experiments.loans import IDS, NAMED, features_of, institutions_of, synthetic_loans
from experiments.quality.bank_results import Bank, Banks, Cell, Later, Variant
from experiments.quality.correction import correction
from experiments.trial import (
    Federation,
    People,
    Terms,
    deal,
    made_from,
    people_of,
    train,
    train_alone,
)
from federation.model.evaluation import Figure
from federation.model.exact_auc import auc_difference, auc_of
from federation.model.scorecard import AdditiveCard
from federation.schema import Schema, load_schema

EPSILONS: Final[tuple[float, ...]] = (1.0, 4.0)
SPLITS: Final = 20
ROUNDS: Final = 20
NOISE_SEEDS_BY_TIME: Final = 5
LAST_YEAR_OF_TRAINING: Final = 2005
TEST_SHARE: Final = 0.25
_YEAR: Final = "ApprovalFY"
_FEW: Final = (_YEAR, "guaranteed")
"""What a small version scores."""


def run_banks(setting: Setting) -> Banks:
    """Trains on every split, and once by time."""
    schema = load_schema((SCHEMAS / "sba.toml").read_text())
    epsilons, splits, rounds, seeds = EPSILONS, SPLITS, ROUNDS, NOISE_SEEDS_BY_TIME
    if setting.quick:
        rows, data = synthetic_loans(6_000), "synthetic"
        few = tuple(one for one in schema.features if one.name in _FEW)
        schema = msgspec.structs.replace(schema, features=few)
        epsilons, splits, rounds, seeds = (4.0,), 1, 1, 1
    else:
        path = locate(SBA)
        rows, data = pq.read_table(path), sha256_of(path)
        if "natural_rate_subset" in rows.column_names:
            rows = rows.filter(rows.column("natural_rate_subset"))
    rows = features_of(rows)
    owners, names = institutions_of(rows.column("Bank"))
    setting.expect(2 * splits * (1 + len(epsilons)) + 1 + seeds * len(epsilons))
    without = msgspec.structs.replace(
        schema, features=tuple(one for one in schema.features if one.name != _YEAR)
    )
    by_year, trial = (
        _Trial(
            setting=setting,
            schema=one,
            rows=rows,
            owners=owners,
            names=names,
            epsilons=epsilons,
            rounds=rounds,
        )
        for one in (schema, without)
    )
    return Banks(
        data=data,
        rounds=rounds,
        epsilons=epsilons,
        test_share=TEST_SHARE,
        variants=(by_year.variant(splits), trial.variant(splits)),
        later=trial.later(seeds),
    )


def _title(number: int, names: tuple[str, ...]) -> str:
    return names[number].title() if number < len(names) else f"Other banks {number - NAMED + 1}"


class _Trial:
    """One table of loans with its institutions."""

    def __init__(
        self,
        *,
        setting: Setting,
        schema: Schema,
        rows: pa.Table,
        owners: NDArray[np.int64],
        names: tuple[str, ...],
        epsilons: tuple[float, ...],
        rounds: int,
    ) -> None:
        self.epsilons = epsilons
        self._names = names
        self._setting = setting
        self._schema = schema
        self._rows = rows
        self._owners = owners
        self._rounds = rounds

    def variant(self, splits: int) -> Variant:
        """Returns all banks with their cells on every split."""
        found = [self._split(number) for number in range(splits)]
        bad = self._rows.column("bad").to_numpy()
        return Variant(
            year=any(feature.name == _YEAR for feature in self._schema.features),
            schema=self._schema.digest,
            banks=tuple(
                Bank(
                    id=IDS[number],
                    title=_title(number, self._names),
                    loans=int((self._owners == number).sum()),
                    bad_rate=float(bad[self._owners == number].mean()),
                    cells=tuple(
                        tuple(of_split[epsilon][number] for of_split in found)
                        for epsilon in range(len(self.epsilons))
                    ),
                )
                for number in range(len(IDS))
            ),
        )

    def _split(self, number: int) -> list[list[Cell]]:
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
            noisy = [cards.federated(epsilon, number) for epsilon in self.epsilons]
            return [[cards.cell(bank, home, card) for bank in range(len(IDS))] for card in noisy]

    def later(self, seeds: int) -> tuple[Later, ...]:
        """Returns the comparison by time.

        Institutions without good and bad later loans are left out.
        """
        years = self._rows.column(_YEAR).to_numpy(zero_copy_only=False)
        trained = np.flatnonzero(years <= LAST_YEAR_OF_TRAINING)
        tested = np.flatnonzero(years > LAST_YEAR_OF_TRAINING)
        bad = self._rows.column("bad").to_numpy()
        found = []
        with tempfile.TemporaryDirectory() as scratch:
            cards = _Cards(self, Path(scratch), trained, tested)
            home = cards.at_home()
            noisy = [
                [cards.federated(epsilon, seed) for seed in range(seeds)]
                for epsilon in self.epsilons
            ]
            for bank in range(len(IDS)):
                own = self._owners == bank
                before, after = bad[trained][own[trained]], bad[tested][own[tested]]
                if not 0 < after.sum() < len(after):
                    continue
                gains = [[cards.gains(bank, home, card) for card in each] for each in noisy]
                found.append(
                    Later(
                        id=IDS[bank],
                        title=_title(bank, self._names),
                        trained=len(before),
                        tested=len(after),
                        bad_before=float(before.mean()),
                        bad_after=float(after.mean()),
                        cells=tuple(
                            _mean([cards.cell(bank, home, card) for card in each]) for each in noisy
                        ),
                        gains=tuple(_averaged([one for one, _ in each]) for each in gains),
                        corrected_gains=tuple(
                            _averaged([one for _, one in each]) for each in gains
                        ),
                    )
                )
        return tuple(found)


def _mean(cells: list[Cell]) -> Cell:
    return Cell(
        **{
            name: float(np.mean([getattr(cell, name) for cell in cells]))
            for name in Cell.__struct_fields__
        }
    )


def _averaged(figures: list[Figure]) -> tuple[float, float, float]:
    return (
        float(np.mean([one.value for one in figures])),
        float(np.mean([one.low for one in figures])),
        float(np.mean([one.high for one in figures])),
    )


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
        pooled = people_of(trial._schema, directory / "pooled.parquet")
        of_trained = owners[trained]
        self._own = [
            People(codes=pooled.codes[:, of_trained == bank], bad=pooled.bad[of_trained == bank])
            for bank in range(len(IDS))
        ]
        self._federation = Federation(
            schema=trial._schema, tables={name: directory / f"{name}.parquet" for name in IDS}
        )
        self._people = len(trained)
        self._corrections: dict[tuple[int, AdditiveCard], AdditiveCard] = {}

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

        made = made_from(self._federation, self._terms(1.0), 0) | {"what": "banks at home"}
        return self._trial._setting.step(made, _AtHome, compute)

    def federated(self, epsilon: float, noise_seed: int) -> AdditiveCard:
        """Returns the released card."""
        terms = self._terms(epsilon)
        made = made_from(self._federation, terms, noise_seed)
        return self._trial._setting.step(
            made, AdditiveCard, lambda: train(self._federation, terms, noise_seed)
        )

    def _terms(self, epsilon: float) -> Terms:
        return Terms(
            epsilon=epsilon,
            rounds=self._trial._rounds,
            people=self._people,
            most_per_institution=self._people // 2,
        )

    def cell(self, bank: int, home: _AtHome, card: AdditiveCard) -> Cell:
        """Returns the AUCs on a bank's test loans."""
        tested = self._tested(bank)
        return Cell(
            alone=tested.auc(home.alone[bank]),
            federated=tested.auc(card),
            pooled=tested.auc(home.pooled),
            corrected=auc_of(self._corrected(bank, card, tested), tested.bad).value,
        )

    def gains(self, bank: int, home: _AtHome, card: AdditiveCard) -> tuple[Figure, Figure]:
        """Returns federated - alone and corrected - alone on a bank's test loans."""
        tested = self._tested(bank)
        alone = home.alone[bank].scores(tested.codes)
        return (
            auc_difference(card.scores(tested.codes), alone, tested.bad),
            auc_difference(self._corrected(bank, card, tested), alone, tested.bad),
        )

    def _corrected(self, bank: int, card: AdditiveCard, tested: People) -> NDArray[np.int64]:
        known = (bank, card)
        if known not in self._corrections:
            self._corrections[known] = correction(self._trial._schema, card, self._own[bank])
        return card.scores(tested.codes) + self._corrections[known].scores(tested.codes)

    def _tested(self, bank: int) -> People:
        own = self._of_test == bank
        return People(codes=self._test.codes[:, own], bad=self._test.bad[own])
