"""The two peers of `experiments.quality.curators` that import much: diffprivlib, torch, Opacus."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from diffprivlib.models import LogisticRegression
from numpy.typing import NDArray
from opacus import PrivacyEngine
from opacus.accountants.utils import get_noise_multiplier
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from experiments.quality.curators import Perturbed, Sampled, Sides, longest_input
from experiments.trial import DELTA, People
from federation.errors import PrivacyError
from federation.model.network import Network, Shape, inputs

_OTHER_SEEDS: Final = 1_000_000
"""Seeds of noise are so much larger than those of who is in a batch."""

_PRECISION: Final = 100
"""Of the accountant: epsilon over this. Its default, 0.01, is a tenth of our smallest epsilon."""


def perturbed(
    settings: Perturbed,
    shape: Shape,
    people: Sides,
    *,
    epsilon: float,
    noise_seed: int,
) -> float:
    """Returns the test AUC of diffprivlib's logistic regression.

    Inputs are divided by the public bound on their length, the constant among them. Two things
    depend on it: the theorem wants every coefficient regularised, which diffprivlib's own intercept
    is not, and its mechanism has the bound where the theorem has its square, so both agree at 1.
    """
    model = LogisticRegression(
        epsilon=epsilon,
        data_norm=1.0,
        C=settings.strength,
        fit_intercept=False,
        max_iter=2_000,
        random_state=noise_seed,
    )
    with warnings.catch_warnings():
        # It passes SciPy an option that SciPy will forget.
        warnings.filterwarnings("ignore", message=".*iprint", category=DeprecationWarning)
        model.fit(within_one(shape, people.train), people.train.bad)
    scores = model.decision_function(within_one(shape, people.test))
    return float(roc_auc_score(people.test.bad, scores))


def within_one(shape: Shape, people: People) -> NDArray[np.float64]:
    """Returns float64[people, inputs + 1], a constant last, each row of length 1 at most."""
    found = np.ones((len(people.bad), shape.inputs + 1))
    found[:, :-1] = inputs(shape, people.codes)
    return found / longest_input(shape)


class AdditiveAndDeep(nn.Module):
    """The network of `federation.model.network` in torch."""

    def __init__(self, network: Network) -> None:
        """Builds the network, with its parameters."""
        super().__init__()
        matrices = network.matrices.values()
        additive, *hidden, output = (torch.from_numpy(one.copy()) for one in matrices)
        self.additive = _linear(additive)
        layers: list[nn.Module] = []
        for matrix in hidden:
            layers += [_linear(matrix), nn.Tanh()]
        self.deep = nn.Sequential(*layers, _linear(output, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Returns float32[rows], log-odds of bad, of float32[rows, inputs]."""
        score: Tensor = self.additive(x) + self.deep(x)
        return score.squeeze(-1)


def _linear(matrix: Tensor, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1] - bias, matrix.shape[0], bias=bias)
    with torch.no_grad():
        layer.weight.copy_(matrix[:, : layer.in_features])
        if bias:
            layer.bias.copy_(matrix[:, -1])
    return layer


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """Inputs and outcomes, fetched a batch at once."""

    def __init__(self, shape: Shape, people: People) -> None:
        self.x = torch.from_numpy(inputs(shape, people.codes))
        self.bad = torch.from_numpy(people.bad.astype(np.float32))

    def __len__(self) -> int:
        return len(self.bad)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.x[place], self.bad[place]

    def __getitems__(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(places, dtype=torch.int64)
        return self.x[chosen], self.bad[chosen]


def _as_fetched(batch: Any) -> Any:  # noqa: ANN401 - torch expects a list, which `_Rows` spares it
    return batch


def sampled(
    settings: Sampled,
    start: Network,
    people: Sides,
    *,
    epsilon: float,
    noise_seed: int,
) -> float:
    """Returns the test AUC of the network that Opacus trains by DP-SGD, on one thread."""
    torch.set_num_threads(1)
    rows = _Rows(start.shape, people.train)
    loader = DataLoader(
        rows,
        batch_size=-(-len(rows) // settings.batches),
        collate_fn=_as_fetched,
        generator=torch.Generator().manual_seed(noise_seed),
    )
    steps = settings.epochs * len(loader)
    noise = noise_multiplier(epsilon, rate=1 / len(loader), steps=steps)
    module = AdditiveAndDeep(start)
    averaged = AveragedModel(module)
    with warnings.catch_warnings():
        # Nobody relies on this noise; and the inputs of a first layer have no gradient.
        warnings.filterwarnings("ignore", message="Secure RNG turned off", category=UserWarning)
        warnings.filterwarnings("ignore", message="Full backward hook", category=UserWarning)
        engine = PrivacyEngine(accountant="prv")
        wrapped, optimizer, criterion, batches = engine.make_private(
            module=module,
            optimizer=torch.optim.Adam(module.parameters(), lr=settings.rate),
            criterion=nn.BCEWithLogitsLoss(),
            data_loader=loader,
            noise_multiplier=noise,
            max_grad_norm=settings.clip,
            noise_generator=torch.Generator().manual_seed(noise_seed + _OTHER_SEEDS),
            grad_sample_mode="ghost",
        )
        step = 0
        for _ in range(settings.epochs):
            for x, bad in batches:
                optimizer.zero_grad()
                criterion(wrapped(x), bad).backward()
                optimizer.step()
                step += 1
                if 2 * step > steps:
                    averaged.update_parameters(module)
    _require(engine, epsilon)
    with torch.no_grad():
        scores = averaged.module(_Rows(start.shape, people.test).x).numpy()
    return float(roc_auc_score(people.test.bad, scores))


def noise_multiplier(epsilon: float, *, rate: float, steps: int) -> float:
    """Returns the standard deviation of Opacus' noise in clip norms, by its own accountant.

    Args:
        epsilon: of the whole training at delta 1e-6.
        rate: at which each person is in a batch.
        steps: of training.
    """
    with _accounting():
        found: float = get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=DELTA,
            sample_rate=rate,
            steps=steps,
            accountant="prv",
            eps_error=epsilon / _PRECISION,
            epsilon_tolerance=epsilon / _PRECISION,
        )
    return found


def _require(engine: PrivacyEngine, epsilon: float) -> None:
    """Returns only if what the engine has noted of all steps keeps the promise."""
    with _accounting():
        spent = engine.accountant.get_epsilon(DELTA, eps_error=epsilon / _PRECISION)
    if not spent <= epsilon:
        raise PrivacyError(f"Opacus counts epsilon {spent} where {epsilon} was promised.")


@contextmanager
def _accounting() -> Iterator[None]:
    with warnings.catch_warnings():
        # Renyi orders give a first guess of how far the numerical account must reach, no more.
        warnings.filterwarnings("ignore", message="Optimal order", category=UserWarning)
        yield
