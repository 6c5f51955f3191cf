"""One institution's configuration file: who it is, where its table is, what it allows."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from clients.environment import Override, overridden, overrides_in
from clients.left_out import Consent, Retention
from clients.loopback import loopback_of
from clients.policy import Policy
from clients.sources import PostgresqlTable, TableSource
from federation.errors import ConfigurationError, FedscoreError
from federation.population import Split


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The institution's TOML; paths are relative to the file.

    Attributes:
        id: as the plan's invitation names it: lower-case letters, digits and hyphens.
        title: for people.
        most_people: public figure that the number of people in the table never exceeds; never the
            number itself.
        table: Parquet or CSV file with one row or several for each person; with
            `postgresql_connection` a table or view there, "table" or "schema.table".
        postgresql_connection: file with a connection string of libpq, private; empty for a file.
        not_held: scored or protected features that its table does not have.
        columns: column of the schema -> column of the table, where the names differ.
        consent: where the table says who agreed; without it, everybody did.
        retention: how old a row may be; without it, any age.
        policy: what it takes part in.
    """

    id: str
    title: str
    most_people: int
    table: str
    policy: Policy
    postgresql_connection: str = ""
    not_held: tuple[str, ...] = ()
    columns: dict[str, str] = {}
    consent: Consent | None = None
    retention: Retention | None = None

    def __post_init__(self) -> None:
        if not self.id or not all(c.isascii() and (c.isalnum() or c == "-") for c in self.id):
            raise ConfigurationError(f"Expected id={self.id!r} of letters, digits and hyphens.")
        if self.most_people < 1:
            raise ConfigurationError(f"Expected most_people={self.most_people} of at least 1.")

    @property
    def source(self) -> TableSource:
        """Where the table is."""
        if not self.postgresql_connection:
            return Path(self.table)
        return PostgresqlTable(connection_file=Path(self.postgresql_connection), table=self.table)


class Approval(StrEnum):
    """Who lets the institution take part in a plan that keeps every rule of its policy."""

    PERSON = "person"
    AUTOMATIC = "automatic"


class Carrier(StrEnum):
    """How the coordinator's requests reach the daemon."""

    NODE = "node"
    SOCKET = "socket"


class DaemonConfiguration(Configuration, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a long-running institution needs beside that; paths are relative to the file.

    Attributes:
        approval: whether a person approves each plan, or the policy is enough.
        federation: that it takes part in.
        salt: the federation's public salt, 64 hexadecimal digits.
        held_out_fraction: the federation's, in [0, 0.5].
        schema: file of the federation's data contract.
        roster: file of the federation's roster, as the coordinator handed it over.
        coordinator_address: host and port.
        root_certificates: PEM file; no other authority is trusted.
        state: private directory of keys, ledger, records and decisions.
        snapshots: private directory for the table in codes, of this institution alone; empty for
            one in `state`.
        identity_key: private file of the institution's Ed25519 key, PEM; empty: in `state`.
        node_key: private file of its connection's key, OpenSSH; empty: in `state`.
        health_address: loopback host and port of /livez, /readyz and /metrics; empty: none.
        carrier: "node": the daemon connects to the coordinator's address itself. "socket": it opens
            no connection and answers on a Unix socket in its state (see `clients.flower_app`).
    """

    approval: Approval
    federation: str
    salt: str
    held_out_fraction: float
    schema: str
    roster: str
    coordinator_address: str
    root_certificates: str
    state: str
    identity_key: str = ""
    node_key: str = ""
    snapshots: str = ""
    health_address: str = ""
    carrier: Carrier = Carrier.NODE

    def __post_init__(self) -> None:
        super().__post_init__()
        host, _, port = self.coordinator_address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit():
            raise ConfigurationError(
                f"Expected coordinator_address={self.coordinator_address!r} as host:port."
            )
        if self.health_address:
            loopback_of(self.health_address)
        _ = self.split

    @property
    def split(self) -> Split:
        """The federation's public rule that holds people out."""
        return Split(salt=self.salt, held_out_fraction=self.held_out_fraction)


_C = TypeVar("_C", bound=Configuration)


def load_configuration(path: Path) -> Configuration:
    """Returns the configuration in a file, its paths made absolute.

    Raises:
        ConfigurationError: unreadable, not TOML, or an unknown, missing or mistyped field.
    """
    return _loaded(path, Configuration, ())


def load_daemon_configuration(
    path: Path, environment: Mapping[str, str] = os.environ
) -> DaemonConfiguration:
    """Returns the configuration of a long-running institution, its paths made absolute.

    Args:
        path: of the file.
        environment: whose variables override some settings (`clients.environment`).

    Raises:
        ConfigurationError: unreadable, not TOML, an unknown, missing or mistyped field, or a
            variable that overrides nothing.
    """
    paths = (
        "schema",
        "roster",
        "root_certificates",
        "state",
        "snapshots",
        "identity_key",
        "node_key",
    )
    return _loaded(path, DaemonConfiguration, paths, overrides_in(environment))


def _loaded(
    path: Path, kind: type[_C], paths: tuple[str, ...], overrides: tuple[Override, ...] = ()
) -> _C:
    try:
        content = overridden(msgspec.toml.decode(path.read_bytes()), overrides, kind)
        found = msgspec.convert(content, kind)
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
    except FedscoreError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not an institution's configuration: {error}.") from (
            error
        )
    for name in paths:
        if "\0" in getattr(found, name):
            raise ConfigurationError(f"{path}: {name} is no path: it has a zero byte.")
    home = path.resolve().parent
    paths = (*paths, "postgresql_connection" if found.postgresql_connection else "table")
    if any("\0" in getattr(found, name) for name in paths):
        raise ConfigurationError(f"{path}: a path holds a character that no path can have.")
    given = {name: getattr(found, name) for name in paths if getattr(found, name)}
    return msgspec.structs.replace(found, **{name: str(home / one) for name, one in given.items()})
