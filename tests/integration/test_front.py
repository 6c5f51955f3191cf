"""The front, and the nginx that is deployed in its place: what passes, what not, what is cut."""

import datetime as dt
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from cryptography.hazmat.primitives.asymmetric import ec

from clients import flower_node
from federation.errors import ConfigurationError
from server import front_process
from server.certificates import days_left
from server.front import PATHS
from server.front_process import LARGEST_BODY
from tests.flower_processes import CHECKOUT, free_port
from tests.fronts import (
    HOST,
    NODE_KEY,
    PATIENCE_SECONDS,
    PULL,
    PUSH,
    Place,
    head,
    node_headers,
    own_front,
    place,
    renewed,
    request,
    write_certificates,
)

pytestmark = pytest.mark.slow

KNOWN = {path.decode() for path in PATHS}
FORBIDDEN = "/v1/control/start-run"
STRANGER = ec.derive_private_key(8, ec.SECP384R1())


@pytest.fixture(scope="module", params=["own", "nginx"])
def front(request, tmp_path_factory) -> Iterator[Place]:
    with place(request.param, tmp_path_factory.mktemp("front")) as found:
        yield found


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Iterator[Place]:
    with place("own", tmp_path_factory.mktemp("own")) as found:
        yield found


def status_of(heard: bytes) -> int:
    """Returns the first status in what was heard, 0 if the connection was just cut."""
    return int(heard.split(b" ", 2)[1]) if heard.startswith(b"HTTP/1.") else 0


def wait_until(holds) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_node_asks_for_passes_with_the_headers_of_a_node_and_no_others(front):
    front.superlink.seen.clear()
    extra = {"cookie": "a=b", "x_forwarded_for": "10.0.0.1", "flwr_task_token": "stolen"}
    for path in sorted(KNOWN):
        assert front.ask(path, b"body", content_type="application/protobuf", **extra) == 200
    assert front.superlink.targets == sorted(KNOWN)
    for _, headers, size in front.superlink.seen:
        assert size == 4
        assert headers["content-type"] == "application/protobuf"
        assert {"flwr-public-key", "flwr-timestamp", "flwr-signature"} <= set(headers)
        assert not {"cookie", "x-forwarded-for", "flwr-task-token"} & set(headers)


def test_an_answer_comes_back_without_what_says_who_made_it(own):
    heard = own.say(request(PULL, b"12345"))
    assert heard.endswith(b"\r\n\r\n5 bytes")
    assert b"flower" not in heard
    assert b"server:" not in heard.lower()


def test_a_refusal_is_the_end_of_its_connection(own):
    begun = head(f"POST {FORBIDDEN} HTTP/1.1", content_length="100") + b"half"
    assert b"\r\nconnection: close\r\n" in own.say(begun)


TRICKS = [
    FORBIDDEN,
    "/v1/runtime/acquire-task",
    "/v1/control/list-nodes",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/",
    "/docs",
    "/openapi.json",
    "/health",
    "/v1/fleet",
    "/v1/fleet/",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "/v1/fleet/..%2fcontrol/start-run",
    "/v1/fleet/%2e%2e%2fcontrol%2fstart-run",
    "/v1/fleet/%252e%252e/control/start-run",
    "/v1/fleet/..;/control/start-run",
    "/v1/fleet/..\\control\\start-run",
    "/v1/fleet/pull-messages/../../control/start-run",
    "/v1/fleet/pull-messages/..%2f..%2fcontrol/start-run",
    "/v1/control/start-run/../../fleet/pull-messages",
    "/v1/control/start-run%2f..%2f..%2ffleet/pull-messages",
    "//v1/control/start-run",
    "/v1//control/start-run",
    "/v1//fleet/pull-messages",
    "/./v1/control/start-run",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages?path=/v1/control/start-run",
    "/v1/fleet/pull-messages#/../../control/start-run",
    "/v1/fleet/pull-messages%00",
    "/v1/fleet/pull-messages%0d%0aX:%20y",
    "/v1/fleet/pull-messages%20HTTP/1.1",
    "/v1/fleet%2fpull-messages",
    "/v1/%66leet/pull-messages",
    "/v1/control%2fstart-run",
    "/%76%31/control/start-run",
    f"http://{HOST}/v1/control/start-run",
    f"https://{HOST}:1/v1/control/start-run",
    "http://v1/fleet/pull-messages/../../control/start-run",
    "https:/v1/control/start-run",
    "v1/control/start-run",
    "*",
    f"{HOST}:443",
    "/v1/control/start-run;/v1/fleet/pull-messages",
]


def test_no_way_of_writing_a_path_reaches_another_one(front):
    front.superlink.seen.clear()
    for target in TRICKS:
        heard = front.say(request(target, b"body", connection="close"))
        assert status_of(heard) in {0, 400, 404}, target
    assert front.superlink.seen == []


def test_other_methods_upgrades_and_tunnels_reach_nothing(front):
    front.superlink.seen.clear()
    for line in (
        f"GET {PULL} HTTP/1.1",
        f"HEAD {PULL} HTTP/1.1",
        f"OPTIONS {PULL} HTTP/1.1",
        f"PUT {PULL} HTTP/1.1",
        f"TRACE {PULL} HTTP/1.1",
        f"post {PULL} HTTP/1.1",
        f"CONNECT {HOST}:443 HTTP/1.1",
        f"CONNECT {PULL} HTTP/1.1",
        "PRI * HTTP/2.0",
        f"POST {PULL}",
        f"POST  {FORBIDDEN}  HTTP/1.1",
        f"POST {PULL} {FORBIDDEN} HTTP/1.1",
    ):
        heard = front.say(head(line, content_length="0"))
        assert not 200 <= status_of(heard) < 400, line
    for upgrade in ({"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c"},
                    {"connection": "upgrade", "upgrade": "websocket"}):  # fmt: skip
        assert status_of(front.say(request(PULL, b"", **upgrade))) in {0, 400}
    assert front.superlink.seen == []


HIDDEN = head(f"POST {FORBIDDEN} HTTP/1.1", content_length="0")


def test_no_second_request_is_smuggled_in_the_first(front):
    front.superlink.seen.clear()
    chunked = b"0\r\n\r\n" + HIDDEN
    for framing in (
        "content-length: 0\r\ntransfer-encoding: chunked",
        f"content-length: {len(chunked)}\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked",
        f"content-length: {len(chunked)}\r\ntransfer-encoding: xchunked",
        f"content-length: {len(chunked)}\r\ntransfer-encoding: chunked, identity",
        f"content-length: {len(chunked)}\r\ntransfer-encoding:\tchunked",
        f"content-length: {len(chunked)}\r\ntransfer-encoding : chunked",
        f"content-length: {len(chunked)}\r\n transfer-encoding: chunked",
        f"content-length: {len(chunked)}\r\nx: y\ntransfer-encoding: chunked",
        f"content-length: 0\r\ncontent-length: {len(HIDDEN)}",
        f"content-length: {len(HIDDEN)}\r\ncontent-length: 0",
        f"content-length: 0, {len(HIDDEN)}",
        "content-length: +0",
        "content-length: -1",
        "content-length: 0x0",
        "content-length: 0\r\nexpect: 100-continue",
        "content-length: 99999999999999999999999999",
        "connection: content-length\r\ncontent-length: 0",
        "connection: flwr-signature, close\r\ncontent-length: 0",
    ):
        first = head(f"POST {PULL} HTTP/1.1")[:-2] + framing.encode() + b"\r\n\r\n"
        heard = front.say(first + (chunked if b"ransfer" in first else HIDDEN))
        assert b"ransfer" not in first or not 200 <= status_of(heard) < 300, framing
    assert set(front.superlink.targets) <= {PULL}
    assert front.say(request(PULL, b"one") + HIDDEN).count(b"HTTP/1.1 ") == 2  # 200, then 404
    assert set(front.superlink.targets) == {PULL}


def test_a_hidden_request_would_be_noticed(own):
    """The SuperLink of these tests sees what a front lets through."""
    with socket.create_connection(own.superlink.server_address) as plain:
        import ssl

        trusting = ssl.create_default_context(cafile=own.directory / "superlink" / "ca.pem")
        with trusting.wrap_socket(plain, server_hostname=HOST) as connection:
            connection.sendall(HIDDEN)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert own.superlink.targets[-1] == FORBIDDEN


def test_what_is_too_large_is_refused_before_it_is_read(front):
    front.superlink.seen.clear()
    announced = head(f"POST {PUSH} HTTP/1.1", content_length=str(LARGEST_BODY + 2**21))
    assert status_of(front.say(announced)) == 413
    announced = head(f"POST {PULL} HTTP/1.1", content_length=str(2**16 + 1))
    assert status_of(front.say(announced)) == 413
    for large in (
        request(PULL, x_large="x" * 100_000),
        head(f"POST {PULL} HTTP/1.1", **{f"x-{n}": "y" * 80 for n in range(1000)}),
        request("/v1/fleet/" + "x" * 100_000),
    ):
        assert status_of(front.say(large)) in {0, 400, 404, 414, 431}
    assert front.superlink.seen == []


def test_a_large_message_passes_in_small_pieces(front):
    front.superlink.seen.clear()
    body = os.urandom(2**20) * 48
    before = peak_megabytes(front.process_id())
    assert front.ask(PUSH, body) == 200
    assert [(target, size) for target, _, size in front.superlink.seen] == [(PUSH, len(body))]
    assert peak_megabytes(front.process_id()) - before < 16


def peak_megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        pytest.skip("this system does not say how much memory a process has")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


def test_who_has_no_node_key_gets_nothing_through(front):
    front.superlink.seen.clear()
    nobody = dict.fromkeys(node_headers(), "")
    assert front.ask(PULL, b"body", **nobody) == 401
    assert front.superlink.seen == []


def test_who_is_not_admitted_gets_nothing_through_nor_do_others_in_an_admitted_name(own):
    own.superlink.seen.clear()
    assert own.ask(PULL, b"body", **node_headers(STRANGER)) == 401
    large = {"content_length": str(2**17)}
    line = f"POST {PUSH} HTTP/1.1"
    stolen = {**node_headers(STRANGER), "flwr-public-key": node_headers()["flwr-public-key"]}
    for claim in (
        node_headers(STRANGER),
        stolen,
        node_headers(age_seconds=400),
        node_headers(age_seconds=-400),
        {**node_headers(), "flwr-signature": "?"},
        {**node_headers(), "flwr-timestamp": "yesterday"},
        {**node_headers(), "flwr-timestamp": dt.datetime.now().isoformat()},
    ):
        assert status_of(own.say(head(line, **large, **claim))) == 401
    assert own.superlink.seen == []
    assert own.ask(PUSH, bytes(2**17), **node_headers(age_seconds=200)) == 200


def test_plain_text_and_old_protocols_are_not_answered(front):
    import ssl

    with socket.create_connection((HOST, front.port), timeout=5) as plain:
        plain.sendall(request(PULL))
        heard = plain.recv(1000)
    assert b" 200 " not in heard
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(front.directory / "ca.pem")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    plain = socket.create_connection((HOST, front.port), timeout=5)
    with plain, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(plain, server_hostname=HOST)


def test_a_superlink_that_is_away_is_a_bad_gateway_until_it_is_back(tmp_path):
    write_certificates(tmp_path)
    port = free_port()
    for kind in ("own", "nginx"):
        with place(kind, tmp_path, superlink_port=port) as front:
            assert front.ask(PULL, b"body") == 502


def test_a_node_that_hears_of_a_bad_gateway_is_still_the_same_node(own, tmp_path, monkeypatch):
    monkeypatch.setattr(flower_node, "_RECONNECT_SECONDS", 0.01)
    stop = threading.Event()
    statuses = [502, 503, 504, 401]

    def answer(target: str, size: int) -> tuple[int, bytes]:
        if target != PULL:
            return 200, b""
        if not statuses:
            stop.set()
        return statuses.pop(0) if statuses else 200, b""

    monkeypatch.setattr(own.superlink, "answer", answer)
    own.superlink.seen.clear()
    flower_node.serve(
        own.address,
        root_certificates=own.directory / "ca.pem",
        node_key=NODE_KEY,
        handle=bytes,
        idle=lambda: None,
        stop=stop,
    )
    activate, deactivate = "/v1/fleet/activate-node", "/v1/fleet/deactivate-node"
    asked = [target for target in own.superlink.targets if "heartbeat" not in target]
    assert asked == [activate, *[PULL] * 4, activate, PULL, deactivate]


HASTY = (
    "-c",
    "from server import front, front_connections; front._PAUSE_SECONDS = 1.0; "
    "front_connections.HEAD_SECONDS = 1.0; front_connections._CONNECTIONS_OF_ONE = 8; "
    "front._KEEP_SECONDS = 1; front._WHOLE_SECONDS = 4.0; front.HEAD_SECONDS = 1.0; "
    "front.main()",
)


def seconds_until_cut(front: Place, sent: bytes, drops: bytes = b"") -> float:
    """Returns how long a connection lasts that sends this, and then drop after drop."""
    started = time.monotonic()
    try:
        with front.connect() as connection:
            connection.sendall(sent)
            connection.settimeout(0.2)
            while time.monotonic() < started + PATIENCE_SECONDS:
                try:
                    if not connection.recv(65536):
                        break
                except TimeoutError:
                    connection.sendall(drops)
    except OSError:
        pass
    return time.monotonic() - started


@pytest.mark.parametrize("kind", ["own", "nginx"])
def test_the_slow_are_cut(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(front_process, "_COMMAND", HASTY)
    with place(kind, tmp_path, seconds="1s;") as front, ThreadPoolExecutor() as pool:
        begun = head(f"POST {PULL} HTTP/1.1", content_length="100") + b"half"
        cuts = {
            "nothing": pool.submit(seconds_until_cut, front, b""),
            "half a head": pool.submit(seconds_until_cut, front, begun[:60]),
            "a head, letter by letter": pool.submit(seconds_until_cut, front, begun[:60], b"x"),
            "another head, letter by letter": pool.submit(
                seconds_until_cut, front, request(PULL) + begun[:60], b"x"
            ),
            "half a body": pool.submit(seconds_until_cut, front, begun),
            "an idle connection": pool.submit(seconds_until_cut, front, request(PULL)),
            "a refusal": pool.submit(seconds_until_cut, front, request("/"), b"x"),
        }
        took = {name: cut.result() for name, cut in cuts.items()}
        assert all(seconds < 4.0 for seconds in took.values()), took
        assert front.ask(PULL, b"prompt") == 200


def test_no_message_lasts_longer_than_it_may_and_no_address_has_too_many_connections(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(front_process, "_COMMAND", HASTY)
    with place("own", tmp_path) as front:
        endless = head(f"POST {PULL} HTTP/1.1", content_length="60000")
        assert 3.5 < seconds_until_cut(front, endless, b"x") < 8.0
        held = [front.connect() for _ in range(8)]
        assert front.say(request(PULL)) == b""
        for connection in held:
            connection.close()
        wait_until(lambda: status_of(front.say(request(PULL))) == 200)


def test_a_new_certificate_is_shown_without_cutting_what_is_under_way(front):
    before = front.serial()
    body = os.urandom(2**17)
    with front.connect() as connection:
        sent = request(PUSH, body)
        connection.sendall(sent[:70_000])
        renewed(front)
        wait_until(lambda: front.serial() != before)
        connection.sendall(sent[70_000:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_file_that_is_no_certificate_leaves_the_one_before_in_use(own):
    before = own.serial()
    good = (own.directory / "server.pem").read_bytes()
    (own.directory / "server.pem").write_bytes(b"half of a certificate")
    wait_until(lambda: "still is" in own.log())
    assert own.serial() == before
    (own.directory / "server.pem").write_bytes(good)
    renewed(own)
    wait_until(lambda: own.serial() != before)


def test_a_front_that_died_is_started_again_in_its_place(own):
    first = own.process_id()
    os.kill(first, signal.SIGKILL)
    assert own.ask(PULL, b"patience") == 200
    assert own.process_id() not in (None, first)


_PARENT = """
import sys, time
from pathlib import Path
from tests.fronts import own_front
with own_front(Path(sys.argv[1]), int(sys.argv[2]), 1, []) as front:
    print(front.process_id, flush=True)
    time.sleep(600)
"""


def test_a_front_dies_with_its_coordinator_however_that_ends(tmp_path):
    write_certificates(tmp_path)
    port = free_port()
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path), str(port)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    with parent:
        assert parent.stdout is not None
        front = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{front}").exists() or is_dead(front))
    with own_front(tmp_path, port, 1, []):  # its place is free
        pass


def is_dead(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_front_ends_while_messages_are_under_way(tmp_path):
    with place("own", tmp_path) as front:
        begun = head(f"POST {PULL} HTTP/1.1", content_length="100") + b"half"
        threads = [threading.Thread(target=front.say, args=(begun,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        started = time.monotonic()
    assert time.monotonic() - started < 15.0


def test_what_was_refused_is_counted_in_the_log_and_not_told_one_by_one(tmp_path):
    with place("own", tmp_path) as front:
        for _ in range(20):
            front.say(request(FORBIDDEN))
        front.say(request(PULL, **node_headers(STRANGER)))
        front.say(b"what is this?\r\n\r\n")
    (line,) = front.log().splitlines()
    assert line.endswith("refused lately: 401: 1, 404: 20")


def test_a_front_that_cannot_start_says_why(tmp_path):
    write_certificates(tmp_path)
    assert days_left(tmp_path / "server.pem", dt.datetime.now(dt.UTC)) in {364, 365}
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match="cannot be listened on"):
            own_front(tmp_path, port, 1, []).start()
    (tmp_path / "server.pem").write_bytes(b"")
    front = own_front(tmp_path, free_port(), 1, [])
    with pytest.raises(ConfigurationError, match=r"did not come up.*front\.log"):
        front.start()
    with pytest.raises(ConfigurationError, match="no OpenSSH public key"):
        own_front(tmp_path, free_port(), 1, ["key"])
