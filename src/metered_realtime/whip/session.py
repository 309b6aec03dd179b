"""A session with a media server: a connection, its resource at the endpoint, and what keeps the two in step."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..connection.one_shot.connection import OneShotConnection
from ..connection.stats import ConnectionStats
from ..core.negotiation.ice_fragment import fragment_of
from ..errors import (
    ConnectionLostError,
    MeteredRealtimeError,
    WhipError,
    WhipRequestError,
)
from ..events import ConnectionClosed, LocalCandidate, StateChange
from ..log import Logger
from ..media.receiving.remote_track import RemoteTrack
from ..media.stream import MediaStream
from ..options import PeerConnectionState
from .http_client import HttpClient
from .resource import SessionResource

RESTART_WINDOW = 30.0
"""Seconds after the loss of the path within which restarts of ICE may find another one."""

RESTART_DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each restart of ICE: those after the first give a network that changes some time."""

RESTART_PATIENCE = 5.0
"""Seconds that a restart may take to find a path before the next one begins."""

CANDIDATE_ATTEMPTS = 3
"""Attempts to tell the endpoint a candidate. Its session goes on without."""

CANDIDATE_PAUSE = 0.5
"""Seconds between them."""

_FINAL = (403, 404, 405, 410, 422, 501)
"""Refusals of a restart that another attempt would not change: the session is gone, or cannot restart ICE."""


class MediaSession:
    """A session that `whip_publish` or `whep_play` has opened. Close it, or use it as a context manager.

    When the path to the media server is lost, ICE is restarted, several times within half a minute. If that fails the
    session ends: `wait_closed` raises why. Its `connection` has the events, `StateChange` and `ConnectionClosed` among
    them.

    Attributes:
        connection: The connection to the media server.
        error: Why the session ended by itself, None while it has not.
    """

    def __init__(self, connection: OneShotConnection, http: HttpClient, logger: Logger) -> None:
        self.connection = connection
        self.error: MeteredRealtimeError | None = None
        self._http = http
        self._resource = SessionResource(http, logger)
        self._logger = logger
        self._base = ""  # a description or fragment of this end with its current ICE credentials
        self._found: list[LocalCandidate] = []
        self._untold = False
        self._patching = asyncio.Lock()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._ending: asyncio.Task[None] | None = None
        connection.on(LocalCandidate, self._on_candidate)
        connection.on(StateChange, self._on_state)
        connection.on(ConnectionClosed, self._on_closed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state}>"

    @property
    def state(self) -> PeerConnectionState:
        """`connected`, `reconnecting` while another path is looked for, or `closed`."""
        return self.connection.state

    @property
    def url(self) -> str | None:
        """The URL of the session at the endpoint. Whoever knows it may be able to end the session."""
        return self._resource.url

    def stats(self) -> ConnectionStats:
        """Return the statistics of the connection. Cheap; each call is a sample for the rates."""
        return self.connection.stats()

    async def wait_closed(self) -> None:
        """Return once the session is closed, here and at the endpoint.

        Raises:
            ConnectionLostError: the media server closed the connection, or the path to it is lost.
            WhipError: the path is lost, and the endpoint refused a restart of ICE.
        """
        async with self.connection.events(ConnectionClosed) as closed:
            if self.state != "closed":
                await anext(closed)
        await self.close()
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """End the session, at the endpoint (DELETE) and here. Idempotent; takes 4 s at the most."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def __aenter__(self) -> MediaSession:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # --- opening

    @property
    def lacks_candidates(self) -> bool:
        """Whether the endpoint refused candidates that it may need."""
        return self._untold

    async def open(self, *, trickle: bool, asks_first: bool) -> None:
        """Negotiate, and wait until the connection is up. `asks_first`: ask for ICE servers before the offer."""
        if asks_first:
            self.connection.use_ice_servers(await self._resource.ask_for_ice_servers())
        offer = self._base = await self.connection.create_offer(trickle=trickle)
        if not trickle:
            self._found.clear()  # the offer has them
        answer = await self._resource.create(_with_mux_only(offer))
        if self.connection.waits_for_ice_servers:
            self.connection.use_ice_servers(self._resource.ice_servers)
        await self.connection.accept_answer(answer)
        self._spawn(self._tell_candidates())
        await self.connection.wait_connected()

    # --- candidates

    def _on_candidate(self, event: LocalCandidate) -> None:
        self._found.append(event)
        if self._resource.url is not None:
            self._spawn(self._tell_candidates())

    async def _tell_candidates(self) -> None:
        """Tell the endpoint, in one request, the candidates that were found so far."""
        async with self._patching:
            found, self._found = self._found, []
            candidates = [it.candidate for it in found if it.candidate is not None]
            is_complete = len(candidates) < len(found)
            # The end alone is of use only to an endpoint that waits for candidates.
            if not self._resource.takes_patches or not (candidates or (is_complete and self._resource.has_etag)):
                self._untold = self._untold or bool(candidates)
                return
            fragment = fragment_of(self._base, candidates, is_complete=is_complete)
            if not await self._told(fragment):
                self._untold = True

    async def _told(self, fragment: str) -> bool:
        for attempt in range(CANDIDATE_ATTEMPTS):
            try:
                await self._resource.add_candidates(fragment)
                return True
            except WhipError as error:
                self._logger.warning("candidates not taken by the endpoint", {"error": str(error)})
                if isinstance(error, WhipRequestError) and error.status < 500:
                    return False
            if attempt < CANDIDATE_ATTEMPTS - 1:
                await asyncio.sleep(CANDIDATE_PAUSE)
        return False

    # --- another path

    def _on_state(self, event: StateChange) -> None:
        if event.to == "reconnecting":
            self._spawn(self._find_path())

    async def _find_path(self) -> None:
        """Restart ICE until there is a path, or no sense in it."""
        error: MeteredRealtimeError | None = None
        for delay in RESTART_DELAYS:
            await asyncio.sleep(delay)
            if self.state != "reconnecting":
                return
            try:
                await self._restart()
                async with asyncio.timeout(RESTART_PATIENCE):
                    await self.connection.wait_connected()
                return
            except TimeoutError:
                error = None  # the connection knows best
            except MeteredRealtimeError as failure:
                self._logger.warning("ICE was not restarted", {"error": str(failure)})
                error = failure
                if isinstance(failure, WhipRequestError) and failure.status in _FINAL:
                    break
        if self.state == "reconnecting":
            self.error = error or ConnectionLostError("path_lost")
            await self.connection.close()

    async def _restart(self) -> None:
        async with self._patching:
            self._found.clear()
            self._base = await self.connection.create_restart()
            await self.connection.accept_restart(await self._resource.restart_ice(self._base))

    # --- the end

    def _on_closed(self, event: ConnectionClosed) -> None:
        if self._ending is not None:
            return  # deleted, the endpoint may close the connection first
        if self.error is None and isinstance(event.err, MeteredRealtimeError):
            self.error = event.err
        self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._resource.delete()
        await self.connection.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._http.close()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class WhipSession(MediaSession):
    """What `whip_publish` returns: tracks that are sent to a media server until the session is closed."""

    async def __aenter__(self) -> WhipSession:
        return self

    def replace_track(self, old: Any, new: Any) -> None:
        """Send a track in the place of another of its kind. The media server sees the same track.

        Raises:
            TypeError: `new` is not a track.
            ValueError: the kinds differ, `old` is not being sent, or `new` is being sent already.
        """
        self.connection.replace_track(old, new)


class WhepSession(MediaSession):
    """What `whep_play` returns: tracks that a media server sends until the session is closed."""

    async def __aenter__(self) -> WhepSession:
        return self

    @property
    def tracks(self) -> list[RemoteTrack]:
        """The tracks that the media server sends."""
        return self.connection.tracks

    @property
    def streams(self) -> list[MediaStream]:
        """The streams that the media server sends: one, as the standard has it."""
        return self.connection.streams


def _with_mux_only(offer: str) -> str:
    """Return an offer that has no place for RTCP on a port of its own (RFC 8858, RFC 9725 section 4.4.1)."""
    return offer.replace("a=rtcp-mux\r\n", "a=rtcp-mux\r\na=rtcp-mux-only\r\n")
