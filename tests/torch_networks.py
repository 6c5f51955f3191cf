"""A network's module, its rows and parameters, for tests of gradients."""

import numpy as np
import torch
from torch import nn

from federation.door import Layer, Products, sum_of
from federation.query import BoundedSum, Question


class TwoParts(nn.Module):
    """The network of `federation.model.network`, as a modeller would write it."""

    def __init__(self, inputs, hidden, activation):
        super().__init__()
        self.additive = nn.Linear(inputs, 1)
        layers, below = [], inputs
        for width in hidden:
            layers += [nn.Linear(below, width), nn.Tanh() if activation == "tanh" else nn.ReLU()]
            below = width
        if hidden:
            layers.append(nn.Linear(below, 1, bias=False))
        self.deep = nn.Sequential(*layers)

    def forward(self, x):
        score = self.additive(x)
        return (score + self.deep(x) if len(self.deep) else score).squeeze(-1)


def matrices_of(module):
    """Returns the module's parameters as matrices with their biases in the last column."""
    return [
        one.weight if one.bias is None else torch.column_stack([one.weight, one.bias])
        for one in module.modules()
        if isinstance(one, nn.Linear)
    ]


def flat(module):
    """Returns float32, a module's parameters as the closed form has them."""
    with torch.no_grad():
        return torch.cat([one.reshape(-1) for one in matrices_of(module)]).numpy()


def in_module_order(module):
    """Returns for each parameter in torch's order its place in the closed form's."""
    places = torch.arange(len(flat(module)))
    found, start = {}, 0
    for one in (m for m in module.modules() if isinstance(m, nn.Linear)):
        outputs, columns = one.out_features, one.in_features + (one.bias is not None)
        block = places[start : start + outputs * columns].reshape(outputs, columns)
        found[one.weight] = block[:, : one.in_features].reshape(-1)
        if one.bias is not None:
            found[one.bias] = block[:, -1]
        start += outputs * columns
    return torch.cat([found[one] for one in module.parameters()]).numpy()


def made(inputs, hidden, activation, seed=0):
    """Returns a module with random weights that do not depend on torch's global generator."""
    module = TwoParts(inputs, hidden, activation)
    drawn = np.random.default_rng(seed)
    with torch.no_grad():
        for one in module.parameters():
            reach = 1.5 / np.sqrt(one.shape[-1])
            values = drawn.uniform(-reach, reach, tuple(one.shape)).astype(np.float32)
            one.copy_(torch.from_numpy(values))
    return module


def rows(count, inputs, seed=0):
    """Returns x, half of it one-hot, and outcomes."""
    drawn = np.random.default_rng(seed)
    x = drawn.uniform(-1, 1, (count, inputs)).astype(np.float32)
    half = inputs // 2
    x[:, :half] = np.eye(half, dtype=np.float32)[drawn.integers(half, size=count)]
    return x, (drawn.random(count) < 0.3).astype(np.uint8)


def vectors(layers: tuple[Layer, ...]):
    """Returns float64[rows, parameters], what the door adds up of each row."""
    return np.column_stack(
        [
            (layer.signals[:, :, None] * layer.inputs[:, None, :]).reshape(len(layer.inputs), -1)
            for layer in layers
        ]
    )


def total(layers: tuple[Layer, ...], rows_of_person=None):
    """Returns the door's sum, int64[parameters]."""
    length = sum(layer.length for layer in layers)
    query = BoundedSum(question=Question.GRADIENT, columns=(length,), share_variance=2**20)
    return sum_of(query, [Products(layers=layers, rows_of_person=rows_of_person)]).total
