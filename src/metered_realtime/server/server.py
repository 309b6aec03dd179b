"""The signalling server as an object: start it, use its keys, stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from ..log import Logger, NoopLogger
from .app import SignallingApp
from .auth import Authenticator
from .ice import IceServer, ice_server_list
from .keys import App, Keyring, PublishableKey, SecretKey, new_publishable_key, new_secret_pair
from .limits import Limits
from .rights import ACTIONS
from .room_page import PageKey, is_loopback
from .tokens import mint_token

STOP_TIMEOUT = 2.0
"""Seconds that `stop` takes at most: clients get their share of it to close in order, then they are cut off."""

CLEAN_UP_TIME = 0.5
"""Seconds of it that ending idle HTTP connections may take."""

MAX_REQUEST_LINE = 65_536
"""Bytes. A token at all its caps, some 50 KB, travels in the query."""

KEEP_ALIVE = 75.0
"""Seconds that an HTTP connection may stay open without asking for anything."""

RUN_APP = "run"
"""The app of the keys that a server has without further configuration."""


class SignallingServer:
    """A signalling server in this process, with the room page.

    Without keys it makes some for the run. Its publishable key may do everything: publish, subscribe, see presence
    and send, everywhere; that is meant for development and for closed networks. `apps` have keys of their own.
    `port=0` takes a free port, and keeps it over a restart. The page is told the key, so that opening the URL is all
    it takes, if `open_page` and the server listens on loopback only; `public_page` tells it everywhere.

    Raises:
        ValueError: a key, an ICE server or a combination of arguments is wrong.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        api_key: str | None = None,
        secret_id: str | None = None,
        secret: str | None = None,
        ice_servers: Iterable[IceServer] = (),
        limits: Limits | None = None,
        logger: Logger | None = None,
        open_page: bool = True,
        public_page: bool = False,
        apps: Sequence[App] = (),
    ) -> None:
        if (secret_id is None) != (secret is None):
            raise ValueError("secret_id and secret go together: give both or neither")
        if isinstance(port, bool) or not 0 <= port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {port!r}")
        self.host = host
        self.port = port
        self.api_key = api_key if api_key is not None else new_publishable_key()
        pair = new_secret_pair() if secret_id is None or secret is None else (secret_id, secret)
        self.secret_id, self.secret = pair
        self._limits = limits if limits is not None else Limits()
        self._logger: Logger = logger if logger is not None else NoopLogger()
        shown = open_page and (public_page or is_loopback(host))
        self._page_key = PageKey(self.api_key if shown else None, loopback_only=not public_page)
        self._keyring = Keyring([self._run_app(), *apps])
        self._authenticator = Authenticator(self._keyring, ice_server_list(ice_servers), self._limits)
        self._app: SignallingApp | None = None
        self._runner: web.AppRunner | None = None  # while running
        self._stopping: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<SignallingServer {self.url} {'running' if self._runner else 'stopped'}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The origin for clients: `ws://host:port`."""
        return f"ws://{self._authority}"

    @property
    def http_url(self) -> str:
        """The origin for browsers: `http://host:port`."""
        return f"http://{self._authority}"

    @property
    def _authority(self) -> str:
        # An address that means "all of them" is no address to connect to.
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Connections are accepted when this returns; starting twice does nothing.

        Raises:
            OSError: the address cannot be listened on; the text names it.
        """
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
        if self._runner is not None:
            return
        app = SignallingApp(self._keyring.apps, self._authenticator, self._limits, self._logger, self._page_key)
        runner = web.AppRunner(
            app.build(),
            access_log=None,  # request lines hold credentials
            handle_signals=False,
            shutdown_timeout=CLEAN_UP_TIME / 4,  # aiohttp waits up to twice as long
            keepalive_timeout=KEEP_ALIVE,
            max_line_size=MAX_REQUEST_LINE,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self.host, self.port)
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise OSError(error.errno, f"cannot listen on {self.host} port {self.port}: {error.strerror}") from error
        self.port = site.port
        self._app, self._runner = app, runner
        self._logger.info("listening", {"url": self.url})

    async def stop(self) -> None:
        """Send every client `going_away`, close with 1001, and stop listening. Takes at most `STOP_TIMEOUT`."""
        if self._runner is not None:
            self._stopping = asyncio.create_task(self._shut_down(self._runner))
            self._runner = None
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    def mint_token(
        self,
        peer_id: str,
        *,
        channels: Sequence[str] | None = None,
        permissions: Iterable[str] | None = None,
        expires_in: float = 3600,
        metadata: dict[str, Any] | None = None,
        peer_metadata: dict[str, Any] | None = None,
    ) -> str:
        """Sign a token with the run's secret. Arguments and errors are those of the module's `mint_token`."""
        return mint_token(
            secret_id=self.secret_id,
            secret=self.secret,
            peer_id=peer_id,
            channels=channels,
            permissions=permissions,
            expires_in=expires_in,
            metadata=metadata,
            peer_metadata=peer_metadata,
        )

    async def _shut_down(self, runner: web.AppRunner) -> None:
        try:
            for site in runner.sites:
                await site.stop()
            if self._app is not None:
                await self._app.drain(STOP_TIMEOUT - CLEAN_UP_TIME)
        finally:
            self._app = None
            await runner.cleanup()
        self._logger.info("stopped", {"url": self.url})

    def _run_app(self) -> App:
        publishable = PublishableKey(key=self.api_key, actions=ACTIONS)
        return App(RUN_APP, (publishable,), (SecretKey(id=self.secret_id, secret=self.secret),))
