import numpy as np
import pyarrow.parquet as pq
import pytest

from clients.snapshot import take_snapshot
from experiments.cache import SCHEMAS
from experiments.nation import BEHAVIOUR, BLOCK, COMMON, REPAYMENT, nation
from experiments.quality.thin_files import auc_against, carried, scoring
from experiments.trial import people_of, train_alone
from federation.population import Split
from federation.schema import load_schema


@pytest.fixture(scope="module")
def block():
    return next(nation(BLOCK, seed=3))


def test_equal_seeds_give_equal_people_whatever_the_size_of_the_nation():
    small = list(nation(1_000, seed=1))
    large = list(nation(BLOCK + 10, seed=1))
    assert [one.people for one in small] == [1_000]
    assert [(one.first, one.people) for one in large] == [(0, BLOCK), (BLOCK, 10)]
    assert np.array_equal(small[0].odds, large[0].odds[:1_000])
    assert np.array_equal(small[0].columns["income"], large[0].columns["income"][:1_000])
    assert not np.array_equal(next(nation(1_000, seed=2)).odds, small[0].odds)


def test_outcomes_follow_the_true_odds(block):
    for low, high in ((0.0, 0.05), (0.05, 0.15), (0.15, 1.0)):
        chosen = (block.odds >= low) & (block.odds < high)
        error = np.sqrt(block.odds[chosen].mean() / chosen.sum())
        assert abs(block.bad[chosen].mean() - block.odds[chosen].mean()) < 4 * error


def test_people_overlap_and_some_are_known_to_the_platform_only(block):
    known = block.at_platform.astype(int) + block.at_bank.sum(axis=0)
    assert 0.2 < (known > 1).mean() < 0.6
    assert known.max() == 3
    assert 0.1 < block.thin.mean() < 0.4
    assert not (block.thin & block.at_bank.any(axis=0)).any()
    young = block.columns["age"] < 30
    assert block.thin[young].mean() > 2 * block.thin[~young].mean()


def test_repayment_tells_most_and_nothing_tells_more_than_the_odds(block):
    oracle = auc_against(block.odds, block.odds)
    of = {name: auc_against(block.odds, block.columns[name]) for name in COMMON[1:] + BEHAVIOUR}
    past_due = auc_against(block.odds, block.columns["past_due"])
    assert past_due > max(of.values())
    assert oracle > past_due


def test_an_auc_against_the_odds_is_the_average_over_outcomes():
    odds = np.array([0.1, 0.4, 0.7])
    risk = np.array([1.0, 3.0, 2.0])
    good, bad = 1 - odds, odds
    pairs = sum(
        bad[i] * good[j] * (0.5 * (risk[i] == risk[j]) + (risk[i] > risk[j]))
        for i in range(3)
        for j in range(3)
    )
    assert auc_against(odds, risk) == pytest.approx(pairs / (bad.sum() * good.sum()))


def test_a_card_without_some_columns_scores_people_who_are_coded_with_them_alike(block, tmp_path):
    table = tmp_path / "table.parquet"
    chosen = block.at_platform & (np.arange(block.people) < 4_000)
    pq.write_table(block.table(chosen, COMMON + BEHAVIOUR), table)
    whole = load_schema((SCHEMAS / "nation.toml").read_text())
    common, thin = scoring(whole, COMMON), scoring(whole, COMMON + BEHAVIOUR)
    card = train_alone(common, table)
    narrow, wide = people_of(common, table), people_of(thin, table)
    assert len(narrow.codes) == len(COMMON)
    assert len(wide.codes) == len(COMMON + BEHAVIOUR)
    alike = carried(card, common, thin)
    assert np.array_equal(alike.scores(wide.codes), card.scores(narrow.codes))
    assert carried(alike, thin, common) == card


@pytest.mark.parametrize(
    ("columns", "lacking"), [(COMMON + BEHAVIOUR, REPAYMENT), (COMMON + REPAYMENT, BEHAVIOUR)]
)
def test_every_table_keeps_the_schema(block, tmp_path, columns, lacking):
    schema = load_schema((SCHEMAS / "nation.toml").read_text())
    pq.write_table(block.table(block.at_platform, columns), tmp_path / "table.parquet")
    take_snapshot(
        schema,
        tmp_path / "table.parquet",
        not_held=frozenset(lacking),
        split=Split(salt="0" * 64, held_out_fraction=0.0),
        directory=tmp_path / "snapshot",
    )
