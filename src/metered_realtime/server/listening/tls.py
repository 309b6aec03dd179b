"""The TLS certificate of the server."""

from __future__ import annotations

import ssl
from pathlib import Path

StrPath = str | Path


def load_certificate(
    cert: StrPath | None, key: StrPath | None, context: ssl.SSLContext | None = None
) -> ssl.SSLContext | None:
    """Return a context for a certificate chain and its key, files in PEM format, or None without files.

    A `context` in use gets the new certificate, for new handshakes. Without files it keeps the old one.

    Raises:
        ValueError: a file is missing or invalid; the message names both.
    """
    if (cert is None) != (key is None):
        raise ValueError("tls_cert and tls_key go together: give both or neither")
    if cert is None or key is None:
        return context
    try:
        fresh = _server_context()
        fresh.load_cert_chain(cert, key, password=_no_password)
        if context is not None:
            context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ValueError(f"tls_cert {str(cert)!r} and tls_key {str(key)!r} cannot be used: {reason}") from None
    return fresh if context is None else context


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _no_password() -> str:
    # Otherwise OpenSSL would prompt for a passphrase, and the server would hang.
    raise ValueError("the key is encrypted")
