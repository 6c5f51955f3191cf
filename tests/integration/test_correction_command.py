"""`institution report --keep` and `score --correction`: from one release to corrected scores."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clients.correction import Correction, load_correction
from federation.canonical import public_key_of
from federation.grid import NOT_HELD, code_of
from federation.model.release import release_json
from tests.federations import _SMALL, KEY, federation, small_table
from tests.integration.test_institution_command import (
    BANKS,
    CONFIG,
    everything_below,
    fedscore,
    init,
)

__all__ = ["fedscore"]

REPORT = ("institution", "report", CONFIG, "release.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    made = federation(
        tmp_path_factory.mktemp("trained"), institutions=3, people=900, epsilon=40.0, delta=1e-4
    )
    return made, made.run().release


def turned_table(path: Path) -> Path:
    """Writes people of whom, unlike elsewhere, those who pay late are the good ones."""
    table = pq.read_table(small_table(path, 900, 50))
    late = pa.array(5 - table.column("late").to_numpy())
    pq.write_table(table.set_column(table.column_names.index("late"), "late", late), path)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch, fedscore, trained):
    made, release = trained
    monkeypatch.chdir(tmp_path)
    code, _, err = init(
        fedscore,
        federation=made.plan.federation,
        coordinator=public_key_of(KEY),
        table=turned_table(tmp_path / "turned.parquet"),
    )
    assert code == 0, err
    Path(BANKS[0], "schema.toml").write_text(_SMALL.format(rows="one"))
    Path("release.json").write_bytes(release_json(release))
    return tmp_path


def test_the_report_shows_what_the_national_card_gains_by_being_corrected_at_home(home, fedscore):
    before = everything_below(home)
    code, out, err = fedscore(*REPORT, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    gain = found["local_gain"]
    assert 0.05 < gain["low"] < gain["value"] < gain["high"]
    apart = found["corrected"]["auc"]["value"] - found["national"]["auc"]["value"]
    assert gain["value"] == pytest.approx(apart)
    assert found["penalty"] > 0
    code, out, err = fedscore(*REPORT)
    assert (code, err) == (0, "")
    for line in (
        "national, corrected at home",
        "local gain",
        "Calibration: national, corrected at home",
    ):
        assert line in out
    assert f"{gain['value']:.4f} ({gain['low']:.4f}" in out
    assert everything_below(home) == before


def test_people_who_correct_nothing_are_told_so_and_get_no_second_calibration(
    home, fedscore, trained
):
    made, _ = trained
    written = Path(CONFIG).read_text()
    turned = str((home / "turned.parquet").resolve())
    assert turned in written
    Path(CONFIG).write_text(written.replace(turned, made.members[0].table))
    code, out, err = fedscore(*REPORT)
    assert (code, err) == (0, "")
    assert "No correction told our own people clearly better" in " ".join(out.split())
    assert "0.0000 (0.0000 to" in out
    assert "Calibration: national, corrected at home" not in out


def test_a_kept_correction_is_private_named_after_its_release_and_never_overwritten(
    home, fedscore, trained
):
    _, release = trained
    assert fedscore(*REPORT, "--keep", "correction.json")[0] == 0
    path = Path("correction.json")
    assert path.stat().st_mode & 0o777 == 0o600
    kept = load_correction(path.read_bytes())
    assert (kept.release, kept.schema) == (release.digest, release.schema.digest)
    code, out, err = fedscore(*REPORT, "--keep", "correction.json")
    assert (code, out) == (78, "")
    assert "correction.json: File exists" in err
    assert fedscore(*REPORT, "--keep", "again.json")[0] == 0
    assert Path("again.json").read_bytes() == path.read_bytes()


def corrected_by_hand(release, kept: Correction, table: pa.Table):
    """Points and reasons of the summed card, one person at a time."""
    reason_of = {feature.name: feature.reason for feature in release.schema.features}
    for row in table.to_pylist():
        points, lost = release.base + kept.card.base, {}
        for place, (grid, feature) in enumerate(zip(release.grids, release.features, strict=True)):
            changes = kept.card.weights[place]
            counts = np.array([max(one.good, 0) + max(one.bad, 0) for one in feature.bins])
            counts *= [one.weight_of_evidence is not None for one in feature.bins]
            mean = feature.mean_points + float(counts @ changes) / counts.sum()
            code = code_of(grid, row[grid.name])
            assert code != NOT_HELD
            bin_ = feature.bin_of_cell[code]
            own = feature.bins[bin_].points + changes[bin_]
            points += own
            if feature.bins[bin_].weight_of_evidence is not None or changes[bin_]:
                lost[reason_of[grid.name]] = round(mean * 100) - 100 * own
        costly = [reason for reason in lost if lost[reason] >= 100]
        costly.sort(key=lambda reason: -lost[reason])
        yield points, costly


def test_scores_with_a_correction_are_those_of_the_summed_card_and_so_are_the_reasons(
    home, fedscore, trained
):
    _, release = trained
    assert fedscore(*REPORT, "--keep", "correction.json")[0] == 0
    score = ("score", "release.json", "turned.parquet", "--out")
    assert fedscore(*score, "plain.parquet")[0] == 0
    code, _, err = fedscore(*score, "corrected.parquet", "--correction", "correction.json")
    assert (code, err) == (0, "")
    kept = load_correction(Path("correction.json").read_bytes())
    found = pq.read_table("corrected.parquet").to_pylist()
    for row, (points, reasons) in zip(
        found,
        corrected_by_hand(release, kept, pq.read_table("turned.parquet")),
        strict=True,
    ):
        assert row["points"] == points
        assert row["score"] == release.scale.shown(points)
        assert row["bad_rate"] == pytest.approx(release.scale.bad_rate_at(points), rel=1e-5)
        assert [row[f"reason_{n}"] for n in range(1, 5) if row[f"reason_{n}"]] == reasons
    plain = pq.read_table("plain.parquet").to_pylist()
    assert [row["reason_1"] for row in found] != [row["reason_1"] for row in plain]


def test_a_correction_of_another_release_is_refused_and_nothing_is_written(home, fedscore, trained):
    _, release = trained
    assert fedscore(*REPORT, "--keep", "correction.json")[0] == 0
    other = msgspec.structs.replace(release, plan_name="another").signed(KEY)
    Path("other.json").write_bytes(release_json(other))
    kept = json.loads(Path("correction.json").read_text())
    kept["card"]["bin_of_cell"][0] = [0] * len(kept["card"]["bin_of_cell"][0])
    Path("other-bins.json").write_text(json.dumps(kept))
    Path("none.json").write_text("{}")
    before = everything_below(home)
    for named, correction, said in (
        ("other.json", "correction.json", "made for release"),
        ("release.json", "other-bins.json", "other bins"),
        ("release.json", "none.json", "not a whole correction"),
        ("release.json", "missing.json", "Cannot read missing.json"),
    ):
        code, out, err = fedscore(
            *("score", named, "turned.parquet", "--out", "scores.parquet"),
            *("--correction", correction),
        )
        assert (code, out) == (78, "")
        assert said in err
    assert everything_below(home) == before
