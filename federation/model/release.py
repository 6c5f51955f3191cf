"""Released models, each one signed, versioned JSON for batch and online scoring everywhere."""

from typing import ClassVar, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigurationError, FedscoreError
from federation.model.network_release import NetworkRelease
from federation.model.scorecard import AdditiveCard
from federation.model.signed_release import Part, SignedRelease

FORMAT: Final = 3


class Bin(Part, frozen=True, kw_only=True):
    """One line of the card.

    Attributes:
        label: the public cells in it, for people.
        points: added to the score of a person in this bin; 0 without evidence.
        good: noisy number of good trained people, as counted, possibly negative.
        bad: noisy number of bad trained people, likewise.
        weight_of_evidence: ln((good / all good) / (bad / all bad)) of the noisy counts; None if
            there is no evidence: nobody in this bin can be told from the noise.
        standard_error: of the weight of evidence, noise and sampling together; None likewise.

    Raises:
        ConfigurationError: points without evidence.
    """

    label: str
    points: int
    good: float
    bad: float
    weight_of_evidence: float | None
    standard_error: float | None

    def __post_init__(self) -> None:
        if (self.weight_of_evidence is None) != (self.standard_error is None):
            raise ConfigurationError("A weight of evidence has an error, and none has none.")
        if self.weight_of_evidence is None and self.points:
            raise ConfigurationError("A bin without evidence gives points.")


class CardFeature(Part, frozen=True, kw_only=True):
    """A scored feature of the card.

    Attributes:
        name: as in the schema.
        information_value: of its bins, from the noisy counts.
        mean_points: average points of the trained population, from the noisy counts.
        bin_of_cell: the bin of each public fine cell.
        bins: in the order of their numbers.
    """

    name: str
    information_value: float
    mean_points: float
    bin_of_cell: tuple[int, ...]
    bins: tuple[Bin, ...]


class Release(SignedRelease, frozen=True, kw_only=True):
    """A national scorecard: points = base + the points of each feature's bin.

    Attributes:
        base: points of a person with no features at all.
        features: the scored features, in schema order.
    """

    LABEL: ClassVar[str] = "fedscore/release/3"

    base: int
    features: tuple[CardFeature, ...]

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigurationError(f"Expected a release of format {FORMAT}, got {self.format}.")
        scored = [grid.name for grid in self.grids]
        if [feature.name for feature in self.features] != scored:
            raise ConfigurationError("The release's features are not its schema's.")
        self.card.require_cells(tuple(len(grid.labels) for grid in self.grids))

    @property
    def card(self) -> AdditiveCard:
        """The card in points."""
        return AdditiveCard(
            base=self.base,
            bin_of_cell=tuple(feature.bin_of_cell for feature in self.features),
            weights=tuple(tuple(one.points for one in feature.bins) for feature in self.features),
        )

    def points(self, codes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Returns int64[rows], the unclipped score of each row.

        Args:
            codes: uint8[features, rows], fine cell codes of the scored features in schema order.
        """
        return self.card.scores(codes)


AnyRelease = Release | NetworkRelease


def require_scorecard(release: AnyRelease) -> Release:
    """Returns the release of a scorecard as what it is.

    Raises:
        ConfigurationError: it is a network's.
    """
    if isinstance(release, NetworkRelease):
        raise ConfigurationError("This is the release of a network; a scorecard's is needed.")
    return release


class _Head(msgspec.Struct):
    """What a file says that it holds; cards, which were first, say nothing."""

    kind: str = "scorecard"


def load_release(data: bytes) -> AnyRelease:
    """Returns the release in a JSON file, its signature checked against the key it names.

    Raises:
        ConfigurationError: truncated, not JSON, or not a release of a kind and version known here.
        ProtocolError: changed after it was signed.
    """
    try:
        release = _decoded(data)
    except (msgspec.DecodeError, ValueError, RecursionError, FedscoreError) as error:
        raise ConfigurationError(
            f"This is not a whole release that this version knows: {error}. "
            "Fetch it again from its source."
        ) from error
    release.require_signed_by(release.coordinator)
    return release


def _decoded(data: bytes) -> AnyRelease:
    kind = msgspec.json.decode(data, type=_Head).kind
    if kind == "scorecard":
        return msgspec.json.decode(data, type=Release)
    if kind == "network":
        return msgspec.json.decode(data, type=NetworkRelease)
    raise ConfigurationError("Expected a release of a scorecard or of a network.")


def release_json(release: AnyRelease) -> bytes:
    """Returns the release as indented JSON that `load_release` reads back to an equal release."""
    return msgspec.json.format(msgspec.json.encode(release), indent=1) + b"\n"
