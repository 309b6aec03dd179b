"""The five endpoints, from a call to the fields of its response. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ...core.wire.frames import encode_payload
from ...core.wire.names import channel_fault, identity_fault, is_reserved_channel
from ...core.wire.surrogates import decode_json
from ..engine.contract import Envelope
from ..hub.writer import entries
from ..keys import SecretKey
from ..limits import Limits
from ..node import outcome_of
from ..rights import ACTIONS, Action, Grant
from ..tenant import Tenant
from ..tokens import MAX_TOKEN_CHANNELS, InvalidTokenError, mint_token, verify_token

MAX_LIFETIME = 86_400
"""Maximum lifetime of a token from this API, in seconds."""

MAX_PERMISSIONS = 16

DEFAULT_SENDER = "system"

Answer = dict[str, Any]


class RestError(Exception):
    """A request is refused. Without a code the response has a message only."""

    def __init__(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request. `name` is the id in the path, `now` unix seconds."""

    tenant: Tenant
    key: SecretKey
    name: str
    body: bytes
    limits: Limits
    now: float

    @property
    def grant(self) -> Grant:
        """The rights of the key."""
        return Grant(self.key.actions, self.key.channel_patterns)


class TokenBody(Struct, rename="camel", frozen=True):
    peer_id: str
    channels: list[str] | UnsetType = UNSET
    permissions: list[str] | UnsetType = UNSET
    expires_in_sec: int | float = 3600
    metadata: dict[str, Any] | UnsetType = UNSET
    peer_metadata: dict[str, Any] | UnsetType = UNSET


class PublishBody(Struct, rename={"sender": "from", "peer_metadata": "peerMetadata"}, frozen=True):
    data: Raw
    sender: str = DEFAULT_SENDER
    peer_metadata: dict[str, Any] | UnsetType = UNSET


async def mint(call: Call) -> Answer:
    """Sign a token for a peer, within the scope of the key."""
    body = _decode(call.body, TokenBody)
    # JSON has one kind of number, in which 60.0 is an integer.
    if not (1 <= body.expires_in_sec <= MAX_LIFETIME and float(body.expires_in_sec).is_integer()):
        raise _invalid(f"expiresInSec must be a whole number from 1 to {MAX_LIFETIME}")
    channels, permissions = _given(body.channels), _given(body.permissions)
    _check_token_channels(channels or [], call.grant)
    _check_permissions(permissions or [], call.key)
    try:
        token = mint_token(
            secret_id=call.key.id,
            secret=call.key.secret,
            peer_id=body.peer_id,
            channels=channels,
            permissions=permissions,
            expires_in=body.expires_in_sec,
            metadata=_given(body.metadata),
            peer_metadata=_given(body.peer_metadata),
            now=call.now,
        )
        # A token that this server issues must be one that it accepts.
        claims = verify_token(token, call.key, call.now, call.limits)
    except (ValueError, InvalidTokenError) as error:
        raise _invalid(str(error)) from None
    return {"token": token, "expiresAt": claims.expires_at}


async def roster(call: Call) -> Answer:
    """Return the peers in a channel."""
    _check_channel(call, "presence")
    members = await outcome_of(partial(call.tenant.engine.roster, call.tenant.id, call.name))
    return {"channel": call.name, "peers": entries(members)}


async def publish(call: Call) -> Answer:
    """Publish a message to the subscribers of a channel."""
    body = _decode(call.body, PublishBody)
    _check_channel(call, "publish")
    metadata = _peer_metadata(_given(body.peer_metadata), call.limits)
    if identity_fault(body.sender) is not None:
        raise _invalid("from must be 1 to 128 characters of printable ASCII")
    if await outcome_of(partial(call.tenant.engine.has_peer, call.tenant.id, body.sender)):
        raise _invalid("from is the id of a connected peer")
    if not call.tenant.meter.count_message():
        wait = str(max(1, math.ceil(call.tenant.meter.period_left())))
        raise RestError(429, "over_message_quota", "the messages of this period are used up", {"Retry-After": wait})
    envelope = Envelope(body.sender, body.data, metadata)
    delivered = await outcome_of(partial(call.tenant.hub.publish, call.name, envelope))
    return {"channel": call.name, "delivered": delivered}


async def close_peer(call: Call) -> Answer:
    """Close all connections of a peer."""
    if identity_fault(call.name) is not None:
        raise _invalid("a peer id is 1 to 128 characters of printable ASCII")
    return {"peerId": call.name, "closed": await call.tenant.close_peer(call.name)}


async def usage(call: Call) -> Answer:
    """Return the use of the app in the current period."""
    return {"appId": call.tenant.id, **await call.tenant.usage()}


T = TypeVar("T")


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        body.decode()  # data that is forwarded undecoded must be UTF-8 too
        return decode_json(msgspec.json.Decoder(kind), body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _invalid(f"the body is not what it should be: {error}") from None


def _given(value: T | UnsetType) -> T | None:
    return None if isinstance(value, UnsetType) else value


def _check_channel(call: Call, action: Action) -> None:
    fault = channel_fault(call.name)
    if fault is not None:
        raise _invalid(f"the id in the path is not a channel name ({fault})")
    if is_reserved_channel(call.name):
        raise RestError(400, "channel_reserved", "the channel is reserved")
    if not call.grant.permits(action):
        raise RestError(403, "action_not_permitted", f"'{action}' is not granted to the key")
    if not call.grant.reaches(call.name):
        raise RestError(403, "channel_not_authorized", "the channel is out of the key's scope")


def _check_token_channels(channels: list[str], grant: Grant) -> None:
    if len(channels) > MAX_TOKEN_CHANNELS:
        raise _invalid(f"channels must have at most {MAX_TOKEN_CHANNELS} entries")
    for channel in channels:
        fault = channel_fault(channel)
        if fault is not None:
            raise _invalid(f"channels has an entry that is no channel name or pattern ({fault})")
        if is_reserved_channel(channel):
            raise RestError(400, "channel_reserved", "channels has an entry that is reserved")
    for channel in channels:
        if not grant.covers(channel):
            raise RestError(403, "channel_not_authorized", "channels has an entry out of the key's scope")


def _check_permissions(permissions: list[str], key: SecretKey) -> None:
    if len(permissions) > MAX_PERMISSIONS:
        raise _invalid(f"permissions must have at most {MAX_PERMISSIONS} entries")
    for action in permissions:
        if action not in ACTIONS:
            raise _invalid(f"permissions must be of {', '.join(sorted(ACTIONS))}")
    if not key.actions.issuperset(permissions):
        raise RestError(403, "action_not_permitted", "permissions has an action that the key does not have")


def _peer_metadata(value: dict[str, Any] | None, limits: Limits) -> Raw | None:
    if value is None:
        return None
    try:
        packed = encode_payload(value)
    except ValueError as error:
        raise _invalid(f"peerMetadata cannot be forwarded: {error}") from None
    if len(bytes(packed)) > limits.peer_metadata_size:
        raise _invalid(f"peerMetadata must have at most {limits.peer_metadata_size} bytes as JSON")
    return packed


def _invalid(message: str) -> RestError:
    return RestError(400, "invalid_request", message)
