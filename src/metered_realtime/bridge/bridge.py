"""`Bridge`: WHIP and WHEP endpoints on a channel, in the event loop of the program."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from types import TracebackType
from typing import Any, Self, Unpack

from aiohttp import web

from ..core.endpoints.places import Places
from ..core.endpoints.refusals import RefusedRequestError
from ..core.wire.names import channel_fault, is_reserved_channel
from ..emitter import AsyncEventEmitter
from ..events import FatalError
from ..events.emitted import BY_BRIDGE
from ..lifetime import Lifetime
from ..mesh.peer import MeteredPeer
from ..options import DEFAULT_TUNING, KeywordsWithoutToken, SignallingClientOptions, Tuning
from ..server.client_log import ClientLog, HttpLog
from ..server.listening.tls import StrPath, load_certificate
from ..signalling.scrubbing import scrubbing
from .access import Access
from .app import BridgeApp
from .options import BridgeLimits
from .participants import Participants, WatchedParticipant
from .room import MixedRoom
from .session import EndpointSession, PlayingSession, PublishingSession
from .stats import BridgeStats

CLOSE_TIMEOUT = 3.0
"""Seconds that `close` may take: the sessions, each of which takes 2 s at the most, then the HTTP server."""

LINGER = 5.0
"""Seconds for which the bridge stays in the channel after its last player has gone: the next one starts faster."""

MAX_LOST = 1_000
"""Ids of lost sessions that are remembered."""

LINGERING_TIME = 1.0
"""Seconds for which the rest of a refused body is read, so that its client sees the answer."""

MAX_REQUEST_LINE = 32_768
"""Maximum size of a header of a request in bytes: a bearer token of `MAX_BEARER` characters fits."""


class Bridge(AsyncEventEmitter):
    """WHIP and WHEP endpoints on one channel.

    Encoders (OBS, FFmpeg, GStreamer, hardware) that publish to `whip_url` join the channel, each as a participant of
    its own. Players at `whep_url` watch the room, mixed into one picture and one sound; at `whep_url` followed by a
    slash and a peer id they watch one participant. What encoders and participants send is passed on as it is wherever
    the receiver takes its codec; the mixed room is decoded and encoded once for all players.

    The bearer token of a client is its credential in the channel: a token that the application signs, or a publishable
    key. The signalling server decides what it permits, and for how long. With `token` the clients need that token
    instead, and everybody joins by the bridge's own credential, which is one of `api_key` and `token_provider`.

    `port=0` picks a free port. `tls_cert` and `tls_key`, files in PEM format, make the endpoints HTTPS, which browsers
    need on other hosts. The other keywords are those of `SignallingClient`.

    Events: `BridgeSessionOpened`, `BridgeSessionConnected` and `BridgeSessionClosed`.

    Raises:
        ImportError: aiohttp is not installed.
        ValueError: an option is out of its range, the channel name or the certificate is invalid, or not exactly one of
            `api_key` and `token_provider` is given.
    """

    _EMITS = BY_BRIDGE

    def __init__(
        self,
        channel: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        tls_cert: StrPath | None = None,
        tls_key: StrPath | None = None,
        limits: BridgeLimits | None = None,
        tuning: Tuning = DEFAULT_TUNING,
        **keywords: Unpack[KeywordsWithoutToken],
    ) -> None:
        options = SignallingClientOptions(**keywords)
        super().__init__(scrubbing(options.logger))
        if (fault := channel_fault(channel)) is not None or is_reserved_channel(channel):
            raise ValueError(f"a channel to join is needed, not {channel!r} ({fault or 'it is reserved'})")
        if bool(options.api_key) == bool(options.token_provider):
            raise ValueError("exactly one of api_key and token_provider is needed")
        if token is not None and not token.strip():
            raise ValueError("token must not be empty")
        self.channel = channel
        self.host, self.port = host, port
        self._limits = limits if limits is not None else BridgeLimits()
        self._tuning = tuning
        self._certificate = load_certificate(tls_cert, tls_key)
        self._access = Access(channel, options, token)
        self._places = Places(self._limits.sessions, self._limits.sessions_per_address)
        self._numbers = itertools.count(1)
        self._lost: deque[str] = deque(maxlen=MAX_LOST)
        self._sessions: dict[str, EndpointSession] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._admitted: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._participants: Participants | None = None
        self._room: MixedRoom | None = None
        self._joining = asyncio.Lock()
        self._players = 0
        self._leaving: asyncio.TimerHandle | None = None
        self._runner: web.AppRunner | None = None
        self._closing: asyncio.Task[None] | None = None
        self._lifetime = Lifetime(self, self.close)

    def __repr__(self) -> str:
        return f"<Bridge {self.channel!r} {self.whip_url if self._runner is not None else 'closed'}>"

    @property
    def url(self) -> str:
        """The origin of the endpoints."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self._certificate is None else 'https'}://{host}:{self.port}"

    @property
    def whip_url(self) -> str:
        """Where encoders publish."""
        return f"{self.url}/whip"

    @property
    def whep_url(self) -> str:
        """Where players watch the room; with a slash and a peer id, a participant."""
        return f"{self.url}/whep"

    def stats(self) -> BridgeStats:
        """Return the statistics of all sessions. Each call is a sample for the rates."""
        return BridgeStats(
            sessions=tuple(it.stats() for it in self._sessions.values()),
            published=self._admitted["publisher"],
            played=self._admitted["player"],
            refused=dict(self._refused),
            ended=dict(self._ended),
            mixing=self._room is not None and self._room.is_running,
        )

    # --- its life

    async def start(self) -> None:
        """Verify the bridge's own credential, and listen.

        Raises:
            SignallingConnectError: the signalling server refused it, or was not reached.
            OSError: the port cannot be listened on.
        """
        if self._runner is not None:
            return
        client = self._access.own_client()
        try:
            await client.connect()
        finally:
            await client.close()
        runner = web.AppRunner(
            BridgeApp(self, self._limits, self._logger).build(),
            access_log=None,
            logger=HttpLog(ClientLog(self._logger)),
            handle_signals=False,
            shutdown_timeout=0.25,
            lingering_time=LINGERING_TIME,
            max_line_size=MAX_REQUEST_LINE,
            max_field_size=MAX_REQUEST_LINE,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self.host, self.port, ssl_context=self._certificate)
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise OSError(error.errno, f"cannot listen on {self.host} port {self.port}: {error.strerror}") from error
        self.port = site.port
        self._runner, self._closing = runner, None
        self._lifetime.begin()
        self._logger.info("bridge: listening", {"url": self.url, "channel": self.channel})

    async def close(self) -> None:
        """End every session and stop listening. Idempotent; takes about `CLOSE_TIMEOUT` at the most."""
        if self._runner is None:
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(self._runner))
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _close(self, runner: web.AppRunner) -> None:
        self._lifetime.end()
        for site in runner.sites:
            await site.stop()
        for session in tuple(self._sessions.values()):
            session.end("closing")
        if self._endings:
            await asyncio.wait(self._endings, timeout=CLOSE_TIMEOUT)
        await runner.cleanup()
        await self._leave()
        self._runner = None
        await self._shut_down_emitter(1.0)

    # --- for the HTTP resources

    async def publish(self, offer: str, bearer: str, name: str | None, address: str) -> tuple[EndpointSession, str]:
        """Admit a publisher. Return its session and the answer.

        Raises:
            RefusedRequestError: it is not admitted, or its offer cannot be used.
        """
        session = PublishingSession(
            next(self._numbers), address, bearer, name, self.emit, self._session_ended, self._logger
        )
        return session, await self._open(session, self._publish(session, offer, bearer))

    async def play(self, offer: str, bearer: str, peer_id: str | None, address: str) -> tuple[EndpointSession, str]:
        """Admit a player of a participant, or of the room. Return its session and the answer.

        Raises:
            RefusedRequestError: it is not admitted, its offer cannot be used, or there is no such participant.
        """
        session = PlayingSession(
            next(self._numbers), address, bearer, None, self.emit, self._session_ended, self._logger
        )
        session.peer_id = peer_id
        return session, await self._open(session, self._play(session, offer, bearer))

    def find(self, session_id: str) -> EndpointSession | None:
        """Return an open session."""
        return self._sessions.get(session_id)

    def has_lost(self, session_id: str) -> bool:
        """Return whether a session has just ended by itself: many clients close their connection, then delete it."""
        return session_id in self._lost

    def count_refusal(self, code: str) -> None:
        """Count a refused request."""
        self._refused[code] += 1

    # --- opening and ending sessions

    async def _open(self, session: EndpointSession, answering: Any) -> str:
        """Open a session that `answering` answers, or release what it has by then."""
        try:
            if self._closing is not None:
                raise RefusedRequestError("closing", retry_after=1)
            self._places.take(session.address)
        except RefusedRequestError:
            answering.close()
            raise
        try:
            answer: str = await answering
            if self._closing is not None or session.reason is not None:
                raise RefusedRequestError("closing" if self._closing is not None else "failed", session.reason or "")
        except BaseException:
            session.end("failed")
            raise
        self._sessions[session.id] = session
        self._admitted[session.role] += 1
        session.opened()
        return answer

    async def _publish(self, session: PublishingSession, offer: str, bearer: str) -> str:
        client = await self._access.publisher(bearer)
        for other in tuple(self._sessions.values()):
            if isinstance(other, PublishingSession) and other.peer_id == client.peer_id:
                other.end("replaced")  # its encoder has started again
                await other.wait_ended()
        await session.join(client, self.channel, self._tuning, by_token=self._access.is_token(bearer))
        return await session.publish(offer, self._limits.restart_window, self._tuning)

    async def _play(self, session: PlayingSession, offer: str, bearer: str) -> str:
        session.admit(await self._access.player(bearer), by_token=self._access.is_token(bearer))
        self._players += 1
        session.is_counted = True
        participants = await self._enter()
        watched: WatchedParticipant | MixedRoom | None
        if session.peer_id is not None:
            watched = await participants.find(session.peer_id)
        else:
            watched = self._mixed(participants)
        if watched is None:
            raise RefusedRequestError("no_such_participant", f"{session.peer_id} is not in the channel", 2)
        if not session.ice_servers:
            session.ice_servers = participants.ice_servers
        return await session.play(offer, watched, self._limits.restart_window, self._tuning)

    def _session_ended(self, session: EndpointSession, reason: str) -> None:
        if self._sessions.pop(session.id, None) is not None:
            self._ended[reason] += 1
            if reason == "lost":
                self._lost.append(session.id)
        task = asyncio.ensure_future(self._finish(session))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _finish(self, session: EndpointSession) -> None:
        await session.wait_ended()
        self._places.give_back(session.address)
        if isinstance(session, PlayingSession) and session.is_counted:
            self._players -= 1
            if self._players == 0 and self._closing is None:
                self._leave_later()

    # --- watching the channel

    async def _enter(self) -> Participants:
        """Return the participants, and enter the channel for that if necessary."""
        async with self._joining:
            if self._leaving is not None:
                self._leaving.cancel()
                self._leaving = None
            if self._participants is None:
                client = self._access.own_client()
                try:
                    await client.connect()
                    peer = MeteredPeer(client=client, logger=self._logger, tuning=self._tuning)
                    participants = Participants(peer, client, self._logger, self._participant_left)
                    await peer.join(self.channel)
                except Exception as error:
                    await client.close()
                    raise RefusedRequestError("server_unreachable", f"the bridge: {type(error).__name__}") from error
                peer.on(FatalError, self._on_fatal)
                self._participants = participants
            return self._participants

    def _mixed(self, participants: Participants) -> MixedRoom:
        if self._room is None:
            self._room = MixedRoom(participants.peer, self._logger)
        return self._room

    def _participant_left(self, peer_id: str) -> None:
        self._end_players("left", lambda it: it.peer_id == peer_id)

    def _on_fatal(self, event: FatalError) -> None:
        self._logger.error("bridge: cannot watch the channel", {"code": event.code})
        self._end_players("refused", lambda _: True)
        self._leave_later(0.0)

    def _end_players(self, reason: str, which: Any) -> None:
        for session in tuple(self._sessions.values()):
            if isinstance(session, PlayingSession) and which(session):
                session.end(reason)

    def _leave_later(self, delay: float = LINGER) -> None:
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().call_later(delay, self._start_leaving)

    def _start_leaving(self) -> None:
        self._leaving = None
        task = asyncio.ensure_future(self._leave_if_unused())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _leave_if_unused(self) -> None:
        async with self._joining:
            if self._players == 0:
                await self._leave()

    async def _leave(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        room, self._room = self._room, None
        participants, self._participants = self._participants, None
        if room is not None:
            await room.close()
        if participants is not None:
            await participants.close()
