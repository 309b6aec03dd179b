"""The HTTP side: the room page, its files and its key, the health check."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from metered_realtime.server import SignallingServer
from metered_realtime.server.room_page import PageKey, is_loopback, load_page


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_serves_the_page_and_its_files_with_their_types(
    server: SignallingServer, browser: aiohttp.ClientSession
) -> None:
    for path, content_type in (
        ("/", "text/html"),
        ("/page/room.js", "text/javascript"),
        ("/page/room.css", "text/css"),
    ):
        async with browser.get(server.http_url + path) as response:
            assert (path, response.status, response.content_type) == (path, 200, content_type)
            assert "default-src 'self'" in response.headers["Content-Security-Policy"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert await response.text()


@pytest.mark.parametrize(
    "path", ["/page/../server.py", "/page/%2e%2e%2fserver.py", "/page/nothing", "/nothing", "/page/"]
)
async def test_serves_nothing_else(server: SignallingServer, browser: aiohttp.ClientSession, path: str) -> None:
    async with browser.get(server.http_url + path) as response:
        assert response.status == 404


async def test_health_check_answers(server: SignallingServer, browser: aiohttp.ClientSession) -> None:
    async with browser.get(f"{server.http_url}/healthz") as response:
        assert response.status == 200


async def test_plain_http_to_the_websocket_endpoint_is_a_bad_request(
    server: SignallingServer, browser: aiohttp.ClientSession
) -> None:
    async with browser.get(f"{server.http_url}/v1") as response:
        assert response.status == 400


class TestConfig:
    async def test_the_page_config_gives_the_key_to_a_browser_on_this_machine(
        self, server: SignallingServer, browser: aiohttp.ClientSession
    ) -> None:
        for host in ("127.0.0.1", "localhost"):
            async with browser.get(f"http://{host}:{server.port}/page/config.json") as response:
                assert response.headers["Cache-Control"] == "no-cache"
                assert await response.json() == {"key": server.api_key, "url": "/v1"}

    async def test_the_page_config_withholds_the_key_from_a_foreign_name_for_this_machine(
        self, server: SignallingServer, browser: aiohttp.ClientSession
    ) -> None:
        headers = {"Host": "evil.example"}
        async with browser.get(f"{server.http_url}/page/config.json", headers=headers) as response:
            assert await response.json() == {"key": None, "url": "/v1"}

    @pytest.mark.parametrize(
        ("host", "options", "shown"),
        [
            ("127.0.0.1", {"open_page": False}, False),
            ("0.0.0.0", {}, False),
            ("0.0.0.0", {"public_page": True}, True),
            ("0.0.0.0", {"public_page": True, "open_page": False}, False),
        ],
    )
    async def test_the_page_config_gives_the_key_elsewhere_only_when_told_to(
        self, browser: aiohttp.ClientSession, host: str, options: dict[str, Any], shown: bool
    ) -> None:
        async with (
            SignallingServer(host, **options) as server,
            browser.get(f"{server.http_url}/page/config.json") as response,
        ):
            assert (await response.json())["key"] == (server.api_key if shown else None)


class TestParts:
    @pytest.mark.parametrize(
        ("host", "loopback"),
        [
            ("localhost", True),
            ("LOCALHOST", True),
            ("127.0.0.1", True),
            ("127.9.9.9", True),
            ("::1", True),
            ("[::1]", True),
            ("0.0.0.0", False),
            ("", False),
            ("example.com", False),
            ("localhost.evil.example", False),
        ],
    )
    def test_loopback_is_this_machine_only(self, host: str, loopback: bool) -> None:
        assert is_loopback(host) is loopback

    @pytest.mark.parametrize(
        ("header", "shown"),
        [("localhost:80", True), ("[::1]:80", True), ("x.example:80", False), ("[", False), ("", False)],
    )
    def test_the_page_key_goes_by_the_host_header(self, header: str, shown: bool) -> None:
        assert PageKey("pk_live_x").shown_to(header) == ("pk_live_x" if shown else None)

    def test_the_page_key_is_not_in_the_repr(self) -> None:
        assert "pk_live_x" not in repr(PageKey("pk_live_x"))

    def test_a_missing_directory_is_an_empty_page(self, tmp_path: Path) -> None:
        assert load_page(tmp_path / "none") == {}
