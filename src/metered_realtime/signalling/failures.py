"""Error messages for failed connection attempts, actionable and without credentials."""

from __future__ import annotations

import socket
import ssl
from http import HTTPStatus
from urllib.parse import urlsplit

from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus

from .scrubbing import MAX_DEPTH, scrub_error, scrub_text


def describe(error: Exception, url: str, timeout: float) -> str:
    """Return the server and the cause of a failed attempt as text. `url` is the one of the attempt, credential
    included."""
    parts = urlsplit(url)
    return f"cannot connect to {parts.scheme}://{parts.netloc}: {_cause(error, parts.scheme == 'wss', timeout)}"


def without_secrets(error: Exception) -> Exception:
    """Return the error for `__cause__`: credentials masked, and no tracebacks, since their variables hold the URL."""
    scrubbed = scrub_error(error)
    link: BaseException | None = scrubbed
    for _ in range(MAX_DEPTH):
        if link is None:
            return scrubbed
        link.__traceback__ = None
        if link.__cause__ is not None:
            link.__context__ = None
        link = link.__cause__ or link.__context__
    if link is not None:
        link.__cause__ = link.__context__ = link.__traceback__ = None
    return scrubbed


def _cause(error: Exception, is_secure: bool, timeout: float) -> str:
    match error:
        case InvalidStatus():
            return _status(error.response.status_code, error.response.headers.get("Retry-After"))
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message}); ssl_context= says what else to trust"
        case ssl.SSLError() if is_secure:
            return f"TLS failed ({error.reason or error}); a server without TLS has a ws:// address"
        case TimeoutError():
            return f"no answer within {timeout:g} s"
        case socket.gaierror():
            return f"its name cannot be resolved ({error.strerror})"
        case ConnectionRefusedError():
            return "connection refused, nothing listens there"
        case ConnectionError() if is_secure:
            return "the connection was closed during the TLS handshake; a server without TLS has a ws:// address"
        case InvalidMessage() if not is_secure:
            return "what answers does not speak HTTP; a server with TLS has a wss:// address"
        case InvalidHandshake() | OSError():
            return scrub_text(str(error)) or type(error).__name__
    return f"{type(error).__name__}: {scrub_text(str(error))}"


def _status(status: int, retry_after: str | None) -> str:
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    later = f", try again in {retry_after} s" if retry_after is not None and retry_after.isdecimal() else ""
    return f"HTTP {status} {phrase}".rstrip() + later
