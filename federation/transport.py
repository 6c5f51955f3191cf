"""How bytes travel between the coordinator and institutions: two implementations, one contract."""

from collections.abc import Mapping
from typing import Final, Protocol

_SHORTEST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 2.0
_PAUSE_PER_ASKING: Final = 8.0
_PAUSE_PER_QUIET: Final = 1 / 60


class Transport(Protocol):
    """Carries requests out and replies back; never looks inside them."""

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns the replies that came in time, by institution; a missing one did not answer.

        Args:
            requests: one encoded request for each institution that is asked.
        """
        ...


def pause_seconds(*, asking: float, quiet: float) -> float:
    """Returns how long to wait before asking a carrier again whether something has come.

    Whoever asks spends a ninth of its time with that at most, so a carrier that is far away, or
    that many ask at once, is asked less often; after two quiet minutes, every two seconds.

    Args:
        asking: seconds that it took to ask just now.
        quiet: seconds since something came.
    """
    wanted = max(asking * _PAUSE_PER_ASKING, quiet * _PAUSE_PER_QUIET, _SHORTEST_PAUSE_SECONDS)
    return min(wanted, _LONGEST_PAUSE_SECONDS)
