"""What one person can change: in whole numbers, for hostile rows, any order and any block size."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clients.network_gradients import NetworkGradients
from clients.snapshot import take_snapshot
from experiments.entropy import SeededEntropy
from federation import door
from federation.door import Brought, Cells, Contribution, Products, one_column_each
from federation.errors import DataError, PrivacyError
from federation.messages import Model
from federation.model.evaluation import evaluation_columns, evaluation_contribution
from federation.model.network import Network, inputs
from federation.model.scorecard import (
    LARGEST_WEIGHT,
    AdditiveCard,
    count_contribution,
)
from federation.pricing import bins_sum, dense_sum, evaluation_sum, step_sum
from federation.privacy.events import LEAST_SHARE_VARIANCE
from federation.query import BoundedSum, Question
from federation.secure_aggregation.words import Masks
from fedscore.planning import STANDARD_SCALE
from tests.federations import (
    Federation,
    federation,
    flat_card,
    signed_plan,
    small_schema,
    small_table,
)
from tests.networks import KINDS, model_for, plain_network
from tests.privacy.reference_sum import Crowd, Person, reference_total
from tests.steps import step_contribution
from tests.unmasking import MASKS, unmasked

INT64 = np.iinfo(np.int64)
HOSTILE = (INT64.min, INT64.min + 1, -65537, -65536, -1, 0, 1, 65535, 65536, 65537, INT64.max)
Total = NDArray[np.int64]

values = st.one_of(
    st.sampled_from(HOSTILE),
    st.integers(-65536, 65536),
    st.integers(int(INT64.min), int(INT64.max)),
)


@st.composite
def crowds(draw: st.DrawFn, *, most_rows: int) -> Crowd:
    """Draws people with hostile values and cells, often the same ones again."""
    columns = tuple(draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)))
    kinds = tuple(draw(st.sampled_from(("uint8", "uint16", "uint32"))) for _ in columns)
    cells = [
        st.one_of(st.integers(0, size + 1), st.integers(0, int(np.iinfo(kind).max)))
        for size, kind in zip(columns, kinds, strict=True)
    ]
    rows = st.tuples(values, st.tuples(*cells))
    person = st.lists(rows, min_size=1, max_size=most_rows).map(tuple)
    people = draw(st.lists(person, min_size=1, max_size=12))
    if draw(st.booleans()):
        people += people[: len(people) // 2 + 1]
    return Crowd(people=tuple(people), columns=columns, kinds=kinds)


def question(columns: tuple[int, ...]) -> BoundedSum:
    return BoundedSum(question=Question.STEP, columns=columns, share_variance=LEAST_SHARE_VARIANCE)


def total_of(query: BoundedSum, blocks: Iterable[Brought]) -> Total:
    """Returns the sum that the door would noise, by its own stages."""
    return door.sum_of(query, blocks).total


def squared(difference: Total) -> int:
    return sum(int(number) ** 2 for number in difference)


def check_sum(crowd: Crowd, *, many: bool, people_each: int) -> None:
    """Raises unless the door's sum is the reference's and one person is within the sensitivity."""
    query = question(crowd.columns)
    everybody = total_of(query, crowd.blocks(people_each, many=many))
    assert everybody.tolist() == reference_total(crowd.people, crowd.columns)
    for number in range(len(crowd.people)):
        others = total_of(query, crowd.without(number).blocks(people_each, many=many))
        assert squared(everybody - others) <= query.sensitivity_squared


@given(crowds(most_rows=1), st.integers(1, 12), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_one_row_people_sum_to_the_reference_and_stay_within_the_sensitivity(
    crowd: Crowd, people_each: int, many: bool
) -> None:
    check_sum(crowd, many=many, people_each=people_each)


@given(crowds(most_rows=6), st.integers(1, 12))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_many_row_people_sum_to_the_reference_and_stay_within_the_sensitivity(
    crowd: Crowd, people_each: int
) -> None:
    check_sum(crowd, many=True, people_each=people_each)


@given(crowds(most_rows=4), st.randoms(use_true_random=False), st.integers(1, 12))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_neither_the_order_of_people_nor_of_rows_nor_the_block_size_changes_the_sum(
    crowd: Crowd, random: object, people_each: int
) -> None:
    query = question(crowd.columns)
    order = list(range(len(crowd.people)))
    random.shuffle(order)  # type: ignore[attr-defined]
    reordered = crowd.in_order(order)
    turned = Crowd(
        people=tuple(person[::-1] for person in reordered.people),
        columns=crowd.columns,
        kinds=crowd.kinds,
    )
    first = total_of(query, crowd.blocks(len(crowd.people), many=True))
    assert np.array_equal(first, total_of(query, turned.blocks(people_each, many=True)))


@given(crowds(most_rows=3), st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_an_answer_is_given_whatever_rows_hold(crowd: Crowd, many: bool) -> None:
    query = question(crowd.columns)
    rows = (
        crowd
        if many
        else Crowd(
            people=tuple(person[:1] for person in crowd.people),
            columns=crowd.columns,
            kinds=crowd.kinds,
        )
    )
    key = SeededEntropy(1)()
    answered = unmasked(door.answer(query, rows.blocks(5, many=many), noise_key=key, masks=MASKS))
    noise = unmasked(door.answer(query, [], noise_key=key, masks=MASKS))
    assert (answered - noise).tolist() == reference_total(rows.people, rows.columns)


@given(crowds(most_rows=3))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_what_leaves_is_the_noised_sum_and_the_masks_whatever_rows_hold(crowd: Crowd) -> None:
    query = question(crowd.columns)
    key = SeededEntropy(2)()
    total = door.sum_of(query, crowd.blocks(5, many=True))
    noised = door.add_noise(total, query, noise_key=key)
    answered = door.answer(query, crowd.blocks(3, many=True), noise_key=key, masks=MASKS)
    assert np.array_equal(unmasked(answered), noised.total)
    assert not np.array_equal(answered.words.view(np.int64), noised.total)


def test_without_a_mask_nothing_leaves() -> None:
    query = question((3, 2))
    for masks in (
        Masks(bits=64, added=(), subtracted=()),
        Masks(bits=64, added=(), subtracted=(bytes(32),)),
        Masks(bits=16, added=(bytes(32),), subtracted=()),
        Masks(bits=64, added=(bytes(31),), subtracted=()),
    ):
        with pytest.raises(PrivacyError):
            door.answer(query, [], noise_key=bytes(32), masks=masks)


def test_the_bound_is_reached_so_that_it_is_the_sensitivity() -> None:
    person: Person = ((INT64.max, (3, 0, 5)),)
    crowd = Crowd(people=(person, person), columns=(4, 1, 6), kinds=("uint8",) * 3)
    query = question(crowd.columns)
    difference = total_of(query, crowd.blocks(2, many=False)) - total_of(
        query, crowd.without(1).blocks(1, many=False)
    )
    assert squared(difference) == query.sensitivity_squared == 3 * 2**32


BYTES = np.zeros(2, dtype=np.uint8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"values": np.zeros(2, dtype=np.float64)},
        {"values": np.zeros(2, dtype=np.int32)},
        {"values": np.zeros(3, dtype=np.int64)},
        {"values": np.zeros(2**20 + 1, dtype=np.int64)},
        {"cells": one_column_each([BYTES])},
        {"cells": one_column_each([np.zeros(2, dtype=np.int8), BYTES])},
        {"cells": one_column_each([BYTES.reshape(2, 1), BYTES])},
        {"cells": one_column_each([BYTES, BYTES, BYTES])},
        {"cells": (*one_column_each([BYTES, BYTES]), Cells(numbers=BYTES, columns=(1,)))},
        {"cells": (Cells(numbers=BYTES, columns=(0, 0)),), "left_out": frozenset({1})},
        {"cells": (Cells(numbers=BYTES, columns=(0, 1, 1)),)},
        {"cells": (Cells(numbers=BYTES, columns=(1, -2)),)},
        {"cells": (Cells(numbers=BYTES, columns=(0, 2)),)},
        {"left_out": frozenset({1})},
        {"left_out": frozenset({2})},
    ],
)
def test_a_block_of_another_shape_is_refused_before_anything_is_added(
    wrong: dict[str, object],
) -> None:
    right = {
        "values": np.zeros(2, dtype=np.int64),
        "cells": one_column_each([BYTES, BYTES]),
        "person_starts": None,
    }
    with pytest.raises(PrivacyError):
        door.clip(Contribution(**{**right, **wrong}), question((3, 2)))


@pytest.mark.parametrize(
    "starts",
    [
        np.array([1]),
        np.array([], dtype=np.int64),
        np.array([0, 2, 1]),
        np.array([0, 0]),
        np.array([0, 5]),
        np.array([0, 2]),
        np.array([-1, 0]),
        np.array([0.0, 1.0]),
        np.array([[0], [1]]),
    ],
    ids=str,
)
def test_starts_that_do_not_divide_the_rows_into_people_are_refused(starts: Total) -> None:
    """With starts = [1] two rows would count as one person's two whole rows, not as their mean."""
    block = Contribution(
        values=np.full(2, 65536, dtype=np.int64),
        cells=one_column_each([BYTES, BYTES]),
        person_starts=starts,
    )
    with pytest.raises(PrivacyError):
        door.answer(question((3, 2)), [block], noise_key=bytes(32), masks=MASKS)


def test_cells_too_wide_to_be_counted_and_values_in_a_table_are_refused() -> None:
    wide = Contribution(
        values=np.zeros(2, dtype=np.int64),
        cells=one_column_each([np.array([2**63, 1], dtype=np.uint64)]),
        person_starts=np.array([0, 1]),
    )
    table = Contribution(
        values=np.zeros((2, 2), dtype=np.int64),
        cells=one_column_each([BYTES]),
        person_starts=None,
    )
    for block in (wide, table):
        with pytest.raises(PrivacyError):
            door.answer(question((3,)), [block], noise_key=bytes(32), masks=MASKS)


# The three questions, from hostile codes: any byte, any outcome byte, any card within its bounds.

SCHEMA = small_schema()
PLAN = signed_plan(SCHEMA)
SCORED = [grid for grid in SCHEMA.grids if grid.role == "scored"]


def random_card(generator: np.random.Generator) -> AdditiveCard:
    bin_of_cell, weights = [], []
    for grid in SCORED:
        bins = int(generator.integers(1, len(grid.labels) + 1))
        bin_of_cell.append(tuple(int(b) for b in generator.integers(0, bins, len(grid.labels))))
        weights.append(
            tuple(int(w) for w in generator.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, bins))
        )
    return AdditiveCard(
        base=int(generator.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1)),
        bin_of_cell=tuple(bin_of_cell),
        weights=tuple(weights),
    )


Asker = Callable[..., Brought]
ABOUT_PERSONS = [one for one in Question if one is not Question.UPDATE]
MODELS = ["a scorecard, joint", "a network, joint"]


def asked(kind: Question, card: AdditiveCard) -> tuple[BoundedSum, Asker]:
    """Returns the question and what makes rows a contribution to it."""
    match kind:
        case Question.BINS:
            return bins_sum(PLAN, SCHEMA), lambda codes, bad, starts: count_contribution(
                codes[:3], bad, starts
            )
        case Question.STEP:
            return step_sum(PLAN, card), lambda codes, bad, starts: step_contribution(
                codes[:3], bad, starts, card
            )
        case Question.GRADIENT:
            return gradient_sum()
        case Question.EVALUATION:
            return evaluation_sum(PLAN, SCHEMA), lambda codes, bad, starts: evaluation_contribution(
                card.scores(codes[:3]), codes[3:], bad, starts, scale=STANDARD_SCALE
            )


def gradient_sum() -> tuple[BoundedSum, Asker]:
    network = plain_network(SCHEMA)
    at = NetworkGradients(
        network.vector,
        inputs=network.shape.inputs,
        hidden=network.shape.hidden,
        activation=network.shape.activation,
        clip_norm=0.5,
    )

    def gradients(codes: NDArray[np.uint8], bad: NDArray[np.uint8], starts: Any) -> Products:
        rows_of = None
        if starts is not None:
            counts = np.diff(np.append(starts, len(bad)))
            rows_of = np.repeat(counts, counts).astype(np.float64)
        x = inputs(network.shape, codes[:3])
        return Products(layers=at.of(x, bad, rows_of), rows_of_person=rows_of)

    plan = signed_plan(SCHEMA, **KINDS["a network, joint"])
    return dense_sum(plan, network.shape.parameters), gradients


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", ABOUT_PERSONS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_question_bounds_every_person_for_any_codes_and_outcomes(
    kind: Question, many: bool, seed: int
) -> None:
    """An update is about an institution: what a person changes in it, nothing but the clip says."""
    generator = np.random.default_rng(seed)
    people = int(generator.integers(1, 9))
    rows_of = generator.integers(1, 5, people) if many else np.ones(people, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(rows_of)[:-1]]).astype(np.int64)
    rows = int(rows_of.sum())
    codes = generator.integers(0, 256, (4, rows)).astype(np.uint8)
    codes[:, generator.random(rows) < 0.5] %= 6  # legal cells, and duplicates
    bad = generator.integers(0, 256, rows).astype(np.uint8)
    query, contribution = asked(kind, random_card(generator))

    def total(chosen: NDArray[np.int64], size: int) -> Total:
        blocks = []
        for begin in range(0, len(chosen), size):
            some = chosen[begin : begin + size]
            of_rows = [np.arange(starts[one], starts[one] + rows_of[one]) for one in some]
            taken = np.concatenate(of_rows)
            firsts = np.concatenate([[0], np.cumsum(rows_of[some])[:-1]]).astype(np.int64)
            blocks.append(contribution(codes[:, taken], bad[taken], firsts if many else None))
        return total_of(query, blocks)

    everybody = total(np.arange(people), people)
    shuffled = total(generator.permutation(people), int(generator.integers(1, people + 1)))
    assert np.array_equal(everybody, shuffled)
    for one in range(people):
        others = np.delete(np.arange(people), one)
        rest = total(others, 3) if len(others) else np.zeros(query.length, dtype=np.int64)
        assert squared(everybody - rest) <= query.sensitivity_squared


def test_the_questions_have_the_columns_that_the_price_counts() -> None:
    card = flat_card(SCHEMA)
    assert len(bins_sum(PLAN, SCHEMA).columns) == 3
    assert len(step_sum(PLAN, card).columns) == 4
    assert evaluation_sum(PLAN, SCHEMA).columns == evaluation_columns((3,))
    assert len(evaluation_sum(PLAN, SCHEMA).columns) == 2


# Whole institutions: with equal entropy the noise cancels, and what is left is one person.


def answers_of(fed: Federation, out: str) -> dict[Question, Total]:
    """Returns one institution's answers to the three questions, noise keys always the same."""
    asked_of = questions_of(fed)
    with fed.seats(entropy=lambda _: SeededEntropy("equal"), out=out) as seats:
        seat = next(iter(seats.values()))
        seat.accept(fed.plan)
        return {kind: seat.answer(fed.plan, kind, model) for kind, (_, model) in asked_of.items()}


def questions_of(fed: Federation) -> dict[Question, tuple[BoundedSum, Model | None]]:
    """Returns each question of a plan, with a model that it can be about."""
    plan, schema = fed.plan, fed.schema
    model = model_for(plan, schema, plan.training_question)
    if isinstance(model, AdditiveCard):
        training = step_sum(plan, model)
    else:
        assert isinstance(model, Network)
        training = dense_sum(plan, model.shape.parameters)
    return {
        Question.BINS: (bins_sum(plan, schema), None),
        plan.training_question: (training, model),
        Question.EVALUATION: (evaluation_sum(plan, schema), model),
    }


def edited(
    directory: Path,
    name: str,
    rows_each: int,
    change: Callable[[pa.Table], pa.Table],
    model: str = "a scorecard, joint",
) -> Federation:
    """Returns a federation all of whose tables are one changed table of 60 people."""
    (directory / name).mkdir()

    def table(path: Path, _number: int) -> Path:
        small_table(path, 60, 5, rows_each=rows_each)
        pq.write_table(change(pq.read_table(path)), path)
        return path

    return federation(
        directory / name, institutions=3, rows_each=rows_each, table=table, **KINDS[model]
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows_each", [1, 3])
def test_taking_a_person_out_of_the_table_changes_only_its_population_within_the_sensitivity(
    tmp_path: Path, rows_each: int, model: str
) -> None:
    whole = answers_of(edited(tmp_path, "whole", rows_each, lambda table: table, model), "out")
    moved = set()
    for person in range(6):
        rest = edited(
            tmp_path,
            f"without-{person}",
            rows_each,
            lambda table, person=person: table.filter(pc.field("person") != person),
            model,
        )
        differences = {
            kind: squared(whole[kind] - total) for kind, total in answers_of(rest, "out").items()
        }
        assert differences[Question.BINS] <= bins_sum(rest.plan, rest.schema).sensitivity_squared
        training = rest.plan.training_question
        columns = {Question.STEP: 4, Question.GRADIENT: 1}[training]
        assert differences[training] <= columns * training.bound**2
        assert differences[Question.EVALUATION] <= 2 * 2**32
        trained = differences[Question.BINS] > 0
        assert (differences[training] > 0) == trained
        assert (differences[Question.EVALUATION] > 0) != trained
        moved.add(trained)
    assert moved == {True, False}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows_each", [1, 3])
def test_the_order_of_people_in_the_table_does_not_change_an_answer(
    tmp_path: Path, rows_each: int, model: str
) -> None:
    def turned(table: pa.Table) -> pa.Table:
        return table.take(np.arange(table.num_rows)[::-1])

    first = answers_of(edited(tmp_path, "first", rows_each, lambda table: table, model), "out")
    second = answers_of(edited(tmp_path, "second", rows_each, turned, model), "out")
    assert len(first) == 3
    for kind, answered in first.items():
        assert np.array_equal(answered, second[kind])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rows_each", [1, 3])
def test_damaged_codes_stop_no_round_and_move_no_sum_beyond_the_sensitivity(
    tmp_path: Path, rows_each: int, model: str
) -> None:
    fed = edited(tmp_path, "damaged", rows_each, lambda table: table, model)
    generator = np.random.default_rng(11)
    with fed.seats(out="out") as seats:
        name, seat = next(iter(seats.items()))
        seat.accept(fed.plan)
        for path in (fed.directory / "out" / name).glob("*/*.blocks"):
            path.write_bytes(generator.bytes(path.stat().st_size))
        for kind, (query, asked_about) in questions_of(fed).items():
            answered = seat.answer(fed.plan, kind, asked_about)
            most = 180 * kind.bound + 6 * query.share_variance**0.5
            assert answered.shape == (query.length,)
            assert np.abs(answered).max() <= most


@pytest.mark.parametrize("value", [1e30, -1e30, float("nan"), float("inf"), -float("inf")])
def test_a_value_beyond_the_contract_is_refused_when_the_snapshot_is_taken_not_in_a_round(
    tmp_path: Path, value: float
) -> None:
    path = small_table(tmp_path / "t.parquet", 20, 1)
    table = pq.read_table(path)
    income = [*table["income"].to_pylist()[:-1], value]
    pq.write_table(table.set_column(2, "income", pa.array(income)), path)
    with pytest.raises(DataError):
        take_snapshot(
            SCHEMA,
            path,
            not_held=frozenset(),
            split=PLAN.people.split,
            directory=tmp_path / "snapshot",
        )
