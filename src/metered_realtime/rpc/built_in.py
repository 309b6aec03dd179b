"""The errors that every end knows, one class each, under three base classes that tell whose fault it is."""

from __future__ import annotations

from .errors import RpcError, built_in_errors


class RpcBadRequestError(RpcError):
    """A request could not be made into a call: unreadable, invalid, for no known method, with wrong parameters."""


class RpcBadReplyError(RpcError):
    """A reply could not be made into a result: malformed, for another request, or of an unexpected kind."""


class RpcServerError(RpcError):
    """The end that was called failed. Codes -32000 to -32099 without a class of their own are plain ones of these."""


class RpcTransportError(RpcError):
    """The request, or its answer, could not be carried."""


class RpcParseError(RpcBadRequestError, code=-32700, message="Parse error", registry=built_in_errors):
    """The other end could not decode what it received."""


class RpcInvalidRequestError(RpcBadRequestError, code=-32600, message="Invalid Request", registry=built_in_errors):
    """The other end decoded something that is no request."""


class RpcUnsupportedMethodError(
    RpcBadRequestError,
    code=RpcError.ErrorCode.UNSUPPORTED_METHOD,
    message="Method not supported at destination",
    registry=built_in_errors,
):
    """The other end has no such method. On the wire -32601, method not found."""


class RpcInvalidParamsError(RpcBadRequestError, code=-32602, message="Invalid params", registry=built_in_errors):
    """The parameters are not those of the method."""


class RpcInternalError(RpcServerError, code=-32603, message="Internal error", registry=built_in_errors):
    """The other end failed outside of the method."""


class RpcApplicationError(
    RpcServerError,
    code=RpcError.ErrorCode.APPLICATION_ERROR,
    message="Application error in method handler",
    registry=built_in_errors,
):
    """The method's handler raised something that is no `RpcError`. On the wire -32000."""


class RpcBusyError(RpcServerError, code=1429, message="Too many calls at once", registry=built_in_errors):
    """So many calls run and wait at the other end, or wait at this one, that this one was refused. It did not run."""


class RpcCancelledError(RpcServerError, code=1499, message="Cancelled", registry=built_in_errors):
    """The handler was cancelled, at the caller's wish or by its own program."""


class RpcRecipientNotFoundError(
    RpcTransportError,
    code=RpcError.ErrorCode.RECIPIENT_NOT_FOUND,
    message="Recipient not found",
    registry=built_in_errors,
):
    """Nobody of that id is in the channel."""


class RpcRequestTooLargeError(
    RpcTransportError,
    code=RpcError.ErrorCode.REQUEST_PAYLOAD_TOO_LARGE,
    message="Request payload too large",
    registry=built_in_errors,
):
    """The other end cannot take a request of that size. Nothing was sent."""


class RpcUnsupportedServerError(
    RpcTransportError,
    code=RpcError.ErrorCode.UNSUPPORTED_SERVER,
    message="RPC not supported by server",
    registry=built_in_errors,
):
    """The signalling server does not carry calls."""


class RpcUnsupportedVersionError(
    RpcTransportError,
    code=RpcError.ErrorCode.UNSUPPORTED_VERSION,
    message="Unsupported RPC version",
    registry=built_in_errors,
):
    """The other end does not speak the format of the call."""


class RpcConnectionTimeoutError(
    RpcTransportError,
    code=RpcError.ErrorCode.CONNECTION_TIMEOUT,
    message="Connection timeout",
    registry=built_in_errors,
):
    """The data channel did not open in time. Nothing was sent."""


class RpcResponseTimeoutError(
    RpcTransportError,
    code=RpcError.ErrorCode.RESPONSE_TIMEOUT,
    message="Response timeout",
    registry=built_in_errors,
):
    """The answer did not come in time. The other end is told to stop."""


class RpcRecipientDisconnectedError(
    RpcTransportError,
    code=RpcError.ErrorCode.RECIPIENT_DISCONNECTED,
    message="Recipient disconnected",
    registry=built_in_errors,
):
    """The other end left, or its connection was lost for good, with the call under way. It may have run."""


class RpcResponseTooLargeError(
    RpcTransportError,
    code=RpcError.ErrorCode.RESPONSE_PAYLOAD_TOO_LARGE,
    message="Response payload too large",
    registry=built_in_errors,
):
    """The result is larger than this end can take, says the other end."""


class RpcSendError(
    RpcTransportError, code=RpcError.ErrorCode.SEND_FAILED, message="Failed to send", registry=built_in_errors
):
    """The channel closed before the request had gone out. It did not run."""


class RpcInvalidReplyError(RpcBadReplyError, code=1510, message="Invalid reply", registry=built_in_errors):
    """The reply to a call breaks the rules of its format."""


class RpcUnknownIdError(RpcBadReplyError, code=1511, message="Reply to an unknown request", registry=built_in_errors):
    """A reply belongs to no call that waits. It reaches nobody: it is counted and logged."""


class RpcUnexpectedReplyError(RpcBadReplyError, code=1512, message="Unexpected reply", registry=built_in_errors):
    """A result of another kind than the call wants: `perform_rpc` returns text."""


built_in_errors.cover(range(-32_099, -31_999), RpcServerError)
