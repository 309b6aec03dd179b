"""The outcomes of calls, and the results and errors that programs get from them."""

from __future__ import annotations

from typing import Any

from ..core.rpc.caller import Loss
from ..core.rpc.messages import BadReply, ErrorObject, Success
from .built_in import (
    RpcInvalidReplyError,
    RpcRecipientDisconnectedError,
    RpcResponseTimeoutError,
    RpcSendError,
    RpcUnsupportedServerError,
    RpcUnsupportedVersionError,
)
from .errors import ErrorRegistry, RpcError, error_object

Outcome = Success | ErrorObject | BadReply | Loss | None
"""The outcome of a call; None for a notification that was sent."""

NOT_CARRIED = error_object(RpcUnsupportedServerError())
"""The outcome of a call that the server refused to carry. Compared by identity: a remote may send an equal error."""

_LOSSES: dict[Loss, type[RpcError]] = {
    Loss.EXPIRED: RpcResponseTimeoutError,
    Loss.UNSENT: RpcSendError,
    Loss.LOST: RpcRecipientDisconnectedError,
}


def result_of(outcome: Outcome, errors: ErrorRegistry) -> Any:
    """Return the result of a call.

    Raises:
        RpcError: the call has no result.
    """
    match outcome:
        case None:
            return None
        case Success():
            return outcome.result
        case ErrorObject():
            raise errors.decode(outcome)
        case BadReply(is_other_version=True):
            raise RpcUnsupportedVersionError
        case BadReply():
            raise RpcInvalidReplyError(data=outcome.reason)
        case Loss():
            raise _LOSSES[outcome]
