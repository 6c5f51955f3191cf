"""What follows from the totals of a transcript: the questions' sums, the models, the release."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.errors import PrivacyError, ProtocolError
from federation.fits import Fit
from federation.messages import Model, model_digest
from federation.model.evaluation import BANDS, Quality, quality
from federation.model.release import AnyRelease, Release
from federation.plan import Plan
from federation.pricing import bins_sum, evaluation_sum, stddev_of_total
from federation.query import BoundedSum, Question
from federation.schema import Schema


def query_of(
    plan: Plan, schema: Schema | None, question: Question, columns: tuple[int, ...]
) -> BoundedSum:
    """Returns the sum that a line of a transcript is about.

    Args:
        plan: of the transcript.
        schema: that it names; None leaves the columns unchecked.
        question: of the line.
        columns: likewise.

    Raises:
        ProtocolError: the question does not have these columns.
    """
    query = BoundedSum(question=question, columns=columns, share_variance=plan.noise.of(question))
    if schema is not None:
        known = {
            Question.BINS: bins_sum(plan, schema),
            Question.EVALUATION: evaluation_sum(plan, schema),
        }
        if known.get(question, query) != query:
            raise ProtocolError("the question does not have the schema's columns")
    return query


@dataclass(slots=True, kw_only=True)
class Models:
    """The models of a training, recomputed from its totals as they come.

    Attributes:
        plan: of the training.
        schema: that it names.
        overall: quality on people held out; None before their total, or if noise hides it.
    """

    plan: Plan
    schema: Schema
    overall: Quality | None = field(init=False, default=None)
    _fit: Fit | None = field(init=False, default=None)

    def digest_at(self, question: Question) -> bytes:
        """Returns the digest of the model that the next question must be about.

        Raises:
            ProtocolError: none can be known before the bins.
        """
        return model_digest(self._expected(question))

    def _expected(self, question: Question) -> Model | None:
        if question is Question.BINS:
            return None
        if self._fit is None and not self.plan.asks_bins:
            self._fit = self._begun(None, 0)
        if self._fit is None:
            raise ProtocolError("a question about a model before any bins")
        if question is self.plan.training_question:
            return self._fit.to_ask()
        return self._fit.finished()

    def take(self, question: Question, total: tuple[int, ...], answers: int) -> None:
        """Takes the total of a question in.

        Args:
            question: of the plan.
            total: in grid units.
            answers: institutions in it.
        """
        values = np.array(total, dtype=np.int64) / question.bound
        if question is Question.BINS:
            self._fit = self._begun(values, answers)
        elif question is self.plan.training_question and self._fit is not None:
            self._fit = self._fit.after(values, answers)
        elif question is Question.EVALUATION:
            self.overall = quality(
                values[: 2 * BANDS],
                stddev=stddev_of_total(self.plan, question, answers),
                scale=self.plan.scale,
            )

    def _begun(self, counts: NDArray[np.float64] | None, answers: int) -> Fit | None:
        """Returns what follows from the bins; None if they hold nobody, and nothing follows."""
        try:
            return Fit.begin(self.plan, self.schema, counts, answers)
        except PrivacyError:
            return None

    def lead_to(self, release: AnyRelease) -> bool:
        """Returns whether a release has the model that follows; nothing follows without bins."""
        if self._fit is None:
            return True
        released = release.card if isinstance(release, Release) else release.network
        return released == self._fit.finished()

    def is_as_good(self, release: AnyRelease) -> bool:
        """Returns whether a release has the AUC that follows, but for the last digits."""
        told = release.report.overall
        if told is None or self.overall is None:
            return told is self.overall
        return all(
            math.isclose(getattr(told.auc, end), getattr(self.overall.auc, end), abs_tol=1e-9)
            for end in ("value", "low", "high")
        )
