"""A step of training a network, in several ways: one process, one thread, one after the other.

    python -m experiments.speed.gradient_ways BATCH HIDDEN REPEATS PATIENCE

prints the seconds of each turn as JSON. The ways take turns, so that a busy machine is busy for
all; slow ones have fewer turns: PATIENCE seconds each, about.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from clients.module_gradients import ModuleGradients
from clients.network_gradients import NetworkGradients
from experiments.speed.gradient_steps import INPUTS, Turn, Way
from federation.door import Products, add_noise, sum_of
from federation.model.network import Activation
from federation.query import UNITS_PER_CLIP, BoundedSum, Question

_RATE: Final = 0.1
_CLIP: Final = 1.0
_NOISE: Final = 1.0  # times the clip norm

Step = Callable[[], object]


def steps(batch: int, hidden: int) -> dict[str, Step]:
    """Returns for each way a step on the same rows, network 32-hidden-hidden-1 with tanh."""
    generator = np.random.default_rng(1)
    x = generator.uniform(-1, 1, (batch, INPUTS)).astype(np.float32)
    bad = (generator.random(batch) < 0.1).astype(np.uint8)
    inputs, outcomes = torch.from_numpy(x), torch.from_numpy(bad).float()
    return {
        "plain": _plain(_network(hidden), inputs, outcomes),
        "closed": _closed(x, bad, hidden),
        "ghost": _ghost(_network(hidden), inputs, outcomes),
        "hooks": _hooks(_network(hidden), inputs, outcomes),
        "functorch": _functorch(_network(hidden), inputs, outcomes),
        "module": _module(x, bad, hidden),
    }


def _network(hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(INPUTS, hidden),
        nn.Tanh(),
        nn.Linear(hidden, hidden),
        nn.Tanh(),
        nn.Linear(hidden, 1),
        nn.Flatten(0),
    )


def _plain(module: nn.Module, x: Tensor, bad: Tensor) -> Step:
    optimizer = torch.optim.SGD(module.parameters(), lr=_RATE)
    loss = nn.BCEWithLogitsLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss(module(x), bad).backward()
        optimizer.step()

    return step


def _through_the_door(
    model: Callable[[NDArray[np.float32]], NetworkGradients | ModuleGradients],
    x: NDArray[np.float32],
    bad: NDArray[np.uint8],
    length: int,
) -> Step:
    """Returns a step whose gradients come in blocks, as an institution makes them."""
    query = BoundedSum(
        question=Question.GRADIENT,
        columns=(length,),
        share_variance=int((_NOISE * UNITS_PER_CLIP) ** 2),
    )
    drawn = np.random.default_rng(2)
    parameters = drawn.uniform(-0.1, 0.1, length).astype(np.float32)
    key = drawn.bytes(32)

    def blocks() -> Iterator[Products]:
        gradients = model(parameters)
        for start in range(0, len(x), gradients.rows_at_once):
            rows = slice(start, start + gradients.rows_at_once)
            yield Products(layers=gradients.of(x[rows], bad[rows]), rows_of_person=None)

    def step() -> None:
        noised = add_noise(sum_of(query, blocks()), query, noise_key=key).total
        parameters[:] -= (_RATE * _CLIP / UNITS_PER_CLIP / len(x) * noised).astype(np.float32)

    return step


def _closed(x: NDArray[np.float32], bad: NDArray[np.uint8], hidden: int) -> Step:
    def model(parameters: NDArray[np.float32]) -> NetworkGradients:
        return NetworkGradients(
            parameters,
            inputs=INPUTS,
            hidden=(hidden, hidden),
            activation=Activation.TANH,
            clip_norm=_CLIP,
        )

    length = (1 + hidden) * (INPUTS + 1) + hidden * (hidden + 1) + hidden
    return _through_the_door(model, x, bad, length)


def _module(x: NDArray[np.float32], bad: NDArray[np.uint8], hidden: int) -> Step:
    module = _network(hidden)

    def model(parameters: NDArray[np.float32]) -> ModuleGradients:
        return ModuleGradients(parameters, module=module, inputs=INPUTS, clip_norm=_CLIP)

    length = sum(one.numel() for one in module.parameters())
    return _through_the_door(model, x, bad, length)


def _ghost(module: nn.Module, x: Tensor, bad: Tensor) -> Step:
    wrapped = GradSampleModuleFastGradientClipping(module, max_grad_norm=_CLIP)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(module.parameters(), lr=_RATE),
        noise_multiplier=_NOISE,
        max_grad_norm=_CLIP,
        expected_batch_size=len(x),
    )
    loss = DPLossFastGradientClipping(wrapped, optimizer, nn.BCEWithLogitsLoss())

    def step() -> None:
        optimizer.zero_grad()
        loss(wrapped(x), bad).backward()
        optimizer.step()

    return step


def _hooks(module: nn.Module, x: Tensor, bad: Tensor) -> Step:
    wrapped = GradSampleModule(module)
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=_RATE),
        noise_multiplier=_NOISE,
        max_grad_norm=_CLIP,
        expected_batch_size=len(x),
    )
    loss = nn.BCEWithLogitsLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss(wrapped(x), bad).backward()
        optimizer.step()

    return step


def _functorch(module: nn.Module, x: Tensor, bad: Tensor) -> Step:
    parameters = {name: one.detach() for name, one in module.named_parameters()}

    def loss(given: dict[str, Tensor], row: Tensor, outcome: Tensor) -> Tensor:
        scores = functional_call(module, given, (row[None],))
        return nn.functional.binary_cross_entropy_with_logits(scores[0], outcome)

    each = vmap(grad(loss), in_dims=(None, 0, 0))

    def step() -> None:
        found = each(parameters, x, bad)
        squared = sum(one.reshape(len(x), -1).square().sum(dim=1) for one in found.values())
        factor = (_CLIP / (torch.as_tensor(squared).sqrt() + 1e-6)).clamp(max=1.0)
        for name, one in found.items():
            total = torch.einsum("i,i...->...", factor, one)
            noised = total + torch.normal(0.0, _NOISE * _CLIP, total.shape)
            parameters[name] -= _RATE / len(x) * noised

    return step


def taken(batch: int, hidden: int, repeats: int, patience: float) -> list[Way]:
    """Returns what each way takes, turn by turn."""
    listed = steps(batch, hidden)
    found: dict[str, list[Turn]] = {way: [] for way in listed}
    turns = {}
    for way, step in listed.items():
        step()
        started = time.perf_counter()
        step()
        turns[way] = max(3, min(repeats, int(patience / (time.perf_counter() - started))))
    for turn in range(repeats):
        for way, step in listed.items():
            if turn % max(1, repeats // turns[way]) == 0:
                started, busy = time.perf_counter(), time.process_time()
                step()
                seconds, cpu = time.perf_counter() - started, time.process_time() - busy
                found[way].append(Turn(number=turn, seconds=seconds, cpu=cpu))
    return [Way(way=way, turns=tuple(times)) for way, times in found.items()]


def main() -> None:
    """Prints what the ways take."""
    batch, hidden, repeats, patience = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Opacus' about hooks on inputs that need no gradient
    sys.stdout.buffer.write(msgspec.json.encode(taken(batch, hidden, repeats, patience)))


if __name__ == "__main__":
    main()
