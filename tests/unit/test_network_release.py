"""A released network: what is in the file, what is refused, points and reasons by hand."""

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation.errors import ConfigurationError, FedscoreError, ProtocolError
from federation.grid import NOT_HELD, code_of
from federation.model.attributions import attributions
from federation.model.evaluation import evaluation_contribution
from federation.model.network import Activation
from federation.model.network_release import NamedArray, NetworkRelease
from federation.model.network_scoring import NetworkScorer
from federation.model.release import load_release, release_json, require_scorecard
from federation.model.scoring import require_parity, scorer_of
from tests.federations import KEY, OTHER_KEY, flat_card, signed_plan, small_schema
from tests.networks import network_release, random_codes
from tests.unit.test_scoring import SCHEMA as SHARING

SCHEMA = small_schema()
PLAN = signed_plan(SCHEMA)


@lru_cache
def released(**changes: Any) -> NetworkRelease:
    return network_release(PLAN, SCHEMA, **changes).signed(KEY)


WHOLE = release_json(released())


def replaced_array(place: int, **changes: Any) -> NetworkRelease:
    """The release with another array, signed as it is: a coordinator may lie."""
    arrays = list(released().arrays)
    arrays[place] = msgspec.structs.replace(arrays[place], **changes)
    return msgspec.structs.replace(released(), arrays=tuple(arrays)).signed(KEY)


def one_byte_changed(release: NetworkRelease, place: int) -> bytes:
    """An array's lowest digits changed, to another valid number."""
    data = release.arrays[place].data
    return bytes([data[0], data[1], data[2] ^ 0x40, *data[3:]])


# The file.


def test_the_file_reads_back_to_the_same_release_and_is_the_same_for_everybody():
    for activation in Activation:
        for hidden in ((), (5,), (4, 3)):
            release = released(hidden=hidden, activation=activation)
            assert load_release(release_json(release)) == release
            again = network_release(PLAN, SCHEMA, hidden=hidden, activation=activation)
            assert release_json(again.signed(KEY)) == release_json(release)


def test_the_arrays_are_plain_numbers_under_names_row_by_row():
    read = json.loads(release_json(released()))
    assert read["kind"] == "network"
    assert read["hidden"] == [4, 3]
    assert [one["name"] for one in read["arrays"]] == [
        "additive",
        "hidden_0",
        "hidden_1",
        "output",
        "mean_inputs",
    ]
    for one, matrix in zip(read["arrays"], released().network.matrices.values(), strict=False):
        assert one["dtype"] == "float32"
        numbers = np.frombuffer(base64.b64decode(one["data"]), "<f4").reshape(one["shape"])
        assert (numbers == matrix).all()


def test_a_scorecard_is_not_taken_for_a_network():
    with pytest.raises(ConfigurationError, match="a scorecard's is needed"):
        require_scorecard(released())


# Hostile files.


def edited(change: Callable[[dict[str, Any]], None]) -> bytes:
    tree = json.loads(release_json(released()))
    change(tree)
    return json.dumps(tree).encode()


def array_of(numbers: list[float]) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


def with_first(place: int, number: float) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        of = tree["arrays"][place]
        numbers = np.frombuffer(base64.b64decode(of["data"]), "<f4").tolist()
        of["data"] = array_of([number, *numbers[1:]])

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_first(1, float("nan")), "not a number within"),
        (with_first(0, float("inf")), "not a number within"),
        (with_first(3, -1e30), "not a number within"),
        (with_first(4, float("nan")), "mean input"),
        (with_first(4, 1.5), "mean input"),
        (lambda tree: tree["arrays"][0].update(data=""), "which its shape does not"),
        (lambda tree: tree["arrays"][0].update(data="AAA="), "which its shape does not"),
        (lambda tree: tree["arrays"][0].update(data="?"), "base64"),
        (lambda tree: tree["arrays"][0].update(dtype="float64"), "Invalid enum value"),
        (lambda tree: tree["arrays"][0].update(dtype="object"), "Invalid enum value"),
        (lambda tree: tree["arrays"][0].update(shape=[2**62, 2**62]), "not those of its layers"),
        (lambda tree: tree["arrays"][0].update(shape=[-1, -1]), "not those of its layers"),
        (lambda tree: tree["arrays"][0].update(name="output"), "not those of its layers"),
        (lambda tree: tree["arrays"].pop(), "not those of its layers"),
        (lambda tree: tree["arrays"].append(tree["arrays"][0]), "not those of its layers"),
        (lambda tree: tree["arrays"].reverse(), "not those of its layers"),
        (lambda tree: tree.update(arrays=[]), "not those of its layers"),
        (lambda tree: tree.update(hidden=[4]), "not those of its layers"),
        (lambda tree: tree.update(hidden=[10**9]), "hidden layers"),
        (lambda tree: tree.update(hidden=[2**70]), "hidden layers"),
        (lambda tree: tree.update(hidden=[4] * 100), "hidden layers"),
        (lambda tree: tree.update(activation="eval"), "Invalid enum value"),
        (lambda tree: tree["bin_of_cell"].pop(), "same features"),
        (lambda tree: tree["bin_of_cell"][0].pop(), "does not fit the schema"),
        (lambda tree: tree["bin_of_cell"][0].append(10**9), "numbered from 0"),
        (lambda tree: tree["bin_of_cell"].append([0]), "same features"),
        (lambda tree: tree.update(format=2), "format 1"),
        (lambda tree: tree.update(kind="forest"), "of a scorecard or of a network"),
        (lambda tree: tree.update(kind="scorecard"), "unknown field"),
        (lambda tree: tree.pop("kind"), "missing required field|unknown field"),
        (lambda tree: tree.update(kind=3), "Expected `str`"),
        (lambda tree: tree.update(loader="pickle"), "unknown field"),
        (lambda tree: tree["arrays"][0].update(offset=1), "unknown field"),
    ],
)
def test_a_hostile_file_is_refused_with_a_reason(change, said):
    with pytest.raises(ConfigurationError, match="not a whole release") as refused:
        load_release(edited(change))
    assert re.search(said, str(refused.value)), refused.value


@pytest.mark.parametrize("said", [b'"scorecard", "kind": "network"', b'"network", "kind": "x"'])
def test_a_file_that_says_two_kinds_is_refused(said: bytes):
    with pytest.raises(ConfigurationError):
        load_release(WHOLE.replace(b'"network"', said, 1))


@pytest.mark.parametrize("place", range(5))
def test_an_array_of_which_one_byte_changed_has_no_signature(place: int):
    changed = one_byte_changed(released(), place)
    tree = json.loads(release_json(released()))
    tree["arrays"][place]["data"] = base64.b64encode(changed).decode()
    with pytest.raises(ProtocolError, match="not valid"):
        load_release(json.dumps(tree).encode())


@pytest.mark.parametrize("place", range(5))
def test_parity_is_refused_when_one_byte_of_an_array_changes_though_it_is_signed(place: int):
    require_parity(released())
    changed = replaced_array(place, data=one_byte_changed(released(), place))
    assert load_release(release_json(changed)) == changed
    with pytest.raises(ConfigurationError, match=r"Parity vector \d+ of the release"):
        require_parity(changed)


def test_a_network_without_parity_vectors_is_refused():
    with pytest.raises(ConfigurationError, match="no parity vectors"):
        require_parity(msgspec.structs.replace(released(), parity=()))


def test_only_the_coordinator_that_it_names_can_sign_it():
    with pytest.raises(ConfigurationError, match="not the one"):
        released().signed(OTHER_KEY)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=4), st.integers(0, 5))
@example(0, b'{"kind": "network"}', len(WHOLE))
def test_damaged_bytes_are_one_release_or_an_error_of_ours(at: int, put: bytes, cut: int):
    data = WHOLE[:at] + put + WHOLE[at + cut :]
    try:
        found = load_release(data)
    except FedscoreError:
        return
    assert load_release(release_json(found)) == found


# Points and reasons.


def slowly(release: NetworkRelease, codes: np.ndarray) -> tuple[int, int, tuple[str, ...]]:
    """Points, shown score and reasons of one person by the rule as it is written down."""
    odds = -float(release.network.log_odds(codes[:, np.newaxis])[0])
    points = round(release.scale.points_at(odds))
    parts = attributions(release.network, codes[:, np.newaxis], release.mean_inputs)[0]
    reason_of = {feature.name: feature.reason for feature in release.schema.features}
    lost: dict[str, int] = {}
    for grid, code, part in zip(release.grids, codes, parts, strict=True):
        hundredths = round(float(part) * release.scale.factor * 100)
        costs = hundredths if code < len(grid.labels) and hundredths > 0 else 0
        lost[reason_of[grid.name]] = lost.get(reason_of[grid.name], 0) + costs
    costly = sorted(
        (text for text, own in lost.items() if own >= 100), key=lambda text: -lost[text]
    )
    return points, release.scale.shown(points), tuple(costly[:4])


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("hidden", [(), (5,), (4, 3)])
def test_points_and_reasons_follow_the_rule(hidden: tuple[int, ...], activation: Activation):
    release = released(hidden=hidden, activation=activation)
    codes = random_codes(release.shape, 60, 7)
    scorer = scorer_of(release)
    assert isinstance(scorer, NetworkScorer)
    scores = scorer.score(codes)
    assert scores.points.dtype == np.int32
    assert (scores.points == release.points(codes)).all()
    for row in range(60):
        found = (
            int(scores.points[row]),
            int(scores.shown[row]),
            scorer.reason_texts(scores.reasons[row]),
        )
        assert found == slowly(release, codes[:, row])


@pytest.mark.parametrize("seed", range(3))
def test_what_one_feature_gains_does_not_hide_what_another_of_the_same_reason_costs(seed: int):
    release = network_release(signed_plan(SHARING), SHARING)
    scorer = NetworkScorer(release)
    assert len(scorer.reasons) < len(release.grids)
    codes = random_codes(release.shape, 60, seed)
    scores = scorer.score(codes)
    for row in range(60):
        assert scorer.reason_texts(scores.reasons[row]) == slowly(release, codes[:, row])[2]


def test_losses_beyond_all_measure_are_reasons_in_the_order_of_the_schema():
    release = released(hidden=(50,) * 4, activation=Activation.RELU)
    steepest = [
        NamedArray.of(one.name, np.full(one.shape, 0.0 if one.name == "mean_inputs" else 64.0))
        for one in release.arrays
    ]
    release = msgspec.structs.replace(release, arrays=tuple(steepest))
    scorer = NetworkScorer(release)
    safest = [grid.ordered_cells - 1 if grid.ordered_cells else 0 for grid in release.grids]
    codes = np.array(safest, np.uint8)[:, np.newaxis]
    assert attributions(release.network, codes, release.mean_inputs).min() > 1e15
    scores = scorer.score(codes)
    assert scorer.reason_texts(scores.reasons[0]) == scorer.reasons[:4]
    assert (scores.points[0], scores.shown[0]) == (-32768, release.scale.least)


def test_a_feature_that_is_not_held_and_a_cell_without_evidence_are_never_a_reason():
    shape = released().shape
    silent = tuple(
        (*cells[:-1], -1) if cells[-1] == max(cells) else cells for cells in shape.bin_of_cell
    )
    assert silent != shape.bin_of_cell
    release = released()
    columns = msgspec.structs.replace(shape, bin_of_cell=silent).inputs
    arrays = [NamedArray.of("additive", np.full((1, columns + 1), -3.0))]
    arrays.append(NamedArray.of("mean_inputs", np.full(columns, 0.9)))
    release = msgspec.structs.replace(
        release, hidden=(), bin_of_cell=silent, arrays=tuple(arrays)
    )  # being anything but average costs points, and being nothing costs most
    scorer = NetworkScorer(release)
    nothing = np.full((len(silent), 1), NOT_HELD, np.uint8)
    parts = attributions(release.network, nothing, release.mean_inputs)
    assert (parts > 0).all()
    assert scorer.reason_texts(scorer.score(nothing).reasons[0]) == ()
    last = np.array([[len(cells) - 1] for cells in silent], np.uint8)
    told = scorer.reason_texts(scorer.score(last).reasons[0])
    reason_of = {feature.name: feature.reason for feature in release.schema.features}
    without = {
        reason_of[grid.name]
        for grid, cells in zip(release.grids, silent, strict=True)
        if cells[-1] == -1
    }
    assert not without & set(told)


def test_parity_vectors_visit_every_reason_and_are_coded_from_values():
    release = released()
    for vector in release.parity:
        codes = np.array([code_of(grid, vector.values[grid.name]) for grid in release.grids])
        assert slowly(release, codes.astype(np.uint8)) == (
            vector.points,
            vector.shown,
            vector.reasons,
        )


def test_the_release_of_a_network_says_what_was_promised_and_when():
    release = released()
    assert "one person at one institution" in release.statement.unit
    assert release.issued_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (release.plan, release.rounds, release.institutions) == (PLAN.digest, PLAN.rounds, 4)


# Evaluation.


def test_a_network_and_a_card_with_the_same_points_fall_into_the_same_bands():
    codes = random_codes(released().shape, 50, 1)
    bad = (np.arange(50) % 3 == 0).astype(np.uint8)
    protected = np.zeros((1, 50), np.uint8)
    scale = released().scale
    by_card = evaluation_contribution(
        flat_card(SCHEMA).scores(codes), protected, bad, None, scale=scale
    )
    moved = evaluation_contribution(released().points(codes), protected, bad, None, scale=scale)
    assert (moved.cells[0].numbers != by_card.cells[0].numbers).any()
