"""What a coordinator runs one plan with, whatever its mode."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.messages import SeenHeader
from federation.plan import Plan
from federation.privacy.entropy import Entropy
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster
from federation.transcript import Transcript
from federation.transport import Transport
from server.training import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One plan, and all that is needed to run it.

    Attributes:
        plan: signed by `key`.
        schema: that it names.
        roster: signed by `key`.
        transport: reaches the invited institutions.
        key: the coordinator's.
        entropy: 32 fresh bytes a call, for the names of sessions; local mode has none.
        transcript: empty, or that of an earlier process which ran this plan.
        seen: the latest header of each institution, from trainings before this.
        keep_release: makes the release durable before anybody hears of it.
        watch: told about progress.
    """

    plan: Plan
    schema: Schema
    roster: Roster
    transport: Transport
    key: Ed25519PrivateKey
    entropy: Entropy
    transcript: Transcript
    seen: Mapping[str, SeenHeader]
    keep_release: Callable[[bytes], None]
    watch: Callable[[Progress], None]
