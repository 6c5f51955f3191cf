"""Which sums a plan is run with: masked ones, or in local mode those of each institution alone."""

from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.learning import Local
from federation.messages import SeenHeader
from federation.plan import Plan
from federation.privacy.entropy import Entropy
from federation.schema import Schema
from federation.secure_aggregation.roster import Roster
from federation.transcript import Transcript
from federation.transport import Transport
from server.local_sums import LocalSums
from server.rounds import MaskedSums
from server.training import Progress, Sums


def sums_of(
    plan: Plan,
    schema: Schema,
    *,
    roster: Roster,
    transport: Transport,
    key: Ed25519PrivateKey,
    entropy: Entropy,
    transcript: Transcript,
    seen: Mapping[str, SeenHeader],
    keep_release: Callable[[bytes], None],
    watch: Callable[[Progress], None],
) -> Sums:
    """Returns what gets the totals of a plan.

    Args:
        plan: signed by `key`.
        schema: that it names.
        roster: signed by `key`.
        transport: reaches the invited institutions.
        key: the coordinator's.
        entropy: 32 fresh bytes a call; unused in local mode, which has no sessions to name.
        transcript: empty, or that of an earlier process which ran this plan.
        seen: the latest header of each institution, from trainings before this.
        keep_release: makes the release durable before anybody hears of it.
        watch: told about progress.

    Raises:
        ConfigurationError: the transcript is another plan's, has ended, or contradicts itself.
    """
    if isinstance(plan.mode, Local):
        return LocalSums(
            plan=plan,
            schema=schema,
            roster=roster,
            transport=transport,
            key=key,
            transcript=transcript,
            seen=seen,
            keep_release=keep_release,
            watch=watch,
        )
    return MaskedSums(
        plan=plan,
        schema=schema,
        roster=roster,
        transport=transport,
        key=key,
        entropy=entropy,
        transcript=transcript,
        seen=seen,
        keep_release=keep_release,
        watch=watch,
    )
