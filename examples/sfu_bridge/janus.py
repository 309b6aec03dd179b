"""A client of Janus' WebSocket API: sessions, handles of plugins, their requests and events.

https://janus.conf.meetecho.com/docs/rest.html#websockets
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException
from websockets.typing import Subprotocol

PROTOCOL = Subprotocol("janus-protocol")

KEEPALIVE = 20.0
"""Seconds between keep-alives: Janus ends a session that has been silent for 60 s (`session_timeout`)."""

TIMEOUT = 10.0
"""Seconds that Janus may take to answer a request, and to accept a connection."""

MAX_MESSAGE = 1 << 20
"""Bytes that a message of Janus may have. An offer with a hundred sections has about 100 kB."""

MAX_EVENTS = 1000
"""Events of a handle that may wait. A handle whose events nobody takes is not worth more memory."""


class JanusError(Exception):
    """Janus refused a request, or a plugin did. `code` is one of Janus or of the plugin: 426, no such room."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class JanusLostError(Exception):
    """The connection to Janus, or the session, has ended. What it carried has ended with it."""


@dataclass(frozen=True, slots=True)
class JanusEvent:
    """What Janus says of a handle on its own: `kind` is `event` with the plugin's `data`, `webrtcup`, `hangup`,
    `media`, `slowlink`, `detached` or `trickle`. An offer or an answer comes in `jsep`."""

    kind: str
    data: dict[str, Any]
    jsep: dict[str, Any] | None = None


class JanusHandle:
    """A handle of a plugin: one participant, and at most one peer connection."""

    def __init__(self, session: JanusSession, handle_id: int) -> None:
        self.id = handle_id
        self._session = session
        self._events: asyncio.Queue[JanusEvent | None] = asyncio.Queue(MAX_EVENTS)

    async def request(self, body: dict[str, Any], jsep: dict[str, Any] | None = None) -> JanusEvent:
        """Send a request to the plugin and return its answer.

        Raises:
            JanusError: Janus or the plugin refused it.
            JanusLostError: the session has ended.
            TimeoutError: no answer within `TIMEOUT`.
        """
        fields = {"body": body} if jsep is None else {"body": body, "jsep": jsep}
        answer = _event(await self._session.request("message", handle_id=self.id, **fields))
        if "error_code" in answer.data:
            raise JanusError(answer.data["error_code"], str(answer.data.get("error")))
        return answer

    async def trickle(self, candidate: str | None, mid: str = "0") -> None:
        """Send a candidate, None for the end. Raises like `request`."""
        described = {"completed": True} if candidate is None else {"candidate": candidate, "sdpMid": mid}
        await self._session.request("trickle", handle_id=self.id, candidate=described)

    async def next_event(self) -> JanusEvent:
        """Return the next event.

        Raises:
            JanusLostError: the session has ended, or more than `MAX_EVENTS` events waited.
        """
        event = await self._events.get()
        if event is None:
            self._events.put_nowait(None)
            raise JanusLostError("the session has ended")
        return event

    async def detach(self) -> None:
        """End the handle, and its peer connection. Does nothing if it is gone already."""
        with suppress(JanusError, JanusLostError, TimeoutError):
            await self._session.detach(self)

    def push(self, event: JanusEvent | None) -> None:
        """Pass on an event, None for the end."""
        if event is None or self._events.full():
            while not self._events.empty():
                self._events.get_nowait()
            event = None
        self._events.put_nowait(event)


class JanusSession:
    """A session: its handles, and the connection that keeps it. `open_session` makes one."""

    def __init__(self, socket: ClientConnection, secret: dict[str, str]) -> None:
        self._socket = socket
        self._secret = secret
        self._id: int | None = None
        self._handles: dict[int, JanusHandle] = {}
        self._awaited: dict[str, tuple[str, asyncio.Future[dict[str, Any]]]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._lost = asyncio.Event()

    async def attach(self, plugin: str = "janus.plugin.videoroom") -> JanusHandle:
        """Attach to a plugin. Raises like `JanusHandle.request`."""
        answer = await self.request("attach", plugin=plugin)
        handle = JanusHandle(self, answer["data"]["id"])
        self._handles[handle.id] = handle
        return handle

    async def detach(self, handle: JanusHandle) -> None:
        """Detach a handle. Raises like `JanusHandle.request`."""
        if self._handles.pop(handle.id, None) is not None:
            handle.push(None)
            await self.request("detach", handle_id=handle.id)

    async def lost(self) -> None:
        """Return when the session has ended."""
        await self._lost.wait()

    async def request(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a request and return the answer. Raises like `JanusHandle.request`."""
        if self._lost.is_set():
            raise JanusLostError("the session has ended")
        transaction = secrets.token_hex(8)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._awaited[transaction] = kind, answer
        message = {"janus": kind, "transaction": transaction, **self._secret, **fields}
        if self._id is not None:
            message["session_id"] = self._id
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._socket.send(json.dumps(message))
                return await answer
        except WebSocketException as error:
            raise JanusLostError(str(error)) from error
        finally:
            self._awaited.pop(transaction, None)

    async def start(self) -> None:
        """Create the session. Raises like `JanusHandle.request`."""
        self._tasks.append(asyncio.ensure_future(self._read()))
        self._id = (await self.request("create"))["data"]["id"]
        self._tasks.append(asyncio.ensure_future(self._keep_alive()))

    async def close(self) -> None:
        """Destroy the session, with its handles and peer connections."""
        with suppress(JanusError, JanusLostError, TimeoutError):
            if self._id is not None:
                await self.request("destroy")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._end()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEPALIVE)
            try:
                await self.request("keepalive")
            except (JanusError, JanusLostError, TimeoutError):
                self._end()
                return

    async def _read(self) -> None:
        try:
            async for text in self._socket:
                self._take(json.loads(text))
        except (WebSocketException, ValueError, KeyError, TypeError, AttributeError):
            pass  # lost, or not a Janus
        finally:
            self._end()

    def _take(self, message: dict[str, Any]) -> None:
        if message["janus"] == "timeout":
            self._end()
        elif message.get("transaction") in self._awaited:
            self._answered(message)
        elif (handle := self._handles.get(message.get("sender", 0))) is not None:
            handle.push(_event(message))

    def _answered(self, message: dict[str, Any]) -> None:
        request, answer = self._awaited[message["transaction"]]
        if answer.done() or (message["janus"], request) == ("ack", "message"):
            return  # a plugin answers with an event, later
        if message["janus"] == "error":
            answer.set_exception(JanusError(message["error"]["code"], str(message["error"]["reason"])))
        else:
            answer.set_result(message)

    def _end(self) -> None:
        self._lost.set()
        for _, answer in self._awaited.values():
            if not answer.done():
                answer.set_exception(JanusLostError("the connection to Janus was lost"))
        for handle in self._handles.values():
            handle.push(None)


def _event(message: dict[str, Any]) -> JanusEvent:
    """Return what a message says of a handle: the plugin's data, or its own fields."""
    data = message["plugindata"]["data"] if "plugindata" in message else message
    return JanusEvent(message["janus"], data, message.get("jsep"))


@asynccontextmanager
async def open_session(
    url: str, *, api_secret: str | None = None, token: str | None = None
) -> AsyncIterator[JanusSession]:
    """Connect to Janus, at `ws://` or `wss://`, and yield a session, which is destroyed at the end.

    Raises:
        JanusLostError: Janus was not reached.
        JanusError: it refused the secret or the token.
        TimeoutError: no answer within `TIMEOUT`.
    """
    given = {"apisecret": api_secret, "token": token}
    try:
        socket = await connect(
            url,
            subprotocols=[Subprotocol("janus-protocol")],
            open_timeout=TIMEOUT,
            close_timeout=1,
            max_size=MAX_MESSAGE,
        )
    except (OSError, InvalidHandshake, InvalidURI) as error:
        raise JanusLostError(f"no connection to Janus: {error}") from error
    async with socket:
        session = JanusSession(socket, {name: value for name, value in given.items() if value is not None})
        try:
            await session.start()
            yield session
        finally:
            await session.close()
