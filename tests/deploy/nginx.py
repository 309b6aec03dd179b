"""A real nginx with the configuration of deploy/, in front of servers of the test."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pytest

from tests.server.test_tls import self_signed

EXECUTABLE = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_nginx = pytest.mark.skipif(
    EXECUTABLE is None and "CI" not in os.environ, reason="nginx is needed: apt-get install nginx-light"
)
"""Skips the test where nginx is missing, except in CI, where it fails."""

TEMPLATE = Path(__file__).parents[2] / "deploy/nginx/metered-realtime.conf.template"

MAIN = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/main.log warn;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/site.conf;
}}
"""


@dataclass(frozen=True)
class Proxy:
    """Where nginx listens, and what it logs."""

    authority: str
    plain: str
    tls: ssl.SSLContext
    directory: Path

    @property
    def url(self) -> str:
        return f"wss://{self.authority}"

    @property
    def http_url(self) -> str:
        return f"https://{self.authority}"

    @property
    def access_log(self) -> str:
        return (self.directory / "access.log").read_text()

    @property
    def logs(self) -> str:
        return "".join(path.read_text() for path in self.directory.glob("*.log"))


@asynccontextmanager
async def nginx(directory: Path, node_a: str, node_b: str) -> AsyncIterator[Proxy]:
    """Run nginx in front of two nodes, each `host:port`. It has a certificate for 127.0.0.1."""
    assert EXECUTABLE is not None, "nginx is needed: apt-get install nginx-light"
    cert, key = self_signed(directory)
    with ExitStack() as stack:
        plain, secure = (stack.enter_context(_listening()) for _ in range(2))
        values = {
            "METERED_SERVER_NAME": "rt.example",
            "METERED_NODE_A": node_a,
            "METERED_NODE_B": node_b,
            "METERED_HTTP": _authority(plain),
            "METERED_HTTPS": _authority(secure),
            "METERED_TLS_CERT": str(cert),
            "METERED_TLS_KEY": str(key),
            "METERED_ACCESS_LOG": str(directory / "access.log"),
            "METERED_ERROR_LOG": str(directory / "error.log"),
        }
        (directory / "site.conf").write_text(filled_in(TEMPLATE.read_text(), values))
        user = "user root;" if os.geteuid() == 0 else ""
        (directory / "nginx.conf").write_text(MAIN.format(directory=directory, user=user))
        # nginx takes over sockets that listen already, as it does from a former binary: no port has to be guessed.
        process = await asyncio.create_subprocess_exec(
            EXECUTABLE,
            *("-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "main.log")),
            pass_fds=(plain.fileno(), secure.fileno()),
            env={"NGINX": f"{plain.fileno()};{secure.fileno()};"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        tls = ssl.create_default_context(cafile=str(cert))
        try:
            yield Proxy(_authority(secure), f"http://{_authority(plain)}", tls, directory)
            assert process.returncode is None, (directory / "main.log").read_text()
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def filled_in(template: str, values: dict[str, str]) -> str:
    """Do what envsubst does with variables that are defined: others, such as nginx's own, stay as they are."""
    return Template(template).safe_substitute(values)


def _listening() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    listening.set_inheritable(True)
    return listening


def _authority(listening: socket.socket) -> str:
    host, port = listening.getsockname()
    return f"{host}:{port}"
