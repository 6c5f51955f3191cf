"""The coordinator's end of Flower: a run that this process drives itself.

No code is handed to Flower: the application bundle that a run needs holds names only. The SuperLink
starts no processes, and the one task of the run is taken by this process with a secret that only
the two of them have. So a stranger who reaches the control path can start runs, but nobody executes
them and they never get to speak to an institution.

Of Flower this relies on: `ControlHttpClient`, `RuntimeHttpClient` and its two interceptors, the
messages of both paths, and how a message becomes objects. With flwr it is pinned to one version.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType
from typing import Final, Self, TypeVar

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when flwr is imported
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.common.serde import message_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from google.protobuf.message import DecodeError

from federation.carried import RECORD, value_of_record
from federation.errors import ConfigurationError, ProtocolError
from federation.transport import pause_seconds
from server.bounded_http import bounded_client
from server.bundle import bundle_content
from server.superlink import SuperLink
from server.waiting import Waiting

_POLL_SECONDS: Final = 0.1
_AGAIN_SECONDS: Final = 1.0
_OBJECT_TRIES: Final = 100
_STRANGERS_TASKS: Final = 1000
_REQUESTS_AT_ONCE: Final = 8
_SELF: Final = Node(node_id=SUPERLINK_NODE_ID)
_HEARTBEAT_SECONDS: Final = 20.0
_log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it would name each poll


_T = TypeVar("_T")
_R = TypeVar("_R")


class _RunLost(Exception):  # noqa: N818  an event, not an error: another run is started
    """The SuperLink knows our run no more."""


class FlowerTransport:
    """Carries bytes between coordinator and institutions: a `Transport`, a context manager."""

    def __init__(
        self, superlink: SuperLink, *, nodes: Mapping[str, str], deadline_seconds: float
    ) -> None:
        """Starts without a run.

        Args:
            superlink: started, and started again by this if it has died.
            nodes: OpenSSH public key of the node of each admitted institution; no other node is
                let in, and one that is missing here is put out.
            deadline_seconds: after which an exchange ends with the replies that came.

        Raises:
            ConfigurationError: a key is none.
        """
        self._superlink = superlink
        self._keys = {name: _node_key(name, text) for name, text in nodes.items()}
        self._deadline_seconds = deadline_seconds
        self._node_ids: dict[str, int] = {}
        self._run = 0
        self._client: RuntimeHttpClient | None = None
        self._beat = 0.0
        self._seen: set[str] = set()
        self._hands = ThreadPoolExecutor(_REQUESTS_AT_ONCE)

    def __enter__(self) -> Self:
        """Returns the transport; nothing was sent yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the run."""
        self.close()

    def exchange(self, requests: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Returns the replies that came in time, by institution; a missing one did not answer.

        Who was there in this run and has gone is waited for a few seconds only, everybody else
        until the deadline: after a loss of the SuperLink nobody was there yet.
        """
        deadline = time.monotonic() + self._deadline_seconds
        waiting = Waiting(unsent=dict(requests))
        looked = -_AGAIN_SECONDS
        came = time.monotonic()
        while waiting.is_worth_it(requests) and time.monotonic() < deadline:
            pause = _AGAIN_SECONDS
            try:
                client = self._attached()
                if time.monotonic() - looked > _AGAIN_SECONDS:
                    self._push(client, waiting, requests, deadline)
                    looked = time.monotonic()
                asked = time.monotonic()
                if self._pull(client, waiting, requests):
                    came, pause = time.monotonic(), 0.0
                else:
                    pause = pause_seconds(asking=time.monotonic() - asked, quiet=asked - came)
            except (_RunLost, httpx.HTTPError, DecodeError, ValueError) as error:
                if not isinstance(error, httpx.TransportError):
                    _log.warning("the run is lost, another one is started: %s", error)
                    self._detach()
                    waiting.start_again(requests)
                    self._seen = set()
                self._superlink.start()
            if len(waiting.replies) < len(requests):
                time.sleep(pause)
        return {name: waiting.replies[name] for name in requests if name in waiting.replies}

    def close(self) -> None:
        """Ends the run."""
        if self._client is not None:
            try:
                self._client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED))
            except (httpx.HTTPError, ValueError) as error:
                _log.warning("the run could not be ended: %s", error)
            self._detach()
        self._hands.shutdown()

    def _attached(self) -> RuntimeHttpClient:
        """Returns the client of a run that is ours and alive."""
        if self._client is None:
            with self._control() as control:
                self._admit(control)
                started = control.StartRun(StartRunRequest(fab=bundle()))
            self._run = started.run_id
            self._client = self._runtime(RuntimeTokenHttpInterceptor(token=self._token_of_run()))
            self._client.PullTaskInput(PullTaskInputRequest())
            self._beat = time.monotonic()
        elif time.monotonic() - self._beat > _HEARTBEAT_SECONDS:
            if not self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                raise _RunLost("its task has expired")
            self._beat = time.monotonic()
        return self._client

    def _detach(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    def _admit(self, control: ControlHttpClient) -> None:
        """Makes the nodes that the SuperLink knows those of the admitted institutions.

        Raises:
            ConfigurationError: a key that was put out before is to be let in again.
        """
        known = {node.public_key: node for node in control.ListNodes(ListNodesRequest()).nodes_info}
        out = {key for key, node in known.items() if node.unregistered_at}
        for key in known.keys() - out - set(self._keys.values()):
            control.UnregisterNode(UnregisterNodeRequest(node_id=known[key].node_id))
        for name, key in self._keys.items():
            if key in out:
                raise ConfigurationError(f"{name}: its node key was revoked, it needs another one.")
            self._node_ids[name] = (
                known[key].node_id
                if key in known
                else control.RegisterNode(RegisterNodeRequest(public_key=key)).node_id
            )

    def _token_of_run(self) -> str:
        """Returns the token of our run's one task; tasks of strangers are taken and left."""
        method = "/flwr.proto.Runtime/AcquireTask"
        interceptor = SuperExecAuthHttpInterceptor(
            master_secret=self._superlink.secret, protected_methods={method}
        )
        with self._runtime(interceptor) as client:
            for _ in range(_STRANGERS_TASKS):
                taken = client.AcquireTask(
                    AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
                )
                if not taken.token:
                    raise _RunLost("its task was taken by somebody else")
                if taken.task.run_id == self._run:
                    return taken.token
        raise _RunLost("its task does not come")

    def _push(
        self,
        client: RuntimeHttpClient,
        waiting: Waiting,
        requests: Mapping[str, bytes],
        deadline: float,
    ) -> None:
        """Sends what is unsent to the nodes that are there, and notes who has gone."""
        there = self._there(client)
        self._seen |= there
        waiting.note_gone(name for name in requests if name in self._seen - there)
        lifetime = max(deadline - time.monotonic(), _POLL_SECONDS)
        messages = {
            name: self._message(self._node_ids[name], request, lifetime)
            for name, request in waiting.unsent.items()
            if name in there
        }
        if not messages:
            return
        trees = [get_object_tree(message) for message in messages.values()]
        records: dict[str, bytes] = {}
        around: dict[str, bytes] = {}
        for message in messages.values():
            for id_, one in get_all_nested_objects(message).items():
                (records if isinstance(one, ConfigRecord) else around)[id_] = one.deflate()
        for message in messages.values():
            message.content = RecordDict()  # carried as objects
        pushed = client.PushMessages(
            PushAppMessagesRequest(
                messages_list=[message_to_proto(message) for message in messages.values()],
                message_object_trees=trees,
            )
        )
        for objects in (around, records):  # once a record is there, all is
            self._at_once(
                client.PushObject,
                [
                    PushObjectRequest(
                        node=_SELF,
                        run_id=self._run,
                        object_id=id_,
                        object_content=content,
                        session_id=pushed.session_id,
                    )
                    for id_, content in objects.items()
                    if id_ in pushed.objects_to_push
                ],
            )
        for name, id_ in zip(messages, pushed.message_ids, strict=True):
            if id_:  # empty if the node has gone just now
                waiting.sent[id_] = name
                del waiting.unsent[name]

    def _there(self, client: RuntimeHttpClient) -> set[str]:
        """Returns the institutions whose nodes are connected."""
        nodes = {node.node_id for node in client.GetNodes(GetNodesRequest()).nodes}
        return {name for name, node in self._node_ids.items() if node in nodes}

    def _message(self, node: int, request: bytes, lifetime: float) -> Message:
        message = make_message(
            metadata=Metadata(
                run_id=self._run,
                message_id="",
                src_node_id=SUPERLINK_NODE_ID,
                dst_node_id=node,
                reply_to_message_id="",
                group_id="",
                created_at=now().timestamp(),
                ttl=lifetime,
                message_type="query",
            ),
            content=RecordDict({RECORD: ConfigRecord({RECORD: request})}),
        )
        message.metadata.__dict__["_message_id"] = message.object_id
        return message

    def _pull(
        self, client: RuntimeHttpClient, waiting: Waiting, requests: Mapping[str, bytes]
    ) -> bool:
        """Takes the replies that are there; returns whether there was one."""
        if not waiting.sent:
            return False
        pulled = client.PullMessages(PullAppMessagesRequest(message_ids=list(waiting.sent)))
        came: dict[str, tuple[str, ObjectTree]] = {}
        for message, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
            name = waiting.sent.pop(message.metadata.reply_to_message_id, None)
            if name is None:
                continue
            waiting.unsent[name] = requests[name]  # again, unless its reply can be taken now
            if not message.HasField("error"):  # Flower's own: the node is away, the reply is gone
                came[name] = (message.metadata.message_id, tree)
        taken = self._at_once(lambda one: self._taken(client, *one), list(came.values()))
        for name, reply in zip(came, taken, strict=True):
            waiting.replies[name] = reply
            del waiting.unsent[name]
        return bool(came)

    def _taken(self, client: RuntimeHttpClient, message_id: str, tree: ObjectTree) -> bytes:
        """Returns the bytes of a reply, which the SuperLink may forget from then on."""
        reply = self._record(client, tree)
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=_SELF, run_id=self._run, message_object_id=message_id
            )
        )
        return reply

    def _at_once(self, do: Callable[[_T], _R], items: list[_T]) -> list[_R]:
        """Returns what several requests at a time give, in order, once none is under way."""
        under_way = [self._hands.submit(do, one) for one in items]
        wait(under_way)
        return [one.result() for one in under_way]

    def _record(self, client: RuntimeHttpClient, tree: ObjectTree) -> bytes:
        """Returns the bytes of a reply's one record, empty if it has none."""
        while tree.children:  # a message has one set of records, and that has one record
            tree = tree.children[0]
        for _ in range(_OBJECT_TRIES):
            found = client.PullObject(
                PullObjectRequest(node=_SELF, run_id=self._run, object_id=tree.object_id)
            )
            if found.object_available:
                return _value_in(found.object_content)
            time.sleep(_POLL_SECONDS)  # it is being uploaded
        return b""

    def _control(self) -> ControlHttpClient:
        return bounded_client(
            ControlHttpClient.from_server_address(
                self._superlink.address, False, self._superlink.root_certificates.read_bytes(), []
            )
        )

    def _runtime(
        self, interceptor: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor
    ) -> RuntimeHttpClient:
        roots = self._superlink.root_certificates.read_bytes()
        return bounded_client(
            RuntimeHttpClient.from_server_address(
                self._superlink.address, False, roots, [interceptor]
            )
        )


def _value_in(content: bytes) -> bytes:
    """Returns the bytes in an object that is a record of ours, none if it is none."""
    try:
        return value_of_record(content)
    except ProtocolError:  # one institution's node made it: the others are not to suffer
        return b""


def bundle() -> Fab:
    """Returns an application bundle without an application."""
    content = bundle_content()
    return Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)


def _node_key(name: str, text: str) -> bytes:
    """Returns a node's public key as Flower has it."""
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{name}: its node key is no OpenSSH public key.") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise ConfigurationError(f"{name}: expected a node key on the curve P-384.")
    return public_key_to_bytes(key)
