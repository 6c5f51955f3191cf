"""Real processes, by the commands that people type."""

import pytest

pytest.importorskip("flwr")

from fedscore.live import run_live


@pytest.mark.slow
def test_three_daemons_and_a_coordinator_train_a_card_that_verifies(tmp_path):
    seen = run_live(tmp_path, institutions=3, rounds=2)
    assert len(seen.rounds) == 2
    assert set(seen.exit_codes.values()) == {0}
    assert seen.checked[:2] == ("release", "transcript")
    assert len(seen.checked) == 5
    for log in tmp_path.glob("*/daemon.log"):
        assert "signature valid" in log.read_text()
        assert "error" not in log.read_text()
    assert not list(tmp_path.glob("*/state/snapshots/*"))
    assert (tmp_path / "coordinator" / "superlink" / "front.log").is_file()
