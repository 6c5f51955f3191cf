"""The data contract: what loads, what is refused, and which cell a value falls into."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import ConfigurationError, DataError
from federation.grid import (
    NOT_HELD,
    Direction,
    FeatureGrid,
    Kind,
    Role,
    Rule,
    code_of,
    code_quantities,
)
from federation.population import Split, held_out, held_out_hashes, key_hashes
from federation.schema import Feature, Outside, Schema, Spacing, SpecialCode, grid_of, load_schema

HEAD = """
format = 1
name = "Test"
person_key = "person"
rows_per_person = "one"
[outcome]
column = "bad"
window = "default within a year"
"""
INCOME = """
[[feature]]
name = "income"
role = "scored"
kind = "number"
unit = "EUR"
reason = "Income"
lower = 0
upper = 100000
"""
SALT = "5a" * 32


def number(**settings: object) -> Feature:
    chosen = {"lower": 0.0, "upper": 100.0} | settings
    return Feature(name="x", role=Role.SCORED, kind=Kind.NUMBER, unit="u", reason="r", **chosen)


def count(**settings: object) -> Feature:
    chosen = {"lower": 0.0, "upper": 10.0} | settings
    return Feature(name="x", role=Role.SCORED, kind=Kind.COUNT, unit="u", reason="r", **chosen)


def category(**settings: object) -> Feature:
    return Feature(name="x", role=Role.SCORED, kind=Kind.CATEGORY, reason="r", **settings)


def flag(**settings: object) -> Feature:
    return Feature(name="x", role=Role.SCORED, kind=Kind.FLAG, reason="r", **settings)


def test_a_complete_schema_loads_in_order_and_without_its_ignored_features() -> None:
    schema = load_schema(
        HEAD
        + INCOME
        + '[[feature]]\nname = "note"\nrole = "ignored"\nkind = "category"\n'
        + '[[feature]]\nname = "sex"\nrole = "protected"\nkind = "category"\n'
        + "categories = [1, 2]\nother = true\nmissing = true\n"
    )
    assert [grid.name for grid in schema.grids] == ["income", "sex"]
    assert [grid.role for grid in schema.grids] == [Role.SCORED, Role.PROTECTED]
    assert schema.grids[0].ordered_cells == 64
    assert schema.grids[1].labels == ("MISSING", "1", "2", "OTHER")
    assert len(schema.digest) == 64


def test_the_digest_depends_on_what_the_schema_says_and_not_on_how_it_is_written() -> None:
    first = load_schema(HEAD + INCOME)
    same = load_schema("# a comment\n" + HEAD + INCOME.replace("100000", "100_000.0"))
    other = load_schema(HEAD + INCOME.replace("100000", "100001"))
    assert first.digest == same.digest
    assert first.digest != other.digest


def test_the_digest_is_frozen() -> None:
    expected = "ee7c372ac44f70b7fa2486c2ca8e148d16ffef625047781e97e599ea189a08fe"
    assert load_schema(HEAD + INCOME).digest == expected


def test_the_order_of_cells_is_ranges_specials_missing() -> None:
    feature = count(upper=2.0, missing=True, special=(SpecialCode(code=96, label="n/a"),))
    assert grid_of(feature).labels == ("0", "1", "2", "n/a", "MISSING")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("format = 1", "format = 2"), "format = 1"),
        (lambda t: t.replace("format = 1", 'format = "1"'), "format"),
        (lambda t: t.replace("rows_per_person", "rows_each"), "rows_each"),
        (lambda t: t.replace('"one"', '"two"'), "rows_per_person"),
        (lambda t: t.replace('window = "default within a year"', ""), "window"),
        (lambda t: t.replace('"scored"', '"protected"'), "at least one feature must be scored"),
        (lambda t: t + INCOME, "'income' stands twice"),
        (lambda t: t.replace('"income"', '"bad"'), "outcome 'bad' cannot be a feature"),
        (lambda t: t.replace('"income"', '"person"'), "person key 'person' cannot be a feature"),
        (lambda t: t.replace('"person"', '"bad"'), "person key cannot be the outcome"),
        (lambda t: t.replace('"one"', '"many"').replace('"person"', '"row"'), 'person_key = "row"'),
        (lambda t: t.replace("lower = 0", "lower = 100000"), "'income': lower must be below"),
        (lambda t: t.replace("lower = 0", "lower = nan"), "'income': bounds.*finite"),
        (lambda t: t.replace("lower = 0", "lower = -inf"), "'income': bounds.*finite"),
        (lambda t: t.replace("upper = 100000", "upper = 1e300"), "'income': bounds"),
        (lambda t: t.replace("upper = 100000", "upper = 1e-300"), "'income': the cells are too"),
        (lambda t: t.replace("lower = 0", ""), "'income': a number needs the public bounds"),
        (lambda t: t.replace("lower = 0", 'lower = "0"'), "'income'.*float"),
        (lambda t: t + "cells = 65", "'income': cells must be 2 to 64"),
        (lambda t: t + "cells = 1", "'income': cells must be 2 to 64"),
        (lambda t: t + 'spacing = "log"', "'income': log spacing needs log_unit"),
        (lambda t: t + "log_unit = 3", "'income': log_unit needs spacing"),
        (lambda t: t + "categories = [1]", "'income': a number takes no categories"),
        (lambda t: t + 'colour = "red"', "'income'.*colour"),
        (lambda t: t + 'outside = "drop"', "'income'.*drop"),
        (lambda t: t.replace('reason = "Income"', ""), "'income': a scored feature needs a reason"),
        (lambda t: t.replace('unit = "EUR"', ""), "'income': a number needs a unit"),
        (lambda t: t.replace('"Income"', '"Inc\\u0007ome"'), "'income': reason must be printable"),
        (lambda t: t.replace("[outcome]", "[outcome"), "not valid TOML"),
        (lambda t: t + 'special = [{code = 5, label = "a"}]', "code 5 lies within the bounds"),
        (
            lambda t: t + 'special = [{code = -1, label = "a"}, {code = -1, label = "b"}]',
            "'income': special code -1 stands twice",
        ),
        (
            lambda t: t + 'special = [{code = -1, label = "a"}, {code = -2, label = "a"}]',
            "income: two cells carry the same label: a",
        ),
    ],
)
def test_a_schema_that_breaks_a_rule_is_refused_by_feature_and_rule(change, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_schema(change(HEAD + INCOME))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: count(upper=2.5), "whole numbers"),
        (category, "needs its categories"),
        (lambda: category(categories=("a", 1)), "all text or all integers"),
        (lambda: category(categories=("a", "a")), "listed twice"),
        (lambda: category(categories=("a", "")), "not empty"),
        (lambda: category(categories=("MISSING", "b"), missing=True), "same label: MISSING"),
        (lambda: category(categories=("a",)), "2 to 250 cells"),
        (lambda: category(categories=tuple(range(251))), "2 to 250 cells"),
        (lambda: category(categories=("a", "b"), direction=Direction.RISING), "no direction"),
        (lambda: flag(lower=0.0), "a flag takes no lower"),
        (lambda: flag(special=(SpecialCode(code=1, label="x"),)), "within the bounds"),
        (lambda: flag(outside=Outside.CLAMP), "a flag takes no outside"),
    ],
)
def test_a_feature_that_exists_is_valid(make, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_all_broken_features_are_named_in_one_error() -> None:
    text = HEAD + INCOME.replace("lower = 0", "") + INCOME.replace('"income"', '"debt"') + "x = 1"
    with pytest.raises(ConfigurationError, match=r"(?s)'income'.*'debt'"):
        load_schema(text)


def test_every_place_that_a_person_has_not_confirmed_is_named_at_once() -> None:
    text = (HEAD + INCOME).replace("lower = 0", 'lower = "TO CONFIRM: 0"')
    text = text.replace('"default within a year"', '"TO CONFIRM: window"')
    with pytest.raises(ConfigurationError, match=r"2 places.*outcome.window; feature income.lower"):
        load_schema(text)


def test_a_short_count_has_one_cell_an_integer() -> None:
    grid = grid_of(count(lower=-2.0, upper=3.0))
    assert grid.labels == ("-2", "-1", "0", "1", "2", "3")
    assert [code_of(grid, value) for value in range(-2, 4)] == [0, 1, 2, 3, 4, 5]


def test_a_long_count_has_ranges_of_whole_numbers() -> None:
    grid = grid_of(count(upper=1000.0, cells=4))
    assert grid.labels == ("0 to 249", "250 to 499", "500 to 749", "750 to 1000")


def test_a_logarithmic_count_has_single_integers_where_it_is_small() -> None:
    grid = grid_of(count(upper=100000.0, spacing=Spacing.LOG, log_unit=1.0))
    assert grid.labels[:3] == ("0", "1", "2")
    assert all(edge == int(edge) for edge in grid.edges)


def test_edges_are_rounded_for_reading_but_keep_the_bounds() -> None:
    grid = grid_of(number(upper=2e6, spacing=Spacing.LOG, log_unit=1e4, cells=4))
    assert (grid.edges[0], grid.edges[-1]) == (0.0, 2e6)
    assert grid.labels[0] == "[0, 27650)"
    assert grid.labels[-1].endswith(", 2000000]")


@st.composite
def ordered_features(draw: st.DrawFn) -> Feature:
    """Any valid number, count or flag."""
    kind = draw(st.sampled_from([Kind.NUMBER, Kind.COUNT, Kind.FLAG]))
    outside = draw(st.sampled_from(Outside))
    missing = draw(st.booleans())
    if kind is Kind.FLAG:
        return flag(missing=missing, special=(SpecialCode(code=9, label="nine"),))
    log = draw(st.booleans())
    ordered = {
        "cells": draw(st.integers(2, 64)),
        "outside": outside,
        "missing": missing,
        "spacing": Spacing.LOG if log else Spacing.LINEAR,
        "log_unit": draw(st.sampled_from([0.01, 1.0, 300.0])) if log else None,
    }
    low = draw(st.integers(-100_000, 100_000))
    high = low + draw(st.integers(1, 1_000_000))
    special = (SpecialCode(code=low - 7, label="seven"), SpecialCode(code=high + 7, label="eight"))
    make = count if kind is Kind.COUNT else number
    return make(lower=float(low), upper=float(high), special=special, **ordered)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(feature=ordered_features(), data=st.data())
def test_a_value_lies_in_the_cell_whose_edges_contain_it(feature: Feature, data) -> None:
    grid = grid_of(feature)
    lower, upper = feature.bounds
    if grid.kind is Kind.NUMBER:
        near = [math.nextafter(edge, side) for edge in grid.edges for side in (-1e9, 1e9)]
        values = data.draw(st.lists(st.floats(lower, upper), max_size=20))
    else:
        near = [edge + step for edge in grid.edges for step in (-1.0, 1.0)]
        values = [float(v) for v in data.draw(st.lists(st.integers(int(lower), int(upper))))]
    values += [edge for edge in (*grid.edges, *near) if lower <= edge <= upper]
    codes = code_quantities(grid, np.array(values), None).codes
    for value, code in zip(values, codes.tolist(), strict=True):
        assert grid.edges[code] <= value
        assert value < grid.edges[code + 1] or (code == grid.ordered_cells - 1 and value == upper)
        assert code_of(grid, value) == code


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    feature=ordered_features(),
    extra=st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none(), max_size=20),
    seven=st.booleans(),
)
def test_a_column_is_coded_as_each_value_for_itself(feature: Feature, extra, seven) -> None:
    grid = grid_of(feature)
    lower, upper = feature.bounds
    values = [*extra, lower, upper, upper + 7, lower - 7]
    values += [None, math.nan, lower + 0.5, lower - 0.5, upper + 1] if seven else []
    null = np.array([value is None for value in values])
    column = np.array([math.nan if value is None else value for value in values])
    coded = code_quantities(grid, column, null if null.any() else None)
    for row, value in enumerate(values):
        rules = [rule for rule, rows in coded.broken if rows[row]]
        if rules:
            assert coded.codes[row] == NOT_HELD
            with pytest.raises(DataError) as caught:
                code_of(grid, value)
            assert [str(caught.value)] == [f"Feature x: {rule}." for rule in rules]
        else:
            assert coded.codes[row] == code_of(grid, value)


@pytest.mark.parametrize(
    ("feature", "value", "rule"),
    [
        (number(), None, Rule.NULL),
        (number(), math.nan, Rule.NAN),
        (number(outside=Outside.CLAMP), math.inf, Rule.INFINITE),
        (number(), 100.0001, Rule.OUTSIDE),
        (number(), "3", Rule.WRONG_TYPE),
        (count(), 2.5, Rule.NOT_WHOLE),
        (flag(), 2, Rule.NOT_A_FLAG),
        (category(categories=("a", "b")), "c", Rule.NOT_LISTED),
        (category(categories=("a", "b")), 1, Rule.WRONG_TYPE),
        (category(categories=(1, 2)), True, Rule.WRONG_TYPE),
    ],
)
def test_one_value_that_breaks_a_rule_is_refused_without_quoting_it(feature, value, rule) -> None:
    with pytest.raises(DataError) as caught:
        code_of(grid_of(feature), value)
    assert str(caught.value) == f"Feature x: {rule}."


def test_clamped_values_count_as_the_bound() -> None:
    grid = grid_of(number(outside=Outside.CLAMP))
    assert [code_of(grid, value) for value in (-1e30, 1e30)] == [0, 63]


def test_categories_are_coded_after_missing_and_before_other() -> None:
    grid = grid_of(category(categories=("a", "b"), missing=True, other=True))
    assert [code_of(grid, value) for value in (None, "a", "b", "z")] == [0, 1, 2, 3]


def test_a_grid_checks_its_labels_and_edges() -> None:
    good = {name: getattr(grid_of(count()), name) for name in FeatureGrid.__slots__}
    with pytest.raises(ConfigurationError, match="expected 11 labels"):
        FeatureGrid(**good | {"labels": ("a",)})
    with pytest.raises(ConfigurationError, match="do not increase"):
        FeatureGrid(**good | {"edges": good["edges"][::-1]})


@settings(derandomize=True, deadline=None, max_examples=50)
@given(feature=ordered_features())
def test_no_cell_of_a_grid_is_empty(feature: Feature) -> None:
    assert all(low < high for low, high in pairwise(grid_of(feature).edges))


def test_the_split_is_frozen_and_the_same_for_integers_and_their_text() -> None:
    split = Split(salt=SALT, held_out_fraction=0.25)
    assert key_hashes(split, [12, "12"]).tolist() == [6580121990577336711, 6580121990577336711]
    assert held_out(split, range(8)).tolist() == [
        True,
        False,
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_the_split_holds_out_its_fraction() -> None:
    # 10,000 people at 0.25: five standard deviations are 217, false alarms 6e-7.
    split = Split(salt=SALT, held_out_fraction=0.25)
    assert abs(int(held_out(split, range(10_000)).sum()) - 2500) < 217
    assert not held_out(Split(salt=SALT, held_out_fraction=0.0), range(1000)).any()


def test_the_threshold_of_the_split_is_exact() -> None:
    near = np.array([2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    half = Split(salt=SALT, held_out_fraction=0.5)
    assert held_out_hashes(half, near).tolist() == [True, False, False]
    assert Split(salt=SALT, held_out_fraction=0.5).threshold == 2**63
    assert Split(salt=SALT, held_out_fraction=5e-324).threshold == 1


@pytest.mark.parametrize(
    ("salt", "fraction"),
    [(SALT, 0.51), (SALT, -0.1), (SALT, math.nan), (SALT[2:], 0.2), (SALT.upper(), 0.2)],
)
def test_a_split_that_exists_is_valid(salt: str, fraction: float) -> None:
    with pytest.raises(ConfigurationError, match="Expected"):
        Split(salt=salt, held_out_fraction=fraction)


def test_two_splits_have_two_digests() -> None:
    digests = {Split(salt=SALT, held_out_fraction=f).digest for f in (0.1, 0.2)}
    assert len(digests) == 2


def test_a_schema_cannot_be_changed() -> None:
    schema = load_schema(HEAD + INCOME)
    assert isinstance(schema, Schema)
    with pytest.raises(AttributeError):
        schema.name = "other"
