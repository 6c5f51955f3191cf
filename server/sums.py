"""Which sums a plan is run with: masked ones, or in local mode those of each institution alone."""

from federation.learning import Local
from server.local_sums import LocalSums
from server.rounds import MaskedSums
from server.running import Running
from server.training import Sums


def sums_of(running: Running) -> Sums:
    """Returns what gets the totals of a plan.

    Raises:
        ConfigurationError: the transcript is another plan's, has ended, or contradicts itself.
    """
    return (LocalSums if isinstance(running.plan.mode, Local) else MaskedSums)(running)
