"""How bytes travel between the coordinator and institutions: two implementations, one contract."""

from collections.abc import Mapping
from typing import Protocol


class Transport(Protocol):
    """Carries requests out and replies back; never looks inside them."""

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns the replies that came in time, by institution; a missing one did not answer.

        Args:
            requests: one encoded request for each institution that is asked.
        """
        ...
