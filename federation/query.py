"""The question: a bounded sum over people, and the promise each kind makes about one person."""

from dataclasses import dataclass
from enum import StrEnum

from federation.errors import ConfigurationError
from federation.privacy.discrete_gaussian import LARGEST_VARIANCE
from federation.privacy.events import LEAST_SHARE_VARIANCE
from federation.privacy.units import Population

UNITS_PER_ONE = 2**16
"""Grid units for the number 1: what one person may bring to one cell of a sum, at most."""

UNITS_PER_CLIP = 2**24
"""Grid units for the clip norm of a gradient or of an update: what one person, or in a question
UPDATE one institution, may bring to a whole sum, at most, as an L2 norm."""

LONGEST_SUM = 2**24
"""Cells in one answer, at most; a longer question is refused before any row is read."""


class Question(StrEnum):
    """All that may ever be asked of an institution's people."""

    BINS = "bins"
    STEP = "step"
    GRADIENT = "gradient"
    UPDATE = "update"
    EVALUATION = "evaluation"

    @property
    def population(self) -> Population:
        """Who is asked: bins and training are about trained people, evaluation about the rest."""
        return Population.HELD_OUT if self is Question.EVALUATION else Population.TRAINED

    @property
    def is_dense(self) -> bool:
        """Whether a person brings a vector of bounded norm, not one number a column."""
        return self in (Question.GRADIENT, Question.UPDATE)

    @property
    def bound(self) -> int:
        """Grid units that a person's part in one column has at most, as an L2 norm."""
        return UNITS_PER_CLIP if self.is_dense else UNITS_PER_ONE


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedSum:
    """A sum over people of vectors laid out in columns.

    The promise: in every column a person's part is at most `question.bound` grid units long, so
    that a person's vector has a squared L2 norm of at most len(columns) * bound^2. In counts and
    residuals the part is one number in one cell (the mean of several rows' vectors is no longer
    than the longest); a gradient or an update is one column, all of whose cells may be non-zero.
    The promise is enforced by `federation.door`, not trusted.

    Attributes:
        question: what is asked, which fixes the population.
        columns: the number of cells of each column, each >= 1; one column if the question is dense.
        share_variance: the variance of one institution's share of noise, grid units squared.
    """

    question: Question
    columns: tuple[int, ...]
    share_variance: int

    def __post_init__(self) -> None:
        if not self.columns or any(type(c) is not int or c < 1 for c in self.columns):
            raise ConfigurationError("A question needs columns of at least one cell each.")
        if self.question.is_dense and len(self.columns) != 1:
            raise ConfigurationError(f"A question {self.question} has one column.")
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
        return sensitivity_squared(self.question, len(self.columns))


def sensitivity_squared(question: Question, columns: int) -> int:
    """Returns the largest squared L2 norm of one person's vector over `columns` columns."""
    return columns * question.bound**2
