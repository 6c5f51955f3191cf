"""The released scorecard: one signed, versioned JSON for batch and online scoring everywhere."""

from datetime import datetime
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.canonical import Digest
from federation.errors import ConfigurationError, FedscoreError, ProtocolError
from federation.grid import FeatureGrid, Role
from federation.model.evaluation import Quality
from federation.model.score_scale import ScoreScale
from federation.model.scorecard import AdditiveCard
from federation.schema import Schema

RELEASE_LABEL: Final = "fedscore/release/2"
FORMAT: Final = 2


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A strict, immutable part of a release."""


class Bin(_Part, frozen=True, kw_only=True):
    """One line of the card.

    Attributes:
        label: the public cells in it, for people.
        points: added to the score of a person in this bin.
        good: noisy number of good trained people, as counted, possibly negative.
        bad: noisy number of bad trained people, likewise.
        weight_of_evidence: ln((good / all good) / (bad / all bad)) of the noisy counts.
        standard_error: of the weight of evidence, noise and sampling together.
    """

    label: str
    points: int
    good: float
    bad: float
    weight_of_evidence: float
    standard_error: float


class CardFeature(_Part, frozen=True, kw_only=True):
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


class Statement(_Part, frozen=True, kw_only=True):
    """What is promised to each person, with everything that a promise needs to mean something.

    Attributes:
        epsilon: of a trained person; the plan's whole price, spare attempts included.
        held_out_epsilon: of a held-out person.
        delta: for both.
        unit: whose records are protected.
        neighbours: which two tables are compared.
        against: who may hold everything else.
        epsilon_coordinator_alone: of a trained person, if no institution conspires with it.
        held_out_epsilon_coordinator_alone: of a held-out person, likewise.
        assumption: what the promise rests on.
    """

    epsilon: float
    held_out_epsilon: float
    delta: float
    unit: str
    neighbours: str
    against: str
    epsilon_coordinator_alone: float
    held_out_epsilon_coordinator_alone: float
    assumption: str


class GroupQuality(_Part, frozen=True, kw_only=True):
    """Quality of the card within one group of a protected feature; None if noise hides it."""

    feature: str
    group: str
    quality: Quality | None


class Report(_Part, frozen=True, kw_only=True):
    """Quality on held-out people, all from the noisy sums of one priced question.

    Attributes:
        overall: None if nobody was held out, or noise hides everything.
        groups: for each cell of each protected feature.
        noise_per_band: standard deviation of the noise in each (band, outcome), in people.
    """

    overall: Quality | None
    groups: tuple[GroupQuality, ...]
    noise_per_band: float


class ParityVector(_Part, frozen=True, kw_only=True):
    """A synthetic person and what every implementation must answer.

    Attributes:
        values: by feature; None is missing, an absent feature is not held.
        points: the unclipped score.
        shown: the score as shown.
        reasons: at most four.
    """

    values: dict[str, int | float | str | None]
    points: int
    shown: int
    reasons: tuple[str, ...]


class Release(_Part, frozen=True, kw_only=True):
    """A national scorecard. Higher is safer; points = base + the points of each feature's bin.

    Attributes:
        format: version of this layout.
        federation: whose it is.
        plan_name: for people.
        plan: digest of the plan it came from.
        purpose: what it may be used for.
        issued_at: when it was signed.
        schema: the public data contract it scores by.
        scale: how points relate to odds.
        base: points of a person with no features at all.
        features: the scored features, in schema order.
        people: noisy number of trained people.
        bad_rate: noisy share of bad people among them.
        institutions: how many institutions answered in the round with the fewest answers.
        rounds: training rounds that were run.
        statement: the promise.
        report: the quality.
        parity: synthetic people with their scores.
        coordinator: Ed25519 public key.
        signature: over everything else.
    """

    format: int
    federation: str
    plan_name: str
    plan: str
    purpose: str
    issued_at: datetime
    schema: Schema
    scale: ScoreScale
    base: int
    features: tuple[CardFeature, ...]
    people: float
    bad_rate: float
    institutions: int
    rounds: int
    statement: Statement
    report: Report
    parity: tuple[ParityVector, ...]
    coordinator: str
    signature: str

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigurationError(f"Expected a release of format {FORMAT}, got {self.format}.")
        scored = [grid.name for grid in self.grids]
        if [feature.name for feature in self.features] != scored:
            raise ConfigurationError("The release's features are not its schema's.")
        self.card.require_cells(tuple(len(grid.labels) for grid in self.grids))

    @property
    def grids(self) -> tuple[FeatureGrid, ...]:
        """The public grids of the scored features."""
        return tuple(grid for grid in self.schema.grids if grid.role is Role.SCORED)

    @property
    def card(self) -> AdditiveCard:
        """The card in points."""
        return AdditiveCard(
            base=self.base,
            bin_of_cell=tuple(feature.bin_of_cell for feature in self.features),
            weights=tuple(tuple(one.points for one in feature.bins) for feature in self.features),
        )

    @property
    def digest(self) -> Digest:
        """Names this release: over everything but the signature."""
        return canonical.digest(RELEASE_LABEL, self._body())

    def signed(self, key: Ed25519PrivateKey) -> "Release":
        """Returns this release with the coordinator's signature.

        Raises:
            ConfigurationError: the key is not the one the release names.
        """
        if canonical.public_key_of(key) != self.coordinator:
            raise ConfigurationError("This key is not the one that the release names.")
        return msgspec.structs.replace(
            self, signature=canonical.sign(key, RELEASE_LABEL, self._body())
        )

    def require_signed_by(self, coordinator: str) -> None:
        """Returns only if exactly this release was signed by this coordinator.

        Raises:
            ProtocolError: another signer, or changed after signing.
        """
        if self.coordinator != coordinator:
            raise ProtocolError("The release names another coordinator than the one expected.")
        canonical.verify(coordinator, RELEASE_LABEL, self._body(), self.signature)

    def _body(self) -> bytes:
        fields = msgspec.to_builtins(self)
        del fields["signature"]
        return canonical.canonical_json(fields)


def load_release(data: bytes) -> Release:
    """Returns the release in a JSON file, its signature checked against the key it names.

    Raises:
        ConfigurationError: truncated, not JSON, or not a release of this version.
        ProtocolError: changed after it was signed.
    """
    try:
        release = msgspec.json.decode(data, type=Release)
    except (msgspec.DecodeError, ValueError, RecursionError, FedscoreError) as error:
        raise ConfigurationError(
            f"This is not a whole release of format 1: {error}. Fetch it again from its source."
        ) from error
    release.require_signed_by(release.coordinator)
    return release


def release_json(release: Release) -> bytes:
    """Returns the release as indented JSON that `load_release` reads back to an equal release."""
    return msgspec.json.format(msgspec.json.encode(release), indent=1) + b"\n"
