"""What a plan trains, and how: a small TOML file of the coordinator's operator.

[mode]                    # joint, local or institution
type = "joint"

[model]                   # scorecard or network
type = "network"
hidden = [16]
activation = "tanh"
clip = 0.3
sampling_rate = 1.0
learning_rate = 0.03

In place of hidden layers, `module = "NAME"` and `hidden = []` name an installed torch module.
"""

import math

import msgspec

from federation.errors import ConfigurationError
from federation.fits import public_network
from federation.learning import Institution, Joint, Local, NetworkModel, ScorecardModel
from federation.model.network import Activation
from federation.schema import Schema


class NetworkDraft(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="network"
):
    """The settings of a network that people decide; see `federation.learning.NetworkModel`.

    `module` names a network that a package on this machine has installed.
    """

    hidden: tuple[int, ...]
    activation: Activation
    clip: float
    sampling_rate: float
    learning_rate: float
    module: str | None = None

    def model(self, schema: Schema) -> NetworkModel:
        """Returns the plan's model, with room for as many parameters as its bins may need.

        Args:
            schema: bins are at most its fine cells.

        Raises:
            ConfigurationError: the module is not installed here, or torch is not.
        """
        found = NetworkModel(
            hidden=self.hidden,
            activation=self.activation,
            clip=self.clip,
            sampling_rate=self.sampling_rate,
            learning_rate=self.learning_rate,
            most_parameters=_most_parameters(schema, self.hidden),
        )
        return found if self.module is None else _with_module(found, schema, self.module)


def _with_module(model: NetworkModel, schema: Schema, name: str) -> NetworkModel:
    try:
        from clients.installed_modules import described  # noqa: PLC0415  # torch, where it is used
    except ImportError as error:
        raise ConfigurationError(
            f"A module needs torch: install fedscore[network] ({error})."
        ) from error
    inputs = public_network(model, schema).shape.inputs
    module = described(name, inputs=inputs)
    return msgspec.structs.replace(
        model, module=module, most_parameters=inputs + 1 + module.parameters
    )


def _most_parameters(schema: Schema, hidden: tuple[int, ...]) -> int:
    scored = schema.scored_grids
    inputs = sum(len(grid.labels) + (grid.ordered_cells > 0) for grid in scored)
    widths = (inputs, *hidden)
    layers = sum((before + 1) * width for before, width in zip(widths, hidden, strict=False))
    return inputs + 1 + layers + (hidden[-1] if hidden else 0)


class _Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mode: Joint | Local | Institution
    model: ScorecardModel | NetworkDraft


def load_training(
    text: str, schema: Schema
) -> tuple[Joint | Local | Institution, ScorecardModel | NetworkModel]:
    """Returns the mode and the model in a TOML text.

    Args:
        text: of the file.
        schema: of the plan.

    Raises:
        ConfigurationError: not TOML, an unknown, missing or mistyped field (named), or a value
            outside its range.
    """
    try:
        found = msgspec.toml.decode(text, type=_Training)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"This does not say what to train: {error}. It needs the tables [mode] and [model]."
        ) from error
    if isinstance(found.model, ScorecardModel):
        return found.mode, found.model
    numbers = (found.model.clip, found.model.sampling_rate, found.model.learning_rate)
    if not all(map(math.isfinite, numbers)):
        raise ConfigurationError("Expected finite numbers in [model].")
    return found.mode, found.model.model(schema)
