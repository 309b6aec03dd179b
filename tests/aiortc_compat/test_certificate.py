"""DTLS certificates that several connections share."""

from __future__ import annotations

import asyncio
import datetime
import re
from typing import Any

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.rtcdtlstransport import (
    SRTP_AEAD_AES_256_GCM,
    SRTP_AES128_CM_SHA1_80,
    SRTP_PROFILES,
    RTCCertificate,
    generate_certificate,
)
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from metered_realtime.aiortc_compat import certificate
from metered_realtime.aiortc_compat.certificate import (
    CERTIFICATE_MARGIN,
    CIPHER_SUITES,
    RETRANSMISSIONS,
    HandshakeFlights,
    HandshakeWatch,
    SharedCertificate,
    certificate_for_now,
)
from metered_realtime.aiortc_compat.gathering import gather_host_candidates
from metered_realtime.aiortc_compat.peer_connection import connect
from metered_realtime.aiortc_compat.transports import dtls_transport
from tests.aiortc_compat.support.bare_connections import make, negotiate, plain
from tests.aiortc_compat.support.private_names import private_names
from tests.support.foreign import RsaCertificate, set_certificate
from tests.support.patience import takes_less_than
from tests.support.peers import eventually

MAX_FLIGHT = 65_536

TOUCHED = {
    "_create_ssl_context": "test_one_tls_context_serves_all_connections",
    "_do_handshake": "test_a_curve_that_openssl_does_not_support_is_reported",
    "_setup_srtp": "test_a_remote_without_a_common_srtp_profile_is_reported",
    "_ssl": "test_a_curve_that_openssl_does_not_support_is_reported",
    "_validate_peer_identity": "test_another_fingerprint_than_described_is_reported",
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


Meeting = tuple[RTCPeerConnection, HandshakeWatch, RTCPeerConnection]


async def meet(pcs: list[RTCPeerConnection], theirs: RTCPeerConnection, *, role: str) -> Meeting:
    """Negotiate with a connection that has this DTLS role. Whoever offers becomes the server."""
    ours = make(pcs)
    watch = HandshakeWatch(dtls_transport(ours))
    one, other = (theirs, ours) if role == "server" else (ours, theirs)
    one.createDataChannel("x")
    await negotiate(one, other)
    await asyncio.gather(connect(ours), return_exceptions=True)
    return ours, watch, theirs


@pytest.mark.parametrize("role", ["server", "client"])
async def test_a_remote_may_have_an_rsa_certificate(pcs: list[RTCPeerConnection], role: str) -> None:
    theirs = plain(pcs)
    set_certificate(theirs, RsaCertificate.generateCertificate())
    ours, watch, _ = await meet(pcs, theirs, role=role)
    await eventually(lambda: ours.connectionState == theirs.connectionState == "connected")
    tls: Any = dtls_transport(ours)._ssl
    wanted = "ECDHE-RSA-AES128-GCM-SHA256" if role == "server" else "ECDHE-ECDSA-AES128-GCM-SHA256"
    assert (tls.get_cipher_name(), watch.failure) == (wanted, None)


@pytest.mark.parametrize("role", ["server", "client"])
async def test_a_lost_flight_of_a_handshake_costs_no_second(
    pcs: list[RTCPeerConnection], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    ours, theirs = make(pcs), plain(pcs)
    transport: Any = dtls_transport(ours).transport
    lost: list[bytes] = []
    send = transport._send

    async def lose_the_first(data: bytes) -> None:
        if lost:
            await send(data)
        else:
            lost.append(data)

    monkeypatch.setattr(transport, "_send", lose_the_first)
    watch = HandshakeWatch(dtls_transport(ours))
    one, other = (theirs, ours) if role == "server" else (ours, theirs)
    one.createDataChannel("x")
    async with takes_less_than(0.5):
        await negotiate(one, other)
        await connect(ours)
    assert (ours.connectionState, watch.failure, len(lost)) == ("connected", None, 1)


@pytest.mark.parametrize(("answered_in", "pauses"), [(0.01, [0.2, 0.2]), (0.06, [0.24, 0.48])])
def test_a_later_flight_waits_for_several_times_what_the_first_one_took(
    answered_in: float, pauses: list[float]
) -> None:
    context = certificate_for_now(None)._create_ssl_context(SRTP_PROFILES)
    client, server, now = SSL.Connection(context), SSL.Connection(context), 0.0
    client.set_connect_state()
    server.set_accept_state()
    client.DTLSv1_get_timeout = lambda: 1.0  # type: ignore[method-assign]
    flights = HandshakeFlights(client, lambda: now)
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    server.bio_write(flights.bio_read(MAX_FLIGHT))
    assert flights.get_timeout() == RETRANSMISSIONS[0]
    with pytest.raises(SSL.WantReadError):
        server.do_handshake()
    now += answered_in
    client.bio_write(server.bio_read(MAX_FLIGHT))
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    last = flights.bio_read(MAX_FLIGHT)
    for pause in pauses:
        assert flights.get_timeout() == pytest.approx(pause)
        flights.handle_timeout()
        assert flights.bio_read(MAX_FLIGHT) == last
    assert flights.get_timeout() == 1.0


def test_the_suites_beside_those_of_aiortc_have_forward_secrecy_and_authenticated_encryption() -> None:
    def offered(context: SSL.Context) -> list[str]:
        return [it for it in SSL.Connection(context).get_cipher_list() if not it.startswith("TLS_")]

    bare = offered(RTCCertificate.generateCertificate()._create_ssl_context(SRTP_PROFILES))
    ours = offered(certificate_for_now(None)._create_ssl_context(SRTP_PROFILES))
    assert ours == list(CIPHER_SUITES)
    assert set(bare) <= set(ours)
    for suite in set(ours) - set(bare):
        assert suite.startswith("ECDHE-RSA-")
        assert "-GCM-" in suite or "-POLY1305" in suite


async def test_a_curve_that_openssl_does_not_support_is_reported(pcs: list[RTCPeerConnection]) -> None:
    """FFmpeg 8.1 with GnuTLS makes certificates with P-224."""
    theirs = plain(pcs)
    key = ec.generate_private_key(ec.SECP224R1())
    set_certificate(theirs, RTCCertificate(key, generate_certificate(key)))
    ours, watch, _ = await meet(pcs, theirs, role="client")
    await eventually(lambda: ours.connectionState == "failed")
    assert watch.failure is not None
    assert "does not support the curve" in watch.failure


async def test_another_fingerprint_than_described_is_reported(pcs: list[RTCPeerConnection]) -> None:
    theirs, ours = plain(pcs), make(pcs)
    watch = HandshakeWatch(dtls_transport(ours))
    theirs.createDataChannel("x")
    await theirs.setLocalDescription(await theirs.createOffer())
    others = RTCCertificate.generateCertificate().getFingerprints()[0]
    offer = re.sub(r"a=fingerprint:sha-256 .*", f"a=fingerprint:sha-256 {others.value}", theirs.localDescription.sdp)
    await ours.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    await gather_host_candidates(ours)
    await ours.setLocalDescription(await ours.createAnswer())
    await theirs.setRemoteDescription(ours.localDescription)
    await connect(ours)
    assert (ours.connectionState, dtls_transport(ours).state) == ("failed", "failed")
    assert watch.failure is not None
    assert "another fingerprint" in watch.failure


async def test_a_remote_without_a_common_srtp_profile_is_reported(
    pcs: list[RTCPeerConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = plain(pcs)
    theirs.createDataChannel("y")
    assert theirs.sctp is not None
    monkeypatch.setattr(theirs.sctp.transport, "_srtp_profiles", [SRTP_AEAD_AES_256_GCM])
    ours = make(pcs)
    monkeypatch.setattr(dtls_transport(ours), "_srtp_profiles", [SRTP_AES128_CM_SHA1_80])
    watch = HandshakeWatch(dtls_transport(ours))
    ours.createDataChannel("x")
    await negotiate(ours, theirs)
    await connect(ours)
    assert ours.connectionState == "failed"
    assert watch.failure is not None
    assert "no SRTP profile" in watch.failure
