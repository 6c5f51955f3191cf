"""What federation gives people whose file is thin: those whom only the platform knows.

The synthetic nation: a payment platform and nine banks, one of which may collude; all must answer.
The platform holds common and behaviour columns, banks common and repayment columns; what an
institution lacks is NOT_HELD there. A person whom only the platform knows has no repayment column
anywhere, so federation can help in one way: it teaches what the *common* columns say, from the
banks' people. Behaviour it cannot teach, for nobody but the platform sees it. How much that is
worth depends on how many outcomes the platform has seen itself, so its book is varied: how many of
its people it has lent to. It is the people it has *not* lent to who are scored.

Corrected is the national card with the platform's own correction on top, as in `banks`.

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

from experiments.correction import correction
from experiments.datasets import sha256_of
from experiments.division import SCHEMAS, reach
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
from experiments.trial import (
    Federation,
    Terms,
    Trained,
    made_from,
    people_of,
    train,
    train_alone,
)
from federation.errors import ConfigurationError
from federation.model.scorecard import AdditiveCard
from federation.schema import load_schema

PEOPLE: Final = 200_000
BOOKS: Final[tuple[int, ...]] = (300, 1_000, 3_000, 10_000, 40_000)
EPSILONS: Final = (1.0, 4.0)
SEEDS: Final = 3
ROUNDS: Final = 20
_TESTED: Final = 0.5


class OfBook(msgspec.Struct, frozen=True, kw_only=True):
    """One nation, one size of the platform's book.

    Attributes:
        book: people that the platform has lent to.
        alone: AUC of the platform's own card, trained at home.
        federated: of the released card, for each epsilon.
        corrected: of the released card with the platform's own correction on top, likewise.
    """

    book: int
    alone: float
    federated: tuple[float, ...]
    corrected: tuple[float, ...]


class OfNation(msgspec.Struct, frozen=True, kw_only=True):
    """One seed.

    Attributes:
        seed: of the nation and of the noise.
        thin: people whom only the platform knows.
        tested: of these, how many were scored, none of them in the book.
        at_several: share of all people who are known to two institutions or more.
        bad_rate: of the scored.
        oracle: AUC of the true odds.
        books: by size.
    """

    seed: int
    thin: int
    tested: int
    at_several: float
    bad_rate: float
    oracle: float
    books: tuple[OfBook, ...]


class ThinFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What `run nation` found.

    Attributes:
        people: of each nation.
        epsilons: of each trained person at one institution.
        nations: one for each seed.
    """

    people: int
    epsilons: tuple[float, ...]
    nations: tuple[OfNation, ...]

    def gain(self, book: int, epsilon: int, of: str) -> tuple[float, float]:
        """Returns the mean of a card's AUC - alone over seeds, and half its 95 % interval.

        Args:
            book: position of the size.
            epsilon: position in `epsilons`.
            of: "federated" or "corrected".
        """
        books = [one.books[book] for one in self.nations]
        gains = [float(getattr(one, of)[epsilon]) - one.alone for one in books]
        return float(np.mean(gains)), reach(gains)


def run_thin_files(setting: Setting) -> ThinFiles:
    """Makes nations, trains, and scores thin files."""
    people, books, seeds, rounds = PEOPLE, BOOKS, SEEDS, ROUNDS
    if setting.quick:
        people, books, seeds, rounds = 12_000, (500, 2_000), 2, 1
    setting.expect(seeds * len(books) * (1 + len(EPSILONS)))
    return ThinFiles(
        people=people,
        epsilons=EPSILONS,
        nations=tuple(_nation(setting, people, books, seed, rounds) for seed in range(seeds)),
    )


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
        self._schema = load_schema((SCHEMAS / "nation.toml").read_text())
        self._thin = people_of(self._schema, drawn.tested, REPAYMENT)

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
        federation = Federation(
            schema=self._schema,
            tables={
                PLATFORM: own,
                **{name: self._drawn.directory / f"{name}.parquet" for name in BANK_NAMES},
            },
            not_held={PLATFORM: REPAYMENT, **dict.fromkeys(BANK_NAMES, BEHAVIOUR)},
        )
        home = self._setting.step(
            {"what": "platform alone", "table": sha256_of(own)}
            | {"product": made_from(federation, self._terms(1.0), 0)["product"]},
            AdditiveCard,
            lambda: train_alone(self._schema, own, REPAYMENT),
        )
        people = people_of(self._schema, own, REPAYMENT)
        national = [self._federated(federation, epsilon) for epsilon in EPSILONS]
        return OfBook(
            book=size,
            alone=self._auc(home),
            federated=tuple(self._auc(card) for card in national),
            corrected=tuple(
                self._auc(card, correction(self._schema, card, people)) for card in national
            ),
        )

    def _federated(self, federation: Federation, epsilon: float) -> AdditiveCard:
        terms = self._terms(epsilon)
        made = made_from(federation, terms, self._seed)
        return self._setting.step(made, Trained, lambda: train(federation, terms, self._seed)).card

    def _terms(self, epsilon: float) -> Terms:
        return Terms(
            epsilon=epsilon,
            rounds=self._rounds,
            people=self._people,
            most_per_institution=self._people // 2,
        )

    def _auc(self, *cards: AdditiveCard) -> float:
        points = sum(card.scores(self._thin.codes).astype(np.float64) for card in cards)
        return auc_against(self._drawn.odds, np.asarray(-points))
