"""Flower between real processes: a SuperLink with TLS and node keys, and long-lived nodes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("flwr")

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushAppMessagesRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.runtime import RuntimeHttpClient

from clients.node_key import load_node_key
from federation.card import Card
from federation.envelope import seal_request
from federation.errors import ConfigurationError, ProtocolError
from federation.sealed import SealedTransport
from server import waiting
from server.flower_driver import FlowerTransport, bundle
from server.superlink import SuperLink
from tests.flower_processes import COORDINATOR, card_of, free_port, start_node, write_certificates

pytestmark = pytest.mark.slow

NAMES = ("bank-1", "bank-2", "bank-3")
DEADLINE_SECONDS = 60.0


@dataclass(kw_only=True)
class Federation:
    directory: Path
    superlink: SuperLink
    cards: dict[str, Card]
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    reported: list[str] = field(default_factory=list)

    def transport(self, deadline_seconds: float = DEADLINE_SECONDS) -> FlowerTransport:
        return FlowerTransport(
            self.superlink,
            nodes={name: card.node for name, card in self.cards.items()},
            deadline_seconds=deadline_seconds,
        )

    def sealed(self, carrier: FlowerTransport) -> SealedTransport:
        def report(name: str, error: ProtocolError) -> None:
            self.reported.append(f"{name}: {error}")

        return SealedTransport(
            carrier=carrier,
            cards=self.cards,
            key=COORDINATOR,
            validity_seconds=600,
            clock=time.time,
            entropy=lambda: os.urandom(32),
            report=report,
        )

    def start(self, name: str) -> None:
        self.nodes[name] = start_node(name, self.directory, self.superlink.address)


@pytest.fixture(scope="module")
def nation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    directory = tmp_path_factory.mktemp("flower")
    write_certificates(directory)
    superlink = SuperLink(
        directory,
        host="127.0.0.1",
        port=free_port(),
        certificate=directory / "server.pem",
        private_key=directory / "server.key",
        root_certificates=directory / "ca.pem",
        entropy=lambda: os.urandom(32),
    )
    found = Federation(
        directory=directory,
        superlink=superlink,
        cards={name: card_of(name, directory) for name in NAMES},
    )
    with superlink:
        try:
            for name in NAMES:
                found.start(name)
            yield found
        finally:
            for node in found.nodes.values():
                node.kill()
                node.wait()


def asks(text: str) -> dict[str, bytes]:
    return {name: f"{text} {name}".encode() for name in NAMES}


def answers(text: str, names: tuple[str, ...] = NAMES) -> dict[str, bytes]:
    return {name: f"{name} heard {text} {name}".encode() for name in names}


def test_bytes_go_to_three_processes_and_back_sealed(nation: Federation) -> None:
    with nation.transport() as carrier:
        transport = nation.sealed(carrier)
        assert transport.exchange(asks("hello")) == answers("hello")  # waits until all are there
        started = time.perf_counter()
        for number in range(3):
            assert transport.exchange(asks(f"round {number}")) == answers(f"round {number}")
        seconds = (time.perf_counter() - started) / 3
        sys.stdout.write(f"\n{seconds:.2f} seconds an exchange with three nodes\n")
        large = {name: os.urandom(3_000_000) for name in NAMES}
        assert transport.exchange(large) == {
            name: name.encode() + b" heard " + message for name, message in large.items()
        }
        assert transport.exchange({"bank-2": b"you only"}) == {"bank-2": b"bank-2 heard you only"}
    assert nation.reported == []
    assert "ERROR" not in (nation.directory / "superlink.log").read_text()


def test_a_killed_node_is_a_missing_reply_and_comes_back(nation: Federation) -> None:
    with nation.transport() as before:  # returns once all are there, whichever test comes first
        assert nation.sealed(before).exchange(asks("hello")) == answers("hello")
    nation.nodes["bank-2"].kill()
    nation.nodes["bank-2"].wait()
    with nation.transport(deadline_seconds=3.0) as carrier:
        there = nation.sealed(carrier).exchange(asks("who is there"))
        assert there == answers("who is there", ("bank-1", "bank-3"))

    nation.start("bank-2")
    with nation.transport() as again:
        assert nation.sealed(again).exchange(asks("and now")) == answers("and now")


def test_a_dead_node_is_waited_for_once_and_asked_again_when_it_is_back(nation: Federation) -> None:
    others = ("bank-1", "bank-3")
    with nation.transport() as carrier:
        transport = nation.sealed(carrier)
        assert transport.exchange(asks("hello")) == answers("hello")
        nation.nodes["bank-2"].kill()
        nation.nodes["bank-2"].wait()
        started = time.monotonic()
        assert transport.exchange(asks("first")) == answers("first", others)
        first = time.monotonic() - started
        started = time.monotonic()
        assert transport.exchange(asks("second")) == answers("second", others)
        second = time.monotonic() - started
        sys.stdout.write(f"\n{first:.1f} seconds the first time, {second:.1f} the second\n")
        assert first < DEADLINE_SECONDS - 15
        assert second < 8
        nation.start("bank-2")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while transport.exchange(asks("back?")) != answers("back?"):
            assert time.monotonic() < deadline


def test_nodes_and_run_outlive_a_killed_superlink(
    nation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 0.0)  # all are new after the loss
    with nation.transport() as carrier:
        transport = nation.sealed(carrier)
        assert transport.exchange(asks("before")) == answers("before")
        process = nation.superlink.process_id
        assert process is not None
        os.kill(process, 9)
        assert transport.exchange(asks("after")) == answers("after")
        assert nation.superlink.process_id not in (None, process)


def test_who_is_not_admitted_is_not_reached_and_comes_in_once_it_is(nation: Federation) -> None:
    cards = {name: card for name, card in nation.cards.items() if name != "bank-3"}
    with FlowerTransport(
        nation.superlink,
        nodes={name: card.node for name, card in cards.items()},
        deadline_seconds=DEADLINE_SECONDS,
    ) as carrier:
        requests = {name: message for name, message in asks("two of us").items() if name in cards}
        assert nation.sealed(carrier).exchange(requests) == answers(
            "two of us", ("bank-1", "bank-2")
        )

    with (
        nation.transport() as refused,
        pytest.raises(ConfigurationError, match="bank-3: its node key was revoked"),
    ):
        refused.exchange(asks("all of us"))
    nation.nodes["bank-3"].terminate()
    assert nation.nodes["bank-3"].wait(30) == 0
    nation.cards["bank-3"] = card_of("bank-3", nation.directory)
    nation.start("bank-3")
    with nation.transport() as again:
        assert nation.sealed(again).exchange(asks("all of us")) == answers("all of us")


def test_a_strangers_run_is_executed_by_nobody(nation: Federation) -> None:
    roots = (nation.directory / "ca.pem").read_bytes()
    with ControlHttpClient.from_server_address(
        nation.superlink.address, False, roots, []
    ) as control:
        assert control.StartRun(StartRunRequest(fab=bundle())).run_id
    with RuntimeHttpClient.from_server_address(
        nation.superlink.address, False, roots, []
    ) as runtime:
        request = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            runtime.AcquireTask(request)
    with nation.transport() as carrier:
        assert nation.sealed(carrier).exchange(asks("still us")) == answers("still us")


def test_what_a_stranger_sends_through_a_superlink_reaches_nobodys_data(
    nation: Federation,
) -> None:
    """Without the secret nothing can be pushed; with it, it arrives as garbage and is refused."""
    roots = (nation.directory / "ca.pem").read_bytes()
    with (
        RuntimeHttpClient.from_server_address(
            nation.superlink.address, False, roots, []
        ) as runtime,
        pytest.raises(httpx.HTTPStatusError, match="401"),
    ):
        runtime.PushMessages(PushAppMessagesRequest())
    stranger = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
    signed = {
        name: seal_request(
            b"hello",
            coordinator=stranger,
            receiver=card,
            expires_at=int(time.time()) + 60,
            entropy=lambda: os.urandom(32),
        ).envelope
        for name, card in nation.cards.items()
    }
    with nation.transport(deadline_seconds=4.0) as carrier:
        for requests in (dict.fromkeys(NAMES, b"hello"), signed):
            assert dict(carrier.exchange(requests)) == {}
    assert all(node.poll() is None for node in nation.nodes.values())
    with nation.transport() as carrier:
        assert nation.sealed(carrier).exchange(asks("still us")) == answers("still us")


def test_a_node_told_to_stop_ends_well(nation: Federation) -> None:
    for node in nation.nodes.values():
        node.terminate()
    assert [node.wait(30) for node in nation.nodes.values()] == [0, 0, 0]


def test_a_superlink_that_cannot_start_says_why(nation: Federation) -> None:
    def other(**changes: object) -> SuperLink:
        settings = {
            "host": "127.0.0.1",
            "port": free_port(),
            "certificate": nation.directory / "server.pem",
            "private_key": nation.directory / "server.key",
            "root_certificates": nation.directory / "ca.pem",
            "entropy": lambda: os.urandom(32),
        }
        return SuperLink(nation.directory, **{**settings, **changes})  # type: ignore[arg-type]

    taken = int(nation.superlink.address.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match="cannot be listened on"):
        other(port=taken).start()
    with pytest.raises(ConfigurationError, match="did not come up"):
        other(private_key=nation.directory / "bank-1.key").start()


def test_a_node_key_that_is_none_says_so(nation: Federation) -> None:
    assert load_node_key(nation.directory / "bank-1.key").key_size == 384
    with pytest.raises(ConfigurationError, match=r"P-384|no OpenSSH"):
        load_node_key(nation.directory / "server.key")
    with pytest.raises(ConfigurationError, match="Cannot read"):
        load_node_key(nation.directory / "nobody.key")
    with pytest.raises(ConfigurationError, match="node key"):
        FlowerTransport(nation.superlink, nodes={"bank-1": "ssh-rsa AAAA"}, deadline_seconds=1.0)
