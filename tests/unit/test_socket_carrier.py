"""The Unix socket of a daemon: what is answered, what is refused, who is heard."""

import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clients import socket_carrier
from clients.socket_carrier import ask, serve_socket
from federation.errors import ConfigurationError, ProtocolError

LARGEST = 3_000_000


def echo(request: bytes) -> bytes:
    if request == b"refuse me":
        raise ProtocolError("This is not for us.")
    return b"heard " + request


@dataclass(kw_only=True)
class Daemon:
    path: Path
    stop: threading.Event = field(default_factory=threading.Event)
    rested: threading.Event = field(default_factory=threading.Event)


@contextmanager
def daemon(path: Path, handle: Callable[[bytes], bytes] = echo) -> Iterator[Daemon]:
    found = Daemon(path=path)
    failed: list[Exception] = []

    def run() -> None:
        try:
            serve_socket(
                path, largest_bytes=LARGEST, handle=handle, idle=found.rested.set, stop=found.stop
            )
        except ConfigurationError as error:
            failed.append(error)
        finally:
            found.rested.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert found.rested.wait(10)  # it listens, and nothing has arrived
    try:
        if failed:
            raise failed[0]
        yield found
    finally:
        found.stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s" / "daemon"


def sent(path: Path, content: bytes) -> bytes:
    """Returns everything that comes back for raw bytes after which nothing more is sent."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        with suppress(ConnectionResetError):  # what it did not read was thrown away
            while part := connection.recv(1000):
                found += part
    return found


def test_bytes_go_in_and_come_back(path, caplog):
    large = bytes(LARGEST)
    with daemon(path):
        assert ask(path, b"hello") == b"heard hello"
        assert ask(path, large) == b"heard " + large
        assert sent(path, struct.pack(">I", 2) + b"hi") == struct.pack(">I", 8) + b"heard hi"
    assert "WARNING" not in caplog.text
    assert not path.exists()


def test_only_its_user_reaches_the_socket(path):
    path.parent.mkdir(mode=0o755)
    with daemon(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_another_user_is_not_heard(path, monkeypatch, caplog):
    own = socket_carrier.os.geteuid()
    heard = []
    monkeypatch.setattr(socket_carrier.os, "geteuid", lambda: own + 1)
    with daemon(path, lambda request: heard.append(request) or b"yes"):
        with pytest.raises((OSError, ProtocolError)):
            ask(path, b"let me in")
        assert not heard
    assert f"belongs to user {own}" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00",
        struct.pack(">I", 0),
        struct.pack(">I", LARGEST + 1),
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", 100) + b"only this",
        struct.pack(">I", 9) + b"refuse me",
    ],
    ids=["nothing", "half a length", "empty", "too large", "garbage", "truncated", "refused"],
)
def test_what_is_no_request_gets_no_reply_and_is_logged(path, content, caplog):
    with daemon(path):
        assert sent(path, content) in (b"", bytes(4))
        assert ask(path, b"still there") == b"heard still there"
    assert "a request without reply" in caplog.text


def test_who_sends_nothing_does_not_hold_the_daemon_for_ever(path, monkeypatch, caplog):
    monkeypatch.setattr(socket_carrier, "_PATIENCE_SECONDS", 0.05)
    with daemon(path), socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        assert ask(path, b"my turn") == b"heard my turn"
    assert "broke off" in caplog.text


def test_who_leaves_before_the_reply_does_no_harm(path, caplog):
    begun, go_on = threading.Event(), threading.Event()

    def slow(request: bytes) -> bytes:
        begun.set()
        assert go_on.wait(10)
        return bytes(LARGEST)

    with daemon(path, slow):
        with socket.socket(socket.AF_UNIX) as leaving:
            leaving.connect(str(path))
            leaving.sendall(struct.pack(">I", 2) + b"hi")
            assert begun.wait(10)
        go_on.set()
        assert len(ask(path, b"hello")) == LARGEST
    assert "broke off" in caplog.text


def test_what_was_begun_is_answered_before_it_stops(path):
    begun, go_on = threading.Event(), threading.Event()
    replies = []

    def slow(request: bytes) -> bytes:
        begun.set()
        assert go_on.wait(10)
        return b"done"

    with daemon(path, slow) as running:
        asking = threading.Thread(target=lambda: replies.append(ask(path, b"hello")))
        asking.start()
        assert begun.wait(10)
        running.stop.set()
        go_on.set()
        asking.join(10)
    assert replies == [b"done"]
    with pytest.raises(OSError, match="No such file"):
        ask(path, b"too late")


def test_the_file_of_a_killed_daemon_is_replaced(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with daemon(path):
        assert ask(path, b"hello") == b"heard hello"


def test_what_is_no_socket_is_not_replaced(path):
    path.parent.mkdir()
    path.write_text("a ledger, say")
    with pytest.raises(ConfigurationError, match="something else than a socket"), daemon(path):
        pass
    assert path.read_text() == "a ledger, say"


def test_a_path_that_no_socket_can_have_is_said_so(tmp_path):
    with pytest.raises(ConfigurationError, match="path short"), daemon(tmp_path / ("x" * 120)):
        pass


def test_a_system_that_does_not_name_the_caller_is_refused(path, monkeypatch):
    monkeypatch.delattr(socket, "SO_PEERCRED")
    with pytest.raises(ConfigurationError, match='set carrier = "node"'), daemon(path):
        pass
