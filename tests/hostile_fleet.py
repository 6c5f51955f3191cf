"""A SuperLink that lies: the fleet path over HTTPS, as a test scripts it.

    with Fleet(directory) as fleet:            # ca.pem, server.pem and server.key lie there
        serve(fleet.address, ...)              # in a thread, or a daemon as a process
        reply = fleet.deliver(key, envelope)   # None: the node has taken it and said nothing
        fleet.says["pull-messages"] = lambda request: Answer(b"rubbish")

Left alone it does what Flower does. Whatever a node asks of it is counted by the last word of the
path, so that a test can say what was never asked for.
"""

import datetime as dt
import ipaddress
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.recorddict_pb2 import ConfigRecord

RECORD: Final = "fedscore"
RUN: Final = 4711
WAIT_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes out over the socket; `body` piece by piece, `pause` seconds after each."""

    body: bytes | Iterable[bytes] = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0.0
    is_raw: bool = False
    """Nothing goes out but the body: it is the whole HTTP, or what shall pass for it."""


Say = Callable[[bytes], Answer | None]
"""From the body of a request to what is answered; None: what Flower would."""


def record_object(value: bytes, *, key: str = RECORD) -> bytes:
    """Returns an object as Flower makes it: a record that holds bytes under a key."""
    record = ConfigRecord()
    item = record.items.add()
    item.key = key
    item.value.bytes = value
    body = record.SerializeToString()
    return b"ConfigRecord  %d\0" % len(body) + body


def nested(depth: int, leaf: str = "leaf") -> bytes:
    """Returns an encoded tree of objects this deep, which no library has to be able to make."""

    def framed(field_number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 0x7F:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([field_number << 3 | 2]) + length + bytes([size]) + content

    tree = framed(1, leaf.encode())
    for _ in range(depth):
        tree = framed(1, b"node") + framed(2, tree)
    return tree


@dataclass(slots=True)
class Delivery:
    """One message to one node, and what became of it."""

    content: bytes
    metadata: Mapping[str, object]
    is_there: bool = True
    taken: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    reply: bytes | None = None


class Fleet:
    """The server; a context manager."""

    def __init__(self, directory: Path, *, certificate: str = "server") -> None:
        """Listens on 127.0.0.1, on a free port.

        Args:
            directory: with `CERTIFICATE.pem` and `CERTIFICATE.key`.
            certificate: the one it shows.
        """
        self.asked: Counter[str] = Counter()
        self.says: dict[str, Say] = {}
        self.hears: Callable[[Mapping[str, str]], None] = lambda _: None
        self.nodes: dict[bytes, int] = {}
        self._queues: dict[int, deque[Delivery]] = {}
        self._under_way: dict[str, Delivery] = {}
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        fleet = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                """Says nothing on standard error."""

            def do_POST(self) -> None:
                fleet.hears(self.headers)
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                fleet._send(self, fleet._answer(self.path.rsplit("/", 1)[1], body))

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A node that hangs up on us is what tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / f"{certificate}.pem", directory / f"{certificate}.key")
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._server.server_bind()
        self._server.server_activate()
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "Fleet":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # What a test does.

    def wait_for(self, condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
        """Returns once the condition holds; it must within some seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"nothing came: {self.asked}"
            time.sleep(0.005)

    def node_of(self, key: bytes) -> int:
        """Returns the number of the node with this public key, once it is there."""
        self.wait_for(lambda: key in self.nodes)
        return self.nodes[key]

    def post(self, key: bytes, envelope: bytes, **metadata: object) -> Delivery:
        """Returns at once; the node takes it with its next question."""
        return self.post_object(key, record_object(envelope), **metadata)

    def post_object(
        self, key: bytes, content: bytes, *, is_there: bool = True, **metadata: object
    ) -> Delivery:
        """Posts any bytes as the object that a message consists of."""
        delivery = Delivery(content, metadata, is_there)
        node = self.node_of(key)
        with self._lock:
            self._queues[node].append(delivery)
        return delivery

    def deliver(self, key: bytes, envelope: bytes, **metadata: object) -> bytes | None:
        """Returns the node's reply, None once it has come back for more without one."""
        return self.outcome(self.post(key, envelope, **metadata))

    def outcome(self, delivery: Delivery) -> bytes | None:
        """Returns what became of a delivery, once that is known."""
        assert delivery.taken.wait(WAIT_SECONDS), "the node did not take it"
        assert delivery.answered.wait(WAIT_SECONDS), "the node is busy"
        return delivery.reply

    # What Flower does.

    def _answer(self, method: str, body: bytes) -> Answer:
        self.asked[method] += 1
        said = self.says.get(method, lambda _: None)(body)
        return self._as_flower(method, body) if said is None else said

    def _as_flower(self, method: str, body: bytes) -> Answer:
        with self._lock:
            match method:
                case "activate-node":
                    return self._activated(ActivateNodeRequest.FromString(body))
                case "pull-messages":
                    return self._pulled(PullMessagesRequest.FromString(body).node.node_id)
                case "pull-object":
                    return self._object(PullObjectRequest.FromString(body).object_id)
                case "confirm-message-received":
                    ConfirmMessageReceivedRequest.FromString(body)
                    return Answer()
                case "push-messages":
                    return self._wanted(PushMessagesRequest.FromString(body))
                case "push-object":
                    return self._given(PushObjectRequest.FromString(body))
                case "send-node-heartbeat":
                    return Answer(SendNodeHeartbeatResponse(success=True).SerializeToString())
                case "deactivate-node":
                    return Answer()
                case _:
                    return Answer(b"no such path", 404)

    def _activated(self, request: ActivateNodeRequest) -> Answer:
        number = self.nodes.setdefault(request.public_key, 1 + len(self.nodes))
        self._queues.setdefault(number, deque())
        return Answer(ActivateNodeResponse(node_id=number).SerializeToString())

    def _pulled(self, node: int) -> Answer:
        """A node that asks again is done with what it had."""
        for delivery in self._under_way.values():
            if delivery.metadata.get("to", node) == node and delivery.taken.is_set():
                delivery.answered.set()
        found = PullMessagesResponse()
        queue = self._queues.get(node)
        if queue:
            delivery = queue.popleft()
            delivery.metadata = {"to": node, **delivery.metadata}
            number = f"{next(self._numbers):064x}"
            self._under_way[number] = delivery
            metadata = found.messages_list.add().metadata
            metadata.run_id, metadata.message_id, metadata.src_node_id = RUN, number, 1
            metadata.dst_node_id, metadata.message_type = node, "query"
            metadata.created_at, metadata.ttl = time.time(), 600.0
            for name, value in delivery.metadata.items():
                if name != "to":
                    setattr(metadata, name, value)
            tree = ObjectTree(object_id=number)
            tree.children.add(object_id="records").children.add(object_id=number)
            found.message_object_trees.append(tree)
            delivery.taken.set()
        return Answer(found.SerializeToString())

    def _object(self, number: str) -> Answer:
        delivery = self._under_way.get(number)
        if delivery is None or not delivery.is_there:
            return Answer(PullObjectResponse(object_found=True).SerializeToString())
        found = PullObjectResponse(
            object_found=True, object_available=True, object_content=delivery.content
        )
        return Answer(found.SerializeToString())

    def _wanted(self, request: PushMessagesRequest) -> Answer:
        wanted: list[str] = []
        trees = list(request.message_object_trees)
        while trees:
            tree = trees.pop()
            wanted.append(tree.object_id)
            trees.extend(tree.children)
        session = request.messages_list[0].metadata.reply_to_message_id
        return Answer(
            PushMessagesResponse(objects_to_push=wanted, session_id=session).SerializeToString()
        )

    def _given(self, request: PushObjectRequest) -> Answer:
        delivery = self._under_way.get(request.session_id)
        if delivery is not None and request.object_content.startswith(b"ConfigRecord"):
            record = ConfigRecord.FromString(request.object_content.partition(b"\0")[2])
            delivery.reply = record.items[0].value.bytes
        return Answer(PushObjectResponse(stored=True).SerializeToString())

    @staticmethod
    def _send(to: BaseHTTPRequestHandler, answer: Answer) -> None:
        pieces = [answer.body] if isinstance(answer.body, bytes) else answer.body
        if answer.is_raw:
            to.wfile.write(b"".join(pieces))
            to.close_connection = True
            return
        to.send_response(answer.status)
        for name, value in answer.headers.items():
            to.send_header(name, value)
        if isinstance(answer.body, bytes) and "content-length" not in answer.headers:
            to.send_header("content-length", str(len(answer.body)))
        elif not isinstance(answer.body, bytes):
            to.send_header("connection", "close")  # the body ends when we hang up
            to.close_connection = True
        to.end_headers()
        for piece in pieces:
            to.wfile.write(piece)
            to.wfile.flush()
            if answer.pause:
                time.sleep(answer.pause)


def write_bad_certificates(directory: Path) -> None:
    """Writes ca.pem and certificates: honest, and by a stranger, for elsewhere, expired, early."""
    today = dt.datetime.now(dt.UTC)
    ours, strangers = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def write(
        name: str,
        *,
        by: ec.EllipticCurvePrivateKey = ours,
        host: str = "127.0.0.1",
        from_day: int = -1,
        to_day: int = 1,
        is_authority: bool = False,
    ) -> None:
        key = by if is_authority else ec.generate_private_key(ec.SECP256R1())
        title = "authority" if is_authority else name
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today + dt.timedelta(days=from_day))
            .not_valid_after(today + dt.timedelta(days=to_day))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
                critical=False,
            )
            .sign(by, SHA256())
        )
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (directory / f"{name}.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )

    write("ca", is_authority=True, from_day=-9, to_day=9)
    write("honest")
    write("stranger", by=strangers)
    write("elsewhere", host="127.0.0.2")
    write("expired", from_day=-3, to_day=-1)
    write("early", from_day=1, to_day=3)
