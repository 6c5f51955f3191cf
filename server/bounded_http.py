"""What the SuperLink answers is read up to a size and a time, and of it the body only."""

import time
from contextlib import closing
from typing import Final, Protocol, TypeVar

import httpx

from federation.carried import bounded
from federation.envelope import LARGEST_ENVELOPE
from federation.errors import ProtocolError

_LARGEST_ANSWER: Final = 2**22
"""Bytes of every answer but an object: some hundred for each of some hundred institutions."""
_LARGEST_OBJECT: Final = LARGEST_ENVELOPE + 2**10
_ANSWER_SECONDS: Final = 300.0

_C = TypeVar("_C", bound="Client")


class Client(Protocol):
    """One of Flower's clients: what speaks HTTP for it."""

    _client: httpx.Client


def bounded_client(client: _C) -> _C:
    """Returns the same client, whose answers are bounded from now on; it uses no proxy."""
    http = client._client
    http._transport = _Bounded(http._transport)
    http._mounts = {}
    return client


class _Bounded(httpx.BaseTransport):
    """Carries requests as another one does; no answer redirects, sets a cookie or is unpacked."""

    def __init__(self, carrier: httpx.BaseTransport) -> None:
        self._carrier = carrier

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        is_object = request.url.path.endswith("/pull-object")
        with closing(self._carrier.handle_request(request)) as response:
            try:
                content = bounded(
                    response.iter_raw(),
                    most_bytes=_LARGEST_OBJECT if is_object else _LARGEST_ANSWER,
                    seconds=_ANSWER_SECONDS,
                    clock=time.monotonic,
                )
            except ProtocolError as error:
                raise httpx.ReadError(str(error)) from error
        return httpx.Response(response.status_code, content=content)

    def close(self) -> None:
        self._carrier.close()
