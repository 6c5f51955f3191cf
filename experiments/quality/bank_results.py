"""What `run banks` finds: AUCs of several cards on each bank's own test loans. Simulation only."""

from collections.abc import Sequence

import msgspec
import numpy as np
from scipy import stats


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One bank at one epsilon, on one split or by time. Simulation only.

    Attributes:
        alone: AUC on the bank's test loans.
        federated: likewise.
        pooled: likewise.
        corrected: likewise.
    """

    alone: float
    federated: float
    pooled: float
    corrected: float


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
        cells: one for each epsilon, the mean over noise seeds.
        gains: federated - alone with its 95 % interval (DeLong), for each epsilon: the means over
            noise seeds of value, low and high.
        corrected_gains: corrected - alone, likewise.
    """

    id: str
    title: str
    trained: int
    tested: int
    bad_before: float
    bad_after: float
    cells: tuple[Cell, ...]
    gains: tuple[tuple[float, float, float], ...]
    corrected_gains: tuple[tuple[float, float, float], ...]


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """All banks under one schema. Simulation only.

    Attributes:
        year: whether the year of approval is scored.
        schema: digest.
        banks: the eight by size, then the others.
    """

    year: bool
    schema: str
    banks: tuple[Bank, ...]

    @property
    def named(self) -> tuple[Bank, ...]:
        """The eight largest, largest first."""
        return tuple(bank for bank in self.banks if bank.named)


class Banks(msgspec.Struct, frozen=True, kw_only=True):
    """What `run banks` found. Simulation only.

    Attributes:
        data: sha256 of the file; "synthetic" in a small version.
        rounds: of training.
        epsilons: of each trained loan.
        test_share: of the loans at each split.
        variants: with the year of approval, and without.
        later: by time, without the year.
    """

    data: str
    rounds: int
    epsilons: tuple[float, ...]
    test_share: float
    variants: tuple[Variant, ...]
    later: tuple[Later, ...]


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


def gain_of(found: Banks, of: Sequence[Bank], epsilon: int, card: str, over: str) -> Gain:
    """Returns how much better one card is than another on banks' test loans, on average.

    Args:
        found: the result.
        of: banks of it, at least one; the mean over them is taken on each split.
        epsilon: position in `found.epsilons`.
        card: a field of `Cell`.
        over: another.
    """
    gains = [
        [float(getattr(cell, card) - getattr(cell, over)) for cell in one.cells[epsilon]]
        for one in of
    ]
    return Gain.of(np.mean(np.array(gains), axis=0).tolist(), found.test_share)


def smallest(variant: Variant) -> tuple[Bank, ...]:
    """Returns the five smallest of the eight named banks."""
    return tuple(sorted(variant.named, key=lambda bank: bank.loans)[:5])
