"""Servers with a certificate, trusted or not."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from metered_realtime.errors import SignallingConnectError

from ..support.programs import make_client
from ..support.scripted_server import ScriptedServer


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, key included."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return path


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_an_unknown_certificate_is_refused_by_name(certificate: Path) -> None:
    async with ScriptedServer(ssl_context=serving(certificate)) as server:
        client = make_client(server)
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert (caught.value.close_code, caught.value.close_reason) == (1006, "SSLCertVerificationError")
        await client.close()


async def test_a_context_of_ones_own_decides_whom_to_trust(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with ScriptedServer(ssl_context=serving(certificate)) as server:
        client = make_client(server, ssl_context=trusting)
        await client.connect()
        await client.publish("a", 1)
        await client.close()


async def test_an_untrusted_certificate_is_said_and_chained(certificate: Path) -> None:
    async with ScriptedServer(ssl_context=serving(certificate)) as server:
        client = make_client(server)
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert str(caught.value).startswith(f"cannot connect to {server.url}: its certificate is not trusted (")
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        await client.close()


@pytest.mark.parametrize(("spoken", "expected"), [("ws", "wss://"), ("wss", "ws://")])
async def test_the_wrong_scheme_says_which_one_may_be_right(certificate: Path, spoken: str, expected: str) -> None:
    async with ScriptedServer(ssl_context=serving(certificate) if spoken == "ws" else None) as server:
        client = make_client(f"{spoken}://{server.url.partition('://')[2]}")
        with pytest.raises(SignallingConnectError) as caught:
            await client.connect()
        assert f"has a {expected} address" in str(caught.value)
        assert caught.value.close_code == 1006
        await client.close()
