import pytest

from experiments.cache import Cache
from experiments.experiment import Setting
from experiments.speed import mask_peers, mask_report
from experiments.speed.mask_rounds import begun, run_round
from experiments.speed.masks import run_masks


@pytest.mark.slow
def test_without_peers_only_our_own_figures_are_shown_and_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(mask_peers, "FLOWER", None)
    monkeypatch.setattr(mask_peers, "TENSEAL", None)
    with Setting(name="masks", quick=True, cache=Cache()) as setting:
        found = run_masks(setting)
    assert "not installed, so not compared: flwr, tenseal" in mask_report.answer(found)
    assert "Flower SecAgg+" not in mask_report.schemes(found)
    assert mask_report.openings(found).count("\n| ") > 1


def test_all_that_institutions_send_the_coordinator_receives():
    found = run_round(begun(5), parameters=20, bits=32, dropped=1, attempt=0)
    for stage in ("upload", "survivors", "release"):
        received = found.coordinator.received[stage]
        assert received // 4 == found.institution.sent[stage]
        assert found.coordinator.sent[stage] // 4 == found.institution.received[stage]


@pytest.mark.parametrize("dropped", [0, 1])
def test_flower_gives_the_sum_when_it_is_called_as_here(dropped):
    assert mask_peers.flower_opening(50, 5, 4, dropped).total > 0


@pytest.mark.skipif(mask_peers.TENSEAL is None, reason="TenSEAL has no wheel for this machine")
def test_ckks_gives_the_sum_when_it_is_called_as_here():
    assert mask_peers.ckks(5_000).nbytes > 8 * 5_000
