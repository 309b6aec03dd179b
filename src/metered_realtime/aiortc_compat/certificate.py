"""DTLS certificates that several connections share."""

from __future__ import annotations

import datetime
from typing import Any

from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint, SRTPProtectionProfile
from OpenSSL import SSL

from .version import Guard, KnownPart

CERTIFICATE_MARGIN = datetime.timedelta(days=1)
"""Minimum remaining validity of a certificate for a new connection. aiortc makes them for 30 days."""


GUARD = Guard(
    "using aiortc's own certificates, with a TLS context for each connection",
    KnownPart(
        RTCCertificate, "f76ef1d42d82c99a", "__init__", "_create_ssl_context", "getFingerprints", "generateCertificate"
    ),
)


class SharedCertificate(RTCCertificate):
    """A certificate for any number of connections, with one TLS context, which costs more than the certificate.

    Remotes that compare fingerprints find that they are connected to the same peer (RFC 8827 section 6.5): share it
    only among connections whose remotes know that anyway.
    """

    def __init__(self, key: Any, cert: Any) -> None:
        super().__init__(key, cert)
        self._contexts: dict[tuple[bytes, ...], SSL.Context] = {}
        self._fingerprints = [(it.algorithm, it.value) for it in super().getFingerprints()]

    def getFingerprints(self) -> list[RTCDtlsFingerprint]:
        """Return the fingerprints in all algorithms, which are computed once."""
        return [RTCDtlsFingerprint(algorithm, value) for algorithm, value in self._fingerprints]

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        if not GUARD.holds():
            return super()._create_ssl_context(srtp_profiles)
        names = tuple(profile.openssl_profile for profile in srtp_profiles)
        if names not in self._contexts:
            context = super()._create_ssl_context(srtp_profiles)
            # Sessions are never resumed, and a context that lives on would collect them.
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            self._contexts[names] = context
        return self._contexts[names]


def certificate_for_now(previous: SharedCertificate | None) -> SharedCertificate:
    """Return the certificate for a new connection: the previous one, or a new one if that expires soon."""
    now = datetime.datetime.now(tz=datetime.UTC)
    if previous is not None and previous.expires - now > CERTIFICATE_MARGIN:
        return previous
    return SharedCertificate.generateCertificate()
