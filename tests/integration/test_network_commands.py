"""The command line with a released network: shown, verified, scored by, reported on at home."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clients.releases import trusted_release
from federation.canonical import public_key_of
from federation.errors import ProtocolError
from federation.grid import code_of
from federation.model.release import release_json
from federation.model.scoring import scorer_of
from federation.plan import plan_toml
from tests.federations import _SMALL, KEY, OTHER_KEY, federation
from tests.integration.test_institution_command import BANKS, CONFIG, fedscore, init
from tests.networks import network_release

__all__ = ["fedscore"]

PEOPLE = {
    "person": [11, 12, 13],
    "income": [0.0, None, 42.5],
    "late": [5, 1, 3],
    "home": ["rent", "own", "boat"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    nation = federation(
        tmp_path_factory.mktemp("nation"), institutions=3, people=900, epsilon=40.0, delta=1e-4
    )
    return nation, network_release(nation.plan, nation.schema).signed(KEY)


@pytest.fixture
def desk(tmp_path, monkeypatch, made):
    nation, release = made
    monkeypatch.chdir(tmp_path)
    Path("release.json").write_bytes(release_json(release))
    Path("plan.toml").write_text(plan_toml(nation.plan))
    return release


def test_a_network_is_shown_layer_by_layer_with_promise_and_quality(desk, fedscore):
    code, out, err = fedscore("release", "show", "release.json")
    assert (code, err) == (0, "")
    shown = " ".join(out.split())
    inputs = desk.shape.inputs
    assert f"{inputs} inputs to 4 to 3 to 1" in shown
    assert f"{desk.shape.parameters:,}" in shown
    for said in ("Network", "tanh", "What it cost each person", "Quality on held-out people"):
        assert said in shown
    code, out, _ = fedscore("release", "show", "release.json", "--json")
    assert (code, json.loads(out)["kind"]) == (0, "network")


def test_an_additive_network_is_shown_without_a_deep_part(desk, fedscore, made):
    nation, _ = made
    additive = network_release(nation.plan, nation.schema, hidden=()).signed(KEY)
    Path("additive.json").write_bytes(release_json(additive))
    code, out, _ = fedscore("release", "show", "additive.json")
    assert code == 0
    assert "additive" in out
    assert "deep" not in out


def test_a_network_is_verified_against_its_plan_and_by_its_parity_vectors(desk, fedscore):
    assert fedscore("release", "verify", "release.json", "--plan", "plan.toml")[0] == 0
    vector = desk.parity[0]
    wrong = msgspec.structs.replace(vector, points=vector.points + 1)
    lying = msgspec.structs.replace(desk, parity=(wrong, *desk.parity[1:])).signed(KEY)
    Path("lying.json").write_bytes(release_json(lying))
    code, _, err = fedscore("release", "verify", "lying.json", "--plan", "plan.toml")
    assert code == 78
    assert "Parity vector 0" in err
    code, _, err = fedscore("score", "lying.json", "nothing.csv", "--out", "scores.csv")
    assert code == 78
    assert "Parity vector 0" in err


def test_a_table_is_scored_by_a_network_with_reasons(desk, fedscore):
    pq.write_table(pa.table(PEOPLE), "people.parquet")
    code, _, err = fedscore("score", "release.json", "people.parquet", "--out", "scores.parquet")
    assert (code, err) == (0, "")
    rows = pq.read_table("scores.parquet").to_pylist()
    scorer = scorer_of(desk)
    for place, row in enumerate(rows):
        codes = [code_of(grid, PEOPLE[grid.name][place]) for grid in desk.grids]
        expected = scorer.score(np.array(codes, np.uint8)[:, np.newaxis])
        told = tuple(row[f"reason_{number}"] for number in range(1, 5) if row[f"reason_{number}"])
        assert row["person"] == PEOPLE["person"][place]
        assert (row["points"], row["score"]) == (expected.points[0], expected.shown[0])
        assert told == scorer.reason_texts(expected.reasons[0])
        assert row["bad_rate"] == pytest.approx(desk.scale.bad_rate_at(row["points"]), rel=1e-5)


def test_a_feature_that_the_table_lacks_gives_no_reason(desk, fedscore):
    without = {name: values for name, values in PEOPLE.items() if name != "late"}
    pq.write_table(pa.table(without), "people.parquet")
    assert fedscore("score", "release.json", "people.parquet", "--out", "s.parquet")[0] == 65
    code, _, err = fedscore(
        "score", "release.json", "people.parquet", "--out", "s.parquet", "--not-held", "late"
    )
    assert (code, err) == (0, "")
    reason_of = {feature.name: feature.reason for feature in desk.schema.features}
    told = {
        row[f"reason_{n}"] for row in pq.read_table("s.parquet").to_pylist() for n in range(1, 5)
    }
    assert reason_of["late"] not in told


def test_an_institution_compares_a_network_with_its_own_card(desk, fedscore, made):
    nation, _ = made
    code, _, err = init(
        fedscore,
        federation=nation.plan.federation,
        coordinator=public_key_of(KEY),
        table=nation.members[0].table,
    )
    assert code == 0, err
    Path(BANKS[0], "schema.toml").write_text(_SMALL.format(rows="one"))
    code, out, err = fedscore("institution", "report", CONFIG, "release.json", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["release"] == desk.digest
    assert 0 < found["national"]["auc"]["value"] < 1
    assert found["national"]["auc"] != found["alone"]["auc"]


def test_a_network_is_trusted_from_its_coordinator_and_plan_alone(desk, made):
    plan, data = made[0].plan, release_json(desk)
    assert trusted_release(data, plan) == desk
    with pytest.raises(ProtocolError, match="another plan"):
        trusted_release(data, msgspec.structs.replace(plan, name="other"))
    with pytest.raises(ProtocolError):
        trusted_release(data, msgspec.structs.replace(plan, coordinator=public_key_of(OTHER_KEY)))
