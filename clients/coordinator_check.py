"""Checks of the way to the coordinator: authority, TLS, fleet path, certificate, clock.

One request is made, without a name and without a signature; it is refused, and that is the proof
that somebody of Flower's is there.
"""

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

from cryptography import x509

from clients.configuration import DaemonConfiguration
from clients.finding import Finding, failed, looked_at, passed, skipped, warned
from federation.errors import ConfigurationError

FLEET_PATH: Final = "/v1/fleet/pull-messages"
CLOCK_WARNS_SECONDS: Final = 5
CLOCK_FAILS_SECONDS: Final = 60
"""Flower refuses a signature that is five minutes away; a plan and a request have validities."""

DAYS_WARNED: Final = 30

_PATIENCE_SECONDS: Final = 5.0
_DAY_SECONDS: Final = 86_400
_BETWEEN_TRAININGS: Final = (
    "A coordinator is there only while a training runs. If one does run now, is the address right, "
    "and does your firewall let this machine connect to it?"
)
_ASK: Final = "Ask the coordinator for its newest ca.pem, and compare the fingerprint by phone."


def authority(path: Path, clock: Callable[[], int]) -> Finding:
    """Returns whether the pinned certificates can be read and are valid for a while."""

    def look() -> Finding:
        try:
            found = x509.load_pem_x509_certificates(path.read_bytes())
            ssl.create_default_context(cadata=path.read_text("ascii"))
        except (ValueError, ssl.SSLError) as error:
            raise ConfigurationError(f"{path} is no PEM file of certificates.") from error
        ends = min(one.not_valid_after_utc for one in found)
        return _validity("authority", ends, clock(), _ASK)

    return looked_at("authority", look, f"Put the coordinator's ca.pem at `{path}`. {_ASK}")


def _validity(check: str, ends: datetime, now: int, advice: str) -> Finding:
    days = (ends.timestamp() - now) / _DAY_SECONDS
    text = f"valid until {ends:%Y-%m-%d}, {max(0, days):,.0f} days"
    if days <= 0:
        return failed(check, f"expired on {ends:%Y-%m-%d}", advice)
    return warned(check, text, advice) if days < DAYS_WARNED else passed(check, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Met:
    """What the other side showed.

    Attributes:
        ends: when its certificate expires.
        status: of its answer.
        date: of its clock; None if it does not say.
        asked_at: ours, in whole seconds.
    """

    ends: datetime
    status: int
    date: datetime | None
    asked_at: int


def reached(configuration: DaemonConfiguration, clock: Callable[[], int]) -> Iterator[Finding]:
    """Yields the checks coordinator, server certificate and clock: one connection, one request."""
    met: list[_Met] = []

    def look() -> Finding:
        return _meet(configuration, clock, met)

    address = configuration.coordinator_address
    coordinator = looked_at(
        "coordinator",
        look,
        f"Is {address} right? Your firewall must let this machine connect to it; nothing comes in.",
    )
    yield coordinator
    if not met:
        yield skipped("server certificate", "the coordinator was not reached")
        yield skipped("clock", "the coordinator was not reached, so there is none to compare with")
        return
    (seen,) = met
    yield _validity("server certificate", seen.ends, clock(), "Tell the coordinator to renew it.")
    yield _clock(seen)


def _meet(configuration: DaemonConfiguration, clock: Callable[[], int], met: list[_Met]) -> Finding:
    address = configuration.coordinator_address
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(
            cadata=Path(configuration.root_certificates).read_text("ascii")
        )
    except (OSError, ValueError):  # SSLError is an OSError
        return skipped("coordinator", "without an authority nobody there can be trusted")
    with closing(
        http.client.HTTPSConnection(
            host.strip("[]"), int(port), context=context, timeout=_PATIENCE_SECONDS
        )
    ) as there:
        try:
            there.connect()
        except ssl.SSLCertVerificationError as error:
            return failed("coordinator", *_distrusted(error, host))
        except ConnectionRefusedError:
            return warned("coordinator", f"nobody listens at {address} now", _BETWEEN_TRAININGS)
        except socket.gaierror:
            return failed(
                "coordinator", f"there is no host {host}", "Correct `coordinator_address`."
            )
        except ssl.SSLError as error:
            return failed(
                "coordinator",
                f"{address} does not speak TLS as we do: {error.reason or 'no handshake'}",
                "Is the port right? Does something between you and the coordinator take TLS apart?",
            )
        shown = x509.load_der_x509_certificate(there.sock.getpeercert(binary_form=True) or b"")
        try:
            there.request(
                "POST", FLEET_PATH, body=b"", headers={"Content-Type": "application/protobuf"}
            )
            answer = there.getresponse()
        except http.client.HTTPException as error:
            return failed(
                "coordinator",
                f"{address} does not speak HTTP ({type(error).__name__})",
                "Is the port right?",
            )
        met.append(
            _Met(
                ends=shown.not_valid_after_utc,
                status=answer.status,
                date=_date_in(answer.headers.get("Date", "")),
                asked_at=clock(),
            )
        )
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return passed("coordinator", f"{address} is trusted, and Flower's fleet path answers")
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return warned(
            "coordinator",
            f"{address} is trusted, but answers {answer.status}: nobody is behind its proxy now",
            _BETWEEN_TRAININGS,
        )
    return failed(
        "coordinator",
        f"{address} is trusted, but Flower's fleet path answers {answer.status}, not 401",
        "Ask the coordinator whether this is the right port, and whether nodes must sign.",
    )


def _distrusted(error: ssl.SSLCertVerificationError, host: str) -> tuple[str, str]:
    """Returns what is wrong with a certificate, and what to do."""
    said = error.verify_message
    if "ostname" in said or "IP address" in said:
        return (
            f"the certificate there is not for {host}",
            "Write the host in `coordinator_address` as the coordinator named it.",
        )
    if "expired" in said or "not yet valid" in said:
        return (
            f"the certificate there is out of time: {said}",
            "Is this machine's date right? If it is, tell the coordinator to renew it.",
        )
    return (f"the certificate there is not from our authority: {said}", _ASK)


def _date_in(header: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(header)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _clock(seen: _Met) -> Finding:
    if seen.date is None:
        return skipped("clock", "the coordinator does not say what time it has")
    ahead = round(seen.asked_at - seen.date.timestamp())
    text = f"{abs(ahead)} seconds {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
    advice = "Set this machine's clock by NTP, or ask the coordinator to set theirs."
    if abs(ahead) > CLOCK_FAILS_SECONDS:
        return failed("clock", text, advice)
    if abs(ahead) > CLOCK_WARNS_SECONDS:
        return warned("clock", text, advice)
    return passed("clock", "agrees with the coordinator's to within 5 seconds")
