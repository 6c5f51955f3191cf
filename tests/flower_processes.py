"""Real processes for the tests of Flower: certificates, a SuperLink, nodes that echo."""

import datetime as dt
import ipaddress
import os
import socket
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from federation.canonical import public_key_of
from federation.card import Card

FEDERATION = "nation"
COORDINATOR = Ed25519PrivateKey.from_private_bytes(bytes(32))
CHECKOUT = Path(__file__).resolve().parents[1]

_NODE = """
import os, signal, sys, threading, time
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from clients.flower_node import serve
from clients.node_key import load_node_key
from federation.sealed import SealedHandler

name, identity, coordinator, directory, address = sys.argv[1:]
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
handler = SealedHandler(
    lambda message: name.encode() + b" heard " + message,
    institution=name,
    federation="nation",
    identity=Ed25519PrivateKey.from_private_bytes(bytes.fromhex(identity)),
    coordinator=coordinator,
    clock=time.time,
    entropy=lambda: os.urandom(32),
)
home = Path(directory)
serve(
    address,
    root_certificates=home / "ca.pem",
    node_key=load_node_key(home / f"{name}.key"),
    handle=handler,
    idle=lambda: None,
    stop=stop,
)
"""


def identity_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_certificates(directory: Path) -> None:
    """Writes ca.pem, and server.pem with server.key for 127.0.0.1."""
    now = dt.datetime.now(dt.UTC)
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    for name, key, subject, is_authority in (
        ("ca", authority, issuer, True),
        ("server", server, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), False),
    ):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
        )
        certificate = builder.sign(authority, SHA256())
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "server.key").write_bytes(
        server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


def card_of(name: str, directory: Path) -> Card:
    """Returns the card of an institution, whose node key it writes."""
    key = ec.generate_private_key(ec.SECP384R1())
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return Card.of(
        federation=FEDERATION,
        institution=name,
        identity=identity_of(name),
        node=public.decode(),
    )


def start_node(name: str, directory: Path, address: str) -> subprocess.Popen[bytes]:
    """Returns a node whose institution answers everything with `NAME heard MESSAGE`."""
    identity = identity_of(name).private_bytes_raw().hex()
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            _NODE,
            *(name, identity, public_key_of(COORDINATOR), str(directory), address),
        ],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        cwd=directory,
    )
