"""The question: a bounded sum over people, and the promise each kind makes about one person."""

from dataclasses import dataclass
from enum import StrEnum

from federation.errors import ConfigurationError
from federation.privacy.discrete_gaussian import LARGEST_VARIANCE
from federation.privacy.events import LEAST_SHARE_VARIANCE
from federation.privacy.units import Population

UNITS_PER_ONE = 2**16
"""Grid units for the number 1: what one person may bring to one cell of a sum, at most."""

LONGEST_SUM = 2**24
"""Cells in one answer, at most; a longer question is refused before any row is read."""


class Question(StrEnum):
    """All that may ever be asked of an institution's people."""

    BINS = "bins"
    STEP = "step"
    EVALUATION = "evaluation"

    @property
    def population(self) -> Population:
        """Who is asked: bins and training are about trained people, evaluation about the rest."""
        return Population.HELD_OUT if self is Question.EVALUATION else Population.TRAINED


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedSum:
    """A sum over people of vectors laid out in columns, at most one cell of each column non-zero.

    The promise: in every column a person has at most one number, at most `UNITS_PER_ONE` grid
    units large, so that a person's vector has a squared L2 norm of at most
    len(columns) * UNITS_PER_ONE^2 (the mean of several rows' vectors is no longer than the
    longest). The promise is enforced by `federation.door`, not trusted.

    Attributes:
        question: what is asked, which fixes the population.
        columns: the number of cells of each column, each >= 1.
        share_variance: the variance of one institution's share of noise, grid units squared.
    """

    question: Question
    columns: tuple[int, ...]
    share_variance: int

    def __post_init__(self) -> None:
        if not self.columns or any(type(c) is not int or c < 1 for c in self.columns):
            raise ConfigurationError("A question needs columns of at least one cell each.")
        if self.length > LONGEST_SUM:
            raise ConfigurationError(f"A question may have at most {LONGEST_SUM} cells.")
        if (
            type(self.share_variance) is not int
            or not LEAST_SHARE_VARIANCE <= self.share_variance <= LARGEST_VARIANCE
        ):
            raise ConfigurationError(
                f"Expected a share variance in [{LEAST_SHARE_VARIANCE}, 2^80] grid units squared, "
                f"got {self.share_variance!r}."
            )

    @property
    def length(self) -> int:
        """Cells in the answer."""
        return sum(self.columns)

    @property
    def sensitivity_squared(self) -> int:
        """Largest squared L2 norm of one person's vector, in grid units squared."""
        return sensitivity_squared(len(self.columns))


def sensitivity_squared(columns: int) -> int:
    """Returns the largest squared L2 norm of one person's vector over `columns` columns."""
    return columns * UNITS_PER_ONE**2
