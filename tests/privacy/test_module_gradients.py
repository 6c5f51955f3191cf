"""Gradients of a modeller's own module: bounded, a row's alone, and the closed form's."""

import math
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from clients.installed_modules import installed_module
from clients.module_gradients import ModuleGradients
from clients.network_gradients import NetworkGradients
from federation.errors import ConfigurationError, PrivacyError
from federation.model.network import Activation
from federation.query import UNITS_PER_CLIP
from tests.torch_networks import flat, in_module_order, made, rows, total, vectors

INPUTS = 10


def gradients(module, *, clip_norm=1.0):
    parameters = nn.utils.parameters_to_vector(module.parameters()).detach().numpy().copy()
    return ModuleGradients(parameters, module=module, inputs=INPUTS, clip_norm=clip_norm)


def network(activation=Activation.TANH):
    return made(INPUTS, (8, 6), activation)


class Scores(nn.Module):
    """Two numbers of a row, made one: for what a modeller might put in between."""

    def __init__(self, between):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(INPUTS, 4), between, nn.Linear(4, 1))

    def forward(self, x):
        return self.layers(x).squeeze(-1)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Remembering(nn.Module):
    seen = 0.0

    def forward(self, x):
        self.seen += x.detach().sum().item()
        return x * (1.0 + self.seen)


@pytest.mark.parametrize("activation", [Activation.TANH, Activation.RELU])
@pytest.mark.parametrize("clip_norm", [0.5, 3.0])
def test_the_sum_is_that_of_the_closed_form(activation, clip_norm):
    module = network(activation)
    x, bad = rows(400, INPUTS)
    held = np.repeat([1.0, 2.0], 200)
    closed = NetworkGradients(
        flat(module), inputs=INPUTS, hidden=(8, 6), activation=activation, clip_norm=clip_norm
    )
    expected = total(closed.of(x, bad, held), held)[in_module_order(module)].astype(np.float64)
    found = total(gradients(module, clip_norm=clip_norm).of(x, bad, held), held)
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_a_row_brings_the_same_bits_alone_and_in_any_company():
    ours = gradients(network())
    x, bad = rows(60, INPUTS)
    whole = vectors(ours.of(x, bad))
    order = np.random.default_rng(1).permutation(60)
    assert_array_equal(vectors(ours.of(x[order], bad[order])), whole[order])
    for part in (order[:1], order[1:4], order[10:47]):
        assert_array_equal(vectors(ours.of(x[part], bad[part])), whole[part])
    assert_array_equal(vectors(gradients(network()).of(x, bad)), whole)


def test_a_person_who_leaves_takes_at_most_the_sensitivity_along():
    x, bad = rows(30, INPUTS)
    bad = bad * 2 + np.arange(30, dtype=np.uint8) % 2  # only the lowest bit is the outcome
    x[3], x[4, 2], x[5, 1], x[6] = 1e30, math.nan, -math.inf, 0.0
    for clip_norm in (1e-3, 1.0, 100.0):
        ours = gradients(network(), clip_norm=clip_norm)
        everyone = total(ours.of(x, bad))
        for gone in (0, 3, 4, 5, 6):
            left = np.random.default_rng(gone).permutation(np.delete(np.arange(30), gone))
            change = [int(one) for one in everyone - total(ours.of(x[left], bad[left]))]
            assert sum(one * one for one in change) <= UNITS_PER_CLIP**2
            assert any(change) == (gone not in (4, 5))


def test_rows_of_one_person_share_the_persons_bound():
    x, bad = rows(20, INPUTS)
    held = np.full(20, 20.0)
    found = vectors(gradients(network(), clip_norm=1e-3).of(x, bad, held))
    lengths = np.linalg.norm(found, axis=1) * 20.0
    assert (lengths <= UNITS_PER_CLIP).all()
    assert lengths == pytest.approx(UNITS_PER_CLIP, rel=1e-2)


def test_a_gradient_that_overflows_is_the_zero_vector():
    class Steep(Scores):
        def forward(self, x):
            return super().forward(x) * torch.exp(200.0 * x[:, 0])

    x, bad = rows(2, INPUTS)
    x[:, 0] = 1.0, 0.01
    found = vectors(gradients(Steep(nn.Tanh())).of(x, bad))
    assert not found[0].any()
    assert found[1].any()


class Raising(Scores):
    """Raises for some rows, and what no one would think of."""

    def forward(self, x):
        if bool((x[:, 0] > 0.99).any()):
            raise [RuntimeError, KeyError, MemoryError][int(x[0, 1] > 0)](float(x[0, 1]))
        return super().forward(x)


def test_a_row_for_which_the_module_raises_is_the_zero_vector_and_nobody_elses_affair():
    torch.manual_seed(3)
    ours = gradients(Raising(nn.Tanh()))
    x, bad = rows(6, INPUTS)
    x[:, 0] = 0.0
    expected, scores = vectors(ours.of(x, bad)), ours.log_odds(x)
    x[2, :2], x[4, :2] = (1.0, 1.0), (1.0, -1.0)
    found, scored = vectors(ours.of(x, bad)), ours.log_odds(x)
    others = [0, 1, 3, 5]
    assert_array_equal(found[others], expected[others])
    assert_array_equal(scored[others], scores[others])
    assert not found[[2, 4]].any()
    assert not scored[[2, 4]].any()


def test_a_module_that_raises_for_every_row_is_refused():
    class Broken(Scores):
        def forward(self, x):
            raise LookupError(str(x.shape))

    with pytest.raises(ConfigurationError, match="LookupError"):
        gradients(Broken(nn.Tanh()))


def test_a_module_that_counts_is_refused_before_it_uses_what_it_counted():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.seen += 1
            return x

    with pytest.raises(ConfigurationError, match="keep what it has seen"):
        gradients(Scores(Counting()))


def test_a_module_without_a_number_at_the_trial_is_only_of_no_use():
    class Nowhere(Scores):
        def forward(self, x):
            return super().forward(x) * math.nan

    x, bad = rows(3, INPUTS)
    ours = gradients(Nowhere(nn.Tanh()))
    assert not vectors(ours.of(x, bad)).any()
    assert not ours.log_odds(x).any()


@pytest.mark.parametrize(("width", "expected"), [(1, 256), (2**17 - 1, 64), (2**23, 1)])
def test_what_is_computed_at_once_fits_in_memory(width, expected):
    ours = ModuleGradients(
        np.zeros(width + 1, np.float32),
        module=nn.Sequential(nn.Linear(width, 1), nn.Flatten(0)),
        inputs=width,
        clip_norm=1.0,
    )
    assert ours.rows_at_once == expected


def test_the_validators_objections_are_listed():
    with pytest.raises(ConfigurationError, match="BatchNorm"):
        gradients(Scores(nn.BatchNorm1d(4)))


@pytest.mark.parametrize("between", [Noisy(), Remembering()])
def test_a_module_that_draws_or_remembers_is_refused(between):
    with pytest.raises(ConfigurationError, match="asked again"):
        gradients(Scores(between))


def test_dropout_is_off():
    ours = gradients(Scores(nn.Dropout(0.5)))
    x, bad = rows(5, INPUTS)
    assert_array_equal(vectors(ours.of(x, bad)), vectors(ours.of(x, bad)))


def test_a_module_without_one_score_a_row_is_refused():
    with pytest.raises(ConfigurationError, match=r"\[3, 2\]"):
        gradients(nn.Linear(INPUTS, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf, 65.0])
def test_a_model_beyond_the_public_bound_is_refused(value):
    parameters = np.zeros(11, np.float32)
    parameters[3] = value
    with pytest.raises(PrivacyError, match="Expected 11 parameters"):
        ModuleGradients(parameters, module=nn.Linear(10, 1), inputs=10, clip_norm=1.0)
    with pytest.raises(PrivacyError, match="Expected 11 parameters"):
        ModuleGradients(np.zeros(12, np.float32), module=nn.Linear(10, 1), inputs=10, clip_norm=1.0)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_norm_that_bounds_nothing_is_refused(clip_norm):
    with pytest.raises(ConfigurationError, match="clip norm"):
        gradients(network(), clip_norm=clip_norm)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package that has a network, and one that is none."""
    (tmp_path / "bank_networks.py").write_text(
        "from torch import nn\n"
        "def deep(inputs):\n"
        "    return nn.Sequential(nn.Linear(inputs, 1), nn.Flatten(0))\n"
        "def wrong(inputs):\n"
        "    return inputs\n"
    )
    details = tmp_path / "bank_networks-1.dist-info"
    details.mkdir()
    (details / "METADATA").write_text("Metadata-Version: 2.1\nName: bank-networks\nVersion: 1\n")
    (details / "entry_points.txt").write_text(
        "[fedscore.networks]\ndeep = bank_networks:deep\nwrong = bank_networks:wrong\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("bank_networks", None)


@pytest.mark.usefixtures("package")
def test_an_installed_network_is_found_by_its_name():
    ours = gradients(installed_module("deep", inputs=INPUTS)[0])
    x, bad = rows(3, INPUTS)
    assert vectors(ours.of(x, bad)).shape == (3, INPUTS + 1)


@pytest.mark.usefixtures("package")
def test_a_network_that_is_not_installed_is_named_with_those_that_are():
    with pytest.raises(ConfigurationError, match=r"'other'.*Networks here: deep, wrong"):
        installed_module("other", inputs=INPUTS)
    with pytest.raises(ConfigurationError, match="no torch module"):
        installed_module("wrong", inputs=INPUTS)
