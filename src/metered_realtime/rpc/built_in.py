"""The built-in errors, one class for each code, and their base classes, one for each kind of cause."""

from __future__ import annotations

from .errors import RpcError, built_in_errors


class RpcBadRequestError(RpcError):
    """A request is unreadable or invalid, or its method or parameters do not exist at the remote."""


class RpcBadReplyError(RpcError):
    """A reply is malformed, belongs to no request, or is of an unexpected kind."""


class RpcServerError(RpcError):
    """The called end failed. Also the class of codes from -32099 to -32000 that have none of their own."""


class RpcTransportError(RpcError):
    """The request or its answer could not be transported."""


class RpcParseError(RpcBadRequestError, code=-32700, message="Parse error", registry=built_in_errors):
    """The remote could not decode the message."""


class RpcInvalidRequestError(RpcBadRequestError, code=-32600, message="Invalid Request", registry=built_in_errors):
    """The remote decoded a message that is not a valid request."""


class RpcUnsupportedMethodError(
    RpcBadRequestError,
    code=RpcError.ErrorCode.UNSUPPORTED_METHOD,
    message="Method not supported at destination",
    registry=built_in_errors,
):
    """The remote has no such method. On the wire -32601, method not found."""


class RpcInvalidParamsError(RpcBadRequestError, code=-32602, message="Invalid params", registry=built_in_errors):
    """The parameters do not match those of the method."""


class RpcInternalError(RpcServerError, code=-32603, message="Internal error", registry=built_in_errors):
    """The remote failed outside of the handler."""


class RpcApplicationError(
    RpcServerError,
    code=RpcError.ErrorCode.APPLICATION_ERROR,
    message="Application error in method handler",
    registry=built_in_errors,
):
    """The handler raised an exception other than `RpcError`. On the wire -32000."""


class RpcBusyError(RpcServerError, code=1429, message="Too many calls at once", registry=built_in_errors):
    """Too many calls run or wait at the remote, or wait at this end. The call did not run."""


class RpcCancelledError(RpcServerError, code=1499, message="Cancelled", registry=built_in_errors):
    """The handler was cancelled, by the caller or by its own program."""


class RpcRecipientNotFoundError(
    RpcTransportError,
    code=RpcError.ErrorCode.RECIPIENT_NOT_FOUND,
    message="Recipient not found",
    registry=built_in_errors,
):
    """No peer with that id is in the channel."""


class RpcRequestTooLargeError(
    RpcTransportError,
    code=RpcError.ErrorCode.REQUEST_PAYLOAD_TOO_LARGE,
    message="Request payload too large",
    registry=built_in_errors,
):
    """The remote does not accept a request of that size. Nothing was sent."""


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
    """The remote does not support the format of the call."""


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
    """The answer did not arrive in time. The handler is cancelled."""


class RpcRecipientDisconnectedError(
    RpcTransportError,
    code=RpcError.ErrorCode.RECIPIENT_DISCONNECTED,
    message="Recipient disconnected",
    registry=built_in_errors,
):
    """The remote left, or its connection was lost for good, while the call was pending. It may have run."""


class RpcResponseTooLargeError(
    RpcTransportError,
    code=RpcError.ErrorCode.RESPONSE_PAYLOAD_TOO_LARGE,
    message="Response payload too large",
    registry=built_in_errors,
):
    """The result is larger than this end accepts. Reported by the remote."""


class RpcSendError(
    RpcTransportError, code=RpcError.ErrorCode.SEND_FAILED, message="Failed to send", registry=built_in_errors
):
    """The channel closed before the request was sent. The call did not run."""


class RpcInvalidReplyError(RpcBadReplyError, code=1510, message="Invalid reply", registry=built_in_errors):
    """The reply to a call violates its format."""


class RpcUnknownIdError(RpcBadReplyError, code=1511, message="Reply to an unknown request", registry=built_in_errors):
    """A reply belongs to no pending call. Never raised: such replies are counted and logged."""


class RpcUnexpectedReplyError(RpcBadReplyError, code=1512, message="Unexpected reply", registry=built_in_errors):
    """The result is of another kind than expected: `perform_rpc` returns text."""


built_in_errors.cover(range(-32_099, -31_999), RpcServerError)
