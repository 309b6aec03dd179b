"""What the server tells of its work while it does it. These classes record nothing; `spans` has those that do.

There is a hook for a connection, a REST request and a webhook. There is none for a frame: `watched` puts a recorder
before the hub where frames are recorded, and returns the hub itself where they are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Protocol, Self

from ...core.wire.frames import ClientFrame, FrameError
from ..routing import Subscriber


class FrameHandler(Protocol):
    """What handles the frames of a connection."""

    def handle(self, subscriber: Subscriber, frame: ClientFrame) -> None: ...
    def refuse(self, subscriber: Subscriber, fault: FrameError) -> None: ...


class CountingHandler(FrameHandler, Protocol):
    """The hub, whose counters tell what became of a frame."""

    deliveries: int
    outcomes: Counter[tuple[str, str]]


class _Trace:
    """Base of traces, which last for a `with` block at most."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class ConnectionTrace(_Trace):
    """From the handshake of a client to its welcome."""

    def turned_away(self, status: int) -> None:
        """The handshake was answered with an HTTP error."""

    def refused(self, code: int, reason: str) -> None:
        """The credentials were refused."""

    def admitted(self, app: str, peer_id: str, kind: str, *, resumes: bool) -> None:
        """The credentials, a `key` or a `token`, were accepted."""

    def welcomed(self) -> None:
        """The client has its welcome, which ends the trace."""

    def watched(self, hub: CountingHandler) -> FrameHandler:
        """Return what handles the frames of the client."""
        return hub


class RequestTrace(_Trace):
    """A REST request."""

    def routed(self, route: str) -> None:
        """The request is for this route, with `{id}` in place of ids."""

    def authenticated(self, app: str) -> None:
        """The request has a valid secret key, so that its context can be trusted."""

    def answered(self, status: int) -> None:
        """The response has this status."""


class WebhookTrace(_Trace):
    """An attempt to deliver a webhook."""

    def answered(self, status: int) -> None:
        """The backend has answered."""

    def failed(self, kind: str) -> None:
        """The backend has not answered, for this kind of error."""


class Tracing:
    """Makes traces that record nothing."""

    def connection(self, address: str) -> ConnectionTrace:
        """Return the trace of a connection that begins."""
        return ConnectionTrace()

    def request(self, method: str, headers: Mapping[str, str], address: str) -> RequestTrace:
        """Return the trace of a REST request that begins."""
        return RequestTrace()

    def webhook(self, url: str, count: int, headers: MutableMapping[str, str]) -> WebhookTrace:
        """Return the trace of a webhook with this many events, and add its context to the headers of the request."""
        return WebhookTrace()
