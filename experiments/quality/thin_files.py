"""What federation gives people whose file is thin: those whom only the platform knows.

The synthetic nation: a payment platform and nine banks, one of which may collude; all must answer.
The platform holds common and behaviour columns, banks common and repayment columns; what an
institution lacks is NOT_HELD there. A person whom only the platform knows has no repayment column
anywhere, so federation can help in one way: it teaches what the *common* columns say, from the
banks' people. Behaviour it cannot teach, for nobody but the platform sees it. How much that is
worth depends on how many outcomes the platform has seen itself, so its book is varied: how many of
its people it has lent to. It is the people it has *not* lent to who are scored.

Three plans over the same nation, each with its own price:

- **national**: all columns. Banks' people teach common columns *beside* repayment.
- **thin-file**: repayment is ignored, so common columns are taught as they matter without it.
- **common**: only what everybody holds; the banks train it without the platform, whose people pay
  nothing. A platform that has lent to nobody yet can use it.

Corrected is a released card with the platform's own correction on top, as in `banks`; it also
learns, at home, columns that the card does not score. Alone is the platform's own card, of the
columns that it has.

AUC is against the true odds: a person with odds p counts as p of a bad and 1 - p of a good one, so
that luck in the test people's outcomes is not in the figures. The oracle ranks by the odds
themselves: nobody can do better.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from experiments.cache import SCHEMAS
from experiments.datasets import sha256_of
from experiments.division import reach
from experiments.experiment import Setting
from experiments.nation import (
    BANK_NAMES,
    BEHAVIOUR,
    COMMON,
    PLATFORM,
    REPAYMENT,
    Block,
    nation,
)
from experiments.quality.correction import correction
from experiments.trial import (
    Federation,
    People,
    Terms,
    made_from,
    people_of,
    train,
    train_alone,
)
from federation.errors import ConfigurationError
from federation.grid import Role
from federation.model.scorecard import AdditiveCard
from federation.schema import Schema, load_schema

PEOPLE: Final = 200_000
BOOKS: Final[tuple[int, ...]] = (300, 1_000, 3_000, 10_000, 40_000)
EPSILONS: Final = (1.0, 4.0)
COMMON_EPSILONS: Final = (0.1, *EPSILONS)
SEEDS: Final = 6
ROUNDS: Final = 20
_TESTED: Final = 0.5


class OfCards(msgspec.Struct, frozen=True, kw_only=True):
    """AUC of the cards that a platform with one size of book took part in, at one epsilon.

    Attributes:
        national: of the released card of all columns.
        national_corrected: with the platform's own correction on top.
        thin_file: of the released card without repayment columns.
        thin_file_corrected: with the platform's own correction on top.
    """

    national: float
    national_corrected: float
    thin_file: float
    thin_file_corrected: float


class OfBook(msgspec.Struct, frozen=True, kw_only=True):
    """One nation, one size of the platform's book.

    Attributes:
        book: people that the platform has lent to.
        alone: AUC of the platform's own card, trained at home.
        cards: for each epsilon.
        common_corrected: of the banks' card of common columns with the platform's own correction
            on top, for each epsilon of common cards.
    """

    book: int
    alone: float
    cards: tuple[OfCards, ...]
    common_corrected: tuple[float, ...]


class OfNation(msgspec.Struct, frozen=True, kw_only=True):
    """One seed.

    Attributes:
        seed: of the nation and of the noise.
        thin: people whom only the platform knows.
        tested: of these, how many were scored, none of them in the book.
        at_several: share of all people who are known to two institutions or more.
        bad_rate: of the scored.
        oracle: AUC of the true odds.
        bank: AUC of the largest bank's own card, which sees only common columns of these people.
        common: AUC of the banks' card of common columns, for each of its epsilons.
        books: by size.
    """

    seed: int
    thin: int
    tested: int
    at_several: float
    bad_rate: float
    oracle: float
    bank: float
    common: tuple[float, ...]
    books: tuple[OfBook, ...]


class ThinFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What `run nation` found.

    Attributes:
        people: of each nation.
        epsilons: of each trained person at one institution.
        common_epsilons: the same for the banks' card of common columns.
        nations: one for each seed.
    """

    people: int
    epsilons: tuple[float, ...]
    common_epsilons: tuple[float, ...]
    nations: tuple[OfNation, ...]

    def gain(self, book: int, epsilon: int, of: str) -> tuple[float, float]:
        """Returns the mean of a card's AUC - alone over nations, and half its 95 % interval.

        Args:
            book: position of the size.
            epsilon: position in `epsilons`; for "common_corrected" in `common_epsilons`.
            of: an attribute of `OfCards`, or "common_corrected".
        """
        gains = [
            _auc_of(one.books[book], epsilon, of) - one.books[book].alone for one in self.nations
        ]
        return float(np.mean(gains)), reach(gains)

    def mean(self, book: int, epsilon: int, of: str) -> float:
        """Returns the mean of a card's AUC over nations; arguments as in `gain`."""
        return float(np.mean([_auc_of(one.books[book], epsilon, of) for one in self.nations]))


def _auc_of(book: OfBook, epsilon: int, of: str) -> float:
    if of == "common_corrected":
        return book.common_corrected[epsilon]
    return float(getattr(book.cards[epsilon], of))


def run_thin_files(setting: Setting) -> ThinFiles:
    """Makes nations, trains, and scores thin files."""
    people, books, seeds, rounds = PEOPLE, BOOKS, SEEDS, ROUNDS
    if setting.quick:
        people, books, seeds, rounds = 12_000, (2_000,), 1, 1
    of_nation = 1 + len(COMMON_EPSILONS) + len(books) * (1 + 2 * len(EPSILONS))
    setting.expect(seeds * of_nation)
    return ThinFiles(
        people=people,
        epsilons=EPSILONS,
        common_epsilons=COMMON_EPSILONS,
        nations=tuple(_nation(setting, people, books, seed, rounds) for seed in range(seeds)),
    )


def scoring(schema: Schema, columns: tuple[str, ...]) -> Schema:
    """Returns the schema that scores only these columns and ignores all others."""
    return msgspec.structs.replace(
        schema,
        features=tuple(
            one if one.name in columns else msgspec.structs.replace(one, role=Role.IGNORED)
            for one in schema.features
        ),
    )


def carried(card: AdditiveCard, of: Schema, to: Schema) -> AdditiveCard:
    """Returns a card as people coded by another schema can be scored by it.

    Args:
        card: over the scored features of a schema.
        of: that schema.
        to: the other one; features that the card does not score are neutral in it, those that it
            lacks are left out.
    """
    places = {grid.name: place for place, grid in enumerate(of.scored_grids)}
    bins, weights = [], []
    for grid in to.scored_grids:
        place = places.get(grid.name)
        bins.append((0,) * len(grid.labels) if place is None else card.bin_of_cell[place])
        weights.append((0,) if place is None else card.weights[place])
    return AdditiveCard(base=card.base, bin_of_cell=tuple(bins), weights=tuple(weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A nation on disk."""

    directory: Path
    lent: pa.Table
    tested: Path
    odds: NDArray[np.float64]
    thin: int
    at_several: float


def _nation(
    setting: Setting, people: int, books: tuple[int, ...], seed: int, rounds: int
) -> OfNation:
    with tempfile.TemporaryDirectory() as scratch:
        drawn = _draw(people, seed, Path(scratch))
        trial = _Trial(setting, drawn, people, seed, rounds)
        return OfNation(
            seed=seed,
            thin=drawn.thin,
            tested=len(drawn.odds),
            at_several=drawn.at_several,
            bad_rate=float(drawn.odds.mean()),
            oracle=auc_against(drawn.odds, drawn.odds),
            bank=trial.bank(),
            common=trial.common(),
            books=tuple(trial.book(size) for size in books),
        )


def auc_against(odds: NDArray[np.float64], risk: NDArray[np.float64]) -> float:
    """Returns the AUC of a ranking by risk among people whose true odds of bad are known.

    Args:
        odds: float64[people], in [0, 1].
        risk: float64[people], higher is riskier.
    """
    outcome = np.repeat([1, 0], len(odds))
    weight = np.concatenate([odds, 1 - odds])
    return float(roc_auc_score(outcome, np.tile(risk, 2), sample_weight=weight))


def _draw(people: int, seed: int, directory: Path) -> _Drawn:
    """Writes the banks' tables, and the thin files that are scored; returns whom one may lend to.

    Every other thin file is scored and never in the book; all other people of the platform may be.
    """
    at_banks: dict[str, list[pa.Table]] = {name: [] for name in BANK_NAMES}
    lent, tested, odds = [], [], []
    thin = several = 0
    for block in nation(people, seed):
        chosen = block.thin & _every_other(block)
        odds.append(block.odds[chosen])
        tested.append(block.table(chosen, COMMON + BEHAVIOUR))
        lent.append(block.table(block.at_platform & ~chosen, COMMON + BEHAVIOUR))
        for number, name in enumerate(BANK_NAMES):
            at_banks[name].append(block.table(block.at_bank[number], COMMON + REPAYMENT))
        thin += int(block.thin.sum())
        several += int((block.at_platform.astype(int) + block.at_bank.sum(axis=0) > 1).sum())
    for name, tables in at_banks.items():
        pq.write_table(pa.concat_tables(tables), directory / f"{name}.parquet")
    pq.write_table(pa.concat_tables(tested), directory / "tested.parquet")
    return _Drawn(
        directory=directory,
        lent=pa.concat_tables(lent),
        tested=directory / "tested.parquet",
        odds=np.concatenate(odds),
        thin=thin,
        at_several=several / people,
    )


def _every_other(block: Block) -> NDArray[np.bool_]:
    """Returns bool[people], true for every second person: people are in no order."""
    return np.asarray(np.arange(block.people) % round(1 / _TESTED) == 0)


class _Trial:
    """One nation on which cards are trained and measured."""

    def __init__(
        self, setting: Setting, drawn: _Drawn, people: int, seed: int, rounds: int
    ) -> None:
        self._setting = setting
        self._drawn = drawn
        self._people = people
        self._seed = seed
        self._rounds = rounds
        self._national = load_schema((SCHEMAS / "nation.toml").read_text())
        self._thin = scoring(self._national, COMMON + BEHAVIOUR)
        self._banks = {name: drawn.directory / f"{name}.parquet" for name in BANK_NAMES}
        self._tested = people_of(self._thin, drawn.tested)
        self._common = [self._of_banks(epsilon) for epsilon in COMMON_EPSILONS]

    def bank(self) -> float:
        """Returns the AUC of the largest bank's own card, trained at home."""
        schema, table = self._national, self._banks[BANK_NAMES[0]]
        card = self._alone(schema, table, BEHAVIOUR)
        return self._auc(carried(card, schema, self._thin))

    def common(self) -> tuple[float, ...]:
        """Returns the AUC of the banks' card of common columns, for each of its epsilons."""
        return tuple(self._auc(card) for card in self._common)

    def book(self, size: int) -> OfBook:
        """Returns the AUCs with a platform that has lent to so many people.

        Raises:
            ConfigurationError: it does not know so many.
        """
        if size > self._drawn.lent.num_rows:
            raise ConfigurationError(f"The platform knows fewer than {size:,} people to lend to.")
        own = self._drawn.directory / f"{PLATFORM}.parquet"
        generator = np.random.default_rng([self._seed, size])
        chosen = generator.choice(self._drawn.lent.num_rows, size, replace=False)
        pq.write_table(self._drawn.lent.take(pa.array(np.sort(chosen))), own)
        people = people_of(self._thin, own)
        return OfBook(
            book=size,
            alone=self._auc(self._alone(self._thin, own, ())),
            cards=tuple(self._cards(own, people, epsilon) for epsilon in EPSILONS),
            common_corrected=tuple(self._corrected(card, people) for card in self._common),
        )

    def _cards(self, own: Path, people: People, epsilon: float) -> OfCards:
        tables = {PLATFORM: own, **self._banks}
        lacking = dict.fromkeys(BANK_NAMES, BEHAVIOUR)
        everything = Federation(
            schema=self._national, tables=tables, not_held={PLATFORM: REPAYMENT, **lacking}
        )
        thin = Federation(schema=self._thin, tables=tables, not_held=lacking)
        national, thin_file = self._trained(everything, epsilon), self._trained(thin, epsilon)
        return OfCards(
            national=self._auc(national),
            national_corrected=self._corrected(national, people),
            thin_file=self._auc(thin_file),
            thin_file_corrected=self._corrected(thin_file, people),
        )

    def _of_banks(self, epsilon: float) -> AdditiveCard:
        schema = scoring(self._national, COMMON)
        return self._trained(Federation(schema=schema, tables=self._banks), epsilon)

    def _trained(self, federation: Federation, epsilon: float) -> AdditiveCard:
        """Returns the released card, for people as the platform knows them."""
        terms = Terms(
            epsilon=epsilon,
            rounds=self._rounds,
            people=self._people,
            most_per_institution=self._people // 2,
        )
        made = made_from(federation, terms, self._seed)
        card = self._setting.step(made, AdditiveCard, lambda: train(federation, terms, self._seed))
        return carried(card, federation.schema, self._thin)

    def _alone(self, schema: Schema, table: Path, not_held: tuple[str, ...]) -> AdditiveCard:
        made = {
            "what": "alone",
            "schema": schema.digest,
            "not held": list(not_held),
            "table": sha256_of(table),
        }
        return self._setting.step(made, AdditiveCard, lambda: train_alone(schema, table, not_held))

    def _corrected(self, card: AdditiveCard, people: People) -> float:
        return self._auc(card, correction(self._thin, card, people))

    def _auc(self, *cards: AdditiveCard) -> float:
        points = sum(card.scores(self._tested.codes).astype(np.float64) for card in cards)
        return auc_against(self._drawn.odds, np.asarray(-points))
