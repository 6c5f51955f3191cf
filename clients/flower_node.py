"""The institution's end of Flower: one long-lived process that carries bytes and runs nothing else.

Flower's own SuperNode starts a process for each message and runs in it what the SuperLink sends.
This speaks the same protocol (`/v1/fleet`, see `flwr.supernode`) and never fetches an application.
Of Flower it relies on: `FleetHttpClient`, `NodeAuthHttpInterceptor`, the messages of that path, and
how a message becomes objects. With flwr it is pinned to one version.
"""

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Self

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when flwr is imported
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import ConfigRecord, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Metadata as ReceivedMetadata
from flwr.proto.node_pb2 import Node
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError

from federation.carried import RECORD, bounded, value_of_record
from federation.envelope import LARGEST_ENVELOPE
from federation.errors import ConfigurationError, ProtocolError
from federation.transport import pause_seconds

_POLL_SECONDS: Final = 0.1
"""Until an object that is announced is asked for again."""
_RECONNECT_SECONDS: Final = 2.0
_HEARTBEAT_SECONDS: Final = 5.0
_INTERVAL_SECONDS: Final = 10.0
"""The least that Flower takes; after twice as long without a heartbeat a node counts as gone, and
not earlier can a node that was killed connect again."""
_OBJECT_TRIES: Final = 100
_FRONT_ONLY: Final = (
    httpx.codes.BAD_GATEWAY,
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.GATEWAY_TIMEOUT,
)
"""A front says so that does not reach the SuperLink, which may know us still."""
_LARGEST_ANSWER: Final = 2**16
"""Bytes of every answer but an object; what is smaller cannot describe much either."""
_LARGEST_OBJECT: Final = LARGEST_ENVELOPE + 2**10
_ANSWER_SECONDS: Final = 300.0

_log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it would name each poll
logging.getLogger("flwr").setLevel(logging.WARNING)
logging.getLogger("flwr").handlers.clear()  # its lines go where ours go, and look as ours do


def serve(
    address: str,
    *,
    root_certificates: Path,
    node_key: EllipticCurvePrivateKey,
    handle: Callable[[bytes], bytes],
    idle: Callable[[], None],
    stop: threading.Event,
    turned: Callable[[bool], None] = lambda _: None,
) -> None:
    """Answers what arrives until `stop` is set, one message after the other.

    A connection that fails is made anew, also after the SuperLink has lost its memory. `stop` is
    looked at between messages only: what was begun is answered.

    Args:
        address: host and port of the SuperLink or of the proxy before it.
        root_certificates: PEM file; nobody else's certificates are trusted.
        node_key: admitted by the coordinator.
        handle: from the bytes of a request to those of its reply. A `ProtocolError` means that
            there is no reply; every other error ends the process.
        idle: called whenever nothing has arrived.
        stop: set by whoever wants this to end.
        turned: told after each turn of the loop whether the SuperLink was reached.

    Raises:
        ConfigurationError: the certificates cannot be read.
    """
    try:
        certificates = root_certificates.read_bytes()
        ssl.create_default_context(cadata=certificates.decode("ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{root_certificates} is no PEM file of certificates: {error}."
        ) from error
    with _Connection(address, certificates, node_key) as connection:
        troubled = False
        busy = time.monotonic()
        while not stop.is_set():
            try:
                node = connection.activated()
                asked = time.monotonic()
                answered = connection.answer_one(node, handle)
                asking = time.monotonic() - asked
                if troubled:
                    _log.info("connected to %s again", address)
                    troubled = False
                turned(True)
                if answered:
                    busy = time.monotonic()
                else:
                    idle()
                    stop.wait(pause_seconds(asking=asking, quiet=asked - busy))
            except (httpx.HTTPError, DecodeError, ValueError) as error:
                if not troubled:  # said once for each interruption, not once for each try
                    _log.warning("no connection to %s (%s): trying again", address, _why(error))
                    troubled = True
                if isinstance(error, httpx.HTTPStatusError) and (
                    error.response.status_code not in _FRONT_ONLY
                ):
                    connection.forget()
                turned(False)
                stop.wait(_RECONNECT_SECONDS)


def _why(error: Exception) -> str:
    if not isinstance(error, httpx.HTTPStatusError):
        return f"{type(error).__name__}: {error}"
    match error.response.status_code:
        case httpx.codes.UNAUTHORIZED:
            return "401: not admitted, or the clocks differ by five minutes"
        case httpx.codes.PRECONDITION_FAILED:
            return "412: the SuperLink thinks that this node is connected already; it forgets that"
        case other:
            return str(other)


class _Bounded(httpx.BaseTransport):
    """Reads answers up to a size and a time, and of each the status and the body only.

    So nobody sends us elsewhere in our network, sets a cookie, or has us unpack anything.
    """

    def __init__(self, carrier: httpx.BaseTransport) -> None:
        self._carrier = carrier

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        is_object = request.url.path.endswith("/pull-object")
        with closing(self._carrier.handle_request(request)) as response:
            try:
                content = bounded(
                    response.iter_raw(),
                    most_bytes=_LARGEST_OBJECT if is_object else _LARGEST_ANSWER,
                    seconds=_ANSWER_SECONDS,
                    clock=time.monotonic,
                )
            except ProtocolError as error:
                raise httpx.ReadError(str(error)) from error
        return httpx.Response(response.status_code, content=content)

    def close(self) -> None:
        self._carrier.close()


class _Connection:
    """The SuperLink, as seen by one node; a context manager."""

    def __init__(self, address: str, certificates: bytes, key: EllipticCurvePrivateKey) -> None:
        self._public_key = public_key_to_bytes(key.public_key())
        self._client = FleetHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=certificates,
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        )
        http = self._client._client
        http._transport = _Bounded(http._transport)
        http._mounts = {to: proxy and _Bounded(proxy) for to, proxy in http._mounts.items()}
        self._node: Node | None = None
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        """Returns the connection, not yet made."""
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Says that we are gone, if there is somebody to tell."""
        self._ended.set()
        self._heart.join()
        if self._node is not None:
            with suppress(httpx.HTTPError, ValueError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self._client.close()

    def _beat(self) -> None:
        """Says that we are there, also while an answer takes long."""
        while not self._ended.wait(_HEARTBEAT_SECONDS):
            node = self._node
            if node is not None:
                with suppress(httpx.HTTPError, ValueError):  # whoever polls notices
                    self._client.SendNodeHeartbeat(
                        SendNodeHeartbeatRequest(node=node, heartbeat_interval=_INTERVAL_SECONDS)
                    )

    def activated(self) -> Node:
        """Returns this node once the SuperLink counts it as there."""
        if self._node is None:
            found = self._client.ActivateNode(
                ActivateNodeRequest(
                    public_key=self._public_key, heartbeat_interval=_INTERVAL_SECONDS
                )
            )
            self._node = Node(node_id=found.node_id)
        return self._node

    def forget(self) -> None:
        """Makes the next step an activation: this SuperLink may not know us any more."""
        self._node = None

    def answer_one(self, node: Node, handle: Callable[[bytes], bytes]) -> bool:
        """Returns whether there was a message worth an answer; it is answered then."""
        pulled = self._client.PullMessages(PullMessagesRequest(node=node))
        if len(pulled.messages_list) != 1 or len(pulled.message_object_trees) != 1:
            return False
        asked = pulled.messages_list[0].metadata
        try:
            request = self._pull(node, asked.run_id, pulled.message_object_trees[0])
            self._client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=node, run_id=asked.run_id, message_object_id=asked.message_id
                )
            )
            reply = handle(request)
        except ProtocolError as error:
            _log.warning("a message without reply: %s", error)
            return False
        self._push(node, asked, reply)
        return True

    def _pull(self, node: Node, run: int, tree: ObjectTree) -> bytes:
        """Returns the bytes of a message's one record."""
        while tree.children:  # a message has one set of records, and that one record
            tree = tree.children[0]
        for _ in range(_OBJECT_TRIES):
            found = self._client.PullObject(
                PullObjectRequest(node=node, run_id=run, object_id=tree.object_id)
            )
            if found.object_available:
                return value_of_record(found.object_content)
            time.sleep(_POLL_SECONDS)
        raise ProtocolError("A message came without its record.")

    def _push(self, node: Node, asked: ReceivedMetadata, reply: bytes) -> None:
        """Returns once the SuperLink has the whole reply, or does not want it any more."""
        created_at = now().timestamp()
        answer = make_message(
            metadata=Metadata(
                run_id=asked.run_id,
                message_id="",
                src_node_id=node.node_id,
                dst_node_id=asked.src_node_id,
                reply_to_message_id=asked.message_id,
                group_id="",
                created_at=created_at,
                ttl=asked.created_at + asked.ttl - created_at,
                message_type="query",
            ),
            content=RecordDict({RECORD: ConfigRecord({RECORD: reply})}),
        )
        answer.metadata.__dict__["_message_id"] = answer.object_id
        objects = {id_: one.deflate() for id_, one in get_all_nested_objects(answer).items()}
        tree = get_object_tree(answer)
        answer.content = RecordDict()  # carried as objects
        pushed = self._client.PushMessages(
            PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(answer)],
                message_object_trees=[tree],
            )
        )
        for id_, content in reversed(objects.items()):  # the record last: once it is there, all is
            if id_ in pushed.objects_to_push:
                self._client.PushObject(
                    PushObjectRequest(
                        node=node,
                        run_id=asked.run_id,
                        object_id=id_,
                        object_content=content,
                        session_id=pushed.session_id,
                    )
                )
