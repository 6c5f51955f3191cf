"""A SuperLink that lies to its own coordinator: replies forged, swapped, old, endless, or none.

The coordinator's carrier may lose what it is told wrongly. It does not crash, does not wait beyond
its deadline, keeps no more than its bounds, and believes only what an institution has sealed.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from flwr.proto.control_pb2 import (
    ListNodesResponse,
    RegisterNodeRequest,
    RegisterNodeResponse,
    StartRunResponse,
)
from flwr.proto.message_pb2 import (
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.runtime_pb2 import (
    AcquireTaskResponse,
    GetNodesResponse,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PullTaskInputResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
    PushTaskOutputResponse,
    SendTaskHeartbeatResponse,
)

from federation.canonical import public_key_of
from federation.card import Card
from federation.carried import value_of_record
from federation.errors import ProtocolError
from federation.sealed import SealedHandler, SealedTransport
from server import bounded_http, flower_driver
from server.flower_driver import FlowerTransport
from tests.flower_processes import COORDINATOR, FEDERATION, card_of, identity_of, write_certificates
from tests.hostile_fleet import Answer, Fleet, nested, record_object

NAMES = ("bank-1", "bank-2", "bank-3")
DEADLINE_SECONDS = 1.5


class Lying(Fleet):
    """A SuperLink of the coordinator's, with nodes that answer at once."""

    def __init__(self, directory: Path, cards: dict[str, Card]) -> None:
        super().__init__(directory)
        self.root_certificates = directory / "ca.pem"
        self.secret = bytes(32)
        self.forge: Callable[[str, bytes], bytes] = lambda _name, reply: reply
        self.twist: Callable[[list[str]], list[str]] = lambda ids: ids
        self.starts = 0
        self._handlers = {
            name: SealedHandler(
                lambda message, name=name: name.encode() + b" heard " + message,
                institution=name,
                federation=FEDERATION,
                identity=identity_of(name),
                coordinator=public_key_of(COORDINATOR),
                clock=time.time,
                entropy=lambda: os.urandom(32),
            )
            for name in cards
        }
        self._names: list[str] = []
        self._asked: dict[str, str] = {}
        self.said: dict[str, bytes] = {}

    def start(self) -> None:
        """It is there already."""
        self.starts += 1

    def _as_flower(self, method: str, body: bytes) -> Answer:
        with self._lock:
            return Answer(self._reply(method, body).SerializeToString())

    def _reply(self, method: str, body: bytes):
        match method:
            case "list-nodes":
                return ListNodesResponse()
            case "register-node":
                RegisterNodeRequest.FromString(body)
                self._names.append(NAMES[len(self._names) % len(NAMES)])
                return RegisterNodeResponse(node_id=1 + (len(self._names) - 1) % len(NAMES))
            case "start-run":
                return StartRunResponse(run_id=5)
            case "acquire-task":
                found = AcquireTaskResponse(token="token")  # noqa: S106
                found.task.run_id = 5
                return found
            case "pull-task-input":
                return PullTaskInputResponse()
            case "get-nodes":
                nodes = GetNodesResponse()
                for number in range(1, 1 + len(NAMES)):
                    nodes.nodes.add(node_id=number)
                return nodes
            case "push-messages":
                return self._pushed(PushAppMessagesRequest.FromString(body))
            case "push-object":
                self._object_came(PushObjectRequest.FromString(body))
                return PushObjectResponse(stored=True)
            case "pull-messages":
                return self._pulled_replies(PullAppMessagesRequest.FromString(body))
            case "pull-object":
                number = PullObjectRequest.FromString(body).object_id
                content = record_object(self.said.get(number, b""))
                return PullObjectResponse(
                    object_found=True, object_available=True, object_content=content
                )
            case "send-task-heartbeat":
                return SendTaskHeartbeatResponse(success=True)
            case _:
                return PushTaskOutputResponse()

    def _pushed(self, request: PushAppMessagesRequest) -> PushAppMessagesResponse:
        found = PushAppMessagesResponse(session_id="session")
        trees = list(request.message_object_trees)
        for message, tree in zip(request.messages_list, request.message_object_trees, strict=True):
            number = message.metadata.message_id
            leaf = tree
            while leaf.children:
                leaf = leaf.children[0]
            self._asked[leaf.object_id] = f"{NAMES[message.metadata.dst_node_id - 1]} {number}"
            found.message_ids.append(number)
        while trees:
            tree = trees.pop()
            found.objects_to_push.append(tree.object_id)
            trees.extend(tree.children)
        return found

    def _object_came(self, request: PushObjectRequest) -> None:
        if request.object_id in self._asked:
            name, number = self._asked[request.object_id].split()
            envelope = value_of_record(request.object_content)
            self.said[number] = self.forge(name, self._handlers[name](envelope))

    def _pulled_replies(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        found = PullAppMessagesResponse()
        for number in self.twist([one for one in request.message_ids if one in self.said]):
            metadata = found.messages_list.add().metadata
            metadata.message_id, metadata.reply_to_message_id = f"reply to {number}", number
            found.message_object_trees.append(ObjectTree(object_id=number))
        return found


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Card]]:
    directory = tmp_path_factory.mktemp("office")
    write_certificates(directory)
    return directory, {name: card_of(name, directory) for name in NAMES}


@pytest.fixture
def lying(office: tuple[Path, dict[str, Card]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Lying]:
    for name, value in (
        ("_POLL_SECONDS", 0.01),
        ("_AGAIN_SECONDS", 0.05),
        ("_OBJECT_TRIES", 3),
        ("_STRANGERS_TASKS", 20),
    ):
        monkeypatch.setattr(flower_driver, name, value)
    with Lying(*office) as found:
        yield found


def asked(
    lying: Lying, cards: dict[str, Card], *texts: str
) -> tuple[list[dict[str, bytes]], list[str]]:
    """Returns what came of each exchange, and what was reported; none of them takes too long."""
    reported: list[str] = []

    def report(name: str, error: ProtocolError) -> None:
        reported.append(f"{name}: {error}")

    found = []
    with FlowerTransport(
        lying,  # type: ignore[arg-type]
        nodes={name: card.node for name, card in cards.items()},
        deadline_seconds=DEADLINE_SECONDS,
    ) as carrier:
        transport = SealedTransport(
            carrier=carrier,
            cards=cards,
            key=COORDINATOR,
            validity_seconds=600,
            clock=time.time,
            entropy=lambda: os.urandom(32),
            report=report,
        )
        for text in texts:
            started = time.monotonic()
            found.append(dict(transport.exchange(dict.fromkeys(NAMES, text.encode()))))
            assert time.monotonic() - started < 4 * DEADLINE_SECONDS
    return found, reported


def honest(text: str, *names: str) -> dict[str, bytes]:
    return {name: f"{name} heard {text}".encode() for name in names or NAMES}


def test_left_alone_it_carries(lying: Lying, office: tuple[Path, dict[str, Card]]) -> None:
    assert asked(lying, office[1], "one", "two") == ([honest("one"), honest("two")], [])


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "one bit": lambda reply: reply[:-1] + bytes([reply[-1] ^ 1]),
    "cut": lambda reply: reply[: len(reply) // 2],
    "longer": lambda reply: reply + b"\0",
    "nothing": lambda _: b"",
    "rubbish": lambda _: b"\x91" * 100_000,
    "huge lengths": lambda _: b"\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_reply_is_a_missing_one_and_is_reported(
    lying: Lying, office: tuple[Path, dict[str, Card]], kind: str
) -> None:
    lying.forge = lambda name, reply: FORGERIES[kind](reply) if name == "bank-2" else reply
    found, reported = asked(lying, office[1], "hello")
    assert found == [honest("hello", "bank-1", "bank-3")]
    assert [one.partition(":")[0] for one in reported] == ["bank-2"]


def test_replies_that_are_swapped_are_nobodys(
    lying: Lying, office: tuple[Path, dict[str, Card]]
) -> None:
    kept: dict[str, bytes] = {}

    def swap(name: str, reply: bytes) -> bytes:
        kept[name] = reply
        return kept["bank-1"] if name == "bank-2" else reply

    lying.forge = swap
    found, reported = asked(lying, office[1], "hello")
    assert "bank-2" not in found[0]
    assert len(reported) == 1


def test_a_reply_of_an_older_round_is_none(
    lying: Lying, office: tuple[Path, dict[str, Card]]
) -> None:
    first: dict[str, bytes] = {}
    lying.forge = first.setdefault
    found, reported = asked(lying, office[1], "one", "two")
    assert found == [honest("one"), {}]
    assert len(reported) == 3
    assert all("another" in one for one in reported)


def test_a_reply_counts_once(lying: Lying, office: tuple[Path, dict[str, Card]]) -> None:
    lying.twist = lambda ids: [*ids, *ids, "ff" * 32]
    found, reported = asked(lying, office[1], "one", "two")
    assert found == [honest("one"), honest("two")]
    assert reported == []


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(2**20)


ANSWERS: dict[str, Callable[[], Answer]] = {
    "malformed": lambda: Answer(b"\xff" * 40),
    "empty": Answer,
    "an error": lambda: Answer(b"no", status=500),
    "forbidden": lambda: Answer(b"no", status=403),
    "a redirect": lambda: Answer(status=307, headers={"location": "http://127.0.0.1:9/internal"}),
    "endless": lambda: Answer(endless()),
    "deep": lambda: Answer(b"\x1a\x00" + nested(10_000)),
}
PATHS = (
    "list-nodes", "register-node", "start-run", "acquire-task", "pull-task-input", "get-nodes",
    "push-messages", "push-object", "pull-messages", "pull-object", "confirm-message-received",
    "push-task-output",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_is_none_ends_nothing_and_is_waited_for_until_the_deadline(
    lying: Lying,
    office: tuple[Path, dict[str, Card]],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setattr(bounded_http, "_LARGEST_OBJECT", 2**24)
    monkeypatch.setattr("tests.adversarial.test_hostile_driver.DEADLINE_SECONDS", 0.5)
    for kind, make in ANSWERS.items():
        lying.says[path] = lambda _, make=make: make()
        found, _ = asked(lying, office[1], "hello")
        assert found[0].items() <= honest("hello").items(), kind
    lying.says.clear()
    assert asked(lying, office[1], "hello")[0] == [honest("hello")]


def test_tasks_of_strangers_without_end_are_not_taken_without_end(
    lying: Lying, office: tuple[Path, dict[str, Card]]
) -> None:
    task = AcquireTaskResponse(token="token")  # noqa: S106  a stranger's
    task.task.run_id = 99
    lying.says["acquire-task"] = lambda _: Answer(task.SerializeToString())
    assert asked(lying, office[1], "hello")[0] == [{}]


def test_one_node_that_sends_no_record_takes_nothing_from_the_others(
    lying: Lying, office: tuple[Path, dict[str, Card]]
) -> None:
    def say(body: bytes) -> Answer | None:
        number = PullObjectRequest.FromString(body).object_id
        own = [leaf for leaf, to in lying._asked.items() if to == f"bank-1 {number}"]
        if not own:
            return None
        found = PullObjectResponse(object_available=True, object_content=b"\0\xff\xff")
        return Answer(found.SerializeToString())

    lying.says["pull-object"] = say
    found, reported = asked(lying, office[1], "one", "two")
    assert found == [honest("one", "bank-2", "bank-3"), honest("two", "bank-2", "bank-3")]
    assert [one.partition(":")[0] for one in reported] == ["bank-1", "bank-1"]
    assert lying.asked["start-run"] == 1
