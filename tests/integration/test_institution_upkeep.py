"""`institution report`: whose release it trusts, and that nothing of it stays or leaves."""

import json
from pathlib import Path

import msgspec
import pytest

from federation.canonical import public_key_of
from federation.model.release import release_json
from tests.federations import _SMALL, KEY, OTHER_KEY, federation
from tests.integration.test_institution_command import (
    BANKS,
    CONFIG,
    everything_below,
    fedscore,
    init,
)

__all__ = ["fedscore"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    made = federation(
        tmp_path_factory.mktemp("trained"), institutions=3, people=900, epsilon=40.0, delta=1e-4
    )
    return made, made.run().release


@pytest.fixture
def home(tmp_path, monkeypatch, fedscore, trained):
    made, release = trained
    monkeypatch.chdir(tmp_path)
    code, _, err = init(
        fedscore,
        federation=made.plan.federation,
        coordinator=public_key_of(KEY),
        table=made.members[0].table,
    )
    assert code == 0, err
    Path(BANKS[0], "schema.toml").write_text(_SMALL.format(rows="one"))
    Path("release.json").write_bytes(release_json(release))
    return tmp_path


def test_report_shows_both_cards_and_leaves_nothing(home, fedscore):
    before = everything_below(home)
    code, out, err = fedscore("institution", "report", CONFIG, "release.json", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert 0.5 < found["national"]["auc"]["value"] < 1
    code, out, err = fedscore("institution", "report", CONFIG, "release.json")
    assert (code, err) == (0, "")
    assert "Private to this institution" in out
    assert "Calibration: national" in out
    assert everything_below(home) == before


def test_report_trusts_only_the_coordinator_of_the_policy(home, fedscore, trained):
    _, release = trained
    other = msgspec.structs.replace(release, coordinator=public_key_of(OTHER_KEY))
    Path("other.json").write_bytes(release_json(other.signed(OTHER_KEY)))
    code, out, err = fedscore("institution", "report", CONFIG, "other.json")
    assert (code, out) == (76, "")
    assert "another coordinator" in err
    changed = release_json(release).replace(b'"test-plan"', b'"best-plan"')
    Path("changed.json").write_bytes(changed)
    assert fedscore("institution", "report", CONFIG, "changed.json")[0] == 76
    Path("none.json").write_text("{}")
    assert fedscore("institution", "report", CONFIG, "none.json")[0] == 78
