"""Connections to the front: how many there may be, and how long each may take to ask something."""

import asyncio
import logging
from collections import Counter
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HEAD_SECONDS: Final = 10.0
"""Longest that a handshake may take, and longest that the head of a request may."""
_CONNECTIONS: Final = 4096
_CONNECTIONS_OF_ONE: Final = 1024
_TELL_SECONDS: Final = 60.0
_log = logging.getLogger("fedscore.front")


class Gate:
    """Counts connections and what was refused."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def lets_in(self, address: str) -> bool:
        """Returns whether one more connection of an address is taken, which is counted then."""
        if self.open.total() >= _CONNECTIONS or self.open[address] >= _CONNECTIONS_OF_ONE:
            self.refused["too many connections"] += 1
            return False
        self.open[address] += 1
        return True

    def left(self, address: str) -> None:
        """Counts it as gone."""
        self.open[address] -= 1
        if not self.open[address]:
            del self.open[address]

    async def keep_telling(self) -> None:
        """Logs once in a while what was refused: strangers do not fill the disk."""
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            self.tell()

    def tell(self) -> None:
        """Logs what was refused since the last time, if anything was."""
        if self.refused:
            told = ", ".join(f"{why}: {times}" for why, times in sorted(self.refused.items()))
            _log.warning("refused lately: %s", told)
            self.refused.clear()


class Connection(H11Protocol):
    """A connection that is cut if a request's head takes long, and if there are too many."""

    def __init__(self, config: uvicorn.Config, state: ServerState, gate: Gate) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._gate = gate
        self._address = ""
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Waits for the head of a request, or cuts the connection at once."""
        super().connection_made(transport)
        address = self.client[0] if self.client else "unknown"
        if self._gate.lets_in(address):
            self._address = address
            self._expect_a_head()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts it as gone."""
        super().connection_lost(exc)
        self._stop_expecting()
        if self._address:
            self._gate.left(self._address)

    def data_received(self, data: bytes) -> None:
        """Takes what comes; whatever is no part of a request being served may not take long."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_expecting()
        elif self._cut is None:
            self._expect_a_head()

    def _expect_a_head(self) -> None:
        self._cut = self.loop.call_later(HEAD_SECONDS, self._cut_off)

    def _stop_expecting(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None

    def _cut_off(self) -> None:
        self._gate.refused["too slow"] += 1
        self.transport.abort()
