"""A stock `flower-supernode` between a real SuperLink and a daemon behind its socket."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from clients.socket_carrier import serve_socket
from federation.canonical import public_key_of
from federation.card import Card
from federation.envelope import LARGEST_ENVELOPE
from federation.sealed import SealedHandler, SealedTransport
from server.flower_driver import FlowerTransport
from server.superlink import SuperLink
from tests.flower_processes import (
    CHECKOUT,
    COORDINATOR,
    FEDERATION,
    card_of,
    free_port,
    identity_of,
    write_certificates,
)

BANK = "bank-1"
_AS_A_SUPERNODE_DOES = """
import hashlib, io, zipfile
from flwr.cli.install import install_from_fab
from flwr.clientapp.utils import get_load_client_app_fn
from server.bundle import bundle_content

code = b"print('foreign code runs'); from flwr.clientapp import ClientApp; app = ClientApp()"
sent = {"clients/__init__.py": b"", "clients/flower_app.py": code}
with zipfile.ZipFile(io.BytesIO(bundle_content())) as ours:
    sent["pyproject.toml"] = ours.read("pyproject.toml")
lines = [f"{name},{hashlib.sha256(one).hexdigest()},{len(one) * 8}" for name, one in sent.items()]
archive = io.BytesIO()
with zipfile.ZipFile(archive, "w") as bundle:
    for name, one in {**sent, ".info/CONTENT": "\\n".join(lines).encode()}.items():
        bundle.writestr(name, one)
content = archive.getvalue()
install_from_fab(content, skip_prompt=True)
load = get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
load("fedscore/fedscore", "1.0.0", hashlib.sha256(content).hexdigest())
"""


@contextmanager
def supernode(directory: Path, address: str, socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yields the command that the documentation of `clients.flower_app` gives."""
    tools = Path(sys.executable).parent
    home = directory / "flower-home"
    with (directory / "supernode.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(tools / "flower-supernode"), "--superlink", address),
                *("--root-certificates", str(directory / "ca.pem")),
                *("--auth-supernode-private-key", str(directory / f"{BANK}.key")),
                *("--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(free_port())),
                *("--node-config", f'socket="{socket}"'),
            ],
            env={
                **os.environ,
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "FLWR_HOME": str(home),
                "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(CHECKOUT),
            },
            cwd=directory,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def daemon(socket: Path) -> Iterator[list[bytes]]:
    """Yields what a daemon behind its socket has opened; it echoes."""
    opened: list[bytes] = []

    def handle(message: bytes) -> bytes:
        opened.append(message)
        return b"heard " + message

    stop = threading.Event()
    handler = SealedHandler(
        handle,
        institution=BANK,
        federation=FEDERATION,
        identity=identity_of(BANK),
        coordinator=public_key_of(COORDINATOR),
        clock=time.time,
        entropy=lambda: os.urandom(32),
    )
    thread = threading.Thread(
        target=lambda: serve_socket(
            socket, largest_bytes=LARGEST_ENVELOPE, handle=handler, idle=lambda: None, stop=stop
        )
    )
    thread.start()
    try:
        yield opened
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def sealed(carrier: FlowerTransport, card: Card, reported: list[str]) -> SealedTransport:
    return SealedTransport(
        carrier=carrier,
        cards={BANK: card},
        key=COORDINATOR,
        validity_seconds=600,
        clock=time.time,
        entropy=lambda: os.urandom(32),
        report=lambda name, error: reported.append(f"{name}: {error}"),
    )


@pytest.mark.slow
def test_a_stock_supernode_carries_sealed_bytes_and_an_empty_reply_for_what_is_refused(tmp_path):
    write_certificates(tmp_path)
    card = card_of(BANK, tmp_path)
    socket = tmp_path / "s" / "daemon"
    reported: list[str] = []
    with ExitStack() as stack:
        opened = stack.enter_context(daemon(socket))
        superlink = stack.enter_context(
            SuperLink(
                tmp_path,
                host="127.0.0.1",
                port=free_port(),
                certificate=tmp_path / "server.pem",
                private_key=tmp_path / "server.key",
                root_certificates=tmp_path / "ca.pem",
                entropy=lambda: os.urandom(32),
            )
        )
        carrier = stack.enter_context(
            FlowerTransport(superlink, nodes={BANK: card.node}, deadline_seconds=60.0)
        )
        stack.enter_context(supernode(tmp_path, superlink.address, socket))
        transport = sealed(carrier, card, reported)
        assert transport.exchange({BANK: b"hello"}) == {BANK: b"heard hello"}
        assert carrier.exchange({BANK: b"no envelope"}) == {BANK: b""}
        assert transport.exchange({BANK: b"again"}) == {BANK: b"heard again"}
    assert opened == [b"hello", b"again"]
    assert reported == []


@pytest.mark.slow
def test_a_stock_supernode_runs_what_a_hostile_superlink_sends_as_the_documentation_warns(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _AS_A_SUPERNODE_DOES],
        env={
            **os.environ,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(tmp_path),
            "PYTHONPATH": str(CHECKOUT),
        },
        check=True,
        capture_output=True,
        text=True,
    )
    assert "foreign code runs" in done.stdout
