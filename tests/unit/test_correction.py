"""An institution's own correction of a released score: what it learns, and of whom."""

import tracemalloc
from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize

from clients.blocks import Block
from clients.correction import (
    LEAST_OUTCOMES,
    PENALTIES,
    Correction,
    National,
    corrected,
    correction_at_home,
    correction_json,
    load_correction,
)
from clients.ridge import Rows, fitted, losses
from clients.snapshot import take_snapshot
from federation.errors import ConfigurationError
from federation.grid import NOT_HELD
from federation.model.exact_auc import auc_of
from federation.model.score_scale import ScoreScale
from federation.model.scorecard import AdditiveCard
from federation.population import Split, held_out_hashes, key_hashes
from federation.privacy.units import Population
from tests.federations import SALT, federation, small_schema, small_table

SCALE = ScoreScale(points=660, odds=30.0, points_to_double=40, least=300, most=850)
FEATURES, BINS = 4, 5
CARD = AdditiveCard(
    base=560,
    bin_of_cell=(tuple(range(BINS)),) * FEATURES,
    weights=((-60, -30, 0, 30, 60), (40, 20, 0, -20, -40), (0,) * BINS, (10, 0, 0, 0, -10)),
)
NATIONAL = National(points=CARD.scores, scale=SCALE, bin_of_cell=CARD.bin_of_cell)
AS_IN_THE_COUNTRY = np.zeros((FEATURES, BINS))
OWN_WAY = AS_IN_THE_COUNTRY.copy()
OWN_WAY[2] = [0.8, 0.4, 0.0, -0.4, -0.8]
"""Log-odds of bad by which one institution's people differ, in a feature of no points."""


def people(
    number: int, differing: np.ndarray, *, seed: int = 0, level: float = 0.0, rows_each: int = 1
) -> Block:
    """Draws people whose log-odds are the national card's and what differs here."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, BINS, (FEATURES, number)).astype(np.uint8)
    rates = np.array([SCALE.bad_rate_at(float(one)) for one in CARD.scores(codes)])
    local = level + sum(of[own] for of, own in zip(differing, codes, strict=True))
    bad = generator.random(number) < 1 / (1 + (1 - rates) / rates * np.exp(-local))
    return Block(
        codes=np.repeat(codes, rows_each, axis=1),
        bad=np.repeat(bad.astype(np.uint8), rows_each),
        person_starts=None if rows_each == 1 else np.arange(number) * rows_each,
    )


def cut(block: Block, rows: int) -> list[Block]:
    return [
        Block(
            codes=np.ascontiguousarray(block.codes[:, start : start + rows]),
            bad=block.bad[start : start + rows],
            person_starts=None,
        )
        for start in range(0, block.bad.size, rows)
    ]


def of_people(*blocks: Block) -> tuple[float | None, AdditiveCard, str]:
    return corrected(NATIONAL, lambda: blocks)


def is_nothing(card: AdditiveCard) -> bool:
    return card.base == 0 and not any(any(weights) for weights in card.weights)


def test_many_people_recover_what_is_particular_to_them():
    penalty, card, remark = of_people(people(20_000, OWN_WAY, level=0.5))
    assert penalty in PENALTIES[:2]
    assert remark == ""
    found = np.array(card.weights[2]) - np.mean(card.weights[2])
    assert np.abs(found + SCALE.factor * OWN_WAY[2]).max() < 0.15 * SCALE.factor
    for feature in (0, 1, 3):
        rest = np.array(card.weights[feature]) - np.mean(card.weights[feature])
        assert np.abs(rest).max() < 0.15 * SCALE.factor
    level = card.base + sum(np.mean(weights) for weights in card.weights)
    assert abs(level + 0.5 * SCALE.factor) < 0.1 * SCALE.factor
    judged = people(20_000, OWN_WAY, seed=1, level=0.5)
    national, bad = CARD.scores(judged.codes), judged.bad.astype(bool)
    gain = auc_of(national + card.scores(judged.codes), bad).value - auc_of(national, bad).value
    assert gain > 0.03


def test_people_who_are_as_the_country_is_correct_nothing():
    for seed in range(5):
        penalty, card, remark = of_people(people(3_000, AS_IN_THE_COUNTRY, seed=seed))
        assert penalty is None
        assert is_nothing(card)
        assert "clearly better than the national score" in remark


def test_few_people_hardly_correct_what_many_do():
    largest = {}
    for number in (150, 6_000):
        found = [of_people(people(number, OWN_WAY / 2, seed=seed))[1] for seed in range(4)]
        largest[number] = np.mean([np.ptp(card.weights[2]) for card in found])
    assert largest[150] < largest[6_000] / 2


def test_a_level_of_their_own_is_put_right_and_leaves_the_ranking_alone():
    penalty, card, _ = of_people(people(5_000, AS_IN_THE_COUNTRY, level=1.0))
    assert penalty == max(PENALTIES)
    assert abs(card.base + SCALE.factor) < 0.15 * SCALE.factor
    assert max(abs(weight) for weights in card.weights for weight in weights) <= 2


@pytest.mark.parametrize("outcome", [0, 1])
def test_people_of_one_outcome_correct_nothing_and_it_is_said_why(outcome):
    block = people(1_000, OWN_WAY)
    same = Block(codes=block.codes, bad=np.full(1_000, outcome, np.uint8), person_starts=None)
    penalty, card, remark = of_people(same)
    assert penalty is None
    assert is_nothing(card)
    assert f"fewer than {LEAST_OUTCOMES} of either" in remark


def test_nobody_corrects_nothing_and_it_is_said_why():
    penalty, card, remark = of_people()
    assert penalty is None
    assert is_nothing(card)
    assert remark.startswith("0 good and 0 bad are trained on")


def test_equal_people_correct_equally_however_they_are_cut_into_blocks():
    block = people(6_000, OWN_WAY)
    once = of_people(block)
    assert of_people(block) == once
    assert of_people(*cut(block, 500)) == once
    assert once[0] is not None


def test_rows_of_one_person_are_never_told_by_a_fit_to_the_others():
    # With the same rows on both sides, what is only luck of 60 people would seem to be learnt.
    for seed in range(3):
        many = people(60, AS_IN_THE_COUNTRY, seed=seed, rows_each=50)
        torn = Block(codes=many.codes, bad=many.bad, person_starts=None)
        assert of_people(torn)[0] == min(PENALTIES)
        assert of_people(many)[0] in (None, max(PENALTIES))


def test_what_is_not_held_is_not_corrected():
    block = people(5_000, OWN_WAY)
    codes = block.codes.copy()
    codes[1] = NOT_HELD
    _, card, _ = of_people(Block(codes=codes, bad=block.bad, person_starts=None))
    assert card.weights[1] == (0,) * BINS
    assert np.ptp(card.weights[2]) > 20


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_people():
    peaks = []
    block = people(5_000, OWN_WAY)
    for times in (5, 40):

        def blocks(times: int = times) -> Iterator[Block]:
            for _ in range(times):
                yield Block(codes=block.codes.copy(), bad=block.bad.copy(), person_starts=None)

        tracemalloc.start()
        corrected(NATIONAL, blocks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_held_out_people_are_never_read(tmp_path):
    schema = small_schema()
    release = federation(tmp_path, people=600, epsilon=40.0, delta=1e-4).run().release
    split = Split(salt=SALT, held_out_fraction=0.25)
    table = pq.read_table(small_table(tmp_path / "own.parquet", 2_000, 99))
    late = pa.array(5 - table.column("late").to_numpy())
    table = table.set_column(table.column_names.index("late"), "late", late)
    keys, bad = table.column("person").to_pylist(), table.column("bad").to_numpy()
    held_out = held_out_hashes(split, key_hashes(split, keys))
    turned = pa.array(np.where(held_out, 1 - bad, bad))
    found = []
    for name, outcomes in (("as-they-are", table.column("bad")), ("turned", turned)):
        changed = table.set_column(table.column_names.index("bad"), "bad", outcomes)
        pq.write_table(changed, tmp_path / f"{name}.parquet")
        snapshot = take_snapshot(
            schema,
            tmp_path / f"{name}.parquet",
            not_held=frozenset(),
            split=split,
            directory=tmp_path / name,
        )
        snapshot.file(Population.HELD_OUT).path.unlink()
        found.append(correction_at_home(schema, snapshot, release))
    assert found[0] == found[1]
    assert found[0].penalty is not None


def test_the_fit_is_where_a_general_minimiser_ends():
    generator = np.random.default_rng(4)
    rows = Rows(
        coefficients=generator.integers(1, 8, (3, 400)),
        given=generator.normal(-2.0, 2.0, 400),
        bad=generator.random(400) < 0.3,
    )
    penalty = np.append(1.0, np.full(6, 3.0))

    def objective(at: np.ndarray) -> float:
        return float(losses(rows, at).sum() + 0.5 * penalty @ at**2)

    found = fitted(lambda: (rows,), penalty, np.zeros(7))
    expected = minimize(objective, np.zeros(7), tol=1e-10, method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose(found, expected.x, atol=1e-4)


def test_a_step_that_goes_too_far_is_halved():
    rows = Rows(
        coefficients=np.ones((1, 200), dtype=np.intp),
        given=np.full(200, 12.0),  # a score that is sure, and wrong: Newton's first step is huge
        bad=np.arange(200) < 20,
    )
    penalty = np.array([1e-3, 1e-3])
    found = fitted(lambda: (rows,), penalty, np.zeros(2))
    assert abs(12.0 + found.sum() - np.log(20 / 180)) < 0.1


def made(**changes: object) -> Correction:
    whole = Correction(
        format=1,
        schema="1" * 64,
        release="2" * 64,
        penalty=16.0,
        card=CARD,
        remark="",
    )
    return msgspec.structs.replace(whole, **changes)


def test_a_correction_is_read_back_as_it_was_written():
    assert load_correction(correction_json(made())) == made()


@pytest.mark.parametrize(
    "damaged",
    [
        correction_json(made())[:-20],
        b"",
        b"[]",
        correction_json(made()).replace(b'"format": 1', b'"format": 2'),
        correction_json(made()).replace(b"16.0", b"0.5"),
        correction_json(made()).replace(b"16.0", b"null"),
        correction_json(made()).replace(b'"remark"', b'"more": 1, "remark"'),
        correction_json(made()).replace(b"560", b"560.5"),
        correction_json(made()).replace(b"560", b"99999"),
    ],
)
def test_what_is_no_correction_is_refused(damaged):
    with pytest.raises(ConfigurationError, match=r"not a whole correction.*Make it again"):
        load_correction(damaged)


def test_a_correction_of_nothing_gives_no_points():
    with pytest.raises(ConfigurationError, match="changes nothing"):
        Correction(**{**msgspec.structs.asdict(made()), "penalty": None})
