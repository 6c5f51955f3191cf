"""One exchange under way: who is still to be asked, who was, who has answered, who has gone."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_PATIENCE_SECONDS: Final = 3.0
"""For a node that was there in this run and is not now; it needs two to connect again."""


@dataclass(slots=True)
class Waiting:
    """What an exchange waits for.

    Attributes:
        unsent: what is to be sent, by institution.
        sent: institutions by the identifier of the message that is under way to them.
        replies: by institution.
        gone_since: when an institution was first seen to have left, in seconds of the monotonic
            clock.
    """

    unsent: dict[str, bytes]
    sent: dict[str, str] = field(default_factory=dict)
    replies: dict[str, bytes] = field(default_factory=dict)
    gone_since: dict[str, float] = field(default_factory=dict)

    def note_gone(self, names: Iterable[str]) -> None:
        """Notes who was there in this run and is not there now; everybody else is back."""
        now = time.monotonic()
        self.gone_since = {name: self.gone_since.get(name, now) for name in names}

    def is_worth_it(self, names: Iterable[str]) -> bool:
        """Whether somebody's reply is missing who did not leave a while ago."""
        patient_since = time.monotonic() - _PATIENCE_SECONDS
        return any(
            name not in self.replies and self.gone_since.get(name, math.inf) > patient_since
            for name in names
        )

    def start_again(self, requests: Mapping[str, bytes]) -> None:
        """Forgets everything but the replies: whoever carried the requests has lost its memory."""
        self.unsent = {name: one for name, one in requests.items() if name not in self.replies}
        self.sent, self.gone_since = {}, {}
