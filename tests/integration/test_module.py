"""A modeller's own torch module, named by a plan, trained through the door, released and scored."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from clients import dense
from experiments.entropy import SeededEntropy
from federation.errors import ConfigurationError, ProtocolError
from federation.fits import public_network
from federation.learning import Joint, Local, Mode, NetworkModel
from federation.messages import Invite, RefusalCode, Refuse
from federation.model.attributions import attributions
from federation.model.network_release import NetworkRelease
from federation.model.release import load_release, release_json
from federation.model.scoring import require_parity, scorer_of
from federation.plan import load_plan, plan_toml
from federation.schema import Schema
from federation.transcript_audit import audit
from fedscore.training_file import load_training
from tests.federations import Federation, federation, signed_plan, small_schema
from tests.networks import random_codes

PACKAGE = """
import torch
from torch import nn

class Deep(nn.Module):
    def __init__(self, inputs, width, seed):
        super().__init__()
        self.first, self.norm = nn.Linear(inputs, width), nn.LayerNorm(width)
        self.last = nn.Linear(width, 1)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for one in (self.first.weight, self.last.weight):
                one.copy_(torch.rand(one.shape, generator=generator) - 0.5)
            for one in (self.first.bias, self.last.bias):
                one.zero_()

    def forward(self, x):
        return self.last(torch.nn.functional.gelu(self.norm(self.first(x)))).squeeze(-1)

def deep(inputs):
    return Deep(inputs, 4, {seed})

def restless(inputs):
    return nn.Sequential(nn.Linear(inputs, 1), nn.Flatten(0))

class Overwriting(Deep):
    def forward(self, x):
        x[:, 0] = 0.0
        return super().forward(x)

def overwriting(inputs):
    return Overwriting(inputs, 4, 1)

def mixing(inputs):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(inputs, 2), nn.BatchNorm1d(2), nn.Linear(2, 1), nn.Flatten(0))
"""
ENTRIES = "[fedscore.networks]\n" + "".join(
    f"{name} = bank_networks:{name}\n" for name in ("deep", "restless", "mixing", "overwriting")
)
INSTITUTION = """
[mode]
type = "institution"
steps = 1
step_length = 0.5
proximal = 0.0
optimiser = "fedavg"
[model]
type = "network"
hidden = []
activation = "tanh"
clip = 1.0
sampling_rate = 1.0
learning_rate = 1.0
"""
TRAINING = """
[mode]
type = "joint"
[model]
type = "network"
hidden = []
activation = "tanh"
clip = 1.0
sampling_rate = 1.0
learning_rate = 0.05
module = "{module}"
"""


def install(directory: Path, *, seed: int, version: str = "1") -> None:
    """Installs a package with three networks, as pip would."""
    (directory / "bank_networks.py").write_text(PACKAGE.replace("{seed}", str(seed)))
    details = directory / "bank_networks-1.dist-info"
    details.mkdir(exist_ok=True)
    (details / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: bank-networks\nVersion: {version}\n"
    )
    (details / "entry_points.txt").write_text(ENTRIES)
    sys.modules.pop("bank_networks", None)
    dense._exact.cache_clear()  # a process has one release of a package for all of its life


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path / "site"
    place.mkdir()
    install(place, seed=7)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield place
    sys.modules.pop("bank_networks", None)


def asked(schema: Schema, module: str = "deep") -> NetworkModel:
    _, model = load_training(TRAINING.format(module=module), schema)
    assert isinstance(model, NetworkModel)
    return model


def trained_with(directory: Path, mode: Joint | Local, module: str = "deep") -> Federation:
    return federation(
        directory,
        institutions=3,
        people=60,
        mode=mode,
        model=asked(small_schema(), module=module),
        spare_attempts=0,
        epsilon=50.0,
        policy={"modes": tuple(Mode)},
    )


@pytest.mark.slow
@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("mode", [Joint(), Local(steps=2)], ids=["joint", "local"])
def test_a_module_is_trained_released_audited_and_scored(
    tmp_path: Path, mode: Joint | Local
) -> None:
    made = trained_with(tmp_path, mode)
    assert load_plan(plan_toml(made.plan)) == made.plan
    run = made.run(noise_entropy=SeededEntropy(1), out="run")
    release = load_release(release_json(run.release))
    assert isinstance(release, NetworkRelease)
    assert isinstance(made.plan.model, NetworkModel)
    assert release.module == made.plan.model.module
    assert np.abs(release.network.matrices["module"]).max() > 0.01
    require_parity(release)
    transcript = (tmp_path / "run" / "transcript.jsonl").read_bytes()
    found = audit(transcript, made.schema, release)
    assert (found.models, found.findings) == (True, ())
    codes = random_codes(release.shape, 200, seed=3)
    parts = attributions(release.network, codes, release.mean_inputs)
    mean = release.network.log_odds_at(release.mean_inputs[np.newaxis])
    assert_allclose(parts.sum(axis=1), release.network.log_odds(codes) - mean, atol=1e-5)
    scores = scorer_of(release).score(codes)
    assert len(set(scores.points.tolist())) > 5
    assert (scores.reasons >= 0).any()


def test_a_plan_describes_the_module_it_names(package: Path) -> None:
    schema = small_schema()
    module = asked(schema).module
    assert module is not None
    width = public_network(asked(schema), schema).shape.inputs
    assert module.parameters == 4 * width + 4 + 8 + 4 + 1
    install(package, seed=8)
    other = asked(schema).module
    assert other is not None
    assert other.start != module.start
    with pytest.raises(ConfigurationError, match="other numbers each time"):
        asked(schema, module="restless")
    with pytest.raises(ConfigurationError, match="'absent'"):
        asked(schema, module="absent")


@pytest.mark.parametrize("changed", [{"seed": 8}, {"seed": 7, "version": "2"}])
def test_an_institution_without_the_plans_module_refuses_before_it_reserves(
    tmp_path: Path, package: Path, changed: dict[str, Any]
) -> None:
    made = trained_with(tmp_path, Joint())
    install(package, **changed)
    with made.seats() as seats:
        for seat in seats.values():
            reply = seat.send(Invite(plan=plan_toml(made.plan)))
            assert reply == Refuse(code=RefusalCode.POLICY, peer="")
            assert "is not the plan's" in seat.log[-1]
            assert seat.ledger.head()[0] == 0


def test_a_module_that_mixes_people_is_refused(tmp_path: Path, package: Path) -> None:
    made = trained_with(tmp_path, Joint(), module="mixing")
    with pytest.raises(ProtocolError, match="0 of 3"):
        made.run(out="run")


def test_a_coordinator_without_the_module_begins_nothing(tmp_path: Path, package: Path) -> None:
    made = trained_with(tmp_path, Joint())
    install(package, seed=8)
    with pytest.raises(ConfigurationError, match="is not the plan's"):
        made.run(out="run")


@pytest.mark.usefixtures("package")
def test_a_coordinator_that_could_not_explain_scores_begins_nothing(tmp_path: Path) -> None:
    made = trained_with(tmp_path, Joint(), module="overwriting")
    with pytest.raises(ConfigurationError, match="failed to explain"):
        made.run(out="run")


@pytest.mark.usefixtures("package")
def test_institution_mode_trains_no_module() -> None:
    schema = small_schema()
    mode, _ = load_training(INSTITUTION, schema)
    with pytest.raises(ConfigurationError, match="joint or local"):
        signed_plan(schema, mode=mode, model=asked(schema))
