"""The data contract of a federation: features, roles, public bounds, outcome and person key.

A schema is public and the same at every institution; its digest stands in every plan. All bounds,
codes and categories are decisions of people, never read from data. Decoding is strict: a `Schema`
that exists is valid.
"""

import math
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Final

import msgspec

from federation.canonical import Digest, canonical_json, digest
from federation.drafted import TO_CONFIRM, places_to_confirm
from federation.errors import ConfigurationError
from federation.grid import (
    MISSING_LABEL,
    OTHER_LABEL,
    Direction,
    FeatureGrid,
    Kind,
    Role,
    Spacing,
    count_edges,
    linear_edges,
    log_edges,
)

ROW_AS_KEY: Final = "row"
"""The person key of a table that truly has one row a person: the position is the key."""

_MOST_CELLS = 64
_LARGEST_BOUND = 1e15  # counts up to here are exact in float64
_SMALLEST_LOG_UNIT = 1e-12
_SMALLEST_CELL = 1e-15
_SMALLEST_RELATIVE_CELL = 1e-9


class Outside(StrEnum):
    """What becomes of a finite value beyond the public bounds."""

    REFUSE = "refuse"
    CLAMP = "clamp"


class RowsPerPerson(StrEnum):
    """Whether a second row of a person is an error, or adjacent rows are one person."""

    ONE = "one"
    MANY = "many"


class SpecialCode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that is a code, not a quantity: 96 for "not reported"."""

    code: float
    label: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The column that is predicted: 1 = bad, 0 = good, nothing else."""

    column: str
    window: str


class Feature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column of the contract, valid if it exists.

    Attributes:
        name: the column.
        role: scored, protected (never scored) or ignored (never read).
        kind: what the values are.
        unit: of numbers and counts, for people.
        reason: what a person is told if this feature costs points; several may share one.
        lower: public bound of numbers and counts, inclusive.
        upper: public bound of numbers and counts, inclusive.
        spacing: of the cells between the bounds.
        log_unit: with log spacing, the size below which spacing is close to linear.
        cells: ordered cells of a number or count, 2 to 64.
        outside: what becomes of finite values beyond the bounds.
        categories: of a category, all text or all integers.
        other: whether categories that are not listed are allowed.
        missing: whether null is allowed.
        special: values that are codes, all outside the bounds.
        direction: of the risk of a bad outcome as the value rises.
    """

    name: str
    role: Role
    kind: Kind
    unit: str = ""
    reason: str = ""
    lower: float | None = None
    upper: float | None = None
    spacing: Spacing = Spacing.LINEAR
    log_unit: float | None = None
    cells: int | None = None
    outside: Outside = Outside.REFUSE
    categories: tuple[str | int, ...] = ()
    other: bool = False
    missing: bool = False
    special: tuple[SpecialCode, ...] = ()
    direction: Direction = Direction.NONE

    def __post_init__(self) -> None:
        problems = list(_problems_of_any(self))
        if self.role is not Role.IGNORED and not problems:
            problems = list(_problems_of_kind(self))
        if problems:
            raise ConfigurationError(f"Feature {self.name!r}: " + "; ".join(problems) + ".")
        if self.role is not Role.IGNORED:
            grid_of(self)

    @property
    def bounds(self) -> tuple[float, float]:
        """The public bounds of an ordered feature; those of a flag are 0 and 1."""
        if self.kind is Kind.FLAG:
            return (0.0, 1.0)
        if self.lower is None or self.upper is None:
            raise ConfigurationError(f"Feature {self.name!r} has no bounds.")
        return (self.lower, self.upper)


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """The whole contract, valid if it exists. `load_schema` reads it from TOML.

    Attributes:
        format: version of this layout, 1.
        name: for people.
        person_key: the column that names a person, or "row".
        rows_per_person: one, or many adjacent rows.
        outcome: the column that is predicted.
        features: in the order of every array with a feature axis, after leaving out ignored ones.
    """

    format: int
    name: str
    person_key: str
    rows_per_person: RowsPerPerson
    outcome: Outcome
    features: tuple[Feature, ...] = msgspec.field(name="feature")

    def __post_init__(self) -> None:
        if problems := list(_problems_of_schema(self)):
            raise ConfigurationError(f"Schema {self.name!r}: " + "; ".join(problems) + ".")

    @cached_property
    def grids(self) -> tuple[FeatureGrid, ...]:
        """The grids of all features that are not ignored, in the order of the schema."""
        return tuple(grid_of(feature) for feature in self.features if feature.role != Role.IGNORED)

    @cached_property
    def scored_grids(self) -> tuple[FeatureGrid, ...]:
        """The grids of the scored features, in the order of the schema."""
        return tuple(self.grids[place] for place in self.places(Role.SCORED))

    def places(self, role: Role) -> list[int]:
        """Returns the positions in `grids` of the features of a role."""
        return [place for place, grid in enumerate(self.grids) if grid.role is role]

    @cached_property
    def digest(self) -> Digest:
        """SHA-256 over all that it says, and its edges: logarithms of machines might differ."""
        edges = [list(grid.edges) for grid in self.grids]
        content = {"schema": msgspec.to_builtins(self), "edges": edges}
        return digest("fedscore/schema/1", canonical_json(content))


def load_schema(text: str) -> Schema:
    """Returns the schema that a TOML text holds.

    Args:
        text: the whole file.

    Raises:
        ConfigurationError: the text is not TOML, a person still has to confirm a draft, or the
            contract breaks a rule. All features are looked at before it is raised.
    """
    try:
        content = tomllib.loads(text)
        open_places = list(places_to_confirm(content, ""))
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise ConfigurationError(f"The schema is not valid TOML: {error}.") from error
    if open_places:
        raise ConfigurationError(
            f"A person has not confirmed {len(open_places)} places of this draft. Decide each one, "
            f'answer it, and remove "{TO_CONFIRM}: ": ' + "; ".join(open_places) + "."
        )
    problems = list(_problems_of_features(content.get("feature")))
    if problems:
        raise ConfigurationError("The schema breaks its rules:\n  " + "\n  ".join(problems))
    try:
        return msgspec.convert(content, Schema)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"The schema breaks its rules: {error}.") from error


def grid_of(feature: Feature) -> FeatureGrid:
    """Returns the public fine grid of one feature that is not ignored.

    Raises:
        ConfigurationError: the feature is ignored, has more than 250 cells, or two cells of it
            carry one label.
    """
    if feature.role is Role.IGNORED:
        raise ConfigurationError(f"Feature {feature.name!r} is ignored and has no grid.")
    edges = _edges(feature)
    labels = [
        *_range_labels(feature.kind, edges),
        *(special.label for special in feature.special),
        *([MISSING_LABEL] if feature.missing else []),
        *(str(category) for category in feature.categories),
        *([OTHER_LABEL] if feature.other else []),
    ]
    return FeatureGrid(
        name=feature.name,
        role=feature.role,
        kind=feature.kind,
        spacing=feature.spacing,
        direction=feature.direction,
        edges=edges,
        upper=feature.bounds[1] if edges else math.nan,
        clamp=feature.outside is Outside.CLAMP,
        special_codes=tuple(special.code for special in feature.special),
        missing=feature.missing,
        categories=feature.categories,
        other=feature.other,
        labels=tuple(labels),
    )


def _edges(feature: Feature) -> tuple[float, ...]:
    if feature.kind is Kind.CATEGORY:
        return ()
    lower, upper = feature.bounds
    cells = feature.cells or _MOST_CELLS
    unit = feature.log_unit or 1.0
    if feature.kind is not Kind.NUMBER:
        return count_edges(int(lower), int(upper), cells, feature.spacing, unit)
    if feature.spacing is Spacing.LOG:
        return log_edges(lower, upper, cells, unit)
    return linear_edges(lower, upper, cells)


def _range_labels(kind: Kind, edges: tuple[float, ...]) -> Iterator[str]:
    for position, (low, high) in enumerate(pairwise(edges)):
        if kind is Kind.NUMBER:
            closing = "]" if position == len(edges) - 2 else ")"
            yield f"[{_plain(low)}, {_plain(high)}{closing}"
        elif high == low + 1:
            yield f"{int(low)}"
        else:
            yield f"{int(low)} to {int(high) - 1}"


def _plain(number: float) -> str:
    return repr(number).removesuffix(".0")


# Rules. Each function yields one clause for each broken rule.

_SETTINGS_OF_SOME: Final = (
    "unit",
    "lower",
    "upper",
    "spacing",
    "log_unit",
    "cells",
    "outside",
    "categories",
    "other",
    "special",
    "direction",
)
_SETTINGS_OF_KIND: Final = {
    Kind.NUMBER: frozenset(_SETTINGS_OF_SOME) - {"categories", "other"},
    Kind.COUNT: frozenset(_SETTINGS_OF_SOME) - {"categories", "other"},
    Kind.CATEGORY: frozenset({"unit", "categories", "other"}),
    Kind.FLAG: frozenset({"unit", "special", "direction"}),
}
_DEFAULTS: Final = {field.name: field.default for field in msgspec.structs.fields(Feature)}


def _problems_of_any(feature: Feature) -> Iterator[str]:
    """Yields what no feature may hold, ignored ones included."""
    texts = {
        "name": feature.name,
        "unit": feature.unit or "-",
        "reason": feature.reason or "-",
        **{f"label of code {s.code:g}": s.label for s in feature.special},
    }
    for what, text in texts.items():
        if not _is_clean(text):
            yield f"{what} must be printable text without spaces at its ends"
    if any(isinstance(c, str) and not (c and c.isprintable()) for c in feature.categories):
        yield "categories must be printable text that is not empty"
    numbers = [feature.lower, feature.upper, feature.log_unit, *(s.code for s in feature.special)]
    if any(number is not None and not abs(number) <= _LARGEST_BOUND for number in numbers):
        yield f"bounds, log_unit and special codes must be finite and within +-{_LARGEST_BOUND:g}"


def _problems_of_kind(feature: Feature) -> Iterator[str]:
    for setting in _SETTINGS_OF_SOME:
        if setting not in _SETTINGS_OF_KIND[feature.kind] and (
            getattr(feature, setting) != _DEFAULTS[setting]
        ):
            yield f"a {feature.kind} takes no {setting}"
    if feature.role is Role.SCORED and not feature.reason:
        yield "a scored feature needs a reason that a person can be told"
    match feature.kind:
        case Kind.NUMBER | Kind.COUNT:
            yield from _problems_of_bounds(feature)
        case Kind.CATEGORY:
            yield from _problems_of_categories(feature)
        case Kind.FLAG:
            yield from _problems_of_special(feature, 0.0, 1.0)


def _problems_of_bounds(feature: Feature) -> Iterator[str]:
    lower, upper = feature.lower, feature.upper
    if not feature.unit:
        yield f"a {feature.kind} needs a unit"
    if feature.spacing is Spacing.LOG:
        if feature.log_unit is None or feature.log_unit < _SMALLEST_LOG_UNIT:
            yield f"log spacing needs log_unit >= {_SMALLEST_LOG_UNIT:g}"
            return
    elif feature.log_unit is not None:
        yield 'log_unit needs spacing = "log"'
    if feature.cells is not None and not 2 <= feature.cells <= _MOST_CELLS:
        yield f"cells must be 2 to {_MOST_CELLS}, got {feature.cells}"
        return
    if lower is None or upper is None:
        yield f"a {feature.kind} needs the public bounds lower and upper"
        return
    if lower >= upper:
        yield f"lower must be below upper, got {_plain(lower)} and {_plain(upper)}"
        return
    if feature.kind is Kind.COUNT:
        if not (lower.is_integer() and upper.is_integer()):
            yield "the bounds of a count must be whole numbers"
            return
    else:
        edges = _edges(feature)
        narrowest = min(high - low for low, high in pairwise(edges))
        size = max(abs(lower), abs(upper))
        if narrowest < max(_SMALLEST_CELL, _SMALLEST_RELATIVE_CELL * size):
            yield "the cells are too narrow for the size of the bounds: take fewer or a larger unit"
    yield from _problems_of_special(feature, lower, upper)


def _problems_of_special(feature: Feature, lower: float, upper: float) -> Iterator[str]:
    codes = [special.code for special in feature.special]
    for code in sorted({code for code in codes if codes.count(code) > 1}):
        yield f"special code {_plain(code)} stands twice"
    for code in sorted({code for code in codes if lower <= code <= upper}):
        yield f"special code {_plain(code)} lies within the bounds: it would be a quantity as well"


def _problems_of_categories(feature: Feature) -> Iterator[str]:
    if not feature.categories:
        yield "a category needs its categories"
    if len({type(category) for category in feature.categories}) > 1:
        yield "categories must be all text or all integers"
    if len(set(feature.categories)) != len(feature.categories):
        yield "a category is listed twice"
    if any(isinstance(c, int) and abs(c) > _LARGEST_BOUND for c in feature.categories):
        yield f"integer categories must be within +-{_LARGEST_BOUND:g}"


def _problems_of_schema(schema: Schema) -> Iterator[str]:
    if schema.format != 1:
        yield f"expected format = 1, got {schema.format}"
    texts = {
        "name": schema.name,
        "person_key": schema.person_key,
        "outcome.column": schema.outcome.column,
        "outcome.window": schema.outcome.window,
    }
    for what, text in texts.items():
        if not _is_clean(text):
            yield f"{what} must be printable text without spaces at its ends"
    names = [feature.name for feature in schema.features]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"feature {name!r} stands twice"
    if schema.outcome.column in names:
        yield f"the outcome {schema.outcome.column!r} cannot be a feature"
    if schema.person_key in names:
        yield f"the person key {schema.person_key!r} cannot be a feature"
    if schema.person_key == schema.outcome.column:
        yield "the person key cannot be the outcome"
    if schema.person_key == ROW_AS_KEY and schema.rows_per_person is RowsPerPerson.MANY:
        yield 'person_key = "row" means one row a person: rows_per_person must be "one"'
    if not any(feature.role is Role.SCORED for feature in schema.features):
        yield "at least one feature must be scored"


def _problems_of_features(entries: object) -> Iterator[str]:
    """Yields what is wrong with each [[feature]], so that all are named in one error."""
    if not isinstance(entries, list):
        return
    for position, entry in enumerate(entries, start=1):
        try:
            msgspec.convert(entry, Feature)
        except msgspec.ValidationError as error:
            name = entry.get("name") if isinstance(entry, dict) else None
            yield f"Feature {name!r} (number {position}): {error}{_allowed(str(error))}."
        except ConfigurationError as error:
            yield str(error)


def _allowed(error: str) -> str:
    """Returns the values that a setting may have, where an error says that it has another."""
    setting = error.rpartition("`$.")[2].rstrip("`") if "enum value" in error else ""
    kinds = {field.name: field.type for field in msgspec.structs.fields(Feature)}
    kind = kinds.get(setting)
    if not (isinstance(kind, type) and issubclass(kind, StrEnum)):
        return ""
    return f" (allowed: {', '.join(kind)})"


def _is_clean(text: str) -> bool:
    return bool(text) and text.isprintable() and text == text.strip() and len(text) <= 300
