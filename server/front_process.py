"""The front as a child process: started, watched, and ended with us."""

import json
import logging
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from federation.envelope import LARGEST_ENVELOPE
from federation.errors import ConfigurationError

LARGEST_BODY: Final = LARGEST_ENVELOPE + 2**12
"""Most bytes that pass in one request: the largest envelope, and what Flower wraps around it."""

_AGAIN_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 10.0
_BACKLOG: Final = 1024
_COMMAND: Final = ("-P", "-m", "server.front")
_log = logging.getLogger(__name__)


class FrontProcess:
    """A front of our own; a context manager.

    The socket is ours and outlives the process: if that dies, whoever connects waits until the next
    one is up. If we die, however we do, it ends.
    """

    def __init__(
        self,
        directory: Path,
        *,
        listen: str,
        port: int,
        certificate: Path,
        superlink: str,
        superlink_authorities: Path,
        nodes: Iterable[str],
    ) -> None:
        """Names the process; `start` starts it.

        Args:
            directory: for its log; exists.
            listen: address of an interface of this machine, or that of all.
            port: in [1, 65535].
            certificate: PEM file of key and certificates. A new one in its place is taken up.
            superlink: host and port of the SuperLink.
            superlink_authorities: PEM file; nobody else's certificates are trusted for it.
            nodes: OpenSSH public keys of the admitted nodes; nobody else gets through.

        Raises:
            ConfigurationError: a key is none.
        """
        self.address = f"[{listen}]:{port}" if ":" in listen else f"{listen}:{port}"
        self._place = (listen, port)
        self._log_file = directory / "front.log"
        self._order = {
            "certificate": str(certificate),
            "superlink": superlink,
            "superlink_authorities": str(superlink_authorities),
            "nodes": [_in_header(node) for node in nodes],
            "largest_bytes": LARGEST_BODY,
        }
        self._listener: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()
        self._watch = threading.Thread(target=self._start_again, daemon=True)

    def __enter__(self) -> Self:
        """Returns once it answers."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Returns once it has ended."""
        self.stop()

    @property
    def process_id(self) -> int | None:
        """Of the running process, None if there is none."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start(self) -> None:
        """Returns once it answers; it is started again from then on if it dies.

        Raises:
            ConfigurationError: the place cannot be listened on, or it ended at once.
        """
        try:
            self._listener = socket.create_server(
                self._place,
                family=socket.AF_INET6 if ":" in self._place[0] else socket.AF_INET,
                backlog=_BACKLOG,
                dualstack_ipv6=self._place[0] == "::" and socket.has_dualstack_ipv6(),
            )
        except OSError as error:
            raise ConfigurationError(
                f"{self.address} cannot be listened on: {error.strerror}. `listen` in the "
                "coordinator's settings is an address of this machine; institutions may reach it "
                "under another one."
            ) from error
        self._log_file.write_bytes(b"")
        try:
            self._run()
        except ConfigurationError:
            self._listener.close()
            raise
        self._watch.start()

    def _run(self) -> None:
        """Returns once a process answers.

        Raises:
            ConfigurationError: it ended instead.
        """
        if self._listener is None:
            return
        descriptor = self._listener.fileno()
        with self._log_file.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  this interpreter, this project
                [sys.executable, *_COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[descriptor],
                start_new_session=True,  # an interrupt from the keyboard is ours to handle
            )
        self._process = process
        if process.stdin is None or process.stdout is None:
            return
        order = json.dumps({**self._order, "listener": descriptor})
        with suppress(BrokenPipeError):  # it has ended: the next lines say so
            process.stdin.write(order.encode() + b"\n")
            process.stdin.flush()
        if process.stdout.readline() != b"ready\n":
            self._end()
            raise ConfigurationError(
                f"The front did not come up at {self.address}. It wrote {self._log_file}."
            )

    def _start_again(self) -> None:
        """Watches the process until `stop`."""
        while not self._stopped.is_set():
            if self._process is not None:
                self._process.wait()
            if self._stopped.is_set():
                break
            _log.warning("the front has ended, see %s: it is started again", self._log_file)
            self._end()
            if self._stopped.wait(_AGAIN_SECONDS):
                break
            try:
                self._run()
            except (ConfigurationError, OSError) as error:
                _log.error("%s", error)
        self._end()

    def stop(self) -> None:
        """Returns once it has ended; what was under way is given some seconds."""
        self._stopped.set()
        self._end()
        if self._watch.is_alive():
            self._watch.join()
        if self._listener is not None:
            self._listener.close()

    def _end(self) -> None:
        """Closes what tells the process that we are there, and waits for its end."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _in_header(node: str) -> str:
    """Returns a node's public key as its requests name it."""
    try:
        key = load_ssh_public_key(node.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError("A node key is no OpenSSH public key.") from error
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return b64encode(pem).decode("ascii")
