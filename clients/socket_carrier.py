"""A Unix socket as the carrier: who runs on this machine hands in bytes and gets bytes back.

One connection carries one request and its reply, each as four bytes of length, most significant
first, and then the bytes. An empty reply says that there is none. The socket is a private file, and
only processes of the daemon's own user are heard (SO_PEERCRED, unix(7)).
"""

import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from federation.errors import ConfigurationError, ProtocolError

_LENGTH: Final = struct.Struct(">I")
_CREDENTIALS: Final = struct.Struct("3i")
"""Of Linux: process, user and group of the other end."""
_WAIT_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 10.0
"""For one request to come in whole, and for its reply to be taken."""
_ANSWER_SECONDS: Final = 3600.0
_CHUNK: Final = 2**20

_log = logging.getLogger(__name__)


def serve_socket(
    path: Path,
    *,
    largest_bytes: int,
    handle: Callable[[bytes], bytes],
    idle: Callable[[], None],
    stop: threading.Event,
    turned: Callable[[bool], None] = lambda _: None,
) -> None:
    """Answers what arrives until `stop` is set, one request after the other.

    `stop` is looked at between requests only: what was begun is answered.

    Args:
        path: of the socket; its directory is made private. A file that a killed daemon left is
            replaced: that no other daemon lives is for the caller to know.
        largest_bytes: of a request; a larger one is refused unread.
        handle: from the bytes of a request to those of its reply. A `ProtocolError` means that
            there is no reply; every other error ends the process.
        idle: called whenever nothing has arrived.
        stop: set by whoever wants this to end.
        turned: told at each turn that the way in is open.

    Raises:
        ConfigurationError: this system does not say who connects, or the socket cannot be made.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        raise ConfigurationError(
            'This system does not say who connects to a socket: set carrier = "node".'
        )
    with _listening(path) as listener:
        _log.info("reached by %s only", path)
        while not stop.is_set():
            turned(True)
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                idle()
                continue
            with connection:
                _answer_one(connection, largest_bytes, handle)


def ask(path: Path, request: bytes) -> bytes:
    """Returns the daemon's reply, empty if it has none.

    Raises:
        OSError: the daemon is not there, or has gone before it answered.
        ProtocolError: the reply broke off.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(str(path))
        connection.sendall(_LENGTH.pack(len(request)) + request)
        (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size, _ANSWER_SECONDS))
        return _read(connection, length, _ANSWER_SECONDS)


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """Yields the socket; its file is gone afterwards."""
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.parent.chmod(0o700)  # before the socket exists: nobody else reaches it ever
            if path.is_symlink() or (path.exists() and not stat.S_ISSOCK(path.stat().st_mode)):
                raise ConfigurationError(f"{path} is something else than a socket: move it away.")
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o600)
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on {path}: {error.strerror or error}. Its directory must be "
                "writable, and a socket's path short (about 100 bytes)."
            ) from error
        listener.settimeout(_WAIT_SECONDS)
        listener.listen()
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _answer_one(
    connection: socket.socket, largest_bytes: int, handle: Callable[[bytes], bytes]
) -> None:
    try:
        _require_own_user(connection)
        try:
            reply = handle(_request(connection, largest_bytes))
        except ProtocolError as error:
            _log.warning("a request without reply: %s", error)
            reply = b""
        connection.settimeout(_PATIENCE_SECONDS)
        connection.sendall(_LENGTH.pack(len(reply)) + reply)
    except OSError as error:
        _log.warning("a connection to the socket broke off: %s", error)


def _require_own_user(connection: socket.socket) -> None:
    """Returns only if the other end belongs to our own user.

    Raises:
        PermissionError: it does not.
    """
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(found)
    if user != os.geteuid():
        raise PermissionError(f"process {process} belongs to user {user}, it is not heard")


def _request(connection: socket.socket, largest_bytes: int) -> bytes:
    """Returns a request.

    Raises:
        ProtocolError: it is none, too large, or broke off.
        OSError: the connection failed, or the request did not come in time.
    """
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size, _PATIENCE_SECONDS))
    if not 0 < length <= largest_bytes:
        raise ProtocolError(f"A request of {length} bytes is none of ours.")
    return _read(connection, length, _PATIENCE_SECONDS)


def _read(connection: socket.socket, size: int, seconds: float) -> bytes:
    """Returns exactly so many bytes.

    Raises:
        ProtocolError: the other end stopped before.
        OSError: the connection failed, or they did not come in time.
    """
    deadline = time.monotonic() + seconds
    found = bytearray()
    while len(found) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it did not come in time")
        connection.settimeout(left)
        part = connection.recv(min(size - len(found), _CHUNK))
        if not part:
            raise ProtocolError(f"Only {len(found)} of {size} bytes came.")
        found += part
    return bytes(found)
