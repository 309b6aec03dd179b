"""The signalling server as an object: start it, use its keys, change its configuration, stop it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from ..log import Logger, NoopLogger
from .app import SignallingApp
from .auth import Authenticator
from .client_log import ClientLog, HttpLog
from .config.file import Config
from .ice import IceServer, ice_server_list
from .keys import App, Keyring, PublishableKey, SecretKey, new_publishable_key, new_secret_pair
from .limits import Limits
from .proxies import networks
from .rights import ACTIONS
from .room_page import PageKey, is_loopback
from .tls import StrPath, load_certificate
from .tokens import mint_token
from .turn import TurnServer

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
    `run_keys=False` leaves them out: only the keys of `apps` count then, and `api_key`, `secret_id` and `secret` are
    empty. `turn` adds TURN credentials that expire to each welcome. With `tls_cert` and `tls_key`, files in PEM, the
    server speaks TLS. `trusted_proxies` are the addresses and networks whose X-Forwarded-For is believed.

    `port=0` takes a free port, and keeps it over a restart. The page is told the key, so that opening the URL is all
    it takes, if `open_page` and the server listens on loopback only; `public_page` tells it everywhere.

    Raises:
        ValueError: a key, an ICE server, a certificate or a combination of arguments is wrong.
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
        run_keys: bool = True,
        turn: TurnServer | None = None,
        tls_cert: StrPath | None = None,
        tls_key: StrPath | None = None,
        trusted_proxies: Iterable[str] = (),
    ) -> None:
        if (secret_id is None) != (secret is None):
            raise ValueError("secret_id and secret go together: give both or neither")
        if isinstance(port, bool) or not 0 <= port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {port!r}")
        self.host = host
        self.port = port
        self.api_key, self.secret_id, self.secret = _run_keys(api_key, secret_id, secret) if run_keys else ("", "", "")
        self._limits = limits if limits is not None else Limits()
        self._logger: Logger = logger if logger is not None else NoopLogger()
        self._page_key = _page_key(self.api_key if open_page and run_keys else None, host, public_page)
        self._keyring = Keyring([self._run_app(), *apps] if run_keys else apps)
        self._authenticator = Authenticator(self._keyring, ice_server_list(ice_servers), self._limits, turn)
        self._trusted_proxies = networks(trusted_proxies)
        self._certificate = load_certificate(tls_cert, tls_key)
        self._listens_as: tuple[str, int, bool] | None = None  # by the configuration
        self._app: SignallingApp | None = None
        self._runner: web.AppRunner | None = None  # while running
        self._stopping: asyncio.Task[None] | None = None
        self._endings: Counter[str] = Counter()

    @classmethod
    def from_config(
        cls, config: Config, *, host: str | None = None, port: int | None = None, logger: Logger | None = None
    ) -> Self:
        """Return a server with the keys and settings of a configuration file, and no keys of the run.

        `host` and `port` go before those of the file.

        Raises:
            ValueError: a certificate cannot be used.
        """
        server = cls(
            config.host if host is None else host,
            config.port if port is None else port,
            limits=config.limits,
            logger=logger,
            run_keys=False,
            tls_cert=config.tls_cert,
            tls_key=config.tls_key,
        )
        server._configure(config)
        return server

    def reload(self, config: Config) -> None:
        """Go on with another configuration, without a restart.

        Connections whose key is gone, revoked or no longer for their origin close with 4001, those left without any
        channel with 4003. All others have the rights of the new configuration at once; limits apply to connections
        that are new. The address that the server listens on stays, and so do keys of the run.

        Raises:
            ValueError: the certificate cannot be used; nothing has changed then.
        """
        certificate = load_certificate(config.tls_cert, config.tls_key, self._certificate)
        if self._runner is None:
            self._certificate = certificate
        elif self._listens_as not in (None, _listens_as(config)):
            self._logger.warning("host, port, and TLS on or off, change with a restart", {"file": str(config.path)})
        self._configure(config)
        if self._app is not None:
            self._app.reconfigure(self._keyring.apps, self._limits, self._page_key, self._trusted_proxies)
        self._logger.info("configuration loaded", {"file": str(config.path)})

    def _configure(self, config: Config) -> None:
        self._keyring = Keyring([self._run_app(), *config.apps] if self.api_key else config.apps)
        self._listens_as = _listens_as(config)
        self._limits, self._trusted_proxies = config.limits, config.trusted_proxies
        if not self.api_key:
            self._page_key = _page_key(config.page_key, self.host, config.public_page)
        self._authenticator.configure(self._keyring, config.ice_servers, config.limits, config.turn)

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
        """The origin for clients: `ws://host:port`, or `wss://` with a certificate."""
        return f"{'ws' if self._certificate is None else 'wss'}://{self._authority}"

    @property
    def http_url(self) -> str:
        """The origin for browsers: `http://host:port`, or `https://` with a certificate."""
        return f"{'http' if self._certificate is None else 'https'}://{self._authority}"

    @property
    def endings(self) -> dict[str, int]:
        """How often connections ended or were refused since the server was made, by the reason.

        The reasons are those of close frames; `too many attempts` for a handshake that is answered with 429;
        `outbox full` and `no pong` for a client that was cut off; `by the client`; and `connection lost`.
        """
        return dict(self._endings)

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
        app = SignallingApp(
            self._keyring.apps,
            self._authenticator,
            self._limits,
            self._logger,
            self._page_key,
            self._trusted_proxies,
            self._endings,
        )
        runner = web.AppRunner(
            app.build(),
            access_log=None,  # request lines hold credentials
            logger=HttpLog(ClientLog(self._logger)),
            handle_signals=False,
            shutdown_timeout=CLEAN_UP_TIME / 4,  # aiohttp waits up to twice as long
            keepalive_timeout=KEEP_ALIVE,
            max_line_size=MAX_REQUEST_LINE,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self.host, self.port, ssl_context=self._certificate)
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


def _run_keys(api_key: str | None, secret_id: str | None, secret: str | None) -> tuple[str, str, str]:
    pair = new_secret_pair() if secret_id is None or secret is None else (secret_id, secret)
    return (api_key if api_key is not None else new_publishable_key(), *pair)


def _page_key(key: str | None, host: str, public_page: bool) -> PageKey:
    return PageKey(key if public_page or is_loopback(host) else None, loopback_only=not public_page)


def _listens_as(config: Config) -> tuple[str, int, bool]:
    return config.host, config.port, config.tls_cert is not None
