"""A front, a SuperLink that only writes down what reaches it, and clients with bad manners."""

import datetime as dt
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server.certificates import Authority, install, issue, make_authority
from server.front_process import FrontProcess
from tests import outside
from tests.flower_processes import CHECKOUT, free_port

HOST = "127.0.0.1"
NODE_KEY = ec.derive_private_key(7, ec.SECP384R1())
PULL = "/v1/fleet/pull-messages"
PUSH = "/v1/fleet/push-object"
PATIENCE_SECONDS = 30.0


def write_certificates(directory: Path) -> Authority:
    """Writes what the coordinator has: ca.pem, server.pem, and superlink/ of the same for loopback.

    Returns:
        The authority of server.pem.
    """
    now = dt.datetime.now(dt.UTC)
    authority, loopback = make_authority("test", now), make_authority("loopback", now)
    (directory / "ca.pem").write_bytes(authority.certificate_pem)
    (directory / "server.pem").write_bytes(issue(authority, (HOST,), now))
    (directory / "superlink").mkdir()
    (directory / "superlink" / "ca.pem").write_bytes(loopback.certificate_pem)
    (directory / "superlink" / "server.pem").write_bytes(issue(loopback, (HOST, "localhost"), now))
    return authority


class Superlink(ThreadingHTTPServer):
    """Writes down the target, headers and size of whatever reaches it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, directory: Path) -> None:
        super().__init__((HOST, 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "superlink" / "server.pem")
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        self.seen: list[tuple[str, dict[str, str], int]] = []
        self.answer: Callable[[str, int], tuple[int, bytes]] = lambda _, size: (
            200,
            f"{size} bytes".encode(),
        )

    @property
    def targets(self) -> list[str]:
        return [target for target, _, _ in self.seen]

    def handle_error(self, *_: object) -> None:
        """Connections that are cut are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Superlink

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        target = self.requestline.split(" ")[1]
        left = size = int(self.headers.get("content-length") or 0)
        self.server.seen.append((target, {k.lower(): v for k, v in self.headers.items()}, size))
        while left:
            read = self.rfile.read(min(left, 2**16))
            if not read:
                self.close_connection = True
                return
            left -= len(read)
        status, answer = self.server.answer(target, size)
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.send_header("x-powered-by", "flower")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@dataclass(kw_only=True)
class Place:
    """A front that runs, and what stands on both sides of it."""

    directory: Path
    port: int
    authority: Authority
    superlink: Superlink | None
    reload: Callable[[], None] = lambda: None
    process_id: Callable[[], int | None] = lambda: None
    log: Callable[[], str] = lambda: ""
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = ssl.create_default_context(cafile=self.directory / "ca.pem")

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((HOST, self.port), timeout=PATIENCE_SECONDS)
        return self.context.wrap_socket(plain, server_hostname=HOST)

    def say(self, *parts: bytes) -> bytes:
        """Returns what comes back for some bytes on a connection of their own, until it is cut."""
        heard = b""
        try:
            with self.connect() as connection:
                for part in parts:
                    connection.sendall(part)
                connection.settimeout(0.5 if parts else PATIENCE_SECONDS)
                while read := connection.recv(65536):
                    heard += read
        except OSError:
            pass
        return heard

    def ask(self, path: str, body: bytes = b"", **headers: str) -> int:
        """Returns the status with which a well-mannered request is answered."""
        with self.connect() as connection:
            connection.sendall(request(path, body, **headers))
            connection.settimeout(PATIENCE_SECONDS)
            return int(connection.recv(65536).split(b" ", 2)[1])

    def serial(self) -> int:
        """Returns the number of the certificate that is shown to whoever connects now."""
        with self.connect() as connection:
            shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number


def node_headers(
    key: ec.EllipticCurvePrivateKey = NODE_KEY, *, age_seconds: float = 0.0
) -> dict[str, str]:
    """Returns what Flower's nodes say of themselves in each request."""
    made = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age_seconds)).isoformat()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(made.encode(), ec.ECDSA(SHA256()))
    return {
        "flwr-public-key": b64encode(pem).decode(),
        "flwr-timestamp": made,
        "flwr-signature": b64encode(signature).decode(),
    }


def head(first_line: str, **headers: str) -> bytes:
    """Returns the head of a request, as the caller of a node key has it unless told otherwise."""
    told = {"host": "front", **node_headers(), **headers}
    lines = [first_line, *(f"{k.replace('_', '-')}: {v}" for k, v in told.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def request(path: str, body: bytes = b"", **headers: str) -> bytes:
    return head(f"POST {path} HTTP/1.1", content_length=str(len(body)), **headers) + body


def renewed(front: Place) -> None:
    now = dt.datetime.now(dt.UTC)
    install(
        front.directory / "server.pem",
        issue(front.authority, (HOST,), now),
        authorities=front.directory / "ca.pem",
        host=HOST,
    )
    front.reload()


def own_front(directory: Path, port: int, superlink_port: int, nodes: list[str]) -> FrontProcess:
    return FrontProcess(
        directory,
        listen=HOST,
        port=port,
        certificate=directory / "server.pem",
        superlink=f"{HOST}:{superlink_port}",
        superlink_authorities=directory / "superlink" / "ca.pem",
        nodes=nodes,
    )


@contextmanager
def nginx_front(directory: Path, port: int, superlink_port: int, seconds: str) -> Iterator[int]:
    """Yields the process of an nginx with the configuration that is deployed."""
    program = outside.require("nginx")
    conf = (CHECKOUT / "deploy" / "nginx" / "fedscore.conf").read_text()
    for ours, here in (
        ("/var/lib/fedscore/coordinator", str(directory)),
        ("0.0.0.0:9092", f"{HOST}:{port}"),
        ("127.0.0.1:9093", f"{HOST}:{superlink_port}"),
    ):
        assert ours in conf
        conf = conf.replace(ours, here)
    if seconds:
        conf = conf.replace("10s;", seconds).replace("20s;", seconds).replace("15s;", seconds)
    where = directory / "nginx"
    where.mkdir()
    temporary = "".join(
        f"{kind}_temp_path {where}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (where / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {where}/pid; error_log {where}/error.log;\n"
        f"events {{}}\nhttp {{\n{temporary}{conf}}}\n"
    )
    process = subprocess.Popen(
        [program, "-p", where, "-c", where / "nginx.conf", "-e", where / "error.log"],
    )
    try:
        _wait_for_port(port, process)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nginx did not come up")


@contextmanager
def place(
    kind: str,
    directory: Path,
    *,
    nodes: list[str] | None = None,
    superlink_port: int | None = None,
    seconds: str = "",
) -> Iterator[Place]:
    """Yields a front, "own" or "nginx", with a SuperLink behind it.

    Args:
        kind: of the front.
        directory: empty.
        nodes: OpenSSH public keys that are admitted.
        superlink_port: of a real one, whose certificates are there already.
        seconds: of nginx's patience, if not what is deployed.
    """
    authority, superlink = None, None
    if superlink_port is None:
        authority = write_certificates(directory)
        superlink = Superlink(directory)
        superlink_port = superlink.server_address[1]
        threading.Thread(target=superlink.serve_forever, args=(0.05,), daemon=True).start()
    ssh = NODE_KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    admitted, port = [ssh] if nodes is None else nodes, free_port()
    found = Place(directory=directory, port=port, authority=authority, superlink=superlink)  # type: ignore[arg-type]
    try:
        if kind == "nginx":
            with nginx_front(directory, port, superlink_port, seconds) as process:
                found.reload = lambda: os.kill(process, signal.SIGHUP)
                found.process_id = lambda: process
                found.log = (directory / "nginx" / "error.log").read_text
                yield found
        else:
            with own_front(directory, port, superlink_port, admitted) as front:
                found.process_id = lambda: front.process_id
                found.log = (directory / "front.log").read_text
                yield found
    finally:
        if superlink is not None:
            superlink.shutdown()
            superlink.server_close()
        shutil.rmtree(directory / "nginx", ignore_errors=True)
