"""Addresses that only programs on this machine reach."""

import ipaddress

from federation.errors import ConfigurationError


def loopback_of(address: str) -> tuple[str, int]:
    """Returns host and port of an address that only this machine reaches.

    Args:
        address: `127.0.0.1:9464` or `[::1]:9464`, for example.

    Raises:
        ConfigurationError: it is none.
    """
    host, _, port = address.rpartition(":")
    try:
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port) if port.isascii() and port.isdigit() else 0
    except ValueError:
        found, number = ipaddress.ip_address("0.0.0.0"), 0  # noqa: S104  stands for: is refused
    if not found.is_loopback or not 1 <= number <= 65535:
        raise ConfigurationError(
            f"Expected health_address={address!r} as a loopback address and a port, "
            '"127.0.0.1:9464" for example: what it serves is for programs on this machine. Leave '
            "it out if nobody asks."
        )
    return str(found), number
