"""The head of a signed header that the ledger did not hold, noted when the daemon stops for it.

It is what `fedscore ledger recover` needs, and the next start of the daemon stops at it as well.
"""

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from clients.ledger_file import errors_of
from federation.canonical import Digest
from federation.errors import ConfigurationError, FedscoreError

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class SeenHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a ledger stood when its institution signed a header.

    Attributes:
        sequence: of the last entry, in [1, 2^62].
        head: its hash, 64 lower-case hexadecimal digits.
    """

    sequence: int
    head: str

    def __post_init__(self) -> None:
        if not (1 <= self.sequence <= 2**62 and _DIGEST.fullmatch(self.head)):
            raise ConfigurationError(
                "Expected a sequence in [1, 2^62] and a head of 64 lower-case hexadecimal digits."
            )

    @property
    def digest(self) -> Digest:
        """The head, as the ledger names it."""
        return Digest(self.head)


def load_seen_head(path: Path) -> SeenHead | None:
    """Returns what was noted, None if nothing was.

    Raises:
        ConfigurationError: it cannot be read, or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=SeenHead)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from error
    except (FedscoreError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(
            f"{path} holds no head of a ledger: {str(error).rstrip('.')}. Name sequence and head "
            "as the daemon's log does."
        ) from error


def note_seen_head(path: Path, seen: SeenHead) -> None:
    """Notes a head in place of an earlier one, mode 0600; returns once it is durable.

    Raises:
        ConfigurationError: it cannot be written; an earlier one still stands.
    """
    with errors_of(path):
        draft = path.with_name(f"{path.name}.new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(seen))
            file.flush()
            os.fsync(handle)
        draft.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
