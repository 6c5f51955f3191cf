"""What a carrier hands over, before anybody knows who made it: bounded, and read without guessing.

Nothing here is trusted or believed. An envelope inside is opened by `federation.envelope`.
"""

from collections.abc import Callable, Iterable
from typing import Final

from federation.errors import ProtocolError

RECORD: Final = "fedscore"
"""Name of the one record, and of the one value in it, that a message has."""

_ITEM, _KEY, _VALUE, _BYTES = b"\x0a", b"\x0a\x08" + RECORD.encode(), b"\x12", b"\x32"
_LONGEST_LENGTH: Final = 5
"""Bytes of a length below 2^35."""


def bounded(
    pieces: Iterable[bytes], *, most_bytes: int, seconds: float, clock: Callable[[], float]
) -> bytes:
    """Returns what the pieces make together.

    Args:
        pieces: as they arrive, each of moderate size.
        most_bytes: that may arrive.
        seconds: that all of them may take together.
        clock: seconds, from any start.

    Raises:
        ProtocolError: more arrived, or it took longer; at most one piece beyond the bound was kept.
    """
    found, size, deadline = [], 0, clock() + seconds
    for piece in pieces:
        size += len(piece)
        if size > most_bytes:
            raise ProtocolError(f"An answer is larger than {most_bytes} bytes: it is not read.")
        if clock() > deadline:
            raise ProtocolError(f"An answer takes longer than {seconds:g} seconds: it is not read.")
        found.append(piece)
    return b"".join(found)


def value_of_record(content: bytes) -> bytes:
    """Returns the bytes in an object of Flower's that is a record of ours and nothing else.

    It is read by hand: a general decoder builds whatever is described, and two bytes describe an
    item of fifty. The layout is that of `flwr.proto.recorddict_pb2.ConfigRecord` with one item.

    Args:
        content: head, zero byte, body.

    Raises:
        ProtocolError: it is anything else.
    """
    start = content.find(b"\0") + 1
    item = _field(_ITEM, memoryview(content)[start:])
    if not start or item[: len(_KEY)] != _KEY:
        raise ProtocolError("An object is none of our records.")
    return bytes(_field(_BYTES, _field(_VALUE, item[len(_KEY) :])))


def _field(tag: bytes, data: memoryview) -> memoryview:
    """Returns the content of the one length-delimited field that these bytes are."""
    size = 0
    for place in range(1, min(len(data), 1 + _LONGEST_LENGTH)):
        size |= (data[place] & 0x7F) << 7 * (place - 1)
        if data[place] < 0x80:
            if data[:1] == tag and size == len(data) - place - 1:
                return data[place + 1 :]
            break
    raise ProtocolError("An object is none of our records.")
