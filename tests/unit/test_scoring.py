"""The scorer: exact points, and reasons in an order that anybody can recompute by hand."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import ConfigurationError
from federation.grid import NOT_HELD, code_of
from federation.model.release import Bin, CardFeature, Release, release_json
from federation.model.score_scale import ScoreScale
from federation.model.scorecard import LARGEST_WEIGHT
from federation.model.scores import NO_REASON, Scores, bad_rates
from federation.model.scoring import Scorer, require_parity
from federation.model.signed_release import ParityVector, Report, Statement
from federation.schema import Schema, load_schema

HEAD = """
format = 1
name = "Hand"
person_key = "person"
rows_per_person = "one"
[outcome]
column = "bad"
window = "default within a year"
"""
SCHEMA = load_schema(
    HEAD
    + """
[[feature]]
name = "late"
role = "scored"
kind = "count"
unit = "payments"
reason = "Payments"
lower = 0
upper = 2
[[feature]]
name = "income"
role = "scored"
kind = "number"
unit = "EUR"
reason = "Income"
lower = 0
upper = 100
cells = 2
missing = true
special = [{code = -9, label = "not asked"}]
[[feature]]
name = "months"
role = "scored"
kind = "count"
unit = "months"
reason = "Payments"
lower = 0
upper = 1
[[feature]]
name = "region"
role = "protected"
kind = "flag"
[[feature]]
name = "home"
role = "scored"
kind = "category"
reason = "Housing"
categories = ["rent", "own"]
other = true
[[feature]]
name = "staff"
role = "scored"
kind = "flag"
reason = "Employer"
[[feature]]
name = "loans"
role = "scored"
kind = "flag"
reason = "Loans"
"""
)
SCALE = ScoreScale(points=660, odds=30.0, points_to_double=40, least=300, most=850)
Person = Mapping[str, float | str | None]

# Points of each cell, and the mean of each feature, in the order of the schema. Late payments of 0
# and 1 share a bin, and so do low and missing income.
CARD: dict[str, tuple[list[int], float]] = {
    "late": ([20, 20, -30], 10.0),
    "income": ([-10, 15, 4, -10], 5.25),
    "months": ([5, -5], 1.5),
    "home": ([-8, 12, 0], 2.0),
    "staff": ([0, 10], 4.0),
    "loans": ([9, -9], 3.0),
}


def card(
    contract: Schema = SCHEMA,
    cells: Mapping[str, tuple[Sequence[int], float]] = CARD,
    base: int = 600,
) -> Release:
    features = []
    for name, (points, mean) in cells.items():
        bins = sorted(set(points))
        features.append(
            CardFeature(
                name=name,
                information_value=0.1,
                mean_points=mean,
                bin_of_cell=tuple(bins.index(one) for one in points),
                bins=tuple(
                    Bin(
                        label=str(one),
                        points=one,
                        good=1.0,
                        bad=1.0,
                        weight_of_evidence=0.0,
                        standard_error=0.1,
                    )
                    for one in bins
                ),
            )
        )
    return Release(
        format=3,
        federation="test",
        plan_name="test",
        plan="0" * 64,
        purpose="credit-scoring",
        issued_at=datetime(2025, 1, 1, tzinfo=UTC),
        schema=contract,
        scale=SCALE,
        base=base,
        features=tuple(features),
        people=1000.0,
        bad_rate=0.1,
        institutions=4,
        rounds=3,
        statement=Statement(
            epsilon=1.0,
            held_out_epsilon=1.0,
            delta=1e-6,
            unit="",
            neighbours="",
            against="",
            epsilon_coordinator_alone=1.0,
            held_out_epsilon_coordinator_alone=1.0,
            assumption="",
        ),
        report=Report(overall=None, groups=(), noise_per_band=0.0),
        parity=(),
        coordinator="0" * 64,
        signature="",
    )


def coded(release: Release, people: Sequence[Person]) -> np.ndarray:
    return np.array(
        [
            [code_of(grid, one[grid.name]) if grid.name in one else NOT_HELD for one in people]
            for grid in release.grids
        ],
        dtype=np.uint8,
    )


def slowly(release: Release, person: Person) -> tuple[int, int, tuple[str, ...]]:
    """Points, shown score and reasons by the rule as it is written down, one number at a time."""
    reason_of = {feature.name: feature.reason for feature in release.schema.features}
    points, lost = release.base, {}
    for grid, feature in zip(release.grids, release.features, strict=True):
        if grid.name not in person:
            continue
        cell = code_of(grid, person[grid.name])
        given_points = feature.bins[feature.bin_of_cell[cell]].points
        points += given_points
        reason = reason_of[grid.name]
        hundredths = round(feature.mean_points * 100) - 100 * given_points
        lost[reason] = lost.get(reason, 0) + max(hundredths, 0)
    in_schema_order = list(dict.fromkeys(reason_of[feature.name] for feature in release.features))
    costly = [reason for reason in in_schema_order if lost.get(reason, 0) >= 100]
    costly.sort(key=lambda reason: -lost[reason])  # stable
    return points, min(max(points, 300), 850), tuple(costly[:4])


def rows_of(scorer: Scorer, scores: Scores) -> list[tuple[int, int, tuple[str, ...]]]:
    return [
        (int(points), int(shown), scorer.reason_texts(reasons))
        for points, shown, reasons in zip(scores.points, scores.shown, scores.reasons, strict=True)
    ]


def score(release: Release, *people: Person) -> list[tuple[int, int, tuple[str, ...]]]:
    scorer = Scorer(release)
    return rows_of(scorer, scorer.score(coded(release, people)))


AVERAGE: dict[str, float | str | None] = {
    "late": 0,
    "income": 60,
    "months": 0,
    "home": "own",
    "staff": 1,
    "loans": 0,
}


def test_points_are_the_exact_sum_of_the_card() -> None:
    assert score(card(), AVERAGE) == [(600 + 20 + 15 + 5 + 12 + 10 + 9, 671, ())]


def test_reasons_are_ordered_by_points_lost_and_shared_ones_are_added_up() -> None:
    # lost: Payments (10 + 30) + (1.5 + 5) = 46.5, Income 15.25, Housing 10, Loans 12, Employer 4
    worst = {"late": 2, "income": 10, "months": 1, "home": "rent", "staff": 0, "loans": 1}
    (found,) = score(card(), worst)
    assert found == (600 - 30 - 10 - 5 - 8 + 0 - 9, 538, ("Payments", "Income", "Loans", "Housing"))


def test_a_gain_in_one_feature_does_not_hide_a_loss_in_another_of_the_same_reason() -> None:
    # Payments: late gains 10, months costs 6.5: the person is told.
    assert score(card(), AVERAGE | {"months": 1})[0][2] == ("Payments",)


@pytest.mark.parametrize(
    ("mean", "expected"), [(10.0, ()), (10.9, ()), (10.994, ()), (10.996, ("Employer",))]
)
def test_a_reason_needs_a_loss_of_at_least_a_point(mean: float, expected: tuple[str, ...]) -> None:
    assert score(card(cells=CARD | {"staff": ([0, 10], mean)}), AVERAGE)[0][2] == expected


def test_of_equal_losses_the_reason_that_is_first_in_the_schema_leads() -> None:
    # 5.25 + 10 = 15.25 = 15.25 + 0 = 6.25 + 9, and 1.1 + 2.2 is no 3.3 in floating point
    tied = CARD | {"staff": ([0, 10], 15.25), "loans": ([9, -9], 6.25)}
    person = AVERAGE | {"income": 10, "staff": 0, "loans": 1}
    assert score(card(cells=tied), person)[0][2] == ("Income", "Employer", "Loans")
    sums = {"late": ([0, 0, 0], 1.1), "months": ([0, 0], 2.2), "staff": ([0, 0], 3.3)}
    assert score(card(cells=CARD | sums), AVERAGE)[0][2] == ("Payments", "Employer")


def test_a_feature_that_is_not_held_gives_no_points_and_no_reason() -> None:
    held = {"income": 10, "loans": 1}
    assert score(card(), held, {}) == [(581, 581, ("Income", "Loans")), (600, 600, ())]


def test_missing_and_special_values_and_other_categories_have_points_of_their_own() -> None:
    special = AVERAGE | {"income": -9, "home": "boat"}
    missing = AVERAGE | {"income": None}
    assert score(card(), special, missing) == [
        (671 - 15 + 4 - 12 + 0, 648, ("Housing", "Income")),
        (671 - 15 - 10, 646, ("Income",)),
    ]


def test_a_code_that_names_no_cell_gives_nothing() -> None:
    scorer = Scorer(card())
    codes = coded(card(), [AVERAGE])
    for nonsense in range(4, 256):
        codes[:] = nonsense
        assert rows_of(scorer, scorer.score(codes)) == [(600, 600, ())]


@pytest.mark.parametrize(("base", "shown"), [(229, 300), (230, 301), (778, 849), (780, 850)])
def test_the_shown_score_is_cut_to_the_scale_and_points_are_not(base: int, shown: int) -> None:
    assert score(card(base=base), AVERAGE)[0] == (base + 71, shown, ())


def test_no_rows_give_no_scores() -> None:
    found = Scorer(card()).score(np.empty((6, 0), np.uint8))
    assert found.points.shape == found.shown.shape == (0,)
    assert found.reasons.shape == (0, 4)


def many_features(number: int, generator: np.random.Generator) -> Release:
    """A card at the public bounds with a reason for each feature."""
    flags = "".join(
        f'[[feature]]\nname = "f{i}"\nrole = "scored"\nkind = "flag"\nreason = "R{i}"\n'
        for i in range(number)
    )
    points = generator.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, (number, 2))
    means = np.round(generator.uniform(-LARGEST_WEIGHT, LARGEST_WEIGHT, number), 3)
    cells = {f"f{i}": (points[i].tolist(), float(means[i])) for i in range(number)}
    return card(load_schema(HEAD + flags), cells)


@pytest.mark.parametrize("features", [1, 3, 400])
def test_cards_with_few_or_many_reasons_and_the_largest_points_are_exact(features: int) -> None:
    generator = np.random.default_rng(features)
    release = many_features(features, generator)
    people: list[Person] = [
        {f"f{i}": int(flag) for i, flag in enumerate(flags) if flag < 2}
        for flags in generator.integers(0, 3, (50, features))
    ]
    assert score(release, *people) == [slowly(release, person) for person in people]


def test_the_order_of_rows_and_the_size_of_blocks_do_not_matter() -> None:
    release = card()
    scorer = Scorer(release)
    generator = np.random.default_rng(5)
    rows = 20_000
    codes = np.array(
        [
            np.append(np.arange(len(grid.labels)), NOT_HELD)[
                generator.integers(0, len(grid.labels) + 1, rows)
            ]
            for grid in release.grids
        ],
        dtype=np.uint8,
    )
    whole = scorer.score(codes)
    shuffled = generator.permutation(rows)
    again = scorer.score(codes[:, shuffled])
    assert (again.points == whole.points[shuffled]).all()
    assert (again.reasons == whole.reasons[shuffled]).all()
    for start, end in [(0, 1), (1, 2), (8191, 8193), (8192, 16_384), (7, 19_993)]:
        part = scorer.score(codes[:, start:end])
        assert (part.points == whole.points[start:end]).all()
        assert (part.shown == whole.shown[start:end]).all()
        assert (part.reasons == whole.reasons[start:end]).all()


VALUES = {
    "late": st.integers(0, 2),
    "income": st.none() | st.just(-9) | st.floats(0, 100),
    "months": st.integers(0, 1),
    "home": st.text(max_size=3) | st.sampled_from(["rent", "own"]),
    "staff": st.integers(0, 1),
    "loans": st.integers(0, 1),
}
POINTS = st.integers(-4, 4) | st.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT)
MEANS = st.integers(-8, 8).map(lambda n: n / 2) | st.floats(-LARGEST_WEIGHT, LARGEST_WEIGHT)


@st.composite
def cards(draw: st.DrawFn) -> Release:
    cells = {
        name: (draw(st.lists(POINTS, min_size=len(old), max_size=len(old))), draw(MEANS))
        for name, (old, _) in CARD.items()
    }
    return card(cells=cells, base=draw(POINTS))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    release=cards(),
    people=st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=8),
)
def test_a_batch_scores_as_a_slow_scoring_of_each_person_does(
    release: Release, people: list[Person]
) -> None:
    assert score(release, *people) == [slowly(release, person) for person in people]


def test_bad_rates_are_those_of_the_scale_also_far_beyond_it() -> None:
    points = np.arange(-300, 1500, dtype=np.int32)
    rates = bad_rates(SCALE, points)
    expected = np.array([SCALE.bad_rate_at(int(one)) for one in points])
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, expected, rtol=1e-7)
    assert bad_rates(SCALE, np.array([660], np.int32))[0] == np.float32(1 / 31)
    extreme = bad_rates(SCALE, np.array([-(2**31), 2**31 - 1], np.int32))
    assert extreme.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("mean", [float("nan"), float("inf"), 1e300, LARGEST_WEIGHT + 1.0])
def test_a_mean_beyond_the_public_bound_is_refused(mean: float) -> None:
    with pytest.raises(ConfigurationError, match="staff: the mean points"):
        Scorer(card(cells=CARD | {"staff": ([0, 10], mean)}))


VECTOR = ParityVector(
    values=AVERAGE | {"loans": 1, "income": 10}, points=628, shown=628, reasons=("Income", "Loans")
)


def parity(*vectors: ParityVector) -> Release:
    return msgspec.structs.replace(card(), parity=vectors)


def test_a_release_whose_parity_vectors_agree_is_accepted_also_after_a_round_trip() -> None:
    few = ParityVector(values={"income": 10}, points=590, shown=590, reasons=("Income",))
    release = parity(VECTOR, few)
    require_parity(release)
    require_parity(msgspec.json.decode(release_json(release), type=Release))


@pytest.mark.parametrize(
    "wrong",
    [
        {"points": 629},
        {"shown": 627},
        {"reasons": ("Loans", "Income")},
        {"reasons": ("Income",)},
        {"values": AVERAGE},
    ],
)
def test_a_parity_vector_that_differs_in_anything_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"Parity vector 1 .* Do not score"):
        require_parity(parity(VECTOR, msgspec.structs.replace(VECTOR, **wrong)))


@pytest.mark.parametrize(
    "values", [{"late": 99}, {"late": None}, {"home": 1}, {"region": 1}, {"unheard": 1}]
)
def test_a_parity_vector_outside_the_schema_is_refused(values: dict[str, int | None]) -> None:
    with pytest.raises(ConfigurationError, match="Parity vector 0 breaks the release's own schema"):
        require_parity(parity(msgspec.structs.replace(VECTOR, values=values)))


def test_a_release_without_parity_vectors_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no parity vectors"):
        require_parity(card())


def test_places_without_a_reason_are_marked() -> None:
    scores = Scorer(card()).score(coded(card(), [AVERAGE | {"loans": 1}]))
    assert scores.reasons.tolist() == [[4, NO_REASON, NO_REASON, NO_REASON]]


def test_a_bin_without_evidence_costs_nothing_and_is_never_a_reason():
    found = card()
    late = found.features[0]
    silent = msgspec.structs.replace(
        late.bins[1], points=0, weight_of_evidence=None, standard_error=None
    )
    feature = msgspec.structs.replace(late, bins=(late.bins[0], silent))
    release = msgspec.structs.replace(found, features=(feature, *found.features[1:]))
    codes = np.full((len(release.features), len(late.bin_of_cell)), NOT_HELD, np.uint8)
    codes[0] = range(len(late.bin_of_cell))
    scorer = Scorer(release)
    scores = scorer.score(codes)
    reasons = [scorer.reason_texts(own) for own in scores.reasons]
    for cell, number in enumerate(late.bin_of_cell):
        if number == 1:
            assert (int(scores.points[cell]), reasons[cell]) == (release.base, ())
        else:
            assert reasons[cell] != ()


def test_points_without_evidence_are_refused():
    with pytest.raises(ConfigurationError, match="without evidence"):
        Bin(
            label="a",
            points=1,
            good=0.0,
            bad=0.0,
            weight_of_evidence=None,
            standard_error=None,
        )
