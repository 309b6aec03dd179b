"""DTLS certificates that several connections share."""

from __future__ import annotations

import datetime

from aiortc.rtcdtlstransport import SRTP_PROFILES, RTCCertificate
from OpenSSL import SSL

from metered_realtime.aiortc_compat import certificate
from metered_realtime.aiortc_compat.certificate import CERTIFICATE_MARGIN, SharedCertificate, certificate_for_now
from tests.aiortc_compat.support.private_names import private_names

TOUCHED = {
    "_create_ssl_context": "test_one_tls_context_serves_all_connections",
}
"""Every private name in aiortc_compat/certificate.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    assert private_names(certificate) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


def lasting(days: float) -> SharedCertificate:
    """A certificate that is good for so many days."""

    class Aged(SharedCertificate):
        expires = datetime.datetime.now(tz=datetime.UTC) + datetime.timedelta(days=days)

    return Aged.generateCertificate()


def test_one_tls_context_serves_all_connections() -> None:
    shared = certificate_for_now(None)
    context = shared._create_ssl_context(SRTP_PROFILES)
    assert shared._create_ssl_context(SRTP_PROFILES) is context
    assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF
    assert RTCCertificate.generateCertificate()._create_ssl_context(SRTP_PROFILES) is not context


def test_a_certificate_is_renewed_before_it_expires() -> None:
    for days, kept in ((29, True), (1.1, True), (0.9, False), (-1, False)):
        previous = lasting(days)
        assert (certificate_for_now(previous) is previous) is kept, days
    lasts = certificate_for_now(None).expires - datetime.datetime.now(tz=datetime.UTC)
    assert lasts > 7 * CERTIFICATE_MARGIN
