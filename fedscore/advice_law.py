"""The law of what noise costs in AUC, for `fedscore plan advise`.

Scores of the good and the bad that are normal, d apart and of variance d^2, have AUC
Phi(d / sqrt 2) (Green and Swets 1966, section 3.2). What privacy takes from a score divides d by
sqrt(1 + excess), the excess being lost to noise in the weights, and to noise in the bins:

    AUC with privacy = Phi(Phi^-1(AUC without) / sqrt(1 + excess))

A weight is told by the mean over T rounds of a sum of residuals, whose noise has a standard
deviation of s people, and by an information of N p (1 - p) if its bin holds all N people, a share p
of them bad. F such weights together err by a variance of F (s / (N p (1 - p)))^2. Over d^2 this is
the ratio of noise to signal, (parameters x noise variance) / people^2, which follows from the plan:

    noise to signal = F s^2 / (N p (1 - p) d)^2
    excess = strength x ratio^exponent + collapse x ratio^2

How many bins share a feature's people, and how far neighbouring bins and the fit's shrinkage make
up for it (which an exponent below 1 says), is in `strength` and `exponent`; where noise rules, it
also hides the bins, and both errors multiply: `collapse`. The ends of the range are curves of the
same form, with an offset: a little noise may even help, as regularisation does. All figures are
fitted on synthetic federations by `python -m experiments run advice`, which writes them here
and holds the law against data that it was not fitted on; how often its range held there is written
beside it.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from federation.errors import ConfigurationError

LAW_FILE: Final = Path(__file__).with_name("advice_law.json")

Array = NDArray[np.float64]


class Curve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fitted figures of the excess; see above.

    Attributes:
        strength: of a small ratio of noise to signal.
        exponent: likewise.
        collapse: of a large one.
        offset: of the excess; below 0 where noise helps, as regularisation does.
    """

    strength: float
    exponent: float
    collapse: float
    offset: float

    def lost(self, ratio: float | Array, auc: float | Array) -> Array:
        """Returns the AUC that is lost; see `Law.loss`. Many at once if arrays are given."""
        noise = np.asarray(ratio)
        excess = self.strength * noise**self.exponent + self.collapse * noise**2 + self.offset
        return np.asarray(auc - ndtr(ndtri(auc) / np.sqrt(1 + np.maximum(excess, -0.5))))


class Law(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The law, fitted to quantiles of what synthetic federations lost, and where it was fitted.

    Attributes:
        low: 5 % of the trainings lost less.
        middle: half of them did.
        high: 5 % lost more.
        least_people: trained, of the smallest federation.
        most_people: of the largest.
        least_features: likewise.
        most_features: likewise.
    """

    low: Curve
    middle: Curve
    high: Curve
    least_people: int
    most_people: int
    least_features: int
    most_features: int

    def loss(self, ratio: float, auc: float) -> "Loss":
        """Returns the AUC to lose.

        Args:
            ratio: of noise to signal, 0 or more.
            auc: without privacy, in (0.5, 1).
        """
        low, middle, high = (
            float(curve.lost(ratio, auc)) for curve in (self.low, self.middle, self.high)
        )
        return Loss(
            low=min(low, middle),
            middle=middle,
            high=max(high, middle),
        )


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """AUC without privacy less AUC with it; below 0 where noise helped, as regularisation.

    Attributes:
        low: 1 in 20 of the federations that the law was fitted on lost less.
        middle: half of them did.
        high: 1 in 20 lost more.
    """

    low: float
    middle: float
    high: float


class Held(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the law's range held.

    Attributes:
        trainings: that were looked at, 1 or more.
        less: of them lost less AUC than the low end of the range.
        more: of them lost more than its high end.
    """

    trainings: int
    less: int
    more: int

    def __post_init__(self) -> None:
        if min(self.less, self.more) < 0 or self.trainings < max(1, self.less + self.more):
            raise ConfigurationError(
                f"Expected counts of {self.trainings} trainings, got less={self.less} and "
                f"more={self.more}: have `python -m experiments run advice` write them."
            )

    @property
    def inside(self) -> int:
        """Trainings whose loss lay in the range."""
        return self.trainings - self.less - self.more


class Fitted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the law's file holds.

    Attributes:
        law: as fitted.
        unseen: how often its range held on data that it was not fitted on.
    """

    law: Law
    unseen: Held


def fitted() -> Fitted:
    """Returns the law that comes with this version, and how it did.

    Raises:
        msgspec.ValidationError: the file is not one that the experiment wrote.
        ConfigurationError: its counts contradict each other.
    """
    return msgspec.json.decode(LAW_FILE.read_bytes(), type=Fitted)
