"""One client of an endpoint: its media connection, and what belongs to it, from the answer to the end."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..connection.one_shot.connection import OneShotConnection
from ..core.endpoints.preconditions import is_restart
from ..core.endpoints.refusals import RefusedRequestError
from ..core.media.relay_sync import RelaySync
from ..core.negotiation.ice_fragment import IceFragment
from ..core.negotiation.sdp import SdpError
from ..errors import MeteredPeerStateError, NegotiationFailedError, SignallingError
from ..events import ConnectionClosed, Disconnected, Event, FatalError, Left, StateChange, WsCloseCode
from ..events.bridge import BridgeRole, BridgeSessionClosed, BridgeSessionConnected, BridgeSessionOpened
from ..log import Logger
from ..media.sending.relayed_track import RelayedTrack
from ..media.stream import MediaStream
from ..mesh.peer import MeteredPeer
from ..options import IceServerConfig, Tuning
from ..signalling import SignallingClient
from .access import digest, refusal_of
from .stats import BridgeSessionStats

ID_BYTES = 24
"""Random bytes of a session id: whoever has it may end the session, so that nobody may guess it."""


class EndpointSession(ABC):
    """A session. `end` may be called at any time and by anybody; it takes effect once."""

    role: BridgeRole

    def __init__(
        self,
        number: int,
        address: str,
        bearer: str,
        name: str | None,
        emit: Callable[[Event], None],
        ended: Callable[[EndpointSession, str], None],
        logger: Logger,
    ) -> None:
        self.id = secrets.token_urlsafe(ID_BYTES)
        self.number = number
        self.address = address
        self.name = name
        self.peer_id: str | None = None
        self.ice_servers: Sequence[IceServerConfig] = ()
        self.reason: str | None = None
        self._bearer = digest(bearer)
        self._emit = emit
        self._ended = ended
        self._logger = logger
        self._connection: OneShotConnection | None = None
        self._client: SignallingClient | None = None
        self._remote_ufrag: str | None = None
        self._ice_session = 0
        self._since = time.monotonic()
        self._is_admitted_by_token = False
        self._is_told = False
        self._patching = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} {self.peer_id or '-'}>"

    @property
    def etag(self) -> str:
        """The strong entity tag of the current ICE session (RFC 9725 section 4.3.1)."""
        return f'"{self.number}-{self._ice_session}"'

    def belongs_to(self, bearer: str) -> bool:
        """Return whether the session was opened with this bearer token."""
        return hmac.compare_digest(self._bearer, digest(bearer))

    def stats(self) -> BridgeSessionStats:
        """Return the statistics of the session."""
        assert self._connection is not None, "only open sessions are asked"
        seconds = time.monotonic() - self._since
        connection = self._connection.stats()
        return BridgeSessionStats(self.number, self.role, self.peer_id, self.name, self.address, seconds, connection)

    # --- what its client asks for

    async def answer(self, offer: str, tracks: MediaStream, restart_window: float, tuning: Tuning) -> str:
        """Return the answer to an offer, in which these tracks are sent.

        Raises:
            RefusedRequestError: the offer cannot be used.
        """
        if self.reason is not None:
            raise RefusedRequestError("failed", self.reason)
        with refused_descriptions():
            self._remote_ufrag = IceFragment.of(offer).ufrag
            self._connection = OneShotConnection(
                tracks,
                ice_servers=self.ice_servers,
                restart_window=restart_window,
                tuning=tuning,
                logger=self._logger,
            )
            self._connection.on(StateChange, self._on_state)
            self._connection.on(ConnectionClosed, lambda event: self.end("lost", str(event.err or "")))
            # Nothing can be sent to the client after the answer: it waits for the candidates of servers.
            return await self._connection.accept_offer(offer, trickle=False)

    async def patch(self, fragment: str, if_match: str | None) -> str | None:
        """Add the candidates of a fragment, or restart ICE: then the fragment of this end is returned.

        Raises:
            RefusedRequestError: it cannot be used, or is for another ICE session.
        """
        async with self._patching:  # requests may overlap
            if self._connection is None or self.reason is not None:
                raise RefusedRequestError("no_such_session")
            try:
                ufrag = IceFragment.parse(fragment).ufrag
                restarts = is_restart(if_match, ufrag, self._remote_ufrag, self.etag)
                answer = await self._connection.add_fragment(fragment)
            except (SdpError, NegotiationFailedError) as error:
                raise RefusedRequestError("malformed_fragment", str(error)) from error
            except MeteredPeerStateError as error:
                raise RefusedRequestError("unusable_candidate", str(error)) from error
            except ValueError as error:
                raise RefusedRequestError("unusable_candidate", str(error)) from error
            if restarts:
                self._remote_ufrag = ufrag
                self._ice_session += 1
            return answer

    # --- its life

    def opened(self) -> None:
        """Handle the session being answered: its events begin."""
        self._is_told = True
        self._emit(BridgeSessionOpened(self.number, self.role, self.peer_id, self.name, self.address))
        if self._connection is not None and self._connection.state == "connected":
            self._emit(BridgeSessionConnected(self.number, self.role, self.peer_id))

    def end(self, reason: str, detail: str = "") -> None:
        """End the session. Only the first call counts; `wait_ended` waits for the rest."""
        if self.reason is not None:
            return
        self.reason = reason
        self._ending = asyncio.ensure_future(self._close())
        self._ended(self, reason)
        if self._is_told:
            self._emit(BridgeSessionClosed(self.number, self.role, self.peer_id, reason, detail))

    async def wait_ended(self) -> None:
        """Return once everything of the session is released, after `end`."""
        assert self._ending is not None, "it has been ended"
        await asyncio.wait([self._ending])

    async def _close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        await self._release()
        if self._client is not None:
            await self._client.close()

    @abstractmethod
    async def _release(self) -> None:
        """Release what the session holds beside its connections."""

    def _hold(self, client: SignallingClient | None, *, by_token: bool) -> None:
        """Keep the connection to the signalling server: when the server ends it for good, the session ends."""
        self._client = client
        self._is_admitted_by_token = by_token
        if client is not None:
            client.on(Disconnected, self._on_disconnected)
            self.ice_servers = client.ice_servers or ()

    def _on_disconnected(self, event: Disconnected) -> None:
        # Another attempt would present the same token.
        has_expired = event.code == WsCloseCode.TOKEN_EXPIRED and self._is_admitted_by_token
        if has_expired or not event.will_reconnect:
            self.end("refused", f"close code {event.code}")

    def _on_state(self, event: StateChange) -> None:
        if event.to == "connected":
            self._connected()
            if self._is_told:
                self._emit(BridgeSessionConnected(self.number, self.role, self.peer_id))

    def _connected(self) -> None:  # noqa: B027 - players have nothing to do
        """Handle the media connection coming up."""


class PublishingSession(EndpointSession):
    """An encoder that is a participant of the channel: its tracks are passed on as they are."""

    role: BridgeRole = "publisher"
    _peer: MeteredPeer | None = None
    _stream: MediaStream | None = None

    async def join(self, client: SignallingClient, channel: str, tuning: Tuning, *, by_token: bool) -> None:
        """Enter the channel as the participant whose connected client this is, admitted `by_token` of its own or not.

        Raises:
            RefusedRequestError: the signalling server does not permit that.
        """
        self._hold(client, by_token=by_token)
        self.peer_id = client.peer_id
        self._peer = MeteredPeer(client=client, logger=self._logger, tuning=tuning)
        self._peer.on(FatalError, lambda event: self.end("refused", str(event.code)))
        self._peer.on(Left, lambda event: self.end("refused", event.reason or ""))
        try:
            await self._peer.join(channel)
        except SignallingError as error:
            raise refusal_of(error) from error

    async def publish(self, offer: str, restart_window: float, tuning: Tuning) -> str:
        """Return the answer to an offer, and send its tracks to the channel once they arrive.

        Raises:
            RefusedRequestError: the offer cannot be used, or sends nothing.
        """
        answer = await self.answer(offer, MediaStream(), restart_window, tuning)
        assert self._connection is not None, "the offer was answered"
        if not self._connection.tracks:
            raise RefusedRequestError("unusable_description", "it has no section in which media is sent")
        codecs = first_codecs(answer)
        self._stream, group = MediaStream(), RelaySync()
        for number, track in enumerate(self._connection.tracks):
            expected = codecs.get(track.kind)
            relayed = RelayedTrack(
                track.kind, f"{track.kind}-{number}", group=group, expected=expected, reads_ahead=True
            )
            relayed.switch(track)
            self._stream.add_track(relayed)
        return answer

    def _connected(self) -> None:
        if self._peer is None or self._stream is None or self.reason is not None:
            return
        if self._peer.get_stream_metadata(self._stream) is None:
            metadata: dict[str, Any] = {"source": "whip"}
            self._peer.add_stream(self._stream, {**metadata, "name": self.name} if self.name else metadata)

    def opened(self) -> None:
        super().opened()
        if self._connection is not None and self._connection.state == "connected":
            self._connected()

    async def _release(self) -> None:
        for track in self._stream.get_tracks() if self._stream is not None else ():
            track.stop()
        if self._peer is not None:
            await self._peer.close()


class Watchable(Protocol):
    """What players watch: a participant, or the room."""

    @property
    def tracks(self) -> Sequence[Any]:
        """Its sound and its picture."""

    def hold(self) -> None:
        """Receive for one more player."""

    def release(self) -> None:
        """Receive for one player less."""

    async def wait_for_packets(self) -> None:
        """Return once the codecs are known, or will not be soon."""


class PlayingSession(EndpointSession):
    """A player that watches a participant, or the mixed room."""

    role: BridgeRole = "player"
    is_counted = False
    _watched: Watchable | None = None

    def admit(self, client: SignallingClient | None, *, by_token: bool) -> None:
        """Keep the connection with which the signalling server admitted the player, if any."""
        self._hold(client, by_token=by_token)

    async def play(self, offer: str, watched: Watchable, restart_window: float, tuning: Tuning) -> str:
        """Return the answer to an offer, in which a participant or the room is sent.

        Raises:
            RefusedRequestError: the offer cannot be used, or takes nothing.
        """
        watched.hold()
        self._watched = watched
        await watched.wait_for_packets()
        answer = await self.answer(offer, MediaStream(watched.tracks), restart_window, tuning)
        if not any(line.strip() in ("a=sendonly", "a=sendrecv") for line in answer.splitlines()):
            raise RefusedRequestError("unusable_description", "it has no section in which media is received")
        return answer

    async def _release(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.release()


@contextlib.contextmanager
def refused_descriptions() -> Any:
    """Turn the errors of descriptions into refusals."""
    try:
        yield
    except SdpError as error:
        raise RefusedRequestError("malformed_description", str(error)) from error
    except NegotiationFailedError as error:
        malformed = isinstance(error.__cause__, SdpError)
        raise RefusedRequestError("malformed_description" if malformed else "unusable_description", str(error)) from (
            error
        )
    except MeteredPeerStateError as error:
        raise RefusedRequestError("failed", str(error)) from error


def first_codecs(description: str) -> dict[str, str]:
    """Return the MIME type that comes first in the sections of each kind: what the other end sends, as a rule."""
    found: dict[str, str] = {}
    kind = first = ""
    for line in description.splitlines():
        if line.startswith("m="):
            kind, first = line[2:].split(" ")[0], (line.split(" ") + [""] * 4)[3]
        elif first and line.startswith(f"a=rtpmap:{first} "):
            found.setdefault(kind, f"{kind}/{line.split(' ', 1)[1].split('/')[0]}")
    return found
