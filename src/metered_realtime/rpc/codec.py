"""Formats: what their codecs can do, and which one a data channel carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

from ..core.rpc.messages import ErrorObject, Inbound, Params, RequestId
from .jsonrpc import JsonRpcCodec
from .msgpackrpc import MsgpackRpcCodec

RpcFormat = Literal["jsonrpc-2.0", "msgpack-rpc"]
"""As it stands in the `protocol` of a data channel."""

RpcPath = Literal["p2p", "server"]
"""What carries messages: a data channel, or the signalling server."""

DEFAULT_FORMAT: RpcFormat = "jsonrpc-2.0"

LABEL = "rpc"
"""The label of the data channels that this end opens for calls."""


class Codec(Protocol):
    """A format, in both directions. Encoding raises TypeError or ValueError for what the format cannot carry."""

    is_text: bool
    has_batches: bool
    has_names: bool

    def encode_request(self, request_id: RequestId, method: str, params: Params) -> bytes:
        """Encode a call that wants an answer."""

    def encode_notification(self, method: str, params: Params) -> bytes:
        """Encode a call that wants none."""

    def encode_result(self, request_id: RequestId, result: Any) -> bytes:
        """Encode the result of a call."""

    def encode_error(self, request_id: RequestId | None, error: ErrorObject) -> bytes:
        """Encode the error that a call ended with."""

    def join(self, items: Sequence[bytes]) -> bytes:
        """Make a batch of encoded items."""

    def decode(self, message: str | bytes) -> Inbound:
        """Read a message. What is wrong with it comes back as an item; nothing is raised."""


_CODECS: dict[str, Codec] = {"jsonrpc-2.0": JsonRpcCodec(), "msgpack-rpc": MsgpackRpcCodec()}


def codec_of(name: str) -> Codec:
    """Return the codec of a format.

    Raises:
        ValueError: there is no such format.
    """
    if name not in _CODECS:
        raise ValueError(f"an RPC format is one of {', '.join(get_args(RpcFormat))}, not {name!r}")
    return _CODECS[name]


def format_of(label: str, protocol: str) -> RpcFormat | None:
    """Return the format of an inbound data channel, or None if it carries none.

    The `protocol` says it, whatever the label; a channel with the label of calls and no protocol is taken for JSON-RPC.
    """
    if protocol == "jsonrpc-2.0" or protocol == "msgpack-rpc":
        return protocol  # type: ignore[return-value]
    return DEFAULT_FORMAT if label == LABEL and not protocol else None


def is_foreign(label: str, protocol: str) -> bool:
    """Tell whether an inbound data channel is meant for calls, in a format that is not spoken here."""
    return label == LABEL and format_of(label, protocol) is None
