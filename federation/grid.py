"""The public fine grid of one feature: which of at most 250 cells a value falls into.

A grid follows from the schema alone, never from data, so a cell number says the same everywhere.
The cells stand in this order: ordered ranges, special codes, MISSING, categories, OTHER.
`edges` are the truth: every way of coding a value agrees with them exactly.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError, DataError

NOT_HELD: Final = 255
"""The code of a feature that an institution does not hold. Contributes nothing."""

LARGEST_GRID: Final = 250
"""Most cells of one grid: a code is one byte, and the codes from 250 on name no cell."""

MISSING_LABEL: Final = "MISSING"
OTHER_LABEL: Final = "OTHER"

_EDGE_DIGITS = 3  # an edge is rounded to 1/1000 of the width of its cell, or finer


class Role(StrEnum):
    """What a feature may be used for."""

    SCORED = "scored"
    PROTECTED = "protected"
    IGNORED = "ignored"


class Kind(StrEnum):
    """What the values of a feature are."""

    NUMBER = "number"
    COUNT = "count"
    CATEGORY = "category"
    FLAG = "flag"


class Spacing(StrEnum):
    """How the edges of ordered cells are spaced between the bounds."""

    LINEAR = "linear"
    LOG = "log"


class Direction(StrEnum):
    """How the risk of a bad outcome may change as the value rises."""

    NONE = "none"
    RISING = "rising"
    FALLING = "falling"


class Rule(StrEnum):
    """A rule that a single value of a feature can break; the text is what a person reads."""

    NULL = "null is not allowed here (the schema says missing = false)"
    NAN = "NaN is never allowed: write a missing value as null (an empty field in CSV)"
    INFINITE = "infinite values are never allowed"
    NOT_WHOLE = "a count must be a whole number"
    NOT_A_FLAG = "a flag must be 0 or 1"
    OUTSIDE = "outside the public bounds of the schema"
    NOT_LISTED = "category not listed in the schema"
    WRONG_TYPE = "not of the type that the schema expects"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureGrid:
    """The cells of one feature. Codes run from 0 to `len(labels) - 1`.

    Attributes:
        name: the feature.
        role: scored or protected; ignored features have no grid.
        kind: what the values are.
        spacing: of the ordered cells.
        direction: of the risk over the ordered cells.
        edges: strictly increasing, one more than ordered cells, or empty. Cell k holds
            edges[k] <= x < edges[k + 1]; the last cell of a number holds its upper edge as well.
            The last edge of counts and flags is upper + 1.
        upper: the largest value of the ordered cells; the smallest is edges[0].
        clamp: whether finite values beyond the bounds count as the bound.
        special_codes: values that are codes, all outside the bounds.
        missing: whether there is a MISSING cell.
        categories: all text or all integers.
        other: whether there is an OTHER cell for categories that are not listed.
        labels: one for each cell, distinct.
    """

    name: str
    role: Role
    kind: Kind
    spacing: Spacing
    direction: Direction
    edges: tuple[float, ...]
    upper: float
    clamp: bool
    special_codes: tuple[float, ...]
    missing: bool
    categories: tuple[str | int, ...]
    other: bool
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        expected = (
            self.ordered_cells
            + len(self.special_codes)
            + self.missing
            + len(self.categories)
            + self.other
        )
        if len(self.labels) != expected:
            raise ConfigurationError(
                f"Feature {self.name}: expected {expected} labels, got {len(self.labels)}."
            )
        if not 2 <= expected <= LARGEST_GRID:
            raise ConfigurationError(
                f"Feature {self.name}: expected 2 to {LARGEST_GRID} cells in all (ordered cells, "
                f"special codes, missing, categories, other), got {expected}."
            )
        if len(set(self.labels)) != expected:
            twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
            raise ConfigurationError(
                f"Feature {self.name}: two cells carry the same label: {', '.join(twice)}."
            )
        if any(not low < high for low, high in pairwise(self.edges)):
            raise ConfigurationError(f"Feature {self.name}: the edges do not increase.")

    @property
    def ordered_cells(self) -> int:
        """How many cells are ordered ranges; they come first."""
        return max(0, len(self.edges) - 1)

    @property
    def missing_cell(self) -> int | None:
        """The code of MISSING, if the feature may be missing."""
        return self.ordered_cells + len(self.special_codes) if self.missing else None

    @property
    def first_category_cell(self) -> int:
        """The code of the first category."""
        return self.ordered_cells + len(self.special_codes) + self.missing

    @property
    def other_cell(self) -> int | None:
        """The code of OTHER, if categories that are not listed are allowed."""
        return len(self.labels) - 1 if self.other else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedQuantities:
    """A column of quantities as codes, and the rows that break a rule.

    Attributes:
        codes: uint8[rows]; NOT_HELD where a rule is broken.
        broken: the rules that were broken, each with bool[rows], true for the rows.
    """

    codes: NDArray[np.uint8]
    broken: tuple[tuple[Rule, NDArray[np.bool_]], ...]


def linear_edges(lower: float, upper: float, cells: int) -> tuple[float, ...]:
    """Returns `cells + 1` equally spaced edges from lower to upper, rounded for reading."""
    return _rounded([lower + (upper - lower) * (k / cells) for k in range(cells + 1)], upper)


def log_edges(lower: float, upper: float, cells: int, unit: float) -> tuple[float, ...]:
    """Returns `cells + 1` edges equally spaced in sign(x) log1p(|x| / unit), rounded for reading.

    Args:
        lower: smaller than upper, finite.
        upper: finite.
        cells: at least 1.
        unit: > 0; below it the spacing is close to linear, above it close to logarithmic.
    """
    low, high = _signed_log(lower, unit), _signed_log(upper, unit)
    steps = [low + (high - low) * (k / cells) for k in range(cells + 1)]
    inner = [math.copysign(unit * math.expm1(abs(step)), step) for step in steps[1:-1]]
    return _rounded([lower, *inner, upper], upper)


def count_edges(
    lower: int, upper: int, cells: int, spacing: Spacing, unit: float
) -> tuple[float, ...]:
    """Returns whole-numbered edges from lower to upper + 1: one cell an integer if they suffice.

    With log spacing there are fewer than `cells` cells where several would hold no integer.
    """
    integers = upper + 1 - lower
    if integers <= cells:
        return tuple(float(lower + k) for k in range(integers + 1))
    if spacing is Spacing.LINEAR:
        return tuple(float(lower + k * integers // cells) for k in range(cells + 1))
    exact = log_edges(float(lower), float(upper + 1), cells, unit)
    return tuple(sorted({float(math.floor(edge)) for edge in exact}))


def _signed_log(value: float, unit: float) -> float:
    return math.copysign(math.log1p(abs(value) / unit), value)


def _rounded(edges: Sequence[float], upper: float) -> tuple[float, ...]:
    """Rounds inner edges to a decimal place fine against the cells on both sides.

    Rounding hides the last bits, in which the logarithms of two machines may differ.
    """
    inner = []
    for before, edge, after in zip(edges, edges[1:], edges[2:], strict=False):
        width = min(edge - before, after - edge)
        if width <= 0:
            return tuple(edges)  # refused by whoever builds a grid from it
        exponent = int(f"{width:e}".partition("e")[2])
        inner.append(round(edge, _EDGE_DIGITS - exponent) + 0.0)
    return (edges[0], *inner, upper)


def code_of(grid: FeatureGrid, value: float | str | None) -> int:
    """Returns the code of one value: what `code_quantities` says for a column, for one person.

    Args:
        grid: the feature's cells.
        value: None where missing; a number, count, flag or integer category as a number; a
            category as text.

    Raises:
        DataError: the value breaks a rule of the schema. The message names feature and rule.
    """
    if value is None:
        if grid.missing_cell is None:
            raise _broken(grid, Rule.NULL)
        return grid.missing_cell
    if grid.kind is Kind.CATEGORY:
        return _category_code(grid, value)
    if isinstance(value, str):
        raise _broken(grid, Rule.WRONG_TYPE)
    number = float(value)
    if math.isnan(number):
        raise _broken(grid, Rule.NAN)
    if math.isinf(number):
        raise _broken(grid, Rule.INFINITE)
    if number in grid.special_codes:
        return grid.ordered_cells + grid.special_codes.index(number)
    lower = grid.edges[0]
    if grid.kind is Kind.FLAG and number not in (0.0, 1.0):
        raise _broken(grid, Rule.NOT_A_FLAG)
    if grid.kind is Kind.COUNT and number != math.floor(number):
        raise _broken(grid, Rule.NOT_WHOLE)
    if not lower <= number <= grid.upper:
        if not grid.clamp:
            raise _broken(grid, Rule.OUTSIDE)
        number = min(max(number, lower), grid.upper)
    return min(bisect_right(grid.edges, number) - 1, grid.ordered_cells - 1)


def _category_code(grid: FeatureGrid, value: float | str) -> int:
    wanted = str if isinstance(grid.categories[0], str) else int
    if type(value) is not wanted:
        raise _broken(grid, Rule.WRONG_TYPE)
    if value in grid.categories:
        return grid.first_category_cell + grid.categories.index(value)
    if grid.other_cell is None:
        raise _broken(grid, Rule.NOT_LISTED)
    return grid.other_cell


def _broken(grid: FeatureGrid, rule: Rule) -> DataError:
    return DataError(f"Feature {grid.name}: {rule}.")


def code_quantities(
    grid: FeatureGrid, values: NDArray[np.float64], null: NDArray[np.bool_] | None
) -> CodedQuantities:
    """Returns the codes of a column of numbers, counts or flags, each value for itself.

    Args:
        grid: the feature's cells; not a category.
        values: float64[rows]; anything at all where `null` is true.
        null: bool[rows], true where the value is missing; None where none is.
    """
    if values.size == 0:
        return CodedQuantities(codes=np.empty(0, np.uint8), broken=())
    lower, upper = grid.edges[0], grid.upper
    # A NaN makes both comparisons false. Special codes lie outside the bounds.
    if null is None and values.min() >= lower and values.max() <= upper:
        broken = _not_whole(grid, values)
        codes = _ordered_codes(grid, values)
        if broken is None:
            return CodedQuantities(codes=codes, broken=())
        codes[broken[1]] = NOT_HELD
        return CodedQuantities(codes=codes, broken=(broken,))
    return _code_carefully(grid, values, null)


def _code_carefully(
    grid: FeatureGrid, values: NDArray[np.float64], null: NDArray[np.bool_] | None
) -> CodedQuantities:
    """Codes a column in which values may be missing, special, or against a rule."""
    lower, upper = grid.edges[0], grid.upper
    missing = np.zeros(values.shape, np.bool_) if null is None else null
    present = np.where(missing, lower, values)
    is_nan, is_infinite = np.isnan(present), np.isinf(present)
    specials = [present == code for code in grid.special_codes]
    unusable = is_nan | is_infinite
    for special in specials:
        unusable |= special
    quantities = np.where(unusable, lower, present)
    outside = (quantities < lower) | (quantities > upper)
    not_whole = _not_whole(grid, quantities)
    refused: list[tuple[Rule, NDArray[np.bool_]]] = [
        (Rule.NAN, is_nan),
        (Rule.INFINITE, is_infinite),
    ]
    if grid.missing_cell is None:
        refused.append((Rule.NULL, missing))
    if not_whole is not None:
        refused.append(not_whole)
    if not grid.clamp:
        beyond = outside if not_whole is None else outside & ~not_whole[1]
        refused.append((Rule.OUTSIDE, beyond))
    codes = _ordered_codes(grid, np.clip(quantities, lower, upper))
    for position, special in enumerate(specials):
        codes[special] = grid.ordered_cells + position
    if grid.missing_cell is not None:
        codes[missing] = grid.missing_cell
    broken = tuple((rule, rows) for rule, rows in refused if rows.any())
    for _, rows in broken:
        codes[rows] = NOT_HELD
    return CodedQuantities(codes=codes, broken=broken)


def _not_whole(
    grid: FeatureGrid, values: NDArray[np.float64]
) -> tuple[Rule, NDArray[np.bool_]] | None:
    """Returns the rows that no count or flag may hold, None if there are none."""
    if grid.kind is Kind.NUMBER:
        return None
    if grid.kind is Kind.FLAG:
        rule, rows = Rule.NOT_A_FLAG, (values != 0.0) & (values != 1.0)
    else:
        rule, rows = Rule.NOT_WHOLE, values != np.floor(values)
    return (rule, rows) if rows.any() else None


def _ordered_codes(grid: FeatureGrid, values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Returns the cells of values in [edges[0], upper].

    Linear edges are guessed and put right: rounding, and whole edges of counts, move an edge by
    less than one cell, so the guess is off by at most one (grid tests compare with bisection).
    """
    edges = np.array(grid.edges)
    last = grid.ordered_cells - 1
    if grid.spacing is Spacing.LINEAR:
        scale = grid.ordered_cells / (edges[-1] - edges[0])
        guess = np.minimum(((values - edges[0]) * scale).astype(np.intp), last)
        above = np.append(edges[1:-1], np.inf)
        down = values < edges[guess]
        up = values >= above[guess]
        codes: NDArray[np.uint8] = (guess + up - down).astype(np.uint8)
        return codes
    return np.searchsorted(edges[1:-1], values, side="right").astype(np.uint8)
