"""What carries the bytes: the SuperLink on loopback, and the front that institutions reach."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedscore import files
from fedscore.coordinator_files import (
    AUTHORITY,
    CARRIER,
    LOOPBACK,
    SERVER,
    Front,
    Office,
    expiring,
)
from fedscore.machine import system_clock, system_entropy
from server.certificates import (
    AUTHORITY_DAYS,
    WARNING_DAYS,
    days_left,
    install,
    issue,
    make_authority,
    require_accepted,
)
from server.front_process import FrontProcess
from server.superlink import SuperLink

LOOPBACK_AUTHORITY: Final = "ca.pem"
LOOPBACK_SERVER: Final = "server.pem"
_LOOPBACK_NAMES: Final = (LOOPBACK, "localhost")
_log = logging.getLogger(__name__)


@contextmanager
def running_superlink(office: Office, nodes: Iterable[str]) -> Iterator[SuperLink]:
    """Yields a SuperLink that institutions reach, through a front and in no other way.

    Args:
        office: the coordinator's; its settings say whether the front is ours.
        nodes: OpenSSH public keys of the nodes that may get through.

    Raises:
        ConfigurationError: a certificate does not fit, a port is taken, or it does not start.
    """
    settings, own = office.settings, office.directory
    for told in expiring(office):
        _log.warning("%s", told)
    carrier = own / CARRIER
    renew_loopback(carrier)
    with SuperLink(
        carrier,
        host=LOOPBACK,
        port=settings.superlink_port,
        certificate=carrier / LOOPBACK_SERVER,
        private_key=carrier / LOOPBACK_SERVER,
        root_certificates=carrier / LOOPBACK_AUTHORITY,
        entropy=system_entropy,
    ) as superlink:
        if settings.front is Front.PROXY:
            yield superlink
            return
        require_accepted(own / SERVER, authorities=own / AUTHORITY, host=settings.host)
        with FrontProcess(
            carrier,
            listen=settings.listen,
            port=settings.port,
            certificate=own / SERVER,
            superlink=superlink.address,
            superlink_authorities=superlink.root_certificates,
            nodes=nodes,
        ):
            yield superlink


def renew_loopback(carrier: Path) -> None:
    """Makes the certificates between front and SuperLink if there are none or they end soon.

    Raises:
        ConfigurationError: the disk refuses.
    """
    now = datetime.fromtimestamp(system_clock(), UTC)
    authorities, server = carrier / LOOPBACK_AUTHORITY, carrier / LOOPBACK_SERVER
    if server.exists() and days_left(server, now) >= WARNING_DAYS:
        return
    if server.exists():
        _log.warning("certificates for loopback are made anew: a proxy of yours has to be reloaded")
    authority = make_authority("fedscore loopback", now)  # its key is forgotten at once
    server.unlink(missing_ok=True)  # whatever is interrupted after this is made again
    files.replace(authorities, authority.certificate_pem)
    content = issue(authority, _LOOPBACK_NAMES, now, days=AUTHORITY_DAYS)
    install(server, content, authorities=authorities, host=LOOPBACK)
