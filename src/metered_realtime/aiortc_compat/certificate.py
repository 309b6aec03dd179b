"""DTLS certificates that several connections share."""

from __future__ import annotations

import datetime
from typing import Any

from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint, SRTPProtectionProfile
from OpenSSL import SSL

from .version import Guard, KnownPart

CERTIFICATE_MARGIN = datetime.timedelta(days=1)
"""What a certificate has left at least when a connection begins. aiortc makes them for 30 days."""


GUARD = Guard(
    "using aiortc's own certificates, with a TLS context for each connection",
    KnownPart(
        RTCCertificate, "f76ef1d42d82c99a", "__init__", "_create_ssl_context", "getFingerprints", "generateCertificate"
    ),
)


class SharedCertificate(RTCCertificate):
    """A certificate for any number of connections, with one TLS context, which costs more than the certificate.

    Remotes that compare fingerprints see that they talk to the same peer (RFC 8827 section 6.5): share it among
    connections whose other ends know that anyway.
    """

    def __init__(self, key: Any, cert: Any) -> None:
        super().__init__(key, cert)
        self._contexts: dict[tuple[bytes, ...], SSL.Context] = {}
        self._fingerprints = [(it.algorithm, it.value) for it in super().getFingerprints()]

    def getFingerprints(self) -> list[RTCDtlsFingerprint]:
        """Return the fingerprints in all algorithms. They are computed once."""
        return [RTCDtlsFingerprint(algorithm, value) for algorithm, value in self._fingerprints]

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        if not GUARD.holds():
            return super()._create_ssl_context(srtp_profiles)
        names = tuple(profile.openssl_profile for profile in srtp_profiles)
        if names not in self._contexts:
            context = super()._create_ssl_context(srtp_profiles)
            # Nobody resumes a session, and a context that stays would collect them.
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            self._contexts[names] = context
        return self._contexts[names]


def certificate_for_now(previous: SharedCertificate | None) -> SharedCertificate:
    """Return what a new connection is to use: the previous certificate, or a new one if that expires soon."""
    now = datetime.datetime.now(tz=datetime.UTC)
    if previous is not None and previous.expires - now > CERTIFICATE_MARGIN:
        return previous
    return SharedCertificate.generateCertificate()
