"""RPC formats: their codecs, and which format a data channel carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

from ..core.rpc.messages import ErrorObject, Inbound, Params, RequestId
from .jsonrpc import JsonRpcCodec
from .msgpackrpc import MsgpackRpcCodec

RpcFormat = Literal["jsonrpc-2.0", "msgpack-rpc"]
"""The format, as named by the `protocol` of a data channel."""

RpcPath = Literal["p2p", "server"]
"""The path of messages: a data channel, or the signalling server."""

DEFAULT_FORMAT: RpcFormat = "jsonrpc-2.0"

LABEL = "rpc"
"""The label of the data channels that this end opens for calls."""


class Codec(Protocol):
    """Encodes and decodes one format. Encoding a value that the format cannot carry raises TypeError or ValueError."""

    is_text: bool
    has_batches: bool
    has_names: bool

    def encode_request(self, request_id: RequestId, method: str, params: Params) -> bytes:
        """Encode a call that is answered."""

    def encode_notification(self, method: str, params: Params) -> bytes:
        """Encode a call that is not answered."""

    def encode_result(self, request_id: RequestId, result: Any) -> bytes:
        """Encode the result of a call."""

    def encode_error(self, request_id: RequestId | None, error: ErrorObject) -> bytes:
        """Encode the error that a call ended with."""

    def join(self, items: Sequence[bytes]) -> bytes:
        """Join encoded items to a batch."""

    def decode(self, message: str | bytes) -> Inbound:
        """Decode a message. Never raises: malformed parts become `BadRequest` and `BadReply` items."""


_CODECS: dict[str, Codec] = {"jsonrpc-2.0": JsonRpcCodec(), "msgpack-rpc": MsgpackRpcCodec()}


def codec_of(name: str) -> Codec:
    """Return the codec of a format.

    Raises:
        ValueError: the format is unknown.
    """
    if name not in _CODECS:
        raise ValueError(f"format must be one of {', '.join(get_args(RpcFormat))}, not {name!r}")
    return _CODECS[name]


def format_of(label: str, protocol: str) -> RpcFormat | None:
    """Return the format of an inbound data channel; None if it carries none.

    The `protocol` decides, whatever the label. A channel with the label `rpc` and no protocol carries JSON-RPC.
    """
    if protocol == "jsonrpc-2.0" or protocol == "msgpack-rpc":
        return protocol  # type: ignore[return-value]
    return DEFAULT_FORMAT if label == LABEL and not protocol else None


def is_foreign(label: str, protocol: str) -> bool:
    """Return whether an inbound data channel carries calls in a format that is not supported."""
    return label == LABEL and format_of(label, protocol) is None
