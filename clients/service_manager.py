"""Tells systemd how the service does: sd_notify(3), one datagram a message.

Fifteen lines of our own: the packages that do it are unmaintained or need systemd's headers.
"""

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_MICROSECONDS: Final = 1_000_000


class ServiceManager:
    """Whoever started this process and wants to hear of it; possibly nobody."""

    def __init__(self, environment: Mapping[str, str], process_id: int) -> None:
        """Reads where to send to, and how often.

        Args:
            environment: of the process: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID.
            process_id: of this process; a watchdog may be meant for another one.
        """
        path = environment.get("NOTIFY_SOCKET", "")
        self._path = "\0" + path[1:] if path.startswith("@") else path
        wanted = environment.get("WATCHDOG_USEC", "")
        is_meant = environment.get("WATCHDOG_PID", str(process_id)) == str(process_id)
        is_number = wanted.isascii() and wanted.isdigit()
        self.watchdog_seconds = int(wanted) / _MICROSECONDS if is_meant and is_number else 0.0
        """Within so long each sign of life must follow the one before; 0 if nobody waits."""

    def tell(self, **assignments: str) -> None:
        """Sends `NAME=value` for each; that nobody listens changes nothing for us."""
        if not self._path:
            return
        lines = "\n".join(
            f"{name}={' '.join(value.splitlines())}" for name, value in assignments.items()
        )
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end,
        ):
            end.connect(self._path)
            end.settimeout(1.0)
            end.sendall(lines.encode())
