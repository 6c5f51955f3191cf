"""What all messages share."""

from typing import Final

import msgspec

from federation.errors import ProtocolError

PROTOCOL_VERSION: Final = 4


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """One message; its tag is the name of its class.

    Attributes:
        version: of the protocol.
    """

    version: int = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        if self.version != PROTOCOL_VERSION:
            raise ProtocolError(f"Expected protocol version {PROTOCOL_VERSION}.")
