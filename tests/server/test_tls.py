"""The server with a TLS certificate."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect

from metered_realtime.server import SignallingServer
from metered_realtime.server.config.file import parse_config
from tests.support.patience import takes_less_than

from ..cli.test_serve import finished, program
from ..support.probe import Probe, dialled


def self_signed(directory: Path, name: str = "ours", password: bytes | None = None) -> tuple[Path, Path]:
    """Create a certificate for 127.0.0.1 with a common name. Return its file and that of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(loopback, critical=False)
        .sign(key, SHA256())
    )
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    cert_path, key_path = directory / f"{name}.pem", directory / f"{name}.key"
    cert_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden),
    )
    return cert_path, key_path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return self_signed(tmp_path)


def trusting(cert: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(cert))


@asynccontextmanager
async def entered(server: SignallingServer, peer_id: str, cert: Path) -> AsyncIterator[Probe]:
    async with dialled(server, f"token={server.mint_token(peer_id)}", ssl=trusting(cert)) as probe:
        await probe.get()
        yield probe


async def test_speaks_tls_on_every_path(files: tuple[Path, Path]) -> None:
    cert, key = files
    trust = trusting(cert)
    server = SignallingServer(tls_cert=cert, tls_key=key)
    async with server, entered(server, "ann", cert) as ann, entered(server, "bob", cert) as bob:
        assert server.url == f"wss://127.0.0.1:{server.port}"
        assert server.http_url == f"https://127.0.0.1:{server.port}"
        await ann.ask("send", to="bob", data="x" * 60_000)
        assert len((await bob.get())["data"]) == 60_000
        await bob.socket.send(b"binary")
        assert (await bob.ending())[0] == 1008
        async with ClientSession() as session:
            async with session.get(f"{server.http_url}/", ssl=trust) as page:
                assert page.status == 200
            bearer = {"Authorization": f"Bearer {server.secret_id}:{server.secret}"}
            async with session.get(f"{server.http_url}/v1/usage", ssl=trust, headers=bearer) as usage:
                assert usage.status == 200


async def test_stops_in_time(files: tuple[Path, Path]) -> None:
    cert, key = files
    server = SignallingServer(tls_cert=cert, tls_key=key)
    async with server, entered(server, "ann", cert) as polite, entered(server, "bob", cert) as silent:
        silent.socket.transport.pause_reading()
        async with takes_less_than(2):
            await server.stop()
        assert (await polite.get())["type"] == "going_away"
        assert (await polite.ending())[0] == 1001
        silent.socket.transport.abort()


async def test_drops_a_plain_connection(files: tuple[Path, Path]) -> None:
    async with SignallingServer(tls_cert=files[0], tls_key=files[1]) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"ok" not in await reader.read()
        writer.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tls_cert": "c.pem"}, "both or neither"),
        ({"tls_key": "c.pem"}, "both or neither"),
        ({"tls_cert": "gone.pem", "tls_key": "gone.key"}, r"gone\.pem"),
    ],
)
def test_names_the_files_that_it_cannot_use(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SignallingServer(**options)


def test_needs_the_key_of_the_certificate_without_a_password(tmp_path: Path, files: tuple[Path, Path]) -> None:
    cert, key = self_signed(tmp_path, "locked", b"password")
    with pytest.raises(ValueError, match="encrypted"):
        SignallingServer(tls_cert=cert, tls_key=key)
    with pytest.raises(ValueError, match="MISMATCH"):
        SignallingServer(tls_cert=cert, tls_key=files[1])


async def test_shows_a_renewed_certificate_after_a_reload(tmp_path: Path) -> None:
    old, new = self_signed(tmp_path, "old"), self_signed(tmp_path, "new")
    text = '[server]\ntls_cert = "{}.pem"\ntls_key = "{}.key"\n[[publishable_keys]]\nkey = "pk_live_a"\n'
    config = {name: parse_config(text.format(name, name), tmp_path / "server.toml") for name in ("old", "new")}
    server = SignallingServer.from_config(config["old"], port=0)
    async with server, dialled(server, "key=pk_live_a", ssl=trusting(old[0])) as before:
        await before.get()
        server.reload(config["new"])
        async with dialled(server, "key=pk_live_a", ssl=trusting(new[0])) as after:
            assert (await after.get())["type"] == "welcome"
        await before.put("ping")
        assert (await before.get())["type"] == "pong"


async def test_is_asked_of_the_program_by_two_options(files: tuple[Path, Path]) -> None:
    options = ("--tls-cert", str(files[0]), "--tls-key", str(files[1]))
    async with program("serve", "--port", "0", "--json", *options) as process:
        assert process.stdout is not None
        line = json.loads(await process.stdout.readline())
        assert line["url"].startswith("wss://")
        async with connect(f"{line['url']}/v1?key={line['api_key']}", ssl=trusting(files[0])) as socket:
            assert (await Probe(socket).get())["type"] == "welcome"
        process.terminate()
        await process.communicate()
    code, _, err = await finished("serve", *options[:2])
    assert (code, "both or neither" in err) == (2, True)
