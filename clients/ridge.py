"""Ridge logistic regression on bins, on top of log-odds that another score gives already.

Coefficient 0 is the level, the others belong to bins. Rows are read again for each step, a block at
a time; what is kept of them are sums by coefficient.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_STEPS: Final = 50
CLOSE: Final = 1e-5
"""Steps end when no coefficient moves by more than this, in log-odds."""

_CHUNK_NUMBERS: Final = 1 << 19  # 4 MiB of a chunk's bins at a time
_ROUNDING: Final = 1e-9  # a loss that is larger by this share may be the same one


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some rows.

    Attributes:
        coefficients: intp[features, rows], the coefficient of each row's bin; where a row has none,
            the number of coefficients.
        given: float64[rows], log-odds of bad that are given.
        bad: bool[rows].
    """

    coefficients: NDArray[np.intp]
    given: Array
    bad: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> "Rows":
        """Returns the rows that are chosen."""
        return Rows(
            coefficients=self.coefficients[:, chosen],
            given=self.given[chosen],
            bad=self.bad[chosen],
        )

    def log_odds(self, at: Array) -> Array:
        """Returns float64[rows], the log-odds of bad at some coefficients."""
        extended = np.append(at, 0.0)
        found: Array = self.given + at[0]
        for of_feature in self.coefficients:
            found += extended[of_feature]
        return found


def losses(rows: Rows, at: Array) -> Array:
    """Returns float64[rows], minus the log-likelihood of each row's outcome."""
    log_odds = rows.log_odds(at)
    return np.asarray(np.logaddexp(0.0, np.where(rows.bad, -log_odds, log_odds)))


def fitted(rows: Callable[[], Iterable[Rows]], penalty: Array, start: Array) -> Array:
    """Returns the coefficients b with the least losses + sum(penalty b^2) / 2, by Newton's method.

    A step that went too far is halved. The result depends on the rows and their order alone.

    Args:
        rows: begins to read all rows anew.
        penalty: float64[coefficients], all above 0, which makes the least unique.
        start: float64[coefficients].
    """
    best, least, now = start, np.inf, start
    for _ in range(MOST_STEPS):
        loss, gradient, information = _sums(rows(), now)
        loss += 0.5 * float(penalty @ now**2)
        if loss > least * (1 + _ROUNDING):
            now = (best + now) / 2
            continue
        best, least = now, loss
        step = np.linalg.solve(information + np.diag(penalty), gradient + penalty * now)
        now = best - step
        if np.abs(step).max() < CLOSE:
            return now
    return best


def _sums(rows: Iterable[Rows], at: Array) -> tuple[float, Array, Array]:
    """Returns the loss, its gradient [coefficients], and its second derivative [.., ..]."""
    size = at.size
    loss, gradient, information = 0.0, np.zeros(size), np.zeros((size, size))
    rows_of_chunk = max(64, _CHUNK_NUMBERS // size)
    for block in rows:
        for start in range(0, block.bad.size, rows_of_chunk):
            part = slice(start, start + rows_of_chunk)
            chunk = Rows(
                coefficients=block.coefficients[:, part],
                given=block.given[part],
                bad=block.bad[part],
            )
            log_odds = chunk.log_odds(at)
            rate = 0.5 + 0.5 * np.tanh(log_odds / 2)  # the logistic curve, without overflow
            loss += float(np.logaddexp(0.0, np.where(chunk.bad, -log_odds, log_odds)).sum())
            root = np.sqrt(rate * (1.0 - rate))
            table = np.zeros((chunk.bad.size, size + 1))
            table[:, 0] = root
            residual = rate - chunk.bad
            gradient[0] += residual.sum()
            for of_feature in chunk.coefficients:
                table[np.arange(chunk.bad.size), of_feature] = root
                gradient += np.bincount(of_feature, residual, size + 1)[:size]
            information += (table.T @ table)[:size, :size]
    return loss, gradient, information
