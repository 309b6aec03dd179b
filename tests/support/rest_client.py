"""A backend: REST requests with a secret key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from metered_realtime.server import SignallingServer


@dataclass
class Answer:
    status: int
    body: Any
    headers: Any

    @property
    def error(self) -> tuple[int, str | None]:
        return self.status, self.body.get("error")


class Backend:
    def __init__(self, session: aiohttp.ClientSession, server: SignallingServer, bearer: str | None) -> None:
        self._session = session
        self._server = server
        self._bearer = bearer

    async def ask(
        self, method: str, path: str, json: Any = None, *, data: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Request a path below the prefix, which is sent unchanged."""
        sent = {} if self._bearer is None else {"Authorization": f"Bearer {self._bearer}"}
        url = URL(f"{self._server.http_url}/v1{path}", encoded=True)
        options: dict[str, Any] = {"data": data} if json is None else {"json": json}
        async with self._session.request(method, url, headers={**sent, **(headers or {})}, **options) as response:
            assert response.content_type == "application/json"
            return Answer(response.status, await response.json(), response.headers)


@asynccontextmanager
async def backend(server: SignallingServer, bearer: str | None = "") -> AsyncIterator[Backend]:
    """A backend with the secret key for the run, or another bearer; None sends none."""
    async with aiohttp.ClientSession() as session:
        yield Backend(session, server, f"{server.secret_id}:{server.secret}" if bearer == "" else bearer)
