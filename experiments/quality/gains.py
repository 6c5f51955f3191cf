"""Who gains: each institution's AUC alone, federated and pooled, by size, risk and columns held.

Two sources. Real banks: the committed result of `banks`, its institutions in thirds; the demo, by
columns (both in `experiments/quality/gain_report.py`). People with a
thin file against those with a bank history: the synthetic nation of `nation`, where all people are
drawn alike, so that cards can be measured on other people of the same kind, by their true odds. A
platform (common and behaviour columns) and nine banks (common and repayment columns) train on
everybody whom they know. Each person is scored by the columns that the scoring institution holds,
with three cards:

* alone: the institution's own, without noise;
* federated: the national card, with the plan's noise;
* pooled: the same card without noise, as if all records lay in one place.

What runs is the arithmetic of `advice_cases`, which a test holds against the product.
"""

import tempfile
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from experiments.budget.advice_cases import Crowd
from experiments.cache import SCHEMAS
from experiments.experiment import Setting, Work
from experiments.nation import (
    BANK_NAMES,
    BEHAVIOUR,
    COMMON,
    PLATFORM,
    REPAYMENT,
    Block,
    nation,
)
from experiments.quality.thin_files import auc_against
from experiments.trial import People, people_of
from federation.grid import NOT_HELD
from federation.model.scorecard import AdditiveCard
from federation.schema import load_schema
from fedscore.advice import Wish, draft_of

PEOPLE: Final = 100_000
SEEDS: Final = 6
EPSILONS: Final = (1.0, 4.0)
DELTA: Final = 1e-6
INSTITUTIONS: Final = (PLATFORM, *BANK_NAMES)
THIN: Final = "thin file: the platform only"
BANKED: Final = "a bank only"
BOTH: Final = "a bank and the platform"
TWO: Final = "two banks"
_COLUMNS: Final = COMMON + BEHAVIOUR + REPAYMENT
_TEST_SEED: Final = 1_000
"""Added to a nation's seed: other people of the same kind."""


class OfGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Some people as one institution scores them. Simulation only.

    Attributes:
        institution: who scores them.
        group: which of its people: all of them, or by what other institutions know them.
        people: tested.
        bad_rate: expected, by their true odds.
        alone: AUC of the institution's own card against the true odds.
        federated: of the national card, for each epsilon.
        pooled: of the same card without noise.
    """

    institution: str
    group: str
    people: int
    bad_rate: float
    alone: float
    federated: tuple[float, ...]
    pooled: float


class OfNation(msgspec.Struct, frozen=True, kw_only=True):
    """One nation: its own people, noise, and tested people.

    Attributes:
        rows: trained, of each institution.
        groups: of each institution, all of its people first.
    """

    rows: tuple[int, ...]
    groups: tuple[OfGroup, ...]


class Gains(msgspec.Struct, frozen=True, kw_only=True):
    """What `run gains` found. Simulation only.

    Attributes:
        people: of each nation.
        epsilons: of each person at one institution.
        nations: independent of each other.
    """

    people: int
    epsilons: tuple[float, ...]
    nations: tuple[OfNation, ...]


def run_gains(setting: Setting) -> Gains:
    """Trains and measures in independent nations."""
    people, seeds = (8_000, 1) if setting.quick else (PEOPLE, SEEDS)
    setting.expect(seeds)
    works = [
        Work(
            made_from={
                "what": "gains",
                "people": people,
                "seed": seed,
            },
            compute=gains_of_nation,
            arguments=(people, seed),
        )
        for seed in range(seeds)
    ]
    return Gains(people=people, epsilons=EPSILONS, nations=tuple(setting.steps(OfNation, works)))


def gains_of_nation(people: int, seed: int) -> OfNation:
    """Returns what the institutions of one nation gain."""
    schema = load_schema((SCHEMAS / "nation.toml").read_text())
    trained, tested = _Nation(people, seed), _Nation(people, seed + _TEST_SEED)
    own = [trained.of(name) for name in INSTITUTIONS]
    everybody = People(
        codes=np.concatenate([one.codes for one in own], axis=1),
        bad=np.concatenate([one.bad for one in own]),
    )

    def crowd(rows: People) -> Crowd:
        nobody = np.zeros((len(_COLUMNS), 0), np.uint8)
        return Crowd(schema=schema, codes=rows.codes, bad=rows.bad, tested=nobody, odds=np.zeros(0))

    wish = Wish(
        schema=schema,
        people=people,
        institutions=len(INSTITUTIONS),
        quorum=len(INSTITUTIONS),
        held_out=0.0,
        delta=DELTA,
    )
    national = [crowd(everybody).train(draft_of(wish, epsilon), seed) for epsilon in EPSILONS]
    pooled = crowd(everybody).train_without_privacy()
    groups = []
    for name, rows in zip(INSTITUTIONS, own, strict=True):
        alone = crowd(rows).train_without_privacy()
        known, codes = tested.known_to(name), tested.codes(name)
        for title, chosen in {"all": known, **tested.groups(name)}.items():
            odds, seen = tested.odds[chosen], codes[:, chosen]
            groups.append(
                OfGroup(
                    institution=name,
                    group=title,
                    people=int(chosen.sum()),
                    bad_rate=float(odds.mean()),
                    alone=_auc(alone, seen, odds),
                    federated=tuple(_auc(card, seen, odds) for card in national),
                    pooled=_auc(pooled, seen, odds),
                )
            )
    return OfNation(rows=tuple(len(one.bad) for one in own), groups=tuple(groups))


def _auc(card: AdditiveCard, codes: NDArray[np.uint8], odds: NDArray[np.float64]) -> float:
    return auc_against(odds, -card.scores(codes).astype(np.float64))


class _Nation:
    """All people of a nation, coded once."""

    def __init__(self, people: int, seed: int) -> None:
        blocks: list[Block] = list(nation(people, seed))
        tables = [block.table(np.ones(block.people, np.bool_), _COLUMNS) for block in blocks]
        schema = load_schema((SCHEMAS / "nation.toml").read_text())
        self._names = [feature.name for feature in schema.features]
        with tempfile.TemporaryDirectory() as scratch:
            table = Path(scratch) / "nation.parquet"
            pq.write_table(pa.concat_tables(tables), table)
            self._people = people_of(schema, table)
        self.odds = np.concatenate([block.odds for block in blocks])
        self._at_platform = np.concatenate([block.at_platform for block in blocks])
        self._at_bank = np.concatenate([block.at_bank for block in blocks], axis=1)

    def known_to(self, name: str) -> NDArray[np.bool_]:
        """Returns bool[people]."""
        if name == PLATFORM:
            return self._at_platform
        return np.asarray(self._at_bank[BANK_NAMES.index(name)])

    def codes(self, name: str) -> NDArray[np.uint8]:
        """Returns everybody as an institution would see them: what it does not hold is not there.

        uint8[features, people].
        """
        lacking = REPAYMENT if name == PLATFORM else BEHAVIOUR
        codes = self._people.codes.copy()
        codes[[self._names.index(one) for one in lacking]] = NOT_HELD
        return codes

    def of(self, name: str) -> People:
        """Returns an institution's own people, as it sees them."""
        known = self.known_to(name)
        return People(codes=self.codes(name)[:, known], bad=self._people.bad[known])

    def groups(self, name: str) -> dict[str, NDArray[np.bool_]]:
        """Returns bool[people] for each group of an institution's people."""
        known, banks = self.known_to(name), self._at_bank.sum(axis=0)
        if name == PLATFORM:
            return {THIN: known & (banks == 0), BOTH: known & (banks > 0)}
        return {
            BANKED: known & ~self._at_platform & (banks == 1),
            BOTH: known & self._at_platform & (banks == 1),
            TWO: known & (banks == 2),
        }
