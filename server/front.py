"""The TLS front as a process: institutions reach Flower's fleet path through it, nothing else.

Flower answers on one port, and two of its three paths ask nobody who they are: whoever reaches them
starts runs and lists nodes. So the SuperLink listens on loopback, and this stands before it. It
compares the target of a request, byte by byte and undecoded, with those it knows, and sends its
own copy of that one on, with the few headers that the fleet path reads. HTTP is parsed by h11
(uvicorn) and written by httpx.

It trusts nobody more than that: who is admitted is the SuperLink's to check, and messages are
signed and sealed end to end. But the SuperLink reads a whole message before it asks who sent it, so
whoever is not admitted gets nothing through, and a large message has its sender's signature checked
here first.
"""

import asyncio
import logging
import os
import resource
import socket
import ssl
import sys
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import msgspec
import uvicorn
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from uvicorn.server import ServerState

from server.front_connections import HEAD_SECONDS, Connection, Gate

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

_PUSH_OBJECT: Final = b"/v1/fleet/push-object"
PATHS: Final = frozenset(
    {
        b"/v1/fleet/activate-node",
        b"/v1/fleet/deactivate-node",
        b"/v1/fleet/send-node-heartbeat",
        b"/v1/fleet/pull-messages",
        b"/v1/fleet/push-messages",
        b"/v1/fleet/pull-object",
        _PUSH_OBJECT,
        b"/v1/fleet/confirm-message-received",
        b"/v1/fleet/get-run",  # this and the next are asked for by Flower's own SuperNode only
        b"/v1/fleet/get-fab",
    }
)
_PUBLIC_KEY: Final = b"flwr-public-key"
_TIMESTAMP: Final = b"flwr-timestamp"
_SIGNATURE: Final = b"flwr-signature"
_SENT_ON: Final = (b"content-type", b"accept", _PUBLIC_KEY, _TIMESTAMP, _SIGNATURE)
_SENT_BACK: Final = frozenset({b"content-type", b"content-length"})

_SMALL_BYTES: Final = 2**16
"""Most that a message has that is no object."""
_HEAD_BYTES: Final = 2**14
_PAUSE_SECONDS: Final = 20.0
"""Longest that nothing comes of a message, or nothing is taken of an answer."""
_WHOLE_SECONDS: Final = 600.0
_KEEP_SECONDS: Final = 15
"""Longer than the five seconds after which clients let an unused connection go."""
_REUSE_SECONDS: Final = 3.0
"""Shorter than the five seconds after which the SuperLink does."""
_STOP_SECONDS: Final = 5.0
_TO_SUPERLINK: Final = 512
_LOOK_SECONDS: Final = 1.0
_SIGNED_SECONDS: Final = 310.0
"""How long a signature of a time is good for, as the SuperLink sees it; either way."""

_log = logging.getLogger("fedscore.front")


class FrontOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the front is told, in one line of JSON on standard input; it ends when that closes.

    Attributes:
        listener: descriptor of a socket that listens.
        certificate: PEM file of key and certificates; looked at again and again.
        superlink: its host and port.
        superlink_authorities: PEM file; nobody else's certificates are trusted for it.
        nodes: public keys of admitted nodes, as they stand in their requests' headers.
        largest_bytes: most that one message has.
    """

    listener: int
    certificate: Path
    superlink: str
    superlink_authorities: Path
    nodes: frozenset[str]
    largest_bytes: int


class _Refused(Exception):  # noqa: N818  an answer, not an error
    """The request ends here."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Front:
    """Sends on what may pass: an ASGI application."""

    def __init__(self, order: FrontOrder, client: httpx.AsyncClient, gate: Gate) -> None:
        self._order = order
        self._client = client
        self._gate = gate
        self._nodes = frozenset(node.encode() for node in order.nodes)

    async def __call__(
        self, scope: "Scope", receive: "ASGIReceiveCallable", send: "ASGISendCallable"
    ) -> None:
        """Answers one request."""
        started = False

        async def answer(message: Any) -> None:  # noqa: ANN401  one of ASGI's many types
            nonlocal started
            started = True
            async with asyncio.timeout(_PAUSE_SECONDS):
                await send(message)

        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                await self._send_on(scope, receive, answer)
        except _Refused as refused:
            status = refused.status
        except TimeoutError:
            status = httpx.codes.REQUEST_TIMEOUT
        except httpx.TimeoutException:
            status = httpx.codes.GATEWAY_TIMEOUT
        except httpx.HTTPError:
            status = httpx.codes.BAD_GATEWAY
        else:
            return
        self._gate.refused[str(int(status))] += 1
        if not started:  # else the connection is cut
            headers = [(b"connection", b"close"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_on(self, scope: Any, receive: Any, answer: Any) -> None:  # noqa: ANN401  ASGI's
        """Sends a request on, and its answer back, piece by piece.

        Raises:
            _Refused: it may not pass.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        length = self._length(scope, headers)
        sent_on = [(name, headers[name]) for name in _SENT_ON if name in headers]
        async with self._client.stream(
            "POST",
            scope["raw_path"].decode("ascii"),
            headers=[*sent_on, (b"content-length", str(length).encode())],
            content=_body(receive),
        ) as response:
            back = [one for one in response.headers.raw if one[0].lower() in _SENT_BACK]
            await answer(
                {"type": "http.response.start", "status": response.status_code, "headers": back}
            )
            async for piece in response.aiter_raw():
                await answer({"type": "http.response.body", "body": piece, "more_body": True})
        await answer({"type": "http.response.body", "body": b"", "more_body": False})

    def _length(self, scope: Any, headers: dict[bytes, bytes]) -> int:  # noqa: ANN401  ASGI's
        """Returns how long the body of a request is that may pass.

        Raises:
            _Refused: it may not.
        """
        path: bytes = scope["raw_path"]
        if scope["method"] != "POST" or path not in PATHS or scope["query_string"]:
            raise _Refused(httpx.codes.NOT_FOUND)
        if b"upgrade" in headers:
            raise _Refused(httpx.codes.BAD_REQUEST)
        if b"transfer-encoding" in headers or b"content-length" not in headers:
            raise _Refused(httpx.codes.LENGTH_REQUIRED)
        length = int(headers[b"content-length"])  # one number: h11 takes no other
        if headers.get(_PUBLIC_KEY) not in self._nodes:
            raise _Refused(httpx.codes.UNAUTHORIZED)
        if length > (self._order.largest_bytes if path == _PUSH_OBJECT else _SMALL_BYTES):
            raise _Refused(httpx.codes.REQUEST_ENTITY_TOO_LARGE)
        if length > _SMALL_BYTES and not _is_signed(headers):
            raise _Refused(httpx.codes.UNAUTHORIZED)
        return length


def _is_signed(headers: dict[bytes, bytes]) -> bool:
    """Returns whether the holder of the node key in a request's headers has made them just now."""
    try:
        key = load_pem_public_key(b64decode(headers[_PUBLIC_KEY], validate=True))
        age = datetime.now(UTC) - datetime.fromisoformat(headers[_TIMESTAMP].decode("ascii"))  # noqa: TID251  the front is a process of its own: this is its edge
        if not isinstance(key, EllipticCurvePublicKey) or abs(age.total_seconds()) > (
            _SIGNED_SECONDS
        ):
            return False
        signature = b64decode(headers[_SIGNATURE], validate=True)
        key.verify(signature, headers[_TIMESTAMP], ECDSA(SHA256()))
    except (KeyError, ValueError, TypeError, InvalidSignature):
        return False
    return True


async def _body(receive: "ASGIReceiveCallable") -> AsyncIterator[bytes]:
    """Yields what arrives of a request's body; uvicorn keeps no more than 64 KiB of it."""
    while True:
        async with asyncio.timeout(_PAUSE_SECONDS):
            message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise _Refused(httpx.codes.BAD_REQUEST)
        if message["body"]:
            yield message["body"]
        if not message["more_body"]:
            return


def _context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate)
    return context


async def _renew(context: ssl.SSLContext, certificate: Path) -> None:
    """Shows the newest certificate to whoever connects from then on; open connections stay."""
    seen = certificate.stat()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            found = certificate.stat()
            if (found.st_ino, found.st_mtime_ns) == (seen.st_ino, seen.st_mtime_ns):
                continue
            _context(certificate)  # first: a file that does not fit leaves the context as it is
            context.load_cert_chain(certificate)
        except OSError as error:  # ssl.SSLError is one
            _log.error("the new certificate is not used, the one before still is: %s", error)
        else:
            seen = found
            _log.warning("a new certificate is shown from now on")


async def _serve(order: FrontOrder) -> None:
    """Answers until standard input is closed; then ends within seconds."""
    loop = asyncio.get_running_loop()
    context, state, gate = _context(order.certificate), ServerState(), Gate()
    limits = httpx.Limits(
        max_connections=_TO_SUPERLINK,
        max_keepalive_connections=_TO_SUPERLINK,
        keepalive_expiry=_REUSE_SECONDS,
    )
    async with httpx.AsyncClient(
        base_url=f"https://{order.superlink}",
        verify=ssl.create_default_context(cafile=order.superlink_authorities),
        headers={"accept-encoding": "identity"},
        limits=limits,
        timeout=httpx.Timeout(60.0, connect=5.0),
        trust_env=False,  # no proxy between this and loopback
    ) as client:
        config = uvicorn.Config(
            _Front(order, client, gate),
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_SECONDS,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        config.load()
        server = await loop.create_server(
            lambda: Connection(config, state, gate),
            sock=socket.socket(fileno=order.listener),
            ssl=context,
            ssl_handshake_timeout=HEAD_SECONDS,
            ssl_shutdown_timeout=_STOP_SECONDS,
        )
        tasks = [
            loop.create_task(gate.keep_telling()),
            loop.create_task(_renew(context, order.certificate)),
        ]
        ended = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ended.set)
        os.write(sys.stdout.fileno(), b"ready\n")
        await ended.wait()
        loop.remove_reader(sys.stdin.fileno())
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=_STOP_SECONDS)
        for task in tasks:
            task.cancel()
        gate.tell()


def main() -> None:
    """Runs the front as standard input orders."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("uvicorn.error", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # a stranger must not fill the disk
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=FrontOrder, dec_hook=_decoded)
    asyncio.run(_serve(order))


def _decoded(kind: type, value: object) -> object:
    return kind(value)


if __name__ == "__main__":
    main()
