"""The plan: what will be asked, in which order, of whom, and at what privacy; signed.

Both sides compare its digest and act on nothing else. It states whole-number noise variances, so
that its price follows from integers and no two machines can disagree about it.
"""

from datetime import UTC, datetime
from typing import Final

import msgspec
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.canonical import Digest
from federation.errors import ConfigurationError, PrivacyError, ProtocolError
from federation.learning import (
    Institution,
    Joint,
    Local,
    Mode,
    NetworkModel,
    ScorecardModel,
    question_of,
    steps_of,
)
from federation.model.score_scale import ScoreScale
from federation.population import Split
from federation.privacy.accountant import require_target
from federation.privacy.events import LEAST_SHARE_VARIANCE
from federation.query import Question

PLAN_LABEL: Final = "fedscore/plan/3"
FORMAT: Final = 3
UNSIGNED: Final = ""
MOST_ROUNDS: Final = 10_000
MOST_INSTITUTIONS: Final = 400
LONGEST_PLAN: Final = 2**20


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The promise to every person: at most this much, against the coordinator and c institutions.

    Attributes:
        epsilon: in (0, 100], for each population (trained, held out) on its own.
        epsilon_coordinator_alone: the same if no institution conspires, in (0, epsilon].
        delta: in (0, 1 / people].
    """

    epsilon: float
    epsilon_coordinator_alone: float
    delta: float

    def __post_init__(self) -> None:
        require_target(self.epsilon, self.delta)
        require_target(self.epsilon_coordinator_alone, self.delta)
        if self.epsilon_coordinator_alone > self.epsilon:
            raise PrivacyError("Expected epsilon_coordinator_alone to be at most epsilon.")


class Noise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The variance of one institution's share of noise for each question, grid units squared.

    In `local` mode a share is all of it. `step` is for whichever question trains the model.
    """

    bins: int
    step: int
    evaluation: int

    def __post_init__(self) -> None:
        for name in ("bins", "step", "evaluation"):
            if getattr(self, name) < LEAST_SHARE_VARIANCE:
                raise PrivacyError(
                    f"Expected noise.{name}={getattr(self, name)} to be at least "
                    f"{LEAST_SHARE_VARIANCE}."
                )

    def of(self, question: Question) -> int:
        """Returns the variance of one share for a question."""
        return {
            Question.BINS: self.bins,
            Question.STEP: self.step,
            Question.GRADIENT: self.step,
            Question.UPDATE: self.step,
            Question.EVALUATION: self.evaluation,
        }[question]


class Participation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is asked and how many must answer.

    Attributes:
        invited: identifiers of the n institutions, sorted, 3 to 400.
        quorum: m, the answers that a sum needs before it may be opened.
        threshold: t, the institutions whose shares together open a masked sum.
        colluders: c >= 1, how many institutions may conspire with the coordinator.
        spare_attempts: R >= 0, training rounds that may be asked once more after a failure.
        audited_share: probability with which an institution's answer to a question is computed
            again, inside it, once the audit coin is drawn; in [0, 1].

    Rules: c >= 1, m <= n, m >= t, 2t > n + c (no two different sums can be opened), m - c >= 2.
    """

    invited: tuple[str, ...]
    quorum: int
    threshold: int
    colluders: int
    spare_attempts: int
    audited_share: float

    def __post_init__(self) -> None:
        n, m, t, c = len(self.invited), self.quorum, self.threshold, self.colluders
        rules = (
            (3 <= n <= MOST_INSTITUTIONS, f"3 to {MOST_INSTITUTIONS} institutions, got {n}"),
            (sorted(set(self.invited)) == list(self.invited), "sorted, unique identifiers"),
            (all(self.invited), "identifiers that are not empty"),
            (c >= 1, f"at least 1 colluder, got {c}"),
            (m <= n, f"a quorum of at most the {n} invited, got {m}"),
            (m >= t, f"a quorum of at least the threshold {t}, got {m}"),
            (2 * t > n + c, f"2 threshold > institutions + colluders, got 2 x {t} <= {n} + {c}"),
            (m - c >= 2, f"a quorum of at least colluders + 2 = {c + 2}, got {m}"),
            (0 <= self.spare_attempts <= MOST_ROUNDS, "0 to 10000 spare attempts"),
            (0 <= self.audited_share <= 1, "an audited share in [0, 1]"),
        )
        for holds, rule in rules:
            if not holds:
                raise PrivacyError(f"participation: expected {rule}.")

    @property
    def honest_shares(self) -> int:
        """Shares of noise in every opened sum that coordinator and colluders do not know."""
        return self.quorum - self.colluders


class People(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Public, rounded figures about the people, and their division into trained and held out.

    Attributes:
        national: N, a public rounded figure for everyone in the federation, >= 100.
        most_per_institution: no institution has more people than this public figure.
        salt: 64 hexadecimal digits; belongs to the federation and never changes.
        held_out_fraction: share of people never trained on, in [0, 0.5]; 0 means not evaluated.
    """

    national: int
    most_per_institution: int
    salt: str
    held_out_fraction: float

    def __post_init__(self) -> None:
        if not 100 <= self.national <= 10**10:
            raise ConfigurationError(f"Expected people.national={self.national} in [100, 10^10].")
        if not 1 <= self.most_per_institution <= self.national:
            raise ConfigurationError(
                "Expected people.most_per_institution between 1 and people.national."
            )
        _ = self.split

    @property
    def split(self) -> Split:
        """The public rule that holds people out."""
        return Split(salt=self.salt, held_out_fraction=self.held_out_fraction)


class Plan(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One training of one national scorecard, with everything that an institution must weigh.

    Attributes:
        format: version of this layout.
        name: what people call this plan.
        federation: identifier of the federation.
        purpose: what the score may be used for; compared with each institution's policy.
        coordinator: Ed25519 public key, 64 hexadecimal digits.
        schema: digest of the schema the tables must keep.
        valid_from: first moment at which the plan may be accepted, with time zone.
        valid_until: last moment at which anything of it may be answered.
        mode: who is protected, and by whose noise.
        model: what is trained.
        rounds: T, training rounds, each one question about trained people.
        participation: who, quorum, threshold, colluders, spare attempts.
        people: public figures and the split.
        privacy: the target that the price must not exceed.
        noise: variance of each institution's share, by question.
        scale: how log-odds become points.
        signature: the coordinator's over everything else; empty while the plan is a draft.
        least_auc: the gate: with a clearly lower AUC on people held out nothing is released, in
            [0.5, 1); None for no gate.
    """

    format: int
    name: str
    federation: str
    purpose: str
    coordinator: str
    schema: str
    valid_from: datetime
    valid_until: datetime
    mode: Joint | Local | Institution
    model: ScorecardModel | NetworkModel
    rounds: int
    participation: Participation
    people: People
    privacy: Target
    noise: Noise
    scale: ScoreScale
    signature: str
    least_auc: float | None = None

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigurationError(f"Expected a plan of format {FORMAT}, got {self.format}.")
        if not (self.name and self.federation and self.purpose):
            raise ConfigurationError("A plan needs a name, a federation and a purpose.")
        if self.valid_from.tzinfo is None or self.valid_until.tzinfo is None:
            raise ConfigurationError(
                "valid_from and valid_until need a time zone, for example 2026-12-01T00:00:00Z."
            )
        if not (self.valid_from.year >= 2000 and self.valid_until.year <= 2500):
            raise ConfigurationError("The plan must be valid within the years 2000 to 2500.")
        if self.valid_from >= self.valid_until:
            raise ConfigurationError("valid_from must lie before valid_until.")
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise ConfigurationError(f"Expected rounds={self.rounds} in [1, {MOST_ROUNDS}].")
        self._require_mode()
        if self.least_auc is not None and not (self.evaluates and 0.5 <= self.least_auc < 1):
            raise ConfigurationError(
                f"Expected least_auc={self.least_auc:g} in [0.5, 1), of a plan that holds people "
                "out and evaluates them: without an evaluation there is no gate."
            )
        if self.privacy.delta * self.people.national > 1.0:
            raise PrivacyError(
                f"Expected privacy.delta={self.privacy.delta:g} of at most 1 / people.national = "
                f"{1 / self.people.national:g}: a larger one may expose somebody entirely."
            )

    def _require_mode(self) -> None:
        """Returns only if the mode can train the model."""
        if isinstance(self.model, ScorecardModel):
            if isinstance(self.mode, Institution):
                raise ConfigurationError(
                    "Institution mode trains a network; one without hidden layers is a scorecard."
                )
            if isinstance(self.mode, Local) and self.mode.steps != 1:
                raise ConfigurationError("A scorecard takes one step a round: mode.steps = 1.")
        elif isinstance(self.mode, Institution) and self.model.sampling_rate != 1:
            raise ConfigurationError(
                "Institution mode protects whole institutions: model.sampling_rate = 1."
            )
        elif isinstance(self.mode, Institution) and self.model.module is not None:
            raise ConfigurationError("A module is trained in joint or local mode.")
        if isinstance(self.mode, Local) and self.participation.spare_attempts:
            raise ConfigurationError(
                "In local mode an answer is never asked again: spare_attempts = 0."
            )

    @property
    def mode_name(self) -> Mode:
        """Which mode it is in, as policies name it."""
        if isinstance(self.mode, Joint):
            return Mode.JOINT
        return Mode.LOCAL if isinstance(self.mode, Local) else Mode.INSTITUTION

    @property
    def honest_shares(self) -> int:
        """Shares of noise in whatever leaves that coordinator and colluders do not know."""
        return 1 if isinstance(self.mode, Local) else self.participation.honest_shares

    @property
    def shares(self) -> int:
        """The same if nobody conspires with the coordinator."""
        return 1 if isinstance(self.mode, Local) else self.participation.quorum

    @property
    def steps_per_round(self) -> int:
        """Noisy sums about persons that one answer to a training round rests on."""
        return steps_of(self.mode)

    @property
    def sampling_rate(self) -> float:
        """The probability with which a person takes part in a training step."""
        return 1.0 if isinstance(self.model, ScorecardModel) else self.model.sampling_rate

    @property
    def training_question(self) -> Question:
        """What each of the training rounds asks."""
        return question_of(self.mode, self.model)

    @property
    def asks_bins(self) -> bool:
        """Whether the training begins with a count of people; in institution mode bins are public.

        A count is about persons, and institution mode promises nothing about single persons.
        """
        return not isinstance(self.mode, Institution)

    @property
    def evaluates(self) -> bool:
        """Whether the training ends with a question about people held out."""
        return self.people.held_out_fraction > 0 and not isinstance(self.mode, Institution)

    @property
    def digest(self) -> Digest:
        """What both sides compare: over everything but the signature."""
        return canonical.digest(PLAN_LABEL, self._body())

    def _body(self) -> bytes:
        fields = msgspec.to_builtins(self)
        del fields["signature"]
        fields["valid_from"] = self.valid_from.astimezone(UTC).isoformat()
        fields["valid_until"] = self.valid_until.astimezone(UTC).isoformat()
        return canonical.canonical_json(fields)

    def signed(self, key: Ed25519PrivateKey) -> "Plan":
        """Returns this plan with the coordinator's signature.

        Raises:
            ConfigurationError: the key is not the one that the plan names.
        """
        if canonical.public_key_of(key) != self.coordinator:
            raise ConfigurationError(
                "This key is not the coordinator's: the plan names another public key."
            )
        return msgspec.structs.replace(
            self, signature=canonical.sign(key, PLAN_LABEL, self._body())
        )

    def require_signed(self) -> None:
        """Returns only if the coordinator that the plan names has signed exactly this plan.

        Raises:
            ProtocolError: unsigned, changed after signing, or signed by another key.
        """
        if self.signature == UNSIGNED:
            raise ProtocolError(
                f"The plan {self.name!r} is not signed. Sign it with `fedscore plan sign`."
            )
        canonical.verify(self.coordinator, PLAN_LABEL, self._body(), self.signature)

    def require_valid_at(self, now: datetime) -> None:
        """Returns only within the plan's validity.

        Raises:
            ProtocolError: too early or expired.
        """
        if now < self.valid_from:
            raise ProtocolError(f"The plan {self.name!r} is not valid before {self.valid_from}.")
        if now > self.valid_until:
            raise ProtocolError(f"The plan {self.name!r} expired on {self.valid_until}.")


def load_plan(text: str) -> Plan:
    """Returns the plan in a TOML text.

    Raises:
        ConfigurationError: not TOML, an unknown, missing or mistyped field (named), or a value
            outside its range.
        PrivacyError: a value that would break the promise.
    """
    if len(text) > LONGEST_PLAN:
        raise ConfigurationError(f"This is not a plan: longer than {LONGEST_PLAN:,} characters.")
    try:
        return msgspec.toml.decode(text, type=Plan)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"This is not a plan: {error}.") from error


def plan_toml(plan: Plan) -> str:
    """Returns the plan as TOML that `load_plan` reads back to an equal plan."""
    return tomli_w.dumps(msgspec.to_builtins(plan, builtin_types=(datetime,)))
