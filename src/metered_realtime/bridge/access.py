"""Bearer tokens: who may publish into the channel and who may watch it is the decision of the signalling server."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from dataclasses import replace

from ..core.endpoints.refusals import RefusedRequestError, refusal_of_connection, refusal_of_request
from ..core.wire.key_forms import PUBLISHABLE_PREFIX
from ..errors import (
    AckTimeoutError,
    DisconnectedError,
    LocalCredentialError,
    NotConnectedError,
    ServerRequestError,
    SignallingConnectError,
    SignallingError,
)
from ..options import SignallingClientOptions
from ..signalling import SignallingClient

MAX_BEARER = 16_384
"""Characters of a bearer token. Tokens of this project have a few hundred; headers are bounded by HTTP."""


def digest(text: str) -> bytes:
    """Return what is kept of a bearer token to recognise it."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def bearer_of(header: str | None) -> str:
    """Return the bearer token of an `Authorization` header (RFC 6750 section 2.1).

    Raises:
        RefusedRequestError: there is none.
    """
    scheme, _, token = (header or "").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > MAX_BEARER:
        raise RefusedRequestError("credential_missing", "send Authorization: Bearer and a token of the channel")
    return token


class Access:
    """Admits clients to one channel.

    With `token` everybody who presents it is admitted, by the bridge's own credential. Without it a bearer token is the
    client's own credential: a token for the channel, or a publishable key.
    """

    def __init__(self, channel: str, options: SignallingClientOptions, token: str | None) -> None:
        self._channel = channel
        self._options = options
        self._token = digest(token) if token is not None else None

    async def publisher(self, bearer: str) -> SignallingClient:
        """Return a connected client of a participant that may send media into the channel. The caller closes it.

        Media between peers needs the actions `subscribe`, which joining shows, and `send`.

        Raises:
            RefusedRequestError: it may not, or the server was not reached.
        """
        client = await self._connected(bearer)
        try:
            await client.send(f"nobody-{uuid.uuid4()}", None)  # the answer tells whether it may send at all
        except ServerRequestError as error:
            if error.code != "peer_not_found":
                await client.close()
                raise refusal_of_request(error.code, str(error)) from error
        except BaseException as error:
            await client.close()
            raise refusal_of(error) from error
        return client

    async def player(self, bearer: str) -> SignallingClient | None:
        """Return a connected client of somebody who may subscribe to the channel. The caller closes it.

        Others in the channel see it come and go: the server has no other way to ask. None for the static token, which
        is not the server's business.

        Raises:
            RefusedRequestError: it may not, or the server was not reached.
        """
        if self._token is not None:
            self._check_static(self._token, bearer)
            return None
        client = await self._connected(bearer)
        try:
            await client.subscribe(self._channel)
            await client.unsubscribe(self._channel)
        except BaseException as error:
            await client.close()
            raise refusal_of(error) from error
        return client

    def is_token(self, bearer: str) -> bool:
        """Return whether a bearer token is a token of its client, which expires, and not a key or the static one."""
        return self._token is None and not bearer.startswith(PUBLISHABLE_PREFIX)

    def own_client(self) -> SignallingClient:
        """Return a client with the bridge's own credential, not connected yet."""
        return SignallingClient(self._options)

    async def _connected(self, bearer: str) -> SignallingClient:
        client = self._client(bearer)
        try:
            await client.connect()
        except BaseException as error:
            await client.close()
            raise refusal_of(error) from error
        return client

    def _client(self, bearer: str) -> SignallingClient:
        if self._token is not None:
            self._check_static(self._token, bearer)
            return self.own_client()
        if bearer.startswith(PUBLISHABLE_PREFIX):
            return SignallingClient(replace(self._options, api_key=bearer, token_provider=None))
        return SignallingClient(replace(self._options, api_key=None, token_provider=lambda: bearer))

    def _check_static(self, token: bytes, bearer: str) -> None:
        if not hmac.compare_digest(digest(bearer), token):
            raise RefusedRequestError("credential_refused")


def refusal_of(error: BaseException) -> BaseException:
    """Return the refusal for an error of a signalling client; any other exception itself."""
    match error:
        case SignallingConnectError():
            return refusal_of_connection(error.close_code, error.http_status, f"close code {error.close_code}")
        case ServerRequestError():
            return refusal_of_request(error.code, error.code)
        case LocalCredentialError():
            return RefusedRequestError("credential_refused", "it is one of a self-hosted server")
        case AckTimeoutError() | DisconnectedError() | NotConnectedError() | SignallingError():
            return RefusedRequestError("server_unreachable", type(error).__name__)
    return error
