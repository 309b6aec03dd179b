"""Authentication: a publishable key or a token becomes an identity, or a close code.

Unknown, wrong and revoked credentials are indistinguishable from outside: the close code and reason are the same, and
so is the work done. The cause is for the log of the server and contains no credential.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from ..core.wire.frames import FrameError, Refresh, encode_payload
from ..core.wire.key_forms import SECRET_ID_PREFIX
from ..events import WsCloseCode
from .client_log import shortened
from .hub.identity import Identity, Recovery, parse_recovery
from .keys import App, Keyring, PublishableKey, SecretKey, new_secret_pair
from .limits import Limits
from .resume import ResumeTokens
from .rights import Grant
from .tokens import Claims, InvalidTokenError, key_id, mint_token, verify_token
from .turn import TurnServer

__all__ = ["Admission", "Authenticator", "RefusedError", "mint_token"]


INVALID_CREDENTIAL = "invalid credential"


class RefusedError(Exception):
    """A connection is refused with a close code. `cause` is for the log only."""

    def __init__(self, code: WsCloseCode, reason: str, cause: str | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.cause = shortened(reason if cause is None else cause)


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted connection: its app and identity.

    One that `resumes` presented a valid resume token, and replaces the earlier connection of its peer.
    """

    app: str
    identity: Identity
    key: PublishableKey | SecretKey = field(repr=False)
    origin: str | None = None
    recovery: Recovery | None = None

    @property
    def resumes(self) -> bool:
        """Whether it replaces the earlier connection of its peer."""
        return self.identity.resumes

    @property
    def kind(self) -> str:
        """The kind of credential: `key` or `token`."""
        return "key" if isinstance(self.key, PublishableKey) else "token"

    def is_by_same_key(self, other: Admission) -> bool:
        """Return whether both presented the same publishable key. Its settings may have changed in between."""
        mine, theirs = self.key, other.key
        return isinstance(mine, PublishableKey) and isinstance(theirs, PublishableKey) and mine.key == theirs.key


class Authenticator:
    """Admits connections by the credentials of their handshake."""

    def __init__(
        self,
        keyring: Keyring,
        ice_servers: Sequence[dict[str, Any]] = (),
        limits: Limits | None = None,
        turn: TurnServer | None = None,
    ) -> None:
        self.configure(keyring, ice_servers, limits if limits is not None else Limits(), turn)
        self._resume_tokens = ResumeTokens()
        # Tokens of unknown keys are verified with this one, so that they take as long as others.
        decoy_id, decoy_secret = new_secret_pair()
        self._decoy = SecretKey(id=decoy_id, secret=decoy_secret)

    def configure(
        self, keyring: Keyring, ice_servers: Sequence[dict[str, Any]], limits: Limits, turn: TurnServer | None
    ) -> None:
        """Replace the keys and settings."""
        self._keyring = keyring
        self._ice_servers = list(ice_servers)
        self._limits = limits
        self._turn = turn

    def admit(
        self,
        keys: Sequence[str],
        tokens: Sequence[str],
        origin: str | None,
        now: float,
        resumes: Sequence[str] = (),
        recover: Sequence[str] = (),
    ) -> Admission:
        """Admit a handshake by the `key`, `token`, `resume` and `recover` values of its query. `now` is unix seconds.

        A resume token restores the peer id of a client with a key. An invalid one is ignored, and so is a position that
        cannot be one.

        Raises:
            RefusedError: the connection must be closed, with the code in the exception.
        """
        if len(keys) + len(tokens) != 1:
            raise RefusedError(WsCloseCode.INVALID_TOKEN, "exactly one of key and token is needed")
        admission = self._by_key(keys[0], resumes, origin, now) if keys else self._by_token(tokens[0], now)
        return replace(admission, recovery=parse_recovery(recover))

    def review(self, admission: Admission) -> Grant:
        """Return the rights of an admitted connection by the current keys.

        Raises:
            RefusedError: it would no longer be admitted.
        """
        found = self._present(admission)
        if found is None or found[0].id != admission.app:
            raise _invalid("its key is gone, revoked, or no longer for its origin or its app")
        _check_active(found[0])
        key, grant = found[1], admission.identity.grant
        return _with_a_channel(Grant(key.actions, key.channel_patterns, grant.permissions, grant.channels))

    def resume_token(self, admission: Admission, now: float) -> str | None:
        """Return a new resume token for a connection. None if it has no publishable key that is still valid."""
        if not isinstance(admission.key, PublishableKey):
            return None
        found = self._keyring.publishable(admission.key.key)
        if found is None:
            return None
        return self._resume_tokens.issue(*found, admission.identity.peer_id, now)

    def backend(self, bearer: str) -> tuple[App, SecretKey] | None:
        """Return the app and the key for the credential `<id>:<secret>`, or None. Takes the same time for an unknown
        id."""
        key_id, _, secret = bearer.partition(":")
        found = self._keyring.secret(key_id)
        held = found[1] if found else self._decoy
        return found if hmac.compare_digest(_digest(secret), _digest(held.secret)) else None

    def _present(self, admission: Admission) -> tuple[App, PublishableKey | SecretKey] | None:
        if isinstance(admission.key, PublishableKey):
            publishable = self._keyring.publishable(admission.key.key)
            return publishable if publishable and _origin_allowed(publishable[1], admission.origin) else None
        secret = self._keyring.secret(admission.key.id)
        return secret if secret and secret[1].secret == admission.key.secret else None

    def refresh(self, frame: Refresh, current: Admission, now: float) -> Admission:
        """Return the new admission of a live connection for the token of a refresh. `now` is unix seconds.

        Raises:
            FrameError: the token is not valid, or is for another peer. The connection keeps its old admission.
        """
        try:
            admission = self._by_token(frame.token, now)
        except RefusedError as refused:
            scope = refused.code is WsCloseCode.CHANNEL_NOT_AUTHORIZED
            code = "channel_not_authorized" if scope else "action_not_permitted"
            raise FrameError(code, f"refresh refused: {refused.reason}", frame.request_id) from refused
        if admission.app != current.app:
            raise FrameError("action_not_permitted", f"refresh refused: {INVALID_CREDENTIAL}", frame.request_id)
        if admission.identity.peer_id != current.identity.peer_id:
            raise FrameError("invalid_peer_id", "refresh refused: the token is for another peer", frame.request_id)
        return admission

    def _by_key(self, value: str, resumes: Sequence[str], origin: str | None, now: float) -> Admission:
        found = self._keyring.publishable(value)
        if found is None:
            raise _invalid(self._why_not(value, "the publishable key"))
        app, key = found
        if not _origin_allowed(key, origin):
            raise _invalid("the key needs an Origin" if origin is None else f"the origin {origin!r} is not allowed")
        _check_active(app)
        grant = Grant(key.actions, key.channel_patterns)
        former = self._resume_tokens.read(resumes[0], app, key, now) if len(resumes) == 1 else None
        peer_id = former if former is not None else str(uuid.uuid4())
        identity = Identity(
            peer_id,
            _with_a_channel(grant),
            metadata=self._metadata(key, peer_id, None, now),
            resume_token=self._resume_tokens.issue(app, key, peer_id, now),
            key=key_name(key),
            resumes=former is not None,
        )
        return Admission(app.id, identity, key, origin)

    def _by_token(self, token: str, now: float) -> Admission:
        named = key_id(token) or ""
        found = self._keyring.secret(named)
        try:
            claims = verify_token(token, found[1] if found else self._decoy, now, self._limits)
        except InvalidTokenError as error:
            if error.expired:
                raise RefusedError(WsCloseCode.TOKEN_EXPIRED, "token expired", str(error)) from None
            raise _invalid(str(error) if found else self._why_unknown(named)) from None
        if found is None:
            raise _invalid(self._why_unknown(named))
        app, key = found
        _check_active(app)
        return Admission(app.id, self._identity(key, claims, now), key)

    def _why_unknown(self, named: str) -> str:
        if not named.startswith(SECRET_ID_PREFIX):  # it may be anything, even a secret
            return f"the token is none, or names no secret key by an id that begins with {SECRET_ID_PREFIX}"
        return self._why_not(named, f"the secret key {shortened(named)!r}")

    def _why_not(self, key: str, name: str) -> str:
        return f"{name} is {'revoked' if self._keyring.is_revoked(key) else 'not known'}"

    def _identity(self, key: SecretKey, claims: Claims, now: float) -> Identity:
        grant = Grant(key.actions, key.channel_patterns, claims.permissions, claims.channels)
        peer_metadata = claims.peer_metadata
        return Identity(
            claims.peer_id,
            _with_a_channel(grant),
            expires_at=claims.expires_at,
            metadata=self._metadata(key, claims.peer_id, claims.metadata, now),
            peer_metadata=None if peer_metadata is None else encode_payload(peer_metadata),
            key=key_name(key),
        )

    def _metadata(
        self, key: PublishableKey | SecretKey, peer_id: str, claimed: dict[str, Any] | None, now: float
    ) -> dict[str, Any] | None:
        if not key.inject_ice_servers or "iceServers" in (claimed or {}):
            return claimed
        relays = [] if self._turn is None else [self._turn.ice_server(peer_id, now)]
        servers = [*self._ice_servers, *relays]
        return {**(claimed or {}), "iceServers": servers} if servers else claimed


def key_name(key: PublishableKey | SecretKey) -> str:
    """Return a name of a key for engines, which is not a credential."""
    if isinstance(key, SecretKey):
        return key.id
    return f"pk_{hashlib.sha256(key.key.encode()).hexdigest()[:32]}"


def _digest(text: str) -> bytes:
    # Digests have the same length, so that the comparison does not reveal that of the secret.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _invalid(cause: str) -> RefusedError:
    return RefusedError(WsCloseCode.INVALID_TOKEN, INVALID_CREDENTIAL, cause)


def _check_active(app: App) -> None:
    if app.suspended:
        raise RefusedError(WsCloseCode.ACCOUNT_SUSPENDED, "account suspended", f"app {app.id!r} is suspended")


def _with_a_channel(grant: Grant) -> Grant:
    if not grant.reaches_anything():
        raise RefusedError(WsCloseCode.CHANNEL_NOT_AUTHORIZED, "no channel is in scope")
    return grant


def _origin_allowed(key: PublishableKey, origin: str | None) -> bool:
    if not key.allowed_origins:
        return True
    if origin is None:
        return not key.origin_required
    return _normal(origin) in {_normal(allowed) for allowed in key.allowed_origins}


def _normal(origin: str) -> tuple[str, str | None, int | None] | str:
    try:
        parts = urlsplit(origin)
        default = {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname, parts.port or default
    except ValueError:
        return origin
