"""`whip_publish` and `whep_play`: open a session with a media server, and wait until media flows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, TypeVar

from ..connection.one_shot.connection import OneShotConnection
from ..connection.one_shot.local_tracks import checked_tracks
from ..errors import ConnectionLostError
from ..log import Logger
from ..media.stream import MediaStream
from ..options import DEFAULT_TUNING, IceServersOption, IceTransportPolicy, TokenProviderFn, Tuning
from ..signalling.scrubbing import scrubbing
from .http_client import HttpClient
from .session import RESTART_WINDOW, MediaSession, WhepSession, WhipSession

S = TypeVar("S", bound=MediaSession)


async def whip_publish(
    url: str,
    tracks: Iterable[Any] | MediaStream,
    *,
    token: str | TokenProviderFn | None = None,
    ice_servers: IceServersOption | None = None,
    ice_transport_policy: IceTransportPolicy = "all",
    trickle: bool = True,
    ssl_context: SSLContext | None = None,
    allow_insecure_url: bool = False,
    tuning: Tuning = DEFAULT_TUNING,
    logger: Logger | None = None,
) -> WhipSession:
    """Send tracks to a media server by WHIP (RFC 9725), and return once they are on their way.

    At most one audio and one video track. They belong to the caller, may be sent elsewhere at the same time, and are
    encoded once; those that give encoded packets, like the tracks of `from_file`, are passed on where the server takes
    their codec.

    `token` is a bearer token, or a function that returns one for each request. It is sent to the origin of `url` only,
    whatever the server redirects to, and unencrypted only to this host, unless `allow_insecure_url` is set.

    `ice_servers` are STUN and TURN servers; by default those that the endpoint names. `trickle` sends the offer at
    once, and their candidates when they come. Without it, or where the endpoint takes no candidates later and there is
    no path without them, the offer waits for them. With `ice_transport_policy` `relay` only relayed candidates are
    used.

    Cancelled, it ends the session that it has begun. Requests take at most 10 s each.

    Raises:
        WhipRequestError: the endpoint refused; `status`, `detail` and `retry_after` say more.
        WhipConnectError: it could not be reached.
        WhipProtocolError, NegotiationFailedError: it answered with something that cannot be used.
        ConnectionLostError: there is no path to the media server.
        TypeError: something in `tracks` is not a track.
        ValueError: `url` or `token` cannot be used, or there is no track, or more than one of a kind.
    """
    chosen = checked_tracks(tracks)
    if not chosen or max(Counter(track.kind for track in chosen).values()) > 1:
        raise ValueError(f"one audio track, one video track or both are needed, not {len(chosen)} tracks")
    media = {"tracks": tracks if isinstance(tracks, MediaStream) else chosen}
    options = _Options(url, token, ice_servers, ice_transport_policy, ssl_context, allow_insecure_url, tuning, logger)
    return await options.open(WhipSession, media, trickle=trickle)


async def whep_play(
    url: str,
    *,
    kinds: Sequence[str] = ("audio", "video"),
    token: str | TokenProviderFn | None = None,
    ice_servers: IceServersOption | None = None,
    ice_transport_policy: IceTransportPolicy = "all",
    trickle: bool = True,
    ssl_context: SSLContext | None = None,
    allow_insecure_url: bool = False,
    tuning: Tuning = DEFAULT_TUNING,
    logger: Logger | None = None,
) -> WhepSession:
    """Receive tracks from a media server by WHEP (draft-ietf-wish-whep), and return once the connection is up.

    `kinds` names what is to be received: one audio track, one video track, or both. `tracks` of the session has what
    the server sends. Nothing is decoded before it is read, see `RemoteTrack`. The other parameters are those of
    `whip_publish`.

    Raises:
        WhipRequestError: the endpoint refused: with status 409, for instance, while nobody publishes.
        WhipConnectError, WhipProtocolError, NegotiationFailedError, ConnectionLostError: as in `whip_publish`.
        ValueError: `url`, `token` or `kinds` cannot be used.
    """
    if not kinds or isinstance(kinds, str) or len(set(kinds)) < len(kinds) or not {*kinds} <= {"audio", "video"}:
        raise ValueError(f"kinds must hold 'audio', 'video' or both, not {kinds!r}")
    options = _Options(url, token, ice_servers, ice_transport_policy, ssl_context, allow_insecure_url, tuning, logger)
    return await options.open(WhepSession, {"receive": tuple(kinds)}, trickle=trickle)


@dataclass(frozen=True, slots=True)
class _Options:
    url: str
    token: str | TokenProviderFn | None
    ice_servers: IceServersOption | None
    ice_transport_policy: IceTransportPolicy
    ssl_context: SSLContext | None
    allow_insecure_url: bool
    tuning: Tuning
    logger: Logger | None

    async def open(self, session_class: Callable[..., S], media: dict[str, Any], *, trickle: bool) -> S:
        """Open a session. If the endpoint does not take the candidates that it needs, open another one with all."""
        trickle = trickle and self.ice_transport_policy != "relay"
        session = await self._make(session_class, media)
        try:
            await session.open(trickle=trickle, asks_first=not trickle and self.ice_servers is None)
            return session
        except BaseException as error:
            await session.close()
            if not (trickle and isinstance(error, ConnectionLostError) and session.lacks_candidates):
                raise
        return await self.open(session_class, media, trickle=False)

    async def _make(self, session_class: Callable[..., S], media: dict[str, Any]) -> S:
        http = HttpClient(self.url, self.token, allow_insecure=self.allow_insecure_url, ssl_context=self.ssl_context)
        try:
            connection = OneShotConnection(
                **media,
                ice_servers=self.ice_servers,
                ice_transport_policy=self.ice_transport_policy,
                restart_window=RESTART_WINDOW,
                tuning=self.tuning,
                logger=self.logger,
            )
        except BaseException:
            await http.close()
            raise
        return session_class(connection, http, scrubbing(self.logger))
