"""The roster: who the institutions of a federation are, and the keys by which they are known."""

import re
from collections.abc import Collection
from functools import cached_property
from typing import Final

import msgspec
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.canonical import Digest
from federation.errors import ConfigurationError

ROSTER_LABEL: Final = "fedscore/roster/1"
_KEY: Final = re.compile(r"[0-9a-f]{64}")


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One institution.

    Attributes:
        id: as plans invite it.
        key: its Ed25519 identity key, 64 lower-case hexadecimal digits, compared out of band.
    """

    id: str
    key: str

    def __post_init__(self) -> None:
        if not self.id or not _KEY.fullmatch(self.key):
            raise ConfigurationError("roster: expected an id and a key of 64 hexadecimal digits.")


class Roster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """All institutions of a federation, signed by its coordinator and pinned by each institution.

    Whoever an institution's own copy does not name does not exist for it: a plan that invites a
    name which is not in it is refused.

    Attributes:
        federation: identifier.
        members: sorted by id; no id and no key twice.
        signature: of the coordinator, 128 hexadecimal digits.
    """

    federation: str
    members: tuple[Member, ...]
    signature: str

    def __post_init__(self) -> None:
        ids = [member.id for member in self.members]
        if ids != sorted(set(ids)) or len({member.key for member in self.members}) != len(ids):
            raise ConfigurationError("roster: expected members sorted by id, none of them twice.")

    def _body(self) -> bytes:
        fields = msgspec.to_builtins(self)
        del fields["signature"]
        return canonical.canonical_json(fields)

    @cached_property
    def digest(self) -> Digest:
        """Over everything but the signature. Each announcement of a session has it: made once."""
        return canonical.digest(ROSTER_LABEL, self._body())

    def signed(self, key: Ed25519PrivateKey) -> "Roster":
        """Returns this roster with the coordinator's signature."""
        return msgspec.structs.replace(
            self, signature=canonical.sign(key, ROSTER_LABEL, self._body())
        )

    def require_signed_by(self, coordinator: str) -> None:
        """Returns only if the coordinator has signed exactly this roster.

        Raises:
            ProtocolError: it has not.
        """
        canonical.verify(coordinator, ROSTER_LABEL, self._body(), self.signature)

    def among(self, invited: Collection[str]) -> "Roster":
        """Returns the part of it that a plan is about, unsigned.

        Sessions are bound to this part: whoever is admitted or revoked elsewhere in the federation
        changes nothing for a plan that does not invite them.

        Args:
            invited: ids; those that the roster does not name are left out.
        """
        return Roster(
            federation=self.federation,
            members=tuple(one for one in self.members if one.id in invited),
            signature="",
        )

    def key_of(self, institution: str) -> str | None:
        """Returns an institution's identity key, None if the roster does not name it."""
        return next((one.key for one in self.members if one.id == institution), None)


def load_roster(text: str) -> Roster:
    """Returns the roster in a TOML text.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        return msgspec.toml.decode(text, type=Roster)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"This is not a roster: {error}.") from error


def roster_toml(roster: Roster) -> str:
    """Returns the roster as TOML that `load_roster` reads back."""
    return tomli_w.dumps(msgspec.to_builtins(roster))
