"""The law of advice: fitted by its command, on arithmetic that is the product's own."""

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments.budget.advice import QUANTILES, Advised, fit, held_of, write_law
from experiments.budget.advice_cases import Case, Crowd, synthetic_crowd
from experiments.budget.advice_report import answer, cells_of
from experiments.budget.catalogue import ADVICE
from experiments.datasets import TAIWAN
from experiments.division import schema_of
from experiments.quality.thin_files import auc_against
from experiments.trial import people_of, train_alone
from fedscore import advice_law
from fedscore.advice import Wish, draft_of
from fedscore.advice_law import fitted
from fedscore.demo.nation import TABLE as TAIWAN_TABLE


def test_the_product_reads_the_law_that_the_committed_run_fitted():
    assert ADVICE.load().law == fitted().law


def test_how_the_law_did_elsewhere_is_counted_from_the_committed_trainings():
    found: Advised = ADVICE.load()
    less = more = 0
    for case in found.unseen:
        expected = found.law.loss(case.noise_to_signal, case.alone)
        less, more = less + (case.loss < expected.low), more + (case.loss > expected.high)
    held = fitted().unseen
    assert (held.trainings, held.less, held.more) == (len(found.unseen), less, more)
    assert f"{held.inside / held.trainings:.0%} lie in its range" in answer(found)


def test_the_product_reads_what_the_experiment_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(advice_law, "LAW_FILE", tmp_path / "law.json")
    found: Advised = ADVICE.load()
    few = found.unseen[:20]
    write_law(found.law, few)
    assert fitted().law == found.law
    assert fitted().unseen == held_of(found.law, few)
    assert fitted().unseen.trainings == 20


def test_the_committed_law_is_the_fit_of_the_committed_trainings():
    found: Advised = ADVICE.load()
    lost = np.array([case.loss for case in found.fitted])
    for name, quantile in QUANTILES.items():
        curve = getattr(found.law, name)
        expected = np.array([curve.lost(one.noise_to_signal, one.alone) for one in found.fitted])
        assert np.mean(lost < expected) == pytest.approx(quantile, abs=0.05)


def test_nothing_that_the_law_is_held_against_was_it_fitted_on():
    found: Advised = ADVICE.load()
    assert {case.data for case in found.fitted} == {"synthetic"}
    assert "synthetic" not in {case.data for case in found.unseen}
    assert len(cells_of(found)) * 3 == len(found.unseen)


@pytest.mark.slow
def test_without_noise_the_arithmetic_gives_the_products_own_card(tmp_path):
    schema = schema_of(TAIWAN)
    rows = pq.read_table(TAIWAN_TABLE).slice(0, 700)
    pq.write_table(rows, tmp_path / "people.parquet")
    people = people_of(schema, tmp_path / "people.parquet")
    crowd = Crowd(
        schema=schema,
        codes=people.codes,
        bad=people.bad,
        tested=people.codes,
        odds=people.bad.astype(float),
    )
    alone = train_alone(schema, tmp_path / "people.parquet")
    assert people.auc(crowd.train_without_privacy()) == pytest.approx(people.auc(alone), abs=1e-4)
    for ours, theirs in zip(crowd.train_without_privacy().weights, alone.weights, strict=True):
        assert np.abs(np.array(ours) - np.array(theirs)).max() <= 1  # points, rounded


def test_equal_seeds_give_equal_trainings_and_noise_costs_auc():
    crowd = synthetic_crowd(seed=5, people=3_000, features=6)
    wish = Wish(schema=crowd.schema, people=3_000, institutions=3, quorum=3, held_out=0.0)
    noisy = [crowd.auc(crowd.train(draft_of(wish, 0.1), seed)) for seed in (1, 1, 2)]
    assert noisy[0] == noisy[1] != noisy[2]
    assert crowd.auc(crowd.train(draft_of(wish, 20.0), 1)) > max(noisy)


def test_a_synthetic_federation_is_as_scorable_as_it_was_drawn_to_be():
    crowd = synthetic_crowd(seed=5, people=3_000, features=6)
    assert 0.02 < crowd.bad.mean() < 0.32
    assert 0.60 < auc_against(crowd.odds, crowd.odds) < 0.90


def test_the_fit_finds_a_law_that_is_known():
    draw = np.random.default_rng(0)
    known = msgspec.structs.replace(fitted().law.middle, strength=1.0, exponent=0.5, collapse=0.5)
    ratios = np.exp(draw.uniform(-10, 1, 400))
    cases = tuple(
        Case(
            data="synthetic",
            seed=0,
            people=1,
            features=1,
            institutions=3,
            epsilon=1.0,
            bad_rate=0.1,
            alone=0.75,
            auc=float(0.75 - known.lost(ratio * factor, 0.75)),
            noise_to_signal=float(ratio),
        )
        for ratio, factor in zip(ratios, np.exp(draw.normal(size=400)), strict=True)
    )
    found = fit(cases)
    for ratio in (1e-4, 1e-2, 0.3):
        middle = found.loss(ratio, 0.75).middle
        assert middle == pytest.approx(known.lost(ratio, 0.75), rel=0.25)
        assert found.loss(ratio, 0.75).low < middle < found.loss(ratio, 0.75).high
