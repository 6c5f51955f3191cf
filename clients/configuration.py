"""One institution's configuration file: who it is, where its table is, what it allows."""

from pathlib import Path

import msgspec

from clients.policy import Policy
from federation.errors import ConfigurationError, FedscoreError


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The institution's TOML; its path is relative to the file.

    Attributes:
        id: as the plan's invitation names it: lower-case letters, digits and hyphens.
        title: for people.
        most_people: public figure that the number of people in the table never exceeds; never the
            number itself.
        table: Parquet or CSV file with one row or several for each person.
        not_held: scored or protected features that its table does not have.
        policy: what it takes part in.
    """

    id: str
    title: str
    most_people: int
    table: str
    policy: Policy
    not_held: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id or not all(c.isascii() and (c.isalnum() or c == "-") for c in self.id):
            raise ConfigurationError(f"Expected id={self.id!r} of letters, digits and hyphens.")
        if self.most_people < 1:
            raise ConfigurationError(f"Expected most_people={self.most_people} of at least 1.")


def load_configuration(path: Path) -> Configuration:
    """Returns the configuration in a file, its table's path made absolute.

    Raises:
        ConfigurationError: unreadable, not TOML, or an unknown, missing or mistyped field.
    """
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=Configuration)
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
    except FedscoreError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is not an institution's configuration: {error}.") from (
            error
        )
    home = path.resolve().parent
    return msgspec.structs.replace(found, table=str(home / found.table))
