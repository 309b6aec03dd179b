"""The exceptions that the package raises on purpose.

One tree: `except MeteredRealtimeError` catches them all. Branch on the class and on the stable attributes
(`code`, `close_code`, `size`, ...), never on the text, which is for people and may change.
"""

from __future__ import annotations

import copyreg
from dataclasses import dataclass
from typing import Any, Literal

ErrorCode = Literal[
    "malformed_message",
    "unknown_type",
    "invalid_channel",
    "invalid_peer_id",
    "channel_not_authorized",
    "channel_reserved",
    "channel_limit_exceeded",
    "peer_not_found",
    "missing_data",
    "action_not_permitted",
    "over_message_quota",
    "backend_error",
    "internal_error",
]
"""The codes of a server's error frames. A code outside this set is passed on verbatim."""

SendErrorCode = Literal["reserved_channel", "not_joined", "invalid_args", "self_send"]
StateErrorCode = Literal["invalid_state", "track_already_attached"]


MAX_SHOWN = 123
"""Maximum length of server text in a message, in characters: what fits into a close frame."""


def printable(text: str) -> str:
    """Return server-controlled text in a form that a message can show: one line, bounded, no control characters."""
    return "".join(character for character in text[:MAX_SHOWN] if character.isprintable())


class MeteredRealtimeError(Exception):
    """Base of every exception of this package. All of them can be copied and pickled, attributes included."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception would call the class with the text alone, and most of these take other arguments.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class SignallingError(MeteredRealtimeError):
    """A failure between this client and the signalling server."""


class SignallingConnectError(SignallingError):
    """The connection ended before the server's welcome.

    `close_code` is the WebSocket close code, or 1006 when the connection failed without one (refused,
    timed out, or answered with an HTTP status, which `http_status` then holds). The message names the server and the
    cause, and `__cause__` is the exception underneath. `close_reason` is text that the server controls: sanitise it
    before showing it.
    """

    def __init__(
        self,
        close_code: int,
        close_reason: str,
        message: str | None = None,
        *,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message or f"connection ended before the server's welcome (code {close_code})")
        self.close_code = close_code
        self.close_reason = close_reason
        self.http_status = http_status


class LocalCredentialError(SignallingError, ValueError):
    """A key or token of a self-hosted server was about to be sent to the hosted service. Nothing was sent."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or "this key or token is that of a server of your own: pass its address as url=")


class NotConnectedError(SignallingError):
    """The client is not connected. Nothing was sent."""


class ServerRequestError(SignallingError):
    """The server refused a request. `code` is an `ErrorCode`, or the verbatim code of a newer server."""

    def __init__(self, code: str, message: str | None = None, request_id: str | None = None) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.request_id = request_id


class AckTimeoutError(SignallingError):
    """The server did not answer a request in time. It may or may not have processed it."""

    def __init__(self, request_id: str, timeout: float) -> None:
        super().__init__(f"no answer to request {request_id} within {timeout:g} s")
        self.request_id = request_id
        self.timeout = timeout


class DisconnectedError(SignallingError):
    """The connection ended while a request was unanswered. The server may or may not have processed it."""


class ConnectionEndedError(SignallingError):
    """The connection to the server ended for good. `close_reason` is text that the server controls."""

    def __init__(self, close_code: int, close_reason: str) -> None:
        said = f"{close_code}, {printable(close_reason)}" if close_reason else str(close_code)
        super().__init__(f"the connection ended for good (code {said})")
        self.close_code = close_code
        self.close_reason = close_reason


class TokenExpiredError(SignallingConnectError, ConnectionEndedError):
    """The token of a client with `token=` has expired. To stay beyond that, a client needs a `token_provider`.

    Raised by `connect` and `join`; `Disconnected.err` and the `err` of a peer's `FatalError` (`token_expired`) when a
    connection ends by it.
    """

    def __init__(self, close_code: int, close_reason: str) -> None:
        SignallingError.__init__(
            self, "the token has expired, and token= gives no other one: to reconnect, give a token_provider"
        )
        self.close_code = close_code
        self.close_reason = close_reason
        self.http_status = None


class PayloadTooLargeError(SignallingError):
    """A payload exceeds the server's limit: `size` bytes of compact UTF-8 JSON, where at most `cap` are allowed."""

    def __init__(self, size: int, cap: int) -> None:
        super().__init__(f"payload of {size} bytes exceeds the server's cap of {cap}")
        self.size = size
        self.cap = cap


class ReconcileTimeoutError(MeteredRealtimeError):
    """After a reconnect the server did not send the presence snapshot of the channel."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or "the server sent no presence snapshot after the reconnect")


class MeteredPeerSendError(MeteredRealtimeError):
    """`send` or `join` of a peer was called in the wrong state or with wrong arguments."""

    def __init__(self, code: SendErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: SendErrorCode = code


class MeteredPeerOversizedError(MeteredRealtimeError):
    """Data or metadata exceeds the server's limit: `size` bytes, where at most `cap` are allowed. Nothing was sent."""

    def __init__(self, size: int, cap: int) -> None:
        super().__init__(f"{size} bytes exceed the server's cap of {cap}")
        self.size = size
        self.cap = cap


class MeteredPeerStateError(MeteredRealtimeError):
    """A method does not fit the state of the peer (`invalid_state`) or of a track (`track_already_attached`)."""

    def __init__(self, code: StateErrorCode, method: str, message: str, current_state: str | None = None) -> None:
        super().__init__(message)
        self.code: StateErrorCode = code
        self.method = method
        self.current_state = current_state


@dataclass(frozen=True, slots=True)
class ReplaceTrackFailure:
    """A remote on which a track could not be replaced, and the reason."""

    peer_id: str
    err: Exception


class MeteredPeerReplaceTrackError(MeteredRealtimeError):
    """A track was replaced on the `succeeded` remotes (ids), but not on the `failed` ones."""

    def __init__(self, succeeded: tuple[str, ...], failed: tuple[ReplaceTrackFailure, ...]) -> None:
        super().__init__(f"the track was replaced on {len(succeeded)} peers and failed on {len(failed)}")
        self.succeeded = succeeded
        self.failed = failed


class DataChannelOverflowError(MeteredRealtimeError):
    """The send queue of a data channel is full: the producer is faster than the network.

    `queued` and `cap` count `unit`: waiting sends, the bytes in them, or bytes that wait for a reader.
    """

    def __init__(self, queued: int, cap: int, *, unit: Literal["sends", "bytes"] = "sends") -> None:
        super().__init__(f"{queued} {unit} are waiting, the cap is {cap}")
        self.queued = queued
        self.cap = cap
        self.unit = unit


class MessageTooLargeError(MeteredRealtimeError):
    """A message exceeds the limit of its channel or of the remote: `size` bytes against `cap`. Nothing was sent."""

    def __init__(self, size: int, cap: int) -> None:
        super().__init__(f"a message of {size} bytes, {cap} are taken")
        self.size = size
        self.cap = cap


class ChannelClosedError(MeteredRealtimeError):
    """The channel named `label` is closed, or closed before the operation was complete."""

    def __init__(self, label: str, why: str = "it is closed") -> None:
        super().__init__(f"channel {label!r}: {why}")
        self.label = label


class ReplayOverflowError(MeteredRealtimeError):
    """The replay buffer of a channel is full: `messages` of `bytes` bytes wait for the remote to acknowledge them.

    For a channel to everybody: the remote did not keep up, and the `messages` that waited for it are given up.
    """

    def __init__(self, messages: int, bytes: int, max_messages: int, max_bytes: int) -> None:
        super().__init__(f"{messages} of {max_messages} messages, {bytes} of {max_bytes} bytes wait")
        self.messages = messages
        self.bytes = bytes
        self.max_messages = max_messages
        self.max_bytes = max_bytes


class MessagesMissedError(MeteredRealtimeError):
    """The remote gave up `count` messages that had not arrived here, because this end did not keep up."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} messages were given up by the other end")
        self.count = count


class ChannelProtocolError(MeteredRealtimeError):
    """The remote violated the protocol of a channel, or opened it with a different `reliable`."""


class IceRecoveryExhaustedError(MeteredRealtimeError):
    """The connection to a remote could not be restored in `attempts` attempts over `seconds`."""

    def __init__(self, attempts: int, seconds: float) -> None:
        super().__init__(f"gave up after {attempts} attempts over {seconds:.0f} s")
        self.attempts = attempts
        self.seconds = seconds


class NegotiationFailedError(MeteredRealtimeError):
    """An offer or answer could not be created or applied, or was not answered. `__cause__` has the details."""


ConnectionLossReason = Literal["not_connected", "path_lost", "closed_by_remote", "negotiation_failed"]
"""Why a `OneShotConnection` ended by itself."""


class ConnectionLostError(MeteredRealtimeError):
    """A `OneShotConnection` ended by itself.

    The reason is `not_connected` (no path to the other end was found in time), `path_lost` (it stopped answering, and
    no restart of ICE helped), `closed_by_remote`, or `negotiation_failed` (a description could be applied only in part;
    `__cause__` has the details).
    """

    def __init__(self, reason: ConnectionLossReason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: ConnectionLossReason = reason


class WhipError(MeteredRealtimeError):
    """A failure between a WHIP or WHEP client and its endpoint."""


class WhipConnectError(WhipError):
    """The endpoint could not be reached, or did not answer in time. `__cause__` is the exception underneath."""


class WhipRequestError(WhipError):
    """The endpoint refused a request with the HTTP `status`.

    `detail` is text that the endpoint controls: one line, bounded. `retry_after` has the seconds after which another
    attempt may succeed, if the endpoint named them: with 503 when it is busy, with 409 when nobody publishes yet.
    """

    def __init__(self, method: str, status: int, detail: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{method} was answered with {status}" + (f": {detail}" if detail else ""))
        self.method = method
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class WhipProtocolError(WhipError):
    """The endpoint answered with something that WHIP and WHEP do not allow, or more than this client reads."""


StreamEndReason = Literal[
    "aborted",
    "cancelled",
    "connection_lost",
    "peer_left",
    "not_taken",
    "too_many_streams",
    "too_large",
    "protocol_error",
]
"""Why a stream ended before all of it was read. A stream that ended normally has the reason None."""


class StreamEndedError(MeteredRealtimeError):
    """A stream ended early. `detail` is text of the end that did it: sanitised, bounded, for a log.

    The reason is `aborted` by the writer, `cancelled` by the reader, `connection_lost`, `peer_left`, `not_taken` (the
    remote has no handler for streams), `too_many_streams` are open, `too_large` for `readall`, or `protocol_error` (the
    remote violated the protocol).
    """

    def __init__(self, reason: StreamEndReason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: StreamEndReason = reason
        self.detail = detail


FileFailureReason = Literal[
    "refused",
    "not_receiving",
    "busy",
    "too_large",
    "no_space",
    "disk_error",
    "timed_out",
    "source_changed",
    "digest_mismatch",
    "cancelled",
    "protocol_error",
]
"""Why a file did not arrive."""


class FileTransferError(MeteredRealtimeError):
    """A file did not arrive complete.

    The reason: the receiver `refused` it, is `not_receiving`, is `busy` with too many transfers, finds it `too_large`,
    has `no_space` or a `disk_error`; `timed_out`, the remote was unreachable for longer than `patience`;
    `source_changed` while it was read; `digest_mismatch`, the received data is not what was sent; `cancelled` by either
    program; `protocol_error`.
    """

    def __init__(self, reason: FileFailureReason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: FileFailureReason = reason
        self.detail = detail
