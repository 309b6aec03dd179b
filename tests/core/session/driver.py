"""A session in virtual time: its inputs, its effects, and short ways to get it into a state."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from metered_realtime.core.session.effects import Dial, Effect, Emit, EnterState, FetchToken, Settle, Transmit
from metered_realtime.core.session.session import DialFailure, Session
from metered_realtime.core.wire.frames import encode_payload
from metered_realtime.events import Event
from metered_realtime.options import ReconnectOptions

T = TypeVar("T")

NO_JITTER = 0.5
WELCOME = {"type": "welcome", "peerId": "ann", "expiresAt": None, "serverTime": 1, "maxMessageSize": 65536}
STEADY = ReconnectOptions(initial_delay=1, multiplier=2, max_delay=8, jitter_ratio=0, max_attempts=3)


class SessionDriver:
    """Runs a session in virtual time and keeps its effects in order."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("reconnect", STEADY)
        self.session = Session(**options)
        self.now = 1_000.0
        self.chance = NO_JITTER
        self.effects: list[Effect] = []

    # --- inputs

    def connect(self) -> None:
        self.effects += self.session.connect()

    def opened(self) -> None:
        self.effects += self.session.opened(self.now)

    def receive(self, frame: object) -> None:
        text = frame if isinstance(frame, str) else json.dumps(frame)
        self.effects += self.session.receive(text, self.now, self.chance)

    def welcome(self, **fields: Any) -> None:
        self.receive(WELCOME | fields)

    def ended(self, code: int = 1006, reason: str = "") -> None:
        self.effects += self.session.ended(code, reason, self.now, self.chance)

    def dial_failed(self, reason: str = "ConnectionRefusedError", **fields: Any) -> None:
        failure = DialFailure(reason=reason, **fields)
        self.effects += self.session.dial_failed(failure, self.now, self.chance)

    def tick(self) -> None:
        self.effects += self.session.tick(self.now, self.chance)

    def advance(self, seconds: float) -> None:
        """Let time pass, with ticks at the deadlines of the session."""
        end = self.now + seconds
        while self.session.next_deadline <= end:
            self.now = max(self.now, self.session.next_deadline)
            self.tick()
        self.now = end

    def token_fetched(self, token: str = "fresh") -> None:
        """Report the latest fetch as done."""
        self.effects += self.session.token_fetched(self.fetches[-1] if self.fetches else 0, token, self.now)

    def token_failed(self, error: Exception | None = None) -> None:
        """Report the latest fetch as failed."""
        number = self.fetches[-1] if self.fetches else 0
        self.effects += self.session.token_failed(number, error or OSError("no token"), self.now)

    def close(self) -> None:
        self.effects += self.session.close(1000, "bye")

    def subscribe(self, channel: str = "a", include: bool = False) -> str:
        return self._request(self.session.subscribe(channel, include, self.now))

    def unsubscribe(self, channel: str = "a") -> str:
        return self._request(self.session.unsubscribe(channel, self.now))

    def publish(self, channel: str = "a", data: object = None) -> str:
        return self._request(self.session.publish(channel, encode_payload(data), self.now))

    def send(self, to: str = "bob", data: object = None) -> str:
        return self._request(self.session.send(to, encode_payload(data), self.now))

    def ack(self, request_id: str) -> None:
        self.receive({"type": "ack", "requestId": request_id})

    def refuse(self, request_id: str | None, code: str = "channel_not_authorized") -> None:
        self.receive({"type": "error", "code": code, "requestId": request_id})

    def _request(self, accepted: tuple[str, list[Effect]]) -> str:
        request_id, effects = accepted
        self.effects += effects
        return request_id

    # --- ways to a state

    def connected(self, **welcome: Any) -> SessionDriver:
        self.connect()
        self.opened()
        self.welcome(**welcome)
        self.effects.clear()
        return self

    def subscribed(self, *channels: str) -> SessionDriver:
        for channel in channels:
            self.ack(self.subscribe(channel))
        self.effects.clear()
        return self

    def reconnect(self, **welcome: Any) -> SessionDriver:
        """Lose the connection, dial again and receive a welcome."""
        self.ended()
        self.advance(self.session.next_deadline - self.now)
        self.effects.clear()
        self.opened()
        self.welcome(**welcome)
        return self

    # --- outputs

    def take(self, kind: type[T]) -> list[T]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def events(self) -> list[Event]:
        return [effect.event for effect in self.take(Emit)]

    @property
    def states(self) -> list[str]:
        return [effect.to for effect in self.take(EnterState)]

    @property
    def written(self) -> list[dict[str, Any]]:
        return [json.loads(effect.frame) for effect in self.take(Transmit)]

    @property
    def dials(self) -> int:
        return len(self.take(Dial))

    @property
    def fetches(self) -> list[int]:
        return [effect.number for effect in self.take(FetchToken)]

    @property
    def outcomes(self) -> dict[str, Exception | None]:
        settled = self.take(Settle)
        assert len({effect.request_id for effect in settled}) == len(settled), "a request was settled twice"
        return {effect.request_id: effect.error for effect in settled}
