"""A scorecard that one institution trains alone, on its own people, at home: nothing leaves.

It is what the national card is compared with. It needs no noise, because nobody else sees it.
"""

from typing import Final

from clients.packed_people import step_contributions
from clients.snapshot import Snapshot
from federation.door import sum_of
from federation.grid import Role
from federation.model.card_fit import Array, CardFit
from federation.model.score_scale import ScoreScale
from federation.model.scorecard import AdditiveCard, count_contribution
from federation.privacy.events import LEAST_SHARE_VARIANCE
from federation.privacy.units import Population
from federation.query import UNITS_PER_ONE, BoundedSum, Question
from federation.schema import Schema

ROUNDS_AT_HOME: Final = 40


def train_at_home(schema: Schema, snapshot: Snapshot, scale: ScoreScale) -> AdditiveCard:
    """Returns the card, in points, that this institution's trained people alone give.

    The same bins, steps and shrinkage as the national training with the noise set to zero, and
    more rounds, which cost nothing here.

    Raises:
        ConfigurationError: there are no trained people.
    """
    grids = schema.scored_grids
    columns = tuple(2 * len(grid.labels) for grid in grids)
    fit = CardFit.begin(
        grids=grids,
        counts=_exact(schema, snapshot, Question.BINS, columns, None),
        count_stddev=0.0,
        residual_stddev=0.0,
        rounds=ROUNDS_AT_HOME,
    )
    for _ in range(ROUNDS_AT_HOME):
        card = fit.to_ask()
        fit = fit.after(_exact(schema, snapshot, Question.STEP, (*card.bins, 1), card))
    return fit.in_points(scale)


def _exact(
    schema: Schema,
    snapshot: Snapshot,
    question: Question,
    columns: tuple[int, ...],
    card: AdditiveCard | None,
) -> Array:
    """Returns the sum that the door would noise; it stays in this process."""
    query = BoundedSum(question=question, columns=columns, share_variance=LEAST_SHARE_VARIANCE)
    if card is not None:
        people = step_contributions(schema, snapshot, card)
    else:
        scored = schema.places(Role.SCORED)
        people = (
            count_contribution(block.codes[scored], block.bad, block.person_starts)
            for block in snapshot.blocks(Population.TRAINED)
        )
    return sum_of(query, people).total / UNITS_PER_ONE
