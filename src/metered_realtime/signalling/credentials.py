"""The credentials of connection attempts, kept in closures and never in an attribute."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from ..core.session.positions import ASK
from ..core.wire.key_forms import is_local_key, is_local_token
from ..errors import LocalCredentialError
from ..options import TokenProviderFn
from .endpoint import attempt_url, is_hosted

AttemptUrlFn = Callable[[], Awaitable[str]]
"""Returns the URL of the next attempt, credential included."""

FreshTokenFn = Callable[[], Awaitable[str]]
"""Returns a new token for an open connection."""


ResumeTokenFn = Callable[[], str | None]
"""Returns the latest resume token of the server, or None."""

RecoverFn = Callable[[], str]
"""Returns the query parameter `recover`."""


def attempt_urls(
    origin: str,
    *,
    api_key: str | None,
    token: str | None,
    token_provider: TokenProviderFn | None,
    timeout: float,
    resume_token: ResumeTokenFn,
    recover: RecoverFn,
) -> AttemptUrlFn:
    """Return the function for attempt URLs: with a fixed key or token, or with a new token from the provider each time.

    The resume token accompanies a key. Tokens contain the peer id, so that they need none. A key without a resume token
    gets another peer id, and no position holds for that.

    Raises:
        TypeError: `token` is not a str.
        ValueError: not exactly one of `api_key`, `token` and `token_provider` is given.
        LocalCredentialError: a credential of a self-hosted server would be sent to the hosted service.
    """
    if sum(map(bool, (api_key, token, token_provider))) != 1:
        raise ValueError("exactly one of api_key, token and token_provider is needed")
    if token_provider:
        return _token_urls(origin, token_provider, timeout, recover)
    if token:
        return _fixed_token_url(origin, token, recover)
    key = str(api_key)
    if is_hosted(origin) and is_local_key(key):
        raise LocalCredentialError

    async def fixed() -> str:
        resume = resume_token()
        return attempt_url(origin, "key", key, resume, recover=ASK if resume is None else recover())

    return fixed


def _fixed_token_url(origin: str, token: str, recover: RecoverFn) -> AttemptUrlFn:
    if not isinstance(token, str):
        raise TypeError("token must be a str; a function is a token_provider")  # not its value: it may be a secret
    if is_hosted(origin) and is_local_token(token):
        raise LocalCredentialError

    async def fixed() -> str:
        return attempt_url(origin, "token", token, recover=recover())

    return fixed


def fresh_tokens(origin: str, token_provider: TokenProviderFn | None, timeout: float) -> FreshTokenFn | None:
    """Return the function for tokens of a live connection. None without a provider."""
    if not token_provider:
        return None
    provider = token_provider

    async def fresh() -> str:
        return await _token(origin, provider, timeout)

    return fresh


def _token_urls(origin: str, provider: TokenProviderFn, timeout: float, recover: RecoverFn) -> AttemptUrlFn:
    async def fresh() -> str:
        return attempt_url(origin, "token", await _token(origin, provider, timeout), recover=recover())

    return fresh


async def _token(origin: str, provider: TokenProviderFn, timeout: float) -> str:
    """Call the provider, with a limit of `timeout` seconds.

    Raises:
        TimeoutError: the provider took too long.
        TypeError: the provider did not return a non-empty str.
        LocalCredentialError: a token of a self-hosted server would be sent to the hosted service.
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
