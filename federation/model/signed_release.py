"""What every release says besides the model itself: whose, of whom, how private, how good."""

from datetime import datetime
from typing import ClassVar, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.canonical import Digest
from federation.errors import ConfigurationError, ProtocolError
from federation.grid import FeatureGrid
from federation.model.evaluation import Quality
from federation.model.score_scale import ScoreScale
from federation.schema import Schema


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A strict, immutable part of a release."""


class Statement(Part, frozen=True, kw_only=True):
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


class GroupQuality(Part, frozen=True, kw_only=True):
    """Quality of the model within one group of a protected feature; None if noise hides it."""

    feature: str
    group: str
    quality: Quality | None


class Report(Part, frozen=True, kw_only=True):
    """Quality on held-out people, all from the noisy sums of one priced question.

    Attributes:
        overall: None if nobody was held out, or noise hides everything.
        groups: for each cell of each protected feature.
        noise_per_band: standard deviation of the noise in each (band, outcome), in people.
    """

    overall: Quality | None
    groups: tuple[GroupQuality, ...]
    noise_per_band: float


class ParityVector(Part, frozen=True, kw_only=True):
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


class SignedRelease(Part, frozen=True, kw_only=True):
    """A released model of any kind, without the model. Higher points are safer.

    Attributes:
        format: version of this layout.
        federation: whose it is.
        plan_name: for people.
        plan: digest of the plan it came from.
        purpose: what it may be used for.
        issued_at: when it was signed.
        schema: the public data contract it scores by.
        scale: how points relate to odds.
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

    LABEL: ClassVar[str]
    """What is signed, and the version of its layout."""

    format: int
    federation: str
    plan_name: str
    plan: str
    purpose: str
    issued_at: datetime
    schema: Schema
    scale: ScoreScale
    people: float
    bad_rate: float
    institutions: int
    rounds: int
    statement: Statement
    report: Report
    parity: tuple[ParityVector, ...]
    coordinator: str
    signature: str

    @property
    def grids(self) -> tuple[FeatureGrid, ...]:
        """The public grids of the scored features."""
        return self.schema.scored_grids

    @property
    def digest(self) -> Digest:
        """Names this release: over everything but the signature."""
        return canonical.digest(self.LABEL, self._body())

    def signed(self, key: Ed25519PrivateKey) -> Self:
        """Returns this release with the coordinator's signature.

        Raises:
            ConfigurationError: the key is not the one the release names.
        """
        if canonical.public_key_of(key) != self.coordinator:
            raise ConfigurationError("This key is not the one that the release names.")
        return msgspec.structs.replace(
            self, signature=canonical.sign(key, self.LABEL, self._body())
        )

    def require_signed_by(self, coordinator: str) -> None:
        """Returns only if exactly this release was signed by this coordinator.

        Raises:
            ProtocolError: another signer, or changed after signing.
        """
        if self.coordinator != coordinator:
            raise ProtocolError("The release names another coordinator than the one expected.")
        canonical.verify(coordinator, self.LABEL, self._body(), self.signature)

    def _body(self) -> bytes:
        fields = msgspec.to_builtins(self)
        del fields["signature"]
        return canonical.canonical_json(fields)
