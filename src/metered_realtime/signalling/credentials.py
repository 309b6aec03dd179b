"""Where the credential of a connection attempt comes from. It lives in closures, never in an attribute."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from ..core.wire.key_forms import is_local_key, is_local_token
from ..errors import LocalCredentialError
from ..options import TokenProviderFn
from .endpoint import attempt_url, is_hosted

AttemptUrlFn = Callable[[], Awaitable[str]]
"""Returns the address of the next attempt, credential included."""

FreshTokenFn = Callable[[], Awaitable[str]]
"""Returns a token for a connection that is open already."""


ResumeTokenFn = Callable[[], str | None]
"""Returns the resume token that the server gave last, if any."""


def attempt_urls(
    origin: str,
    *,
    api_key: str | None,
    token_provider: TokenProviderFn | None,
    timeout: float,
    resume_token: ResumeTokenFn,
) -> AttemptUrlFn:
    """Return the source of attempt addresses: one fixed key, or a token from the provider each time.

    Beside the key goes the resume token. Clients with tokens have a peer id of their own anyhow.

    Raises:
        ValueError: not exactly one of `api_key` and `token_provider` is given.
        LocalCredentialError: a key of this server software would go to the hosted service.
    """
    if bool(api_key) == bool(token_provider):
        raise ValueError("exactly one of api_key and token_provider is needed")
    if token_provider:
        return _token_urls(origin, token_provider, timeout)
    key = str(api_key)
    if is_hosted(origin) and is_local_key(key):
        raise LocalCredentialError

    async def fixed() -> str:
        return attempt_url(origin, "key", key, resume_token())

    return fixed


def fresh_tokens(origin: str, token_provider: TokenProviderFn | None, timeout: float) -> FreshTokenFn | None:
    """Return the source of tokens for a live connection. None without a provider."""
    if not token_provider:
        return None
    provider = token_provider

    async def fresh() -> str:
        return await _token(origin, provider, timeout)

    return fresh


def _token_urls(origin: str, provider: TokenProviderFn, timeout: float) -> AttemptUrlFn:
    async def fresh() -> str:
        return attempt_url(origin, "token", await _token(origin, provider, timeout))

    return fresh


async def _token(origin: str, provider: TokenProviderFn, timeout: float) -> str:
    """Ask the provider, at most `timeout` seconds.

    Raises:
        TimeoutError: the provider took too long.
        TypeError: it returned something else than a non-empty str.
        LocalCredentialError: a token by a key of this server software would go to the hosted service.
    """
    answer = provider()
    if inspect.isawaitable(answer):
        async with asyncio.timeout(timeout):
            answer = await answer
    if not isinstance(answer, str) or not answer:
        raise TypeError("token_provider must return a non-empty str, at once or awaited")
    if is_hosted(origin) and is_local_token(answer):
        raise LocalCredentialError
    return answer
