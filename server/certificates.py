"""Certificates: authorities of the coordinator's own, what they issue, and how long it lasts.

There are two. One issues what institutions are shown, and they pin it. The other is known on the
coordinator's machine only: it issues for the loopback address, between the front and the SuperLink.
"""

import ipaddress
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import ConfigurationError

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 365
WARNING_DAYS: Final = 30
"""Before the end of a certificate, from when on everybody who looks at it is told."""

_CLOCKS_DIFFER: Final = timedelta(hours=1)
_FLIGHTS: Final = 4
_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Issues certificates."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey = field(repr=False)

    @property
    def certificate_pem(self) -> bytes:
        """What is handed to those who are to trust it."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Secret, without a passphrase."""
        return _key_pem(self.key)


def make_authority(name: str, now: datetime) -> Authority:
    """Returns a new authority, for ten years.

    Args:
        name: for people.
        now: with time zone.
    """
    key = generate_private_key(SECP256R1())
    subject = _name(name[:64])
    certificate = (
        _builder(subject, subject, key.public_key(), now, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, SHA256())
    )
    return Authority(certificate=certificate, key=key)


def load_authority(certificate: Path, key: Path) -> Authority:
    """Returns the authority in two files.

    Raises:
        ConfigurationError: a file cannot be read, or they are not an authority's.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        secret = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read {error.filename}: {error.strerror}. If the authority's key is kept "
            "elsewhere, bring it back for this, or hand over a certificate of your own authority."
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{certificate} and {key} are no certificate and key in PEM."
        ) from error
    if not isinstance(secret, EllipticCurvePrivateKey) or found.public_key() != secret.public_key():
        raise ConfigurationError(f"{key} is not the key of {certificate}.")
    return Authority(certificate=found, key=secret)


def issue(
    authority: Authority, hosts: tuple[str, ...], now: datetime, *, days: int = SERVER_DAYS
) -> bytes:
    """Returns a new key and a server's certificate, both in one PEM.

    One file, since a file is replaced as a whole: key and certificate never are of two ages.

    Args:
        authority: that issues it.
        hosts: names and addresses that it is valid for.
        now: with time zone.
        days: that it is valid for; not longer than the authority.
    """
    key = generate_private_key(SECP256R1())
    issuer = authority.certificate
    until = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    certificate = (
        _builder(_name("coordinator"), issuer.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, SHA256())
    )
    return _key_pem(key) + certificate.public_bytes(Encoding.PEM)


def install(path: Path, content: bytes, *, authorities: Path, host: str) -> None:
    """Replaces a server's key and certificate as a whole, if institutions will accept the new ones.

    Args:
        path: of the file, readable by this user only.
        content: PEM of the key, the certificate, and whatever stands between it and an authority.
        authorities: PEM file, that institutions pin.
        host: name or address that they reach.

    Raises:
        ConfigurationError: they would not accept it, or the disk refuses.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        require_accepted(unfinished, authorities=authorities, host=host)
        unfinished.replace(path)
    except OSError as error:
        raise ConfigurationError(f"Cannot write {path}: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def require_accepted(path: Path, *, authorities: Path, host: str) -> None:
    """Returns if an institution would accept this server: by a handshake, in memory.

    Args:
        path: PEM file of key and certificates.
        authorities: PEM file, that institutions pin.
        host: name or address that they reach.

    Raises:
        ConfigurationError: it would not, and why.
    """
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(path, password=lambda: "")  # else it would ask at the terminal
        institution = ssl.create_default_context(cafile=authorities)
        to_server, to_institution = ssl.MemoryBIO(), ssl.MemoryBIO()
        asking = institution.wrap_bio(to_institution, to_server, server_hostname=host)
        answering = server.wrap_bio(to_server, to_institution, server_side=True)
        for _ in range(_FLIGHTS):
            for end in (asking, answering):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise ConfigurationError(
            f"Institutions, which pin {authorities}, would not accept this certificate for "
            f"{host}: {error.verify_message}."
        ) from error
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"{path.name.removesuffix('.unfinished')} is no certificate with its key, or "
            f"{authorities} no certificates in PEM: {error.reason}."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read {path} or {authorities}: {error.strerror}."
        ) from error


def days_left(path: Path, now: datetime) -> int:
    """Returns the whole days until the first certificate in a file ends, negative once it has.

    Args:
        path: PEM file; it may hold a key as well.
        now: with time zone.

    Raises:
        ConfigurationError: the file cannot be read or holds no certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} holds no certificate in PEM.") from error
    return (certificate.not_valid_after_utc - now) // timedelta(days=1)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in allowed for usage in _USAGES})


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
