"""The requests of one remote: which handlers run, and how their answers are sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..core.rpc import callee as core
from ..core.rpc.chunks import CHUNK_SIZE, MAX_MESSAGE_SIZE
from ..core.rpc.messages import Failure, Inbound, Notification, Request, Success
from ..log import Logger
from .built_in import RpcResponseTooLargeError
from .channels import RpcChannels
from .codec import Codec, codec_of
from .deadline_timer import DeadlineTimer
from .errors import error_object
from .footprint import footprint
from .handlers import Handlers
from .methods import RpcMethods
from .rpc_channel import RpcChannel


@dataclass(frozen=True, slots=True)
class _FreePlace:
    """Free the place of a handler that has ended."""

    ticket: int


class Serving:
    """Serves the requests of one remote. Carries out the decisions of `core.rpc.callee.Callee`.

    `identity` is the id of the remote, which handlers are given.
    """

    def __init__(self, channels: RpcChannels, methods: RpcMethods, identity: str, logger: Logger) -> None:
        self.callee = core.Callee()
        self._channels = channels
        self._handlers = Handlers(methods, identity, logger, self)
        self._loop = asyncio.get_running_loop()
        self._timer = DeadlineTimer(self._expire)
        self._effects: deque[core.Effect | _FreePlace] = deque()
        self._is_performing = False
        self._unwritten: set[int] = set()
        self._ended_early: set[int] = set()

    @property
    def handler_tasks(self) -> list[asyncio.Task[None]]:
        """The tasks of the handlers that run."""
        return self._handlers.tasks

    def channel_opened(self, channel: RpcChannel) -> None:
        """Handle a new channel."""
        self.callee.channel_opened(channel.number, channel.format)

    def channel_closed(self, channel: RpcChannel) -> None:
        """Stop the handlers whose answers cannot be sent any more."""
        self._perform(self.callee.channel_lost(channel.number))

    def identify_caller(self, channel: RpcChannel, instance_id: str) -> None:
        """Add a channel to the instance of the remote that uses it."""
        self._perform(self.callee.caller_identified(channel.number, instance_id))

    def receive_requests(self, channel: RpcChannel, inbound: Inbound, wire_size: int) -> None:
        """Run, queue or refuse the requests of a message of `wire_size` bytes."""
        params = (item.params for item in inbound.items if isinstance(item, Request | Notification))
        size = footprint(wire_size, params)
        self._perform(self.callee.receive_message(channel.number, inbound, self._loop.time(), size))
        self._timer.schedule(self.callee.next_deadline)

    def close(self) -> None:
        """Cancel every handler: the remote has left."""
        self._perform(self.callee.remote_left())
        self._timer.cancel()

    # --- for the handlers

    def handler_answered(self, ticket: int, answer: bytes) -> None:
        """Send the encoded answer of a handler."""
        self._perform(self.callee.answered(ticket, answer))

    def handler_ended(self, ticket: int) -> None:
        """Free the place of a handler, after its answer, which may still wait to be carried out."""
        self._perform([_FreePlace(ticket)])

    # --- decisions

    def _perform(self, effects: Iterable[core.Effect | _FreePlace]) -> None:
        """Carry out effects in order, and those that follow from them."""
        self._effects.extend(effects)
        if self._is_performing or not self._effects:
            return
        self._is_performing = True
        try:
            while self._effects:
                self._perform_one(self._effects.popleft())
        finally:
            self._is_performing = False

    def _perform_one(self, effect: core.Effect | _FreePlace) -> None:
        match effect:
            case core.Run():
                self._run(effect)
            case core.Answer():
                self._send_answer(effect)
            case _FreePlace(ticket):
                self._free_place(ticket)
            case core.Stop(ticket):
                self._handlers.stop(ticket)
            case core.Refuse():
                self._handlers.refuse(effect, codec_of(effect.format))

    def _expire(self) -> None:
        self._perform(self.callee.expire_requests(self._loop.time()))
        self._timer.schedule(self.callee.next_deadline)

    def _run(self, run: core.Run) -> None:
        channel = None if run.channel is None else self._channels.get(run.channel)
        max_size = MAX_MESSAGE_SIZE if channel is None else channel.max_size
        self._handlers.start(run, codec_of(run.format), max_size)

    def _free_place(self, ticket: int) -> None:
        """Start the next handler in the place of one that has ended, once its answer is sent if that is large."""
        if ticket in self._unwritten:
            self._ended_early.add(ticket)
        else:
            self._perform(self.callee.handler_ended(ticket))

    def _send_answer(self, answer: core.Answer) -> None:
        channel = self._channels.get(answer.channel)
        if channel is None:
            return
        if answer.is_batch:
            channel.send_answer(_join(answer.answers, channel.codec, channel.max_size))
        elif answer.ticket is None or len(answer.answers[0]) <= CHUNK_SIZE:
            channel.send_answer(answer.answers[0])
        else:
            self._unwritten.add(ticket := answer.ticket)
            channel.send_answer(answer.answers[0], lambda error: self._answer_written(ticket))

    def _answer_written(self, ticket: int) -> None:
        self._unwritten.discard(ticket)
        if ticket in self._ended_early:
            self._ended_early.discard(ticket)
            self._perform(self.callee.handler_ended(ticket))


def _join(answers: Sequence[bytes], codec: Codec, max_size: int) -> bytes:
    """Join answers to a batch; replace the largest of them by errors until it fits."""
    parts = list(answers)
    size = sum(len(part) + 1 for part in parts) + 1
    for index in sorted(range(len(parts)), key=lambda it: -len(parts[it])):
        if size <= max_size:
            break
        size -= len(parts[index])
        parts[index] = _too_large(parts[index], codec)
        size += len(parts[index])
    return codec.join(parts)


def _too_large(answer: bytes, codec: Codec) -> bytes:
    """Return the error that replaces an answer."""
    (item,) = codec.decode(answer).items
    assert isinstance(item, Success | Failure)
    return codec.encode_error(item.id, error_object(RpcResponseTooLargeError()))
