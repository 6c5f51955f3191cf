"""The privacy profile of sampled sums once more, from the densities and one FFT of our own."""

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr


def one_sum_delta(sigma: float, rate: float, epsilon: float, *, remove: bool) -> float:
    """Returns the exact hockey-stick divergence of one sum, to forty digits before rounding.

    Removing a person: (1 - q) N(0, sigma^2) + q N(1, sigma^2) against N(0, sigma^2); adding: the
    reverse. The likelihood ratio rises with x, so each set that tells most is a half line.
    """
    with mpmath.workdps(40):
        s, q, eps = mpmath.mpf(sigma), mpmath.mpf(rate), mpmath.mpf(epsilon)
        inner = 1 + (mpmath.exp(eps if remove else -eps) - 1) / q
        if inner <= 0:
            return float(1 - mpmath.exp(eps)) if remove else 0.0
        x = s**2 * mpmath.log(inner) + mpmath.mpf(1) / 2

        def above(mean: int) -> mpmath.mpf:
            return mpmath.ncdf((mean - x) / s)

        def below(mean: int) -> mpmath.mpf:
            return mpmath.ncdf((x - mean) / s)

        if remove:
            return float((1 - q) * above(0) + q * above(1) - mpmath.exp(eps) * above(0))
        return float(below(0) - mpmath.exp(eps) * ((1 - q) * below(0) + q * below(1)))


def composed_deltas(
    sigma: float, rate: float, times: int, epsilons: NDArray[np.float64], *, remove: bool
) -> NDArray[np.float64]:
    """Returns the divergences of `times` sums, each loss rounded to the nearest of a fine grid.

    Neither an upper nor a lower bound: an estimate, within about 10^-4 of itself.

    Args:
        sigma: noise over sensitivity.
        rate: the sampling rate q.
        times: T.
        epsilons: where. Shape (points,).
        remove: the direction.
    """
    x = np.linspace(-10 * sigma, 10 * sigma + 1, 2**18)
    loss = np.logaddexp(np.log1p(-rate), np.log(rate) + (x - 0.5) / sigma**2)
    if remove:
        below = (1 - rate) * ndtr(x / sigma) + rate * ndtr((x - 1) / sigma)
    else:
        loss, below = -loss, ndtr(x / sigma)
    mass, middle = np.diff(below), (loss[1:] + loss[:-1]) / 2
    deviation = float(np.sqrt(mass @ (middle - mass @ middle) ** 2))
    width = deviation / 200
    cells = np.rint(middle / width).astype(np.int64)
    lowest = int(cells.min())
    size = int(
        2 ** np.ceil(np.log2(cells.max() - lowest + 40 * deviation * times**0.5 / width + 2))
    )
    single = np.bincount(cells - lowest, weights=mass, minlength=size)
    # The composed mass lies about times x mean: turn it to the middle of the period.
    mean = round(float(mass @ middle) * times / width)
    start = mean - size // 4 - lowest * times
    composed = np.roll(np.fft.irfft(np.fft.rfft(single) ** times, size), -start)
    losses = (np.arange(size) + mean - size // 4) * width
    return np.array(
        [
            float(-np.expm1(epsilon - losses[over]) @ composed[over])
            for epsilon in epsilons
            for over in [losses > epsilon]
        ]
    )
