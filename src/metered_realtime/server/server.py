"""`SignallingServer`: a signalling server that runs in the event loop of the program."""

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
from .engine.choice import Cluster, check_node_id, new_node_id, private_engine, redis_engine
from .engine.contract import Engine
from .ice import IceServer, ice_server_list
from .keys import App, Keyring, PublishableKey, SecretKey, new_publishable_key, new_secret_pair
from .limits import Limits
from .listening.listener import KEEP_ALIVE, Listener
from .listening.proxies import networks
from .listening.tls import StrPath, load_certificate
from .metrics.endpoint import MetricsEndpoint, MetricsOptions
from .node import Node
from .rights import ACTIONS
from .room_page import PageKey, is_loopback
from .telemetry.options import TelemetryOptions, tracing_of
from .tokens import mint_token
from .turn import TurnServer
from .webhooks.sender import Webhooks, WebhookSender

STOP_TIMEOUT = 2.0
"""Maximum duration of `stop` in seconds. Clients that have not closed by then are disconnected."""

CLEAN_UP_TIME = 0.5
"""The part of it for closing idle HTTP connections."""

MAX_REQUEST_LINE = 65_536
"""Maximum size of the request line in bytes. A token at all its limits, about 50 KB, is part of the query."""

RUN_APP = "run"
"""The app of the keys that a server makes for the run."""


class SignallingServer:
    """A signalling server in this process, with the room page.

    Keys that are not given are generated for the run. The publishable key may publish, subscribe, see presence and send
    in all channels, which suits development and closed networks. `apps` have keys of their own; with `run_keys=False`
    only those are valid, and `api_key`, `secret_id` and `secret` are empty. `turn` adds expiring TURN credentials to
    each welcome. With `tls_cert` and `tls_key`, files in PEM format, the server uses TLS. `trusted_proxies` are the
    addresses and networks whose X-Forwarded-For header is trusted. `metrics` is where `/metrics` is served, `webhooks`
    what is told of peers that come and go, `telemetry` what is traced.

    Servers with an `engine` each, all of one Redis or one memory, serve as one, under the same keys: clients may
    connect to any. `node_id` names one of them in logs and metrics. Without an engine the server is on its own.

    `port=0` picks a free port, and keeps it over a restart. The room page gets the publishable key, so that opening its
    URL is enough, if `open_page` is set and the server listens on loopback only; with `public_page` it always does.

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
        metrics: MetricsOptions | None = None,
        webhooks: Webhooks | None = None,
        telemetry: TelemetryOptions | None = None,
        engine: Engine | None = None,
        node_id: str | None = None,
    ) -> None:
        if (secret_id is None) != (secret is None):
            raise ValueError("secret_id and secret go together: give both or neither")
        if isinstance(port, bool) or not 0 <= port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {port!r}")
        if node_id is not None:
            check_node_id(node_id)
        self.host = host
        self.port = port
        self.node_id = node_id if node_id is not None else new_node_id()
        self._engine = engine
        self._node: Node | None = None  # while running
        self.api_key, self.secret_id, self.secret = _run_keys(api_key, secret_id, secret) if run_keys else ("", "", "")
        self._limits = limits if limits is not None else Limits()
        self._logger: Logger = logger if logger is not None else NoopLogger()
        self._page_key = _page_key(self.api_key if open_page and run_keys else None, host, public_page)
        self._keyring = Keyring([self._run_app(), *apps] if run_keys else apps)
        self._authenticator = Authenticator(self._keyring, ice_server_list(ice_servers), self._limits, turn)
        self._trusted_proxies = networks(trusted_proxies)
        self._certificate = load_certificate(tls_cert, tls_key)
        self._metrics = metrics
        self._webhooks = webhooks
        self._telemetry = telemetry
        self._metrics_runner: web.AppRunner | None = None  # while running, if the metrics have a port
        self._metrics_url: str | None = None
        self._listens_as: tuple[str, int, bool, Cluster | None] | None = None  # from the configuration
        self._app: SignallingApp | None = None
        self._runner: web.AppRunner | None = None  # while running
        self._listener: Listener | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._endings: Counter[str] = Counter()

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        host: str | None = None,
        port: int | None = None,
        logger: Logger | None = None,
        redis_urls: Sequence[str] = (),
        node_id: str | None = None,
    ) -> Self:
        """Return a server with the keys and settings of a configuration file, and without keys for the run.

        `host`, `port`, `redis_urls` and `node_id` override those of the file.

        Raises:
            ValueError: a certificate or a Redis URL cannot be used.
        """
        urls = redis_urls or (config.cluster.redis if config.cluster is not None else ())
        if node_id is None and config.cluster is not None:
            node_id = config.cluster.node_id
        server = cls(
            config.host if host is None else host,
            config.port if port is None else port,
            limits=config.limits,
            logger=logger,
            run_keys=False,
            tls_cert=config.tls_cert,
            tls_key=config.tls_key,
            metrics=config.metrics,
            webhooks=config.webhooks,
            telemetry=config.telemetry,
            engine=redis_engine(urls, logger if logger is not None else NoopLogger()) if urls else None,
            node_id=node_id,
        )
        server._configure(config)
        return server

    def reload(self, config: Config) -> None:
        """Apply another configuration, without a restart.

        Connections whose key was removed or revoked, or no longer allows their origin, are closed with 4001, those left
        without any channel with 4003. All others have the new rights at once. Limits apply to new connections. The
        address that the server listens on does not change, nor do keys for the run.

        Raises:
            ValueError: the certificate cannot be used. Nothing has changed then.
        """
        certificate = load_certificate(config.tls_cert, config.tls_key, self._certificate)
        if self._runner is None:
            self._certificate = certificate
        elif self._listens_as not in (None, _listens_as(config)):
            self._logger.warning(
                "host, port, TLS on or off, and the cluster change with a restart", {"file": str(config.path)}
            )
        self._configure(config)
        if self._app is not None:
            self._app.reconfigure(self._keyring.apps, self._limits, self._page_key, self._trusted_proxies)
        if self._listener is not None:
            self._listener.trusted_proxies = self._trusted_proxies
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
        """The URL for clients: `ws://host:port`, or `wss://` with a certificate."""
        return f"{'ws' if self._certificate is None else 'wss'}://{self._authority}"

    @property
    def http_url(self) -> str:
        """The URL for browsers: `http://host:port`, or `https://` with a certificate."""
        return f"{'http' if self._certificate is None else 'https'}://{self._authority}"

    @property
    def metrics_url(self) -> str | None:
        """The URL of the metrics on their own port, None without one or while the server is stopped."""
        return self._metrics_url

    @property
    def is_traced(self) -> bool:
        """Whether the server records traces."""
        return self._telemetry is not None

    @property
    def endings(self) -> dict[str, int]:
        """Number of connections that ended or were refused since the server was created, by reason.

        The reasons are those of close frames; `too many attempts` for a handshake answered with 429; `outbox full` and
        `no pong` for a client that the server disconnected; `no request` for an HTTP connection closed because it sent
        none in time, or too many waited; `by the client`; and `connection lost`.
        """
        return dict(self._endings)

    @property
    def _authority(self) -> str:
        return f"{_reachable(self.host)}:{self.port}"

    async def start(self) -> None:
        """Start listening. Connections are accepted when this returns. Idempotent.

        Raises:
            OSError: the server cannot listen on its address; the message names it.
            EngineUnavailable: what the engine needs does not answer.
        """
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
        if self._runner is not None:
            return
        node = Node(self._engine if self._engine is not None else private_engine(), self.node_id)
        tracing = tracing_of(self._telemetry)
        app = SignallingApp(
            self._keyring.apps,
            node,
            self._authenticator,
            self._limits,
            self._logger,
            self._page_key,
            self._trusted_proxies,
            self._endings,
            self._metrics,
            WebhookSender(self._webhooks, self._logger, tracing=tracing) if self._webhooks is not None else None,
            tracing,
            is_clustered=self._engine is not None,
        )
        listener = Listener(self._endings, self._trusted_proxies)
        runner = web.AppRunner(
            app.build(listener.middleware),
            access_log=None,  # request lines hold credentials
            logger=HttpLog(ClientLog(self._logger)),
            handle_signals=False,
            shutdown_timeout=CLEAN_UP_TIME / 4,  # aiohttp waits up to twice as long
            keepalive_timeout=KEEP_ALIVE,
            max_line_size=MAX_REQUEST_LINE,
        )
        await runner.setup()
        assert runner.server is not None
        try:
            await node.engine.start(node.node_id, node)
        except BaseException:
            await runner.cleanup()
            raise
        try:
            await listener.start(runner.server, self.host, self.port, self._certificate)
            await self._start_metrics(app.metrics)
        except OSError as error:
            listener.stop()
            await runner.cleanup()
            await node.engine.stop()
            raise OSError(error.errno, f"cannot listen on {self.host} port {self.port}: {error.strerror}") from error
        self.port = listener.port
        self._app, self._runner, self._listener, self._node = app, runner, listener, node
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        self._logger.info("listening", {"url": self.url, "loop": loop})

    async def stop(self) -> None:
        """Send `going_away` to every client, close with 1001, and stop listening. Takes at most `STOP_TIMEOUT`."""
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
        """Sign a token with the secret for the run. Arguments and exceptions are those of the function `mint_token`."""
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

    async def _start_metrics(self, endpoint: MetricsEndpoint) -> None:
        if (started := await endpoint.start()) is not None and self._metrics is not None:
            self._metrics_runner, port = started
            self._metrics_url = f"http://{_reachable(self._metrics.host)}:{port}/metrics"

    async def _shut_down(self, runner: web.AppRunner) -> None:
        try:
            if self._listener is not None:
                self._listener.stop()
            if self._app is not None:
                closing = self._app.webhooks.close() if self._app.webhooks is not None else asyncio.sleep(0)
                await asyncio.gather(self._app.drain(STOP_TIMEOUT - CLEAN_UP_TIME), closing)
        finally:
            self._app = None
            if self._node is not None:
                await self._node.engine.stop()
                self._node = None
            await runner.cleanup()
            if self._metrics_runner is not None:
                await self._metrics_runner.cleanup()
                self._metrics_runner = self._metrics_url = None
        self._logger.info("stopped", {"url": self.url})

    def _run_app(self) -> App:
        publishable = PublishableKey(key=self.api_key, actions=ACTIONS)
        return App(RUN_APP, (publishable,), (SecretKey(id=self.secret_id, secret=self.secret),))


def _reachable(host: str) -> str:
    """Return the host of a URL: the unspecified address is not one to connect to."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _run_keys(api_key: str | None, secret_id: str | None, secret: str | None) -> tuple[str, str, str]:
    pair = new_secret_pair() if secret_id is None or secret is None else (secret_id, secret)
    return (api_key if api_key is not None else new_publishable_key(), *pair)


def _page_key(key: str | None, host: str, public_page: bool) -> PageKey:
    return PageKey(key if public_page or is_loopback(host) else None, loopback_only=not public_page)


def _listens_as(config: Config) -> tuple[str, int, bool, Cluster | None]:
    return config.host, config.port, config.tls_cert is not None, config.cluster
