"""Modules that clumsy modellers install: refused in words, or scored as they were evaluated."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import numpy as np
import pytest
from numpy.testing import assert_allclose

from clients import dense, module_gradients
from clients.blocks import Block
from clients.installed_modules import described, installed_as
from clients.snapshot import Snapshot
from federation.asking import require_shape
from federation.errors import ConfigurationError
from federation.fits import _carried_over, public_network
from federation.learning import NetworkModel
from federation.model.attributions import attributions
from federation.model.module import Module
from federation.model.network import LARGEST_PARAMETER, NO_BIN, Activation, Network, Shape, inputs
from federation.model.score_scale import ScoreScale
from tests.federations import small_schema
from tests.networks import random_codes

PACKAGE = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 2), nn.Linear(2, 1)
        with torch.no_grad():
            for number, one in enumerate(self.parameters()):
                one.copy_(torch.linspace(-1, 1, one.numel()).sin().reshape(one.shape) - number / 8)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x))).squeeze(-1)

class Centred(Plain):
    def forward(self, x):
        return super().forward(x - x.mean(0))

class Mean(Plain):
    def forward(self, x):
        return super().forward(x).mean()

class Nowhere(Plain):
    def forward(self, x):
        return torch.where(x[:, 0] == 1, float("nan"), super().forward(x))

class Raising(Plain):
    def forward(self, x):
        if bool((x[:, 0] == 1).any()):
            raise KeyError("a row")
        return super().forward(x)

class Precise(Plain):
    def __init__(self, inputs):
        super().__init__(inputs)
        self.register_buffer("times", torch.ones(inputs, dtype=torch.float64))

    def forward(self, x):
        return super().forward(x * self.times)

class Random(Precise):
    def __init__(self, inputs):
        super().__init__(inputs)
        self.times = torch.rand(inputs)

class Frozen(Plain):
    def __init__(self, inputs):
        super().__init__(inputs)
        self.first = nn.Linear(inputs, 2).requires_grad_(False)

class Far(Plain):
    def __init__(self, inputs):
        super().__init__(inputs)
        with torch.no_grad():
            self.last.bias.fill_(65.0)

class Stepped(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.table = nn.Embedding(2, inputs)
        with torch.no_grad():
            self.table.weight.fill_(0.25)

    def forward(self, x):
        return (self.table((x > 0).long()) * torch.eye(x.shape[1])).sum((1, 2))

class InPlace(Plain):
    def forward(self, x):
        x[:, 0] = 0.0
        return super().forward(x)

def broken(inputs):
    raise RuntimeError("no")
"""
NAMES = ("Plain", "Centred", "Mean", "Nowhere", "Raising", "Precise", "Random", "Frozen", "Far")
NAMES = (*NAMES, "Stepped", "InPlace", "broken")
SCALE = ScoreScale(points=660, odds=30.0, points_to_double=40, least=300, most=850)


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "clumsy_networks.py").write_text(PACKAGE)
    details = tmp_path / "clumsy_networks-1.dist-info"
    details.mkdir()
    (details / "METADATA").write_text("Metadata-Version: 2.1\nName: clumsy-networks\nVersion: 1\n")
    entries = "".join(f"{name} = clumsy_networks:{name}\n" for name in NAMES)
    (details / "entry_points.txt").write_text(
        f"[fedscore.networks]\n{entries}absent = not_there_at_all:it\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    dense._exact.cache_clear()
    yield
    sys.modules.pop("clumsy_networks", None)


def model(name: str) -> NetworkModel:
    found = NetworkModel(
        hidden=(),
        activation=Activation.TANH,
        clip=1.0,
        sampling_rate=1.0,
        learning_rate=0.1,
        most_parameters=1_000,
    )
    width = public_network(found, small_schema()).shape.inputs
    return msgspec.structs.replace(found, module=described(name, inputs=width))


def far_on(name: str) -> Network:
    """Returns a network some way from its beginning."""
    start = public_network(model(name), small_schema())
    return Network.of(start.shape, np.linspace(-1.0, 1.0, start.shape.parameters))


def someone(network: Network) -> np.ndarray:
    return random_codes(network.shape, 80, seed=3)


@pytest.mark.parametrize("name", ["Plain", "Nowhere", "Precise", "Stepped"])
def test_a_release_scores_people_as_they_were_evaluated_and_says_why(name: str) -> None:
    network = far_on(name)
    codes = someone(network)
    alone = dense._exact(network, 1.0).log_odds(inputs(network.shape, codes))
    assert_allclose(network.log_odds(codes), alone, atol=1e-5)
    assert np.abs(network.points(codes, SCALE) - dense.points(network, codes, SCALE)).max() <= 1
    parts = attributions(network, codes, np.full(network.shape.inputs, 0.125))
    assert np.isfinite(parts).all()
    assert np.abs(parts).max() > 0


def test_a_way_that_leads_beyond_the_public_bound_is_cut_for_everybody() -> None:
    start = public_network(model("Plain"), small_schema())
    network = Network.of(start.shape, np.full(start.shape.parameters, LARGEST_PARAMETER))
    codes = someone(network)
    alone = dense._exact(network, 1.0).log_odds(inputs(network.shape, codes))
    assert_allclose(network.log_odds(codes), alone, atol=1e-3)
    assert network.shape.module is not None
    way = network.vector[-network.shape.module.parameters :]
    module = installed_as(network.shape.module, inputs=network.shape.inputs, way=way)
    assert max(float(one.detach().max()) for one in module.parameters()) == LARGEST_PARAMETER


@pytest.mark.parametrize("name", ["Centred", "Mean"])
def test_a_module_that_scores_rows_together_otherwise_than_alone_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="together than alone"):
        dense.require_trainable(small_schema(), model(name))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Random", "other numbers each time"),
        ("Frozen", "other numbers each time"),
        ("Far", "beyond"),
        ("broken", "RuntimeError: no"),
        ("absent", "ModuleNotFoundError"),
    ],
)
def test_no_plan_names_a_module_that_cannot_be_the_same_everywhere(name: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        model(name)


def test_whatever_a_module_raises_at_its_trial_an_institution_refuses_in_words() -> None:
    with pytest.raises(ConfigurationError, match="inplace operation"):
        dense.require_trainable(small_schema(), model("InPlace"))


def test_a_score_that_fails_is_an_error_in_words_and_an_evaluation_goes_on() -> None:
    network = far_on("Raising")
    codes = someone(network)
    held = inputs(network.shape, codes)[:, 0] == 1
    assert held.any()
    with pytest.raises(ConfigurationError, match="failed to score"):
        network.log_odds(codes)
    middle = SCALE.whole_points(np.zeros(1))
    assert (dense.points(network, codes, SCALE)[held] == middle).all()


def test_people_are_taken_in_blocks_that_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network = far_on("Plain")
    monkeypatch.setattr(module_gradients, "_BLOCK_NUMBERS", 30 * network.shape.parameters)
    codes = someone(network)
    bad = np.zeros(80, dtype=np.uint8)
    block = Block(codes=codes, bad=bad, person_starts=None)
    snapshot = cast(Snapshot, SimpleNamespace(blocks=lambda _: iter([block])))
    brought = dense.gradients(
        small_schema(), snapshot, network, model("Plain"), sample_key=bytes(32)
    )
    assert [len(one.layers[0].signals) for one in brought] == [30, 30, 20]


def test_a_module_is_asked_over_public_bins_alone() -> None:
    schema, asked = small_schema(), model("Plain")
    shape = public_network(asked, schema).shape
    require_shape(asked, schema, Network.of(shape, np.zeros(shape.parameters)))
    first, *others = shape.bin_of_cell
    swapped = tuple({0: 1, 1: 0}.get(one, one) for one in first)
    other = msgspec.structs.replace(shape, bin_of_cell=(swapped, *others))
    with pytest.raises(ConfigurationError, match="other than public bins"):
        require_shape(asked, schema, Network.of(other, np.zeros(shape.parameters)))


def test_a_message_brings_no_module_that_the_plan_does_not_name() -> None:
    schema, asked = small_schema(), model("Plain")
    shape = public_network(asked, schema).shape
    with pytest.raises(ConfigurationError, match="layers that the plan asks for"):
        require_shape(
            msgspec.structs.replace(asked, module=None),
            schema,
            Network.of(shape, np.zeros(shape.parameters)),
        )


def test_hidden_layers_and_a_module_exclude_each_other() -> None:
    asked = model("Plain")
    with pytest.raises(ConfigurationError, match="empty where there is a module"):
        msgspec.structs.replace(asked, hidden=(2,))
    with pytest.raises(ConfigurationError, match="not both"):
        msgspec.structs.replace(public_network(asked, small_schema()).shape, hidden=(2,))


def test_a_public_bin_begins_with_the_mean_evidence_of_its_cells() -> None:
    counted = Shape(
        bin_of_cell=((0, 1, 1, NO_BIN), (0, 0)),
        ordered_cells=(4, 0),
        hidden=(),
        activation=Activation.TANH,
    )
    public = msgspec.structs.replace(counted, bin_of_cell=((0, 0, 1, 1), (0, 1)))
    found = _carried_over(np.array([1.0, 3.0, 5.0]), counted, public)
    assert_allclose(found, [2.0, 1.5, 5.0, 5.0])


@pytest.mark.parametrize("field", ["name", "package", "start"])
@pytest.mark.parametrize("text", ["", "two\nlines"])
def test_what_names_a_module_is_printable(field: str, text: str) -> None:
    named = Module(name="deep", package="bank 1", parameters=1, start="00")
    with pytest.raises(ConfigurationError, match="printable"):
        msgspec.structs.replace(named, **{field: text})
