"""The coordinator's own certificate authority, and the server certificate it issues."""

import ipaddress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_DAYS: Final = 3650
_SERVER_DAYS: Final = 365
_CLOCKS_DIFFER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """An authority that issues for one host, and that host's certificate."""

    authority: x509.Certificate
    authority_key: EllipticCurvePrivateKey = field(repr=False)
    server: x509.Certificate
    server_key: EllipticCurvePrivateKey = field(repr=False)


def make_certificates(federation: str, host: str, now: datetime) -> Certificates:
    """Returns an authority for ten years, and a certificate for one year that it issued.

    Args:
        federation: goes into the names.
        host: that the certificate is valid for, a name or an address.
        now: with time zone.
    """
    authority_key, server_key = (generate_private_key(SECP256R1()) for _ in range(2))
    issuer = _name(f"fedscore {federation}"[:64])

    def builder(subject: x509.Name, key: EllipticCurvePrivateKey, days: int) -> _Builder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCKS_DIFFER)
            .not_valid_after(now + timedelta(days=days))
        )

    authority = (
        builder(issuer, authority_key, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, SHA256())
    )
    server = (
        builder(_name("coordinator"), server_key, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, SHA256())
    )
    return Certificates(
        authority=authority, authority_key=authority_key, server=server, server_key=server_key
    )


_Builder = x509.CertificateBuilder


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
