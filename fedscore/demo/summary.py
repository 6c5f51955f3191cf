"""The demo's figures in one small struct, for documents and for programs."""

import msgspec

from federation.errors import DataError
from federation.model.evaluation import Figure
from fedscore.simulation import Simulation


class SummaryMember(msgspec.Struct, frozen=True, kw_only=True):
    """One staged institution; AUC on its own held-out people. Simulation only."""

    title: str
    people: int
    bad_rate: float
    alone: float
    national: float
    gain: float
    gain_low: float
    gain_high: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the demo showed.

    Attributes:
        epsilon: of a trained person.
        delta: of the promise.
        neighbours: of the promise.
        against: of the promise.
        auc: of the national card, from noisy sums.
        auc_low: lower end of its 95 % interval.
        auc_high: upper end.
        exact_auc: of the national card; simulation only.
        shared_only_auc: exact, if nobody had the five columns that not everybody holds.
        everything_auc: exact, if everybody had them.
        training_seconds: of all three trainings together.
        members: the institutions.
    """

    epsilon: float
    delta: float
    neighbours: str
    against: str
    auc: float
    auc_low: float
    auc_high: float
    exact_auc: float
    shared_only_auc: float
    everything_auc: float
    training_seconds: float
    members: tuple[SummaryMember, ...]


def summary_of(
    as_staged: Simulation, shared_only: Simulation, everything: Simulation
) -> Summary:
    """Returns the figures of one run of the demo.

    Raises:
        DataError: a figure could not be measured.
    """
    statement = as_staged.release.statement
    quality = as_staged.release.report.overall
    if quality is None:
        raise DataError("The noise hides the demo's quality: the demo's plan is wrong.")
    return Summary(
        epsilon=statement.epsilon,
        delta=statement.delta,
        neighbours=statement.neighbours,
        against=statement.against,
        auc=quality.auc.value,
        auc_low=quality.auc.low,
        auc_high=quality.auc.high,
        exact_auc=_known(as_staged.exact).value,
        shared_only_auc=_known(shared_only.exact).value,
        everything_auc=_known(everything.exact).value,
        training_seconds=as_staged.seconds + shared_only.seconds + everything.seconds,
        members=tuple(
            SummaryMember(
                title=one.title,
                people=one.trained + one.held_out,
                bad_rate=one.bad_rate,
                alone=_known(one.alone).value,
                national=_known(one.national).value,
                gain=_known(one.gain).value,
                gain_low=_known(one.gain).low,
                gain_high=_known(one.gain).high,
            )
            for one in as_staged.members
        ),
    )


def _known(figure: Figure | None) -> Figure:
    if figure is None:
        raise DataError("An institution of the demo has no good or no bad held-out people.")
    return figure
