"""Flower's SuperLink as a child process: started, watched, and ended with us."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from federation.errors import ConfigurationError
from federation.privacy.entropy import Entropy

_POLL_SECONDS: Final = 0.1
_READY_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_START: Final = """\
import sys
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.superlink.cli.flower_superlink import flower_superlink
start_parent_process_monitor(int(sys.argv.pop(1)))
flower_superlink()
"""
"""As the command `flower-superlink` does, and it ends when we do, however we end."""


class SuperLink:
    """A SuperLink of our own; a context manager.

    It keeps everything in memory. That is enough: what matters is in our checkpoints and in the
    ledgers, and whoever talks to it registers anew after a restart. It executes nothing that
    reaches it (`--isolation process`).
    """

    def __init__(
        self,
        directory: Path,
        *,
        host: str,
        port: int,
        certificate: Path,
        private_key: Path,
        root_certificates: Path,
        entropy: Entropy,
    ) -> None:
        """Names the process; `start` starts it.

        Args:
            directory: for its log and its secret; exists, private to the coordinator.
            host: a loopback address, since others may reach the fleet path only, through a proxy.
            port: of all its paths.
            certificate: PEM file, valid for `host`.
            private_key: PEM file.
            root_certificates: PEM file, that issued the certificate.
            entropy: 32 fresh secret bytes a call.
        """
        self.address = f"{host}:{port}"
        self.root_certificates = root_certificates
        self.secret = b""
        self._place = (host, port)
        self._log = directory / "superlink.log"
        self._secret_file = directory / "superlink.secret"
        self._home = directory
        self._entropy = entropy
        self._process: subprocess.Popen[bytes] | None = None
        self._options = [
            *("--host", host, "--port", str(port)),
            *("--ssl-certfile", str(certificate), "--ssl-keyfile", str(private_key)),
            *("--ssl-ca-certfile", str(root_certificates)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(self._secret_file)),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        ]

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
        """Returns once it answers; at once if it runs.

        Raises:
            ConfigurationError: the port is taken, it ended, or did not answer within a minute.
        """
        if self.process_id is not None:
            return
        self._require_free_port()
        self.secret = self._entropy()
        self._secret_file.touch(mode=0o600)
        self._secret_file.write_bytes(self.secret)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  this interpreter, options from above
                # -P: what lies in the directory that we were started in is not imported
                [sys.executable, "-P", "-c", _START, str(os.getpid()), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "FLWR_HOME": str(self._home),
                    "FLWR_LOG_LEVEL": "WARNING",
                    "FLWR_TELEMETRY_ENABLED": "0",
                    "FLWR_DISABLE_UPDATE_CHECK": "1",
                },
                start_new_session=True,  # an interrupt from the keyboard is ours to handle
            )
        deadline = time.monotonic() + _READY_SECONDS
        while self.process_id is not None and time.monotonic() < deadline:
            try:
                socket.create_connection(self._place, timeout=_POLL_SECONDS).close()
            except OSError:
                time.sleep(_POLL_SECONDS)
            else:
                return
        self.stop()
        raise ConfigurationError(
            f"The SuperLink did not come up at {self.address}: do certificate and key fit? "
            f"It wrote {self._log}."
        )

    def _require_free_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(self._place)
            except OSError as error:
                raise ConfigurationError(
                    f"{self.address} cannot be listened on: {error.strerror}."
                ) from error

    def stop(self) -> None:
        """Returns once it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
