"""A real SuperLink and real nodes with a front between them: ours, and nginx as it is deployed."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

pytest.importorskip("flwr")

import httpx
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
)
from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    GetNodesRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from clients.node_key import load_node_key
from federation.sealed import SealedTransport
from server.flower_driver import FlowerTransport, bundle
from server.superlink import SuperLink
from tests.flower_processes import COORDINATOR, card_of, free_port, start_node
from tests.fronts import PATIENCE_SECONDS, Place, place, renewed, write_certificates

pytestmark = pytest.mark.slow

NAMES = ("bank-1", "bank-2")


@dataclass(kw_only=True)
class Fronted:
    front: Place
    superlink: SuperLink
    transport: SealedTransport
    nodes: dict[str, subprocess.Popen[bytes]]

    def client(self, kind, address, interceptors=()):
        roots = (self.front.directory / "ca.pem").read_bytes()
        return kind.from_server_address(address, False, roots, list(interceptors))


@pytest.fixture(scope="module", params=["own", "nginx"])
def fronted(request, tmp_path_factory) -> Iterator[Fronted]:
    directory = tmp_path_factory.mktemp("fronted")
    authority = write_certificates(directory)
    cards = {name: card_of(name, directory) for name in NAMES}
    keys = [card.node for card in cards.values()]
    server = directory / "superlink" / "server.pem"
    superlink = SuperLink(
        directory / "superlink",
        host="127.0.0.1",
        port=free_port(),
        certificate=server,
        private_key=server,
        root_certificates=directory / "superlink" / "ca.pem",
        entropy=lambda: os.urandom(32),
    )
    port = int(superlink.address.rpartition(":")[2])
    with (
        superlink,
        place(request.param, directory, nodes=keys, superlink_port=port) as front,
        FlowerTransport(
            superlink,
            nodes={name: card.node for name, card in cards.items()},
            deadline_seconds=60.0,
        ) as carrier,
    ):
        front.authority = authority
        nodes = {name: start_node(name, directory, front.address) for name in NAMES}
        try:
            yield Fronted(
                front=front,
                superlink=superlink,
                transport=SealedTransport(
                    carrier=carrier,
                    cards=cards,
                    key=COORDINATOR,
                    validity_seconds=600,
                    clock=time.time,
                    entropy=lambda: os.urandom(32),
                    report=lambda name, error: print(f"{name}: {error}"),  # noqa: T201
                ),
                nodes=nodes,
            )
        finally:
            for node in nodes.values():
                node.kill()
                node.wait()


def asks(message: bytes) -> dict[str, bytes]:
    return dict.fromkeys(NAMES, message)


def answers(message: bytes) -> dict[str, bytes]:
    return {name: name.encode() + b" heard " + message for name in NAMES}


def test_nodes_work_through_the_front(fronted):
    assert fronted.transport.exchange(asks(b"hello")) == answers(b"hello")
    large = os.urandom(5_000_000)
    assert fronted.transport.exchange(asks(large)) == answers(large)
    started = time.perf_counter()
    for number in range(3):
        message = f"round {number}".encode()
        assert fronted.transport.exchange(asks(message)) == answers(message)
    sys.stdout.write(f"\n{(time.perf_counter() - started) / 3:.2f} seconds an exchange\n")


def test_a_certificate_is_renewed_while_they_exchange(fronted):
    """A reply that is lost with a connection is asked for once more: its request was seen before,
    so that a second delivery of the same gets an empty one."""
    before = fronted.front.serial()
    heard: list[bool] = []

    def exchange() -> None:
        for number in range(6):
            message = f"{number}".encode()
            found = dict(fronted.transport.exchange(asks(message)))
            missing = [name for name in NAMES if name not in found]
            found |= fronted.transport.exchange(dict.fromkeys(missing, message)) if missing else {}
            heard.append(found == answers(message))

    exchanges = threading.Thread(target=exchange)
    exchanges.start()
    renewed(fronted.front)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while fronted.front.serial() == before:
        assert time.monotonic() < deadline
    exchanges.join()
    assert heard == [True] * 6


def test_a_stranger_with_the_authoritys_certificate_reaches_neither_control_nor_runtime(fronted):
    assert fronted.transport.exchange(asks(b"a run is there")) == answers(b"a run is there")
    address = fronted.front.address
    with fronted.client(ControlHttpClient, address) as control:
        for call, message in (
            (control.StartRun, StartRunRequest(fab=bundle())),
            (control.ListRuns, ListRunsRequest()),
            (control.ListNodes, ListNodesRequest()),
            (control.RegisterNode, RegisterNodeRequest(public_key=b"mine")),
        ):
            with pytest.raises(httpx.HTTPStatusError, match="404"):
                call(message)
    with fronted.client(RuntimeHttpClient, address) as runtime:
        for call, message in (
            (runtime.AcquireTask, AcquireTaskRequest(supported_task_types=["flwr-serverapp"])),
            (runtime.PullTaskInput, PullTaskInputRequest()),
            (runtime.GetNodes, GetNodesRequest()),
            (runtime.PullMessages, PullAppMessagesRequest()),
        ):
            with pytest.raises(httpx.HTTPStatusError, match="404"):
                call(message)
    key = load_node_key(fronted.front.directory / "bank-1.key")
    with (
        fronted.client(
            FleetHttpClient, address, [NodeAuthHttpInterceptor(key, key.public_key())]
        ) as fleet,
        pytest.raises(httpx.HTTPStatusError, match="404"),
    ):
        fleet.RegisterNode(RegisterNodeFleetRequest(public_key=b"mine"))
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        fronted.client(ControlHttpClient, fronted.superlink.address).ListRuns(ListRunsRequest())
    assert fronted.transport.exchange(asks(b"still us")) == answers(b"still us")


def test_nodes_outlive_a_killed_superlink_behind_the_front(fronted):
    process = fronted.superlink.process_id
    assert process is not None
    os.kill(process, 9)
    assert fronted.transport.exchange(asks(b"after")) == answers(b"after")


def test_nodes_end_well(fronted):
    for node in fronted.nodes.values():
        node.terminate()
    assert [node.wait(30) for node in fronted.nodes.values()] == [0, 0]
