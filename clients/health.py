"""`/livez`, `/readyz` and `/metrics`, for programs on this machine only.

A few threads of their own serve them; they read what the main loop has noted and never wait for it,
nor it for them.
"""

import ipaddress
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import msgspec

from clients.loopback import loopback_of
from clients.metrics import CONTENT_TYPE, Metrics
from clients.pulse import Pulse
from federation.errors import ConfigurationError

_MOST_AT_ONCE: Final = 8
_PATIENCE_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one path answers."""

    status: HTTPStatus
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]


def pages_of(pulse: Pulse, metrics: Metrics) -> Pages:
    """Returns the pages of a process; those for people and probes say why in JSON."""
    return {
        "/livez": lambda: _verdict(pulse.why_dead()),
        "/readyz": lambda: _verdict(pulse.why_not_ready()),
        "/metrics": lambda: Page(
            status=HTTPStatus.OK, content_type=CONTENT_TYPE, body=metrics.text()
        ),
    }


def _verdict(reasons: tuple[str, ...]) -> Page:
    return Page(
        status=HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK,
        content_type="application/json",
        body=msgspec.json.encode({"ok": not reasons, "reasons": reasons}) + b"\n",
    )


class HealthServer:
    """The pages, served until the end of the `with`."""

    def __init__(self, address: str, pages: Pages) -> None:
        """Listens; answers once it is entered.

        Raises:
            ConfigurationError: the address is not this machine's alone, or is taken.
        """
        place = loopback_of(address)
        try:
            self._server = _Server(place, pages)
        except OSError as error:
            raise ConfigurationError(
                f"health_address={address!r} cannot be listened on: {error.strerror}. Name "
                "another port."
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="health", daemon=True
        )

    def __enter__(self) -> Self:
        """Returns the server, answering."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops listening; what is being answered is not waited for."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Answers a few at once and turns the others away, so that nobody can use up the machine."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, place: tuple[str, int], pages: Pages) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        self.pages = pages
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        """Binds without asking a name server who we are, as the parent would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  as its parent
        """Answers in a thread of its own if one is free, else hangs up."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  as its parent
        """Answers, then makes room for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002  as its parent
        """Logs what is our fault; that somebody hung up or said nothing is not."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("a health page could not be made")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of the pages; everything else is refused by the standard library."""

    server: _Server
    timeout = _PATIENCE_SECONDS
    server_version = "fedscore"
    sys_version = ""
    error_content_type = "text/plain"
    error_message_format = "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        """Answers a page."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answers its headers."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if not _is_here(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)  # a web page that a browser was led to
            return
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        page = make()
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(page.body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: probes come every few seconds."""


def _is_here(host: str) -> bool:
    """Returns whether a Host header names this machine; one without is a probe's."""
    try:
        name = urlsplit(f"//{host}").hostname
        return not name or name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
