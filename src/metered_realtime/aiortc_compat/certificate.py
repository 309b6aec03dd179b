"""DTLS certificates that several connections share, and what is accepted of those of remotes."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from functools import partial
from typing import Any

from aiortc.rtcdtlstransport import (
    RTCCertificate,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCDtlsTransport,
    SRTPProtectionProfile,
)
from OpenSSL import SSL

from .version import Guard, KnownPart

CERTIFICATE_MARGIN = datetime.timedelta(days=1)
"""Minimum remaining validity of a certificate for a new connection. aiortc makes them for 30 days."""

CIPHER_SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
)
"""Those of aiortc, which has none for a DTLS server with an RSA certificate, and three for such servers: with forward
secrecy and authenticated encryption, as BCP 195 (RFC 9325 section 4.2) asks. The certificate of this end stays ECDSA
with P-256 (RFC 8827 section 6.5), so that as DTLS server it never uses them."""

RETRANSMISSIONS = 0.05, 0.1, 0.2, 0.4
"""Seconds after which the first flight of a handshake is sent again, each after the one before. From then on the timer
of OpenSSL counts, which begins with a second (RFC 6347 section 4.2.4.1 allows less; browsers begin with 0.05)."""

LATER_RETRANSMISSIONS = 4, 8
"""Times that a remote took to answer the first flight, after which a later one is sent again. It has shown by then how
long it takes, computing included. FFmpeg's WHIP client, which is the DTLS server, takes a record that comes after the
handshake for a fault of its socket, and from then on sends as rarely as it receives."""

LEAST_PAUSE = 0.2
"""Seconds after which a later flight is sent again at the earliest."""

GUARD = Guard(
    "using aiortc's own certificates, a TLS context for each connection, and no remotes with RSA certificates",
    KnownPart(
        RTCCertificate, "f76ef1d42d82c99a", "__init__", "_create_ssl_context", "getFingerprints", "generateCertificate"
    ),
)

HANDSHAKE_GUARD = Guard(
    "the reason of a failed DTLS handshake is not reported, and a lost flight costs a second",
    KnownPart(
        RTCDtlsTransport,
        "4ba090d0d919a4a9",
        "start",
        "_do_handshake",
        "_recv_next",
        "_write_ssl",
        "_validate_peer_identity",
        "_setup_srtp",
    ),
)

_HINTS = {
    "wrong curve": "OpenSSL does not support the curve of the remote's certificate; all WebRTC ends support P-256 "
    "(RFC 8827 section 6.5)",
    "no shared cipher": "the remote, as DTLS client, offers no cipher suite for a server with an ECDSA certificate",
}
"""What reasons of OpenSSL mean here."""


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
            context.set_cipher_list(":".join(CIPHER_SUITES).encode())
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


class HandshakeWatch:
    """Watches the DTLS handshake of one transport, to report why it failed, and sends lost flights again soon.

    aiortc only logs that it failed: the errors of OpenSSL come up where it ignores them.
    """

    def __init__(self, transport: RTCDtlsTransport) -> None:
        inside: Any = transport
        self._transport = inside
        self._errors: list[str] = []
        self._reason: str | None = None
        if not HANDSHAKE_GUARD.holds():
            return
        self._shake_hands, inside._do_handshake = inside._do_handshake, self._do_handshake
        self._validate, inside._validate_peer_identity = inside._validate_peer_identity, self._validate_peer_identity
        self._set_up_srtp, inside._setup_srtp = inside._setup_srtp, self._setup_srtp

    @property
    def failure(self) -> str | None:
        """The reason why the handshake failed, None if it has not, or if the reason is not known."""
        reason = self._reason or next((_HINTS.get(error, error) for error in self._errors), None)
        return f"DTLS handshake failed: {reason}" if reason and self._transport.state == "failed" else None

    async def _do_handshake(self) -> None:
        tls = self._transport._ssl
        flights = HandshakeFlights(tls, asyncio.get_running_loop().time)
        replaced = {
            "do_handshake": partial(self._note_errors, tls.do_handshake),
            "recv": partial(self._note_errors, tls.recv),
            "bio_read": flights.bio_read,
            "DTLSv1_get_timeout": flights.get_timeout,
            "DTLSv1_handle_timeout": flights.handle_timeout,
        }
        for name, method in replaced.items():
            setattr(tls, name, method)
        try:
            await self._shake_hands()
        finally:
            for name in replaced:
                delattr(tls, name)

    def _validate_peer_identity(self, parameters: RTCDtlsParameters) -> None:
        self._reason = "the certificate of the remote has another fingerprint than its description"
        self._validate(parameters)

    def _setup_srtp(self) -> None:
        self._reason = "the remote supports no SRTP profile of this end"
        self._set_up_srtp()

    def _note_errors(self, method: Any, *args: Any) -> Any:
        try:
            return method(*args)
        except SSL.Error as error:
            if error.args and isinstance(error.args[0], list):
                self._errors += [str(reason) for *_, reason in error.args[0]]
            raise


class HandshakeFlights:
    """Sends a flight of a DTLS handshake again, sooner than OpenSSL, whose first timer takes a second.

    A first flight is easily lost where a remote is not ready for it: Janus with ICE-lite drops what comes before it has
    seen the nomination. Later ones are not sent twice without need, although the other end has to drop a record that
    arrives twice (RFC 6347 section 4.1.2.6).
    """

    def __init__(self, tls: SSL.Connection, clock: Callable[[], float]) -> None:
        self._read, self._timeout = tls.bio_read, tls.DTLSv1_get_timeout
        self._handle = tls.DTLSv1_handle_timeout
        self._clock = clock
        self._flight = b""
        self._pauses: list[float] = []
        self._is_due = False
        self._first_at: float | None = None

    def bio_read(self, size: int) -> bytes:
        """Return what is to be sent: a new flight, or the last one once more."""
        if self._is_due:
            self._is_due = False
            return self._flight
        self._flight = self._read(size)
        now = self._clock()
        if self._first_at is None:
            self._first_at = now
            self._pauses = list(RETRANSMISSIONS)
        else:
            answered_in = now - self._first_at
            self._pauses = [max(LEAST_PAUSE, times * answered_in) for times in LATER_RETRANSMISSIONS]
        return self._flight

    def get_timeout(self) -> float | None:
        """Return the seconds until a flight is sent again, None after the handshake."""
        timeout = self._timeout()
        return min(timeout, self._pauses[0]) if self._pauses and timeout is not None else timeout

    def handle_timeout(self) -> bool:
        """Handle the end of that time."""
        if self._pauses:
            self._is_due = True
            del self._pauses[0]
            return True
        return self._handle()
